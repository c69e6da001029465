"""Pixelate images: each level is the mean over blocks, which grow until one pixel is left, the mean of the image."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import Distribution

from ....envs.errors import InputError, whole_number
from ....envs.spaces import Continuous
from .cold import ColdTransform

__all__ = ["pixelate"]


def pixelate(
    height: int,
    width: int,
    *,
    singleton: bool = False,
    centre: Tensor | None = None,
    destroyed: Tensor | Distribution | None = None,
    scale: float = 1.0,
) -> ColdTransform:
    """Reference for images `[height · width]` (row by row): blocks of 2 × 2, 4 × 4, … pixels, and in the end all.

    Args:
        height, width: of an image, in pixels; both powers of 2, and >= 2.
        singleton: whether a further step drops the mean too, so that all images end in `centre`.
        centre: an image that no step changes, `[height · width]`; by default 0.
        destroyed: the law of x_0, as of `LinearTransform`.
        scale: standard deviation of a pixel, about.

    Raises:
        InputError: for other sizes, and as `LinearTransform`.

    Example:
        >>> reference = pixelate(4, 4)
        >>> reference.ranks  # how many numbers are left of an image: 1 of 16 at level 0
        [1, 4, 16]
        >>> reference.sample_level(torch.arange(16.0), 1).reshape(4, 4)[0]
        tensor([2.5000, 2.5000, 4.5000, 4.5000])
    """
    for name, side in (("height", height), ("width", width)):
        if whole_number(name, side, least=2) & (side - 1):
            raise InputError(f"{name}: expected a power of 2, got {side}")
    blocks = [1]
    while blocks[-1] < max(height, width):
        blocks.append(2 * blocks[-1])
    levels = [torch.kron(_means(height, block), _means(width, block)) for block in blocks]
    matrices = [after for _, after in pairwise(levels)]  # a mean over blocks is that of the means over smaller ones
    if singleton:
        matrices.append(torch.zeros_like(levels[0]))
    space = Continuous(height * width)
    return ColdTransform(space, matrices[::-1], centre=centre, destroyed=destroyed, scale=scale)


def _means(side: int, block: int) -> Tensor:
    """Means over blocks of a line of pixels, `[side, side]`."""
    block = min(block, side)
    return torch.kron(
        torch.eye(side // block, dtype=torch.float64), torch.full((block, block), 1.0 / block, dtype=torch.float64)
    )
