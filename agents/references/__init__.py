"""Reference processes: the uncorrected destruction (and its matching generation) from which learning starts.

A reference is plain numbers per step; the learned corrections live in the actors' heads, whose zero initialisation
reproduces the reference bit for bit.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bridge": ["brownian_bridge"],
        "catalogue": ["REFERENCES", "get_reference"],
        "gaussian": ["GaussianReference"],
        "variance_exploding": ["variance_exploding"],
        "variance_preserving": ["variance_preserving"],
    },
)
