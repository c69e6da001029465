"""How good a sampler is, a file per family of numbers: the sandwich of log Z, importance weights, transport, coverage,
diversity.

Functions of tensors that were drawn elsewhere: nothing here samples, trains or evaluates a density. A number that is
undefined on what came is None, never NaN.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "coverage": ["mode_coverage", "mode_mass_error", "mode_shares"],
        "diversity": ["mean_pairwise_distance"],
        "entropic_plan": ["gaussian_cross_covariance", "sinkhorn_plan"],
        "sandwich": ["sandwich"],
        "transport": ["sinkhorn_divergence"],
        "weights": ["ess_forward", "ess_reverse", "importance_log_z", "log_mean_exp", "pareto_khat"],
    },
)
