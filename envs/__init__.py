"""What is sampled: targets (densities), state spaces, the TorchRL environments and their gymnasium registration.

Nothing here knows of policies, buffers or training.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "errors": ["InputError"],
        "spaces": ["Continuous"],
        "target": ["Target"],
    },
)
