"""The densities that come with the project, a file per family: mixtures, funnel, many-well, and any plain function.

A new benchmark is a new file here with a `Target` subclass, and a line in the registry next door; what belongs to
someone else's problem stays in their own package, as a plugin or as `package.module:attribute`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "callable": ["CallableTarget"],
        "conditional_mixture": ["ConditionalMixture"],
        "funnel": ["Funnel"],
        "latent": ["ClassReward", "LatentTarget"],
        "many_well": ["ManyWell"],
        "mixtures": ["GaussianMixture", "gmm25", "gmm25_narrow", "gmm40"],
        "vae_posterior": ["Decoder", "VAEPosterior"],
    },
)
