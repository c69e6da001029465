"""Which rows are learned from and which are kept apart or left out: a matter of row numbers alone."""

import math

import torch
from torch import Tensor

from ..errors import InputError, whole_number

__all__ = ["first_of_shuffle", "split_rows"]


def split_rows(n: int, *, held_out: float = 0.2, seed: int = 0, block: int = 1) -> tuple[Tensor, Tensor]:
    """Row numbers to learn from and row numbers to hold out, int64, each in ascending order.

    Blocks of `block` neighbouring rows stay together, so that rows of a continuous text are not judged beside the rows
    that they continue. At least one block goes to each side.

    Args:
        n: number of rows, >= 2.
        held_out: share of the rows to hold out, 0 < share < 1; rounded to whole blocks.
        seed: of a torch generator on the CPU, which draws the blocks.
        block: neighbouring rows that stay together, >= 1; fewer where there would not be two blocks.

    Raises:
        InputError: on numbers out of range.

    Example:
        >>> train, held_out = split_rows(10, held_out=0.3)
        >>> len(train), len(held_out), sorted([*train.tolist(), *held_out.tolist()]) == list(range(10))
        (7, 3, True)
        >>> split_rows(10, held_out=0.3, block=5)
        (tensor([5, 6, 7, 8, 9]), tensor([0, 1, 2, 3, 4]))
    """
    if whole_number("rows", n, least=0) < 2:
        raise InputError(f"data: expected at least 2 samples, one to learn from and one to hold out, got {n}")
    if not isinstance(held_out, (int, float)) or not 0.0 < held_out < 1.0:
        raise InputError(f"held_out: expected a share between 0 and 1, got {held_out!r}")
    whole_number("seed", seed, least=0)
    size = min(whole_number("block", block, least=1), n // 2)
    blocks = math.ceil(n / size)
    kept_apart = min(max(round(held_out * blocks), 1), blocks - 1)
    drawn = torch.randperm(blocks, generator=torch.Generator().manual_seed(seed))[:kept_apart]
    is_held_out = torch.isin(torch.arange(n) // size, drawn)
    return (~is_held_out).nonzero()[:, 0], is_held_out.nonzero()[:, 0]


def first_of_shuffle(n: int, unique: int, seed: int = 0) -> Tensor:
    """The first `unique` of `n` row numbers in an order drawn by `seed`, int64 `[unique]`.

    Of the same seed, the rows of a smaller number are among those of a larger one.

    Raises:
        InputError: unless 1 <= unique <= n.

    Example:
        >>> few, more = first_of_shuffle(100, 3), first_of_shuffle(100, 30)
        >>> bool(torch.equal(few, more[:3]))
        True
    """
    if whole_number("unique", unique, least=1) > n:
        raise InputError(f"unique: expected at most the {n} samples that there are to learn from, got {unique}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(whole_number("seed", seed, least=0)))
    return order[:unique]
