"""Reference processes: the uncorrected destruction (and its matching generation) from which learning starts.

Those for densities, here, are plain numbers per step; the learned corrections live in the actors' heads, whose zero
initialisation reproduces the reference bit for bit. Those for data, in `tokens` and `continuous`, are `Reference`s:
they destroy samples, and generate from a guess of what was destroyed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bridge": ["brownian_bridge"],
        "brownian_motion": ["brownian_motion"],
        "catalogue": ["REFERENCES", "get_reference"],
        "gaussian": ["GaussianReference"],
        "geometric_noise": ["geometric_noise"],
        "learned_schedule": ["LearnedSchedule"],
        "reference": ["Reference"],
        "variance_exploding": ["variance_exploding"],
        "variance_preserving": ["variance_preserving"],
    },
)
