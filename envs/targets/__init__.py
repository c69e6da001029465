"""The densities that come with the project, a file per family, and any plain function; docs/targets.md lists them.

A new benchmark is a new file here with a `Target` subclass, and a line in the registry next door; what belongs to
someone else's problem stays in their own package, as a plugin or as `package.module:attribute`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "banana": ["Banana"],
        "callable": ["CallableTarget"],
        "conditional_mixture": ["ConditionalMixture"],
        "covariance_mixture": ["CovarianceMixture", "gmm_wishart"],
        "cox_process": ["CoxProcess", "whitened_cox_process"],
        "distorted_many_well": ["DistortedManyWell"],
        "funnel": ["Funnel"],
        "latent": ["ClassReward", "LatentTarget"],
        "many_well": ["ManyWell", "narrow_many_well"],
        "mixtures": ["GaussianMixture", "gmm25", "gmm25_narrow", "gmm40"],
        "potts_chain": ["PottsChain"],
        "ring": ["ring"],
        "rosenbrock": ["Rosenbrock"],
        "student_t": ["StudentTMixture", "student_t"],
        "vae_posterior": ["Decoder", "VAEPosterior"],
    },
)
