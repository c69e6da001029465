"""What is sampled: targets (densities, data), state spaces, the TorchRL environments and their gymnasium registration.

Nothing here knows of policies, buffers or training. Importing this package registers the gymnasium ids
`ebbflow/<target>-v0`, and leaves torch alone until something that needs it is asked for.
"""

import lazy_loader

from .registration import register_environments

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data": ["Annotated", "Conditioned", "Dataset", "TextDataset", "load_data"],
        "errors": ["InputError"],
        "given": ["GivenTarget"],
        "module_files": ["load_module"],
        "registry": ["get_target", "list_targets"],
        "sampling": ["DestructionEnv", "GenerationEnv", "InitialLaw"],
        "spaces": ["Compressed", "Continuous", "Tokens"],
        "target": ["Target"],
        "targets": ["CallableTarget", "ConditionalMixture", "Funnel", "GaussianMixture", "LatentTarget", "ManyWell"],
    },
)

register_environments()
