"""Channels and what they do to information: finite ones with exact laws, Gaussian ones in closed form.

A channel takes a message and gives another, perhaps at random: a step of destruction or of generation, before any
network. Everything is in float64 and in nats. Source of the names: Noël, *Destruction is a General Strategy to Learn
Generation* (https://arxiv.org/abs/2605.30553), the tutorial.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "elementary": ["Cypher", "Identity", "Mash", "Product", "Project", "Shuffle"],
        "finite": ["FiniteChannel"],
        "gaussian": ["GaussianChannel", "gaussian_shuffle", "variance_preserving"],
        "information": ["Account", "Step", "account", "entropy"],
        "joint": ["JointLaw"],
    },
)
