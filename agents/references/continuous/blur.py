r"""Blur images by the heat equation, at whose end only the mean of an image is left.

Level k is a Gaussian blur of standard deviation s_k pixels that nothing leaves the image by: in the cosine basis
(DCT-II), frequency (i, j) is multiplied by exp(−½ s_k² ((π i / H)² + (π j / W)²)). Every such factor is > 0: in exact
arithmetic a finite blur destroys nothing, and it is the last step alone, s_0 = ∞, that leaves one number of an image.
What blurring destroys before is a matter of precision, here of double precision, and of what a network can tell apart.
Source: Rissanen et al., https://arxiv.org/abs/2206.13397; as cold diffusion, https://arxiv.org/abs/2208.09392.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import Distribution

from ....envs.errors import InputError, whole_number
from ....envs.spaces import Continuous
from ..gaussian import check_length
from .cold import ColdTransform

__all__ = ["blur"]


def blur(
    height: int,
    width: int,
    steps: int,
    *,
    narrowest: float = 0.5,
    widest: float | None = None,
    singleton: bool = False,
    centre: Tensor | None = None,
    destroyed: Tensor | Distribution | None = None,
    scale: float = 1.0,
) -> ColdTransform:
    """Reference for images `[height · width]` (row by row), whose blur widens geometrically from step to step.

    Args:
        height, width: of an image, in pixels, >= 1.
        steps: number of steps T, >= 1; the last leaves the mean.
        narrowest: s_{T−1}, in pixels, > 0.
        widest: s_1, in pixels, > `narrowest`; by default half of the longer side.
        singleton: whether the last step drops the mean too, so that all images end in `centre`.
        centre: an image that no step changes, `[height · width]`; by default 0.
        destroyed: the law of x_0, as of `LinearTransform`.
        scale: standard deviation of a pixel, about.

    Raises:
        InputError: for settings out of range, and as `LinearTransform`.

    Example:
        >>> reference = blur(8, 8, steps=5)
        >>> image = torch.zeros(64).index_fill(0, torch.tensor([27]), 64.0)
        >>> [round(float(reference.sample_level(image, k).max()), 2) for k in range(6)]
        [1.0, 1.21, 2.56, 10.16, 32.0, 64.0]
        >>> reference.ranks[0]
        1
    """
    for name, value in (("height", height), ("width", width), ("steps", steps)):
        whole_number(name, value, least=1)
    widest = check_length("widest", 0.5 * max(height, width) if widest is None else widest)
    if check_length("narrowest", narrowest) >= widest and steps > 2:
        raise InputError(f"widest: expected a number > narrowest = {narrowest!r}, got {widest!r}")
    basis = torch.kron(_cosines(height), _cosines(width))
    frequency = (
        (math.pi * torch.arange(height, dtype=torch.float64) / height).square().unsqueeze(1)
        + (math.pi * torch.arange(width, dtype=torch.float64) / width).square()
    ).flatten()
    squares = [0.0, *((narrowest * (widest / narrowest) ** (j / max(steps - 2, 1))) ** 2 for j in range(steps - 1))]
    factors = [(-0.5 * (after - before) * frequency).exp() for before, after in pairwise(squares)]
    factors.append(torch.zeros_like(frequency) if singleton else (frequency == 0.0).double())
    matrices = [basis.mT @ (factor.unsqueeze(-1) * basis) for factor in factors]
    space = Continuous(height * width)
    return ColdTransform(space, matrices[::-1], centre=centre, destroyed=destroyed, scale=scale)


def _cosines(side: int) -> Tensor:
    """The orthonormal cosine basis of a line of pixels, a row each, `[side, side]`."""
    n = torch.arange(side, dtype=torch.float64)
    rows = (math.pi / side * n.unsqueeze(1) * (n + 0.5)).cos() * math.sqrt(2.0 / side)
    rows[0] = 1.0 / math.sqrt(side)
    return rows
