"""A checkerboard: points uniform on the dark squares of a board in the plane, with sharp edges everywhere."""

import torch

from ..errors import whole_number
from .dataset import Dataset

__all__ = ["checkerboard"]


def checkerboard(n: int = 10_000, squares: int = 4, seed: int = 0) -> Dataset:
    """Points uniform on the dark squares of side 2 of a board about the origin; the lower left square is dark.

    The density they are drawn from is 1 / area on dark squares, so no model's held-out log-likelihood is above
    −log area on average: −log 32 = −3.4657 nats of the board with 4 × 4 squares. The points are drawn by a torch
    generator on the CPU, and a fifth of them is held out.

    Args:
        n: number of points, >= 2.
        squares: squares on a side, >= 2.
        seed: of the points.

    Raises:
        InputError: if `n` or `squares` is no such number.

    Example:
        >>> target = checkerboard()
        >>> corner = (target.sample(1000) / 2.0 + 2.0).floor()
        >>> bool((corner.sum(-1) % 2 == 0).all()), corner.min().item(), corner.max().item()
        (True, 0.0, 3.0)
    """
    generator = torch.Generator().manual_seed(whole_number("seed", seed, least=0))
    whole_number("n", n, least=2)
    columns = torch.arange(whole_number("squares", squares, least=2))
    board = torch.cartesian_prod(columns, columns)
    dark = board[board.sum(-1) % 2 == 0]
    corner = dark[torch.randint(len(dark), (n,), generator=generator)]
    within = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    points = 2.0 * (corner + within) - squares
    return Dataset.split(points.to(torch.get_default_dtype()), name="checkerboard")
