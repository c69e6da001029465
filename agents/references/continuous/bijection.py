r"""Bijections: a destruction that destroys nothing, to show what the word means.

A rotation, a permutation or any invertible matrix a step moves the data and loses none of it: I(x_T; x_k) is all that
there was, at every level. So x_0 has the law of the data, moved, which is no easier to sample than the data are, and
generation needs no guess: it is the inverse. Only a law of x_0 that is given from outside makes a generator of it.
Source: the "Cypher" channel of Noël, https://arxiv.org/abs/2605.30553; with a law of x_0, a (linear) normalising flow.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ....envs.errors import InputError, whole_number
from ....envs.spaces import Continuous
from .linear_transform import LinearTransform

__all__ = ["Bijection", "random_permutations", "random_rotations"]


class Bijection(LinearTransform):
    """Moves points by invertible matrices, and generates by their inverses, whatever is guessed.

    Args:
        space, matrices, centre, destroyed, scale: as of `LinearTransform`.

    Raises:
        InputError: as `LinearTransform`, and for matrices that are not invertible.

    Example:
        >>> reference = Bijection(Continuous(3), random_rotations(3, steps=4, seed=0))
        >>> x = torch.tensor([[1.0, 2.0, 3.0]])
        >>> state = reference.sample_level(x, 0)
        >>> for k in range(4):
        ...     state = reference.sample_reverse(torch.zeros(1, 3), state, k)
        >>> bool((state - x).abs().max() < 1e-5)  # nothing was destroyed
        True
        >>> reference.sample_destroyed(5)
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: destroyed: expected a law of x_0, got None: a bijection destroys nothing, so
        that x_0 has the law of the data, moved; give one, as destroyed=..., to generate from
    """

    def __init__(
        self,
        space: Continuous,
        matrices: Sequence[Any] | Tensor,
        *,
        centre: Tensor | None = None,
        destroyed: Tensor | Distribution | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(space, matrices, centre=centre, destroyed=destroyed, scale=scale)
        ranks = torch.linalg.matrix_rank(self.matrices).tolist()
        if min(ranks) < space.dim:
            raise InputError(f"matrices: expected invertible ones, of rank {space.dim}, got ranks {ranks}")
        self.inverses = torch.linalg.inv(self.matrices)

    def sample_reverse(self, guess: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """The x_{k+1} that x_k comes from, `[..., dim]`."""
        return self._send(self.inverses, state, self._step(k, state))

    def _why_unknown(self) -> str:
        return (
            "a bijection destroys nothing, so that x_0 has the law of the data, moved; "
            "give one, as destroyed=..., to generate from"
        )


def random_rotations(dim: int, steps: int, seed: int) -> Tensor:
    """Random orthogonal matrices, float64 `[steps, dim, dim]`.

    Raises:
        InputError: for a `dim` or number of steps that is no whole number >= 1.
    """
    shape = (whole_number("steps", steps, least=1), whole_number("dim", dim, least=1), dim)
    q, r = torch.linalg.qr(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)  # uniform over all of them


def random_permutations(dim: int, steps: int, seed: int) -> Tensor:
    """Random permutations of the coordinates, as matrices, float64 `[steps, dim, dim]`.

    Raises:
        InputError: for a `dim` or number of steps that is no whole number >= 1.

    Example:
        >>> random_permutations(3, steps=2, seed=0).sum(-1).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    draw = torch.Generator().manual_seed(seed)
    orders = [
        torch.randperm(whole_number("dim", dim, least=1), generator=draw)
        for _ in range(whole_number("steps", steps, least=1))
    ]
    return torch.stack([torch.eye(dim, dtype=torch.float64)[order] for order in orders])
