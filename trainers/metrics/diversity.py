"""How far samples lie from one another: what a sampler that has collapsed onto a few good ones lacks."""

import torch
from torch import Tensor

__all__ = ["mean_pairwise_distance"]


def mean_pairwise_distance(x: Tensor) -> float | None:
    """Mean Euclidean distance between two different rows of `x` `[n, ...]`, in its units; None for fewer than two rows.

    Of samples and of features of samples alike; costs n²/2 distances.

    Example:
        >>> mean_pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
        3.3333333333333335
    """
    return torch.pdist(x.flatten(1).double()).mean().item() if len(x) > 1 else None
