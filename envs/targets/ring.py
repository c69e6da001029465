r"""A ring of Gaussians: equal modes on a circle, and nothing in the middle, where every walk begins.

    p(x) = 1/n sum_k N(x; r (cos 2 pi k/n, sin 2 pi k/n), s^2 I),    log Z = 0

With eight modes it is the toy of the mode-collapse literature (Metz et al., *Unrolled GANs*,
https://arxiv.org/abs/1611.02163, with radius 2 and standard deviation 0.02 there); modes are wider here.
"""

import math

import torch

from ..errors import InputError, whole_number
from .mixtures import GaussianMixture

__all__ = ["ring"]


def ring(modes: int = 8, radius: float = 10.0, std: float = 0.5) -> GaussianMixture:
    """Equally weighted Gaussians in the plane, evenly spaced on a circle; the first one lies on the first axis.

    Args:
        modes: number of modes n, >= 2.
        radius: of the circle, > 0.
        std: standard deviation of every mode, > 0.

    Raises:
        InputError: if `modes` is not a whole number >= 2, or `radius` or `std` is not a positive finite number.

    Example:
        >>> target = ring()
        >>> target.name, target.means.shape, round(target.scale, 2)
        ('ring8', torch.Size([8, 2]), 7.09)
    """
    whole_number("modes", modes, least=2)
    if not 0.0 < radius < math.inf:
        raise InputError(f"radius: expected a positive finite length, got {radius!r}")
    angles = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=-1)
    return GaussianMixture(means.float(), std=std, name=f"ring{modes}")
