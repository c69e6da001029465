r"""Centres of values within groups of rows that share a context.

The log-ratio of an exact conditional agent is −log Z(c): constant within a context, and different from one to the next.
A centre over the whole batch would take these differences for errors of the policies, and train them to undo it.
"""

from typing import Any

import torch
from torch import Tensor

from ...buffers.context_groups import context_keys, numbered

__all__ = ["context_groups", "group_mean", "group_median", "group_sizes"]


def context_groups(trajectory: Any) -> Tensor | None:
    """Which rows of a trajectory share a context, as numbers 0, 1, … `[B]`; None without contexts.

    Example:
        >>> context_groups({"context": torch.tensor([[0.5], [2.0], [0.5]])})[[0, 2]].unique().shape
        torch.Size([1])
    """
    context = trajectory.get("context", None)
    return None if context is None else numbered(context_keys(context))


def group_mean(values: Tensor, weight: Tensor | None, group: Tensor) -> Tensor:
    """Mean over the rows of each row's own group, with row weights if any: `[B] -> [B]`.

    Example:
        >>> group_mean(torch.tensor([1.0, 3.0, 10.0]), None, torch.tensor([0, 0, 1]))
        tensor([ 2.,  2., 10.])
    """
    weight = torch.ones_like(values) if weight is None else weight
    nothing = values.new_zeros(len(group))  # there are no more groups than rows
    total = nothing.index_add(0, group, weight * values)
    return (total / nothing.index_add(0, group, weight).clamp_min(torch.finfo(values.dtype).tiny))[group]


def group_sizes(group: Tensor) -> Tensor:
    """Number of rows of each row's own group, `[B] -> [B]`.

    Example:
        >>> group_sizes(torch.tensor([0, 1, 0]))
        tensor([2, 1, 2])
    """
    return torch.zeros_like(group).index_add(0, group, torch.ones_like(group))[group]


def group_median(values: Tensor, group: Tensor) -> Tensor:
    """Median (the lower one, as torch's) of each row's own group: `[B] -> [B]`.

    Example:
        >>> group_median(torch.tensor([1.0, 3.0, 2.0, 10.0]), torch.tensor([0, 0, 0, 1]))
        tensor([ 2.,  2.,  2., 10.])
    """
    order = values.argsort()
    order = order[group[order].argsort(stable=True)]  # by group, and by value within
    counts = torch.zeros_like(group).index_add(0, group, torch.ones_like(group))
    middle = counts.cumsum(0) - counts + (counts - 1).clamp_min(0) // 2
    return values[order[middle[group]]]
