"""Two moons: two half circles of radius 1 that reach into each other, with Gaussian noise."""

import math

import torch

from ..errors import whole_number
from .dataset import Dataset

__all__ = ["two_moons"]


def two_moons(n: int = 10_000, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Points (cos t, sin t) or (1 − cos t, ½ − sin t), with equal probability, t uniform in [0, π], plus noise.

    The shape is that of scikit-learn's `make_moons`; the points are drawn by a torch generator on the CPU, and a fifth
    of them is held out.

    Args:
        n: number of points, >= 2.
        noise: standard deviation of each coordinate.
        seed: of the points.

    Raises:
        InputError: if `n` is no such number.

    Example:
        >>> target = two_moons()
        >>> target.train_rows.shape, target.held_out.shape, target.sample(3).shape
        (torch.Size([8000, 2]), torch.Size([2000, 2]), torch.Size([3, 2]))
    """
    generator = torch.Generator().manual_seed(whole_number("seed", seed, least=0))
    whole_number("n", n, least=2)
    t = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    is_lower = torch.rand(n, generator=generator, dtype=torch.float64) < 0.5
    x = torch.where(is_lower, 1.0 - t.cos(), t.cos())
    y = torch.where(is_lower, 0.5 - t.sin(), t.sin())
    points = torch.stack((x, y), -1)
    points += noise * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    return Dataset.split(points.to(torch.get_default_dtype()), name="two-moons")
