r"""Deterministic destruction by matrices: x_k = c + M_k (x_{k+1} − c), and in one go x_k = c + D_k (x_T − c).

What such a step destroys is what M_k drops: directions, all or nothing. The law of what is left at level 0 is that of
the data, seen through D_0. It is known without the data in one case only: where nothing is left but the point c.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ....envs.errors import InputError
from ....envs.spaces import Continuous
from .reference import ContinuousReference

__all__ = ["LinearTransform"]


class LinearTransform(ContinuousReference):
    """Destroys by a matrix a step (module docstring).

    Args:
        space: the space, of dimension dim.
        matrices: M_k for k = 0 … T − 1, from x_{k+1} to x_k, `[T, dim, dim]`.
        centre: c `[dim]`, which every step leaves where it is; by default 0.
        destroyed: the law of x_0: samples of it `[n, dim]`, such as `reference.sample_level(data, 0)`, that are drawn
            again; or a `torch.distributions` object of event shape `[dim]`. Not needed where only c is left.
        scale: standard deviation of a coordinate of the data, about.

    Attributes:
        levels: D_k for k = 0 … T, float64 `[T + 1, dim, dim]`.
        ranks: rank of each D_k in double precision, T + 1 whole numbers: how many directions are left.

    Raises:
        InputError: for matrices, centres and laws that do not fit the space; for steps and levels out of range; for any
            density; and when the law of x_0 is asked for and was not given.
    """

    deterministic = True
    has_density = False

    def __init__(
        self,
        space: Continuous,
        matrices: Sequence[Any] | Tensor,
        *,
        centre: Tensor | None = None,
        destroyed: Tensor | Distribution | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(space, len(matrices), scale)
        self.matrices = torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in matrices])
        if self.matrices.shape[1:] != (space.dim, space.dim) or not bool(self.matrices.isfinite().all()):
            expected = [self.steps, space.dim, space.dim]
            raise InputError(f"matrices: expected finite numbers {expected}, got {list(self.matrices.shape)}")
        self.centre = torch.zeros(space.dim, dtype=torch.float64) if centre is None else centre.double()
        if self.centre.shape != space.shape:
            raise InputError(f"centre: expected one point {list(space.shape)}, got {list(self.centre.shape)}")
        levels = [torch.eye(space.dim, dtype=torch.float64)]
        for matrix in self.matrices.flip(0):
            levels.append(matrix @ levels[-1])
        self.levels = torch.stack(levels[::-1])
        self.ranks = torch.linalg.matrix_rank(self.levels).tolist()
        self.law_of(destroyed)

    def law_of(self, destroyed: Tensor | Distribution | None) -> None:
        """State, or state anew, the law of x_0 (`destroyed` of the class docstring).

        Raises:
            InputError: for one that does not fit the space.
        """
        shape = destroyed.shape[1:] if isinstance(destroyed, Tensor) else getattr(destroyed, "event_shape", None)
        if destroyed is not None and shape != self.space.shape:
            raise InputError(f"destroyed: expected samples [n, {self.space.dim}] or a law of them, got {destroyed!r}")
        self.destroyed = destroyed

    # Destruction ----------------------------------------------------------------------------------------------------

    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """c + M_k (x_{k+1} − c), `[..., dim]`; nothing is drawn."""
        return self._send(self.matrices, following, self._step(k, following))

    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """There is none."""
        raise self._no_density("a step, which is deterministic")

    def sample_level(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """c + D_k (x_T − c), `[..., dim]`; nothing is drawn."""
        return self._send(self.levels, sample, self._level(k, sample))

    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """There is none."""
        raise self._no_density("a level, which is deterministic")

    def _send(self, matrices: Tensor, state: Tensor, k: Tensor) -> Tensor:
        """States through the matrix of their own `k`."""
        table, centre = matrices.to(state, non_blocking=True), self.centre.to(state, non_blocking=True)
        if k.ndim == 0:
            return centre + (state - centre) @ table[k].mT
        k = k.expand(state.shape[:-1])
        sent = torch.empty_like(state)
        for one in k.unique():  # a matrix for each row would take dim² of memory for each
            rows = k == one
            sent[rows] = centre + (state[rows] - centre) @ table[one].mT
        return sent

    # The fully destroyed law ----------------------------------------------------------------------------------------

    def sample_destroyed(self, n: int) -> Tensor:
        """Draws of the law of x_0 that was given, `[n, dim]`, or the point c where nothing else is left."""
        dtype = torch.get_default_dtype()
        if isinstance(self.destroyed, Tensor):
            return self.destroyed[torch.randint(len(self.destroyed), (n,), device=self.destroyed.device)].to(dtype)
        if self.destroyed is not None:
            return self.destroyed.sample((n,)).to(dtype)
        if self.ranks[0] == 0:
            return self.centre.to(dtype).expand(n, -1)
        raise InputError(f"destroyed: expected a law of x_0, got None: {self._why_unknown()}")

    def log_prob_destroyed(self, state: Tensor) -> Tensor:
        """log density of x_0 `[...]`, under a law that was given as one."""
        if isinstance(self.destroyed, Distribution):
            return self.destroyed.log_prob(state)
        if self.destroyed is None and self.ranks[0] > 0:
            raise InputError(f"destroyed: expected a law of x_0, got None: {self._why_unknown()}")
        raise self._no_density("x_0")

    def _why_unknown(self) -> str:
        return (
            f"{self.ranks[0]} of {self.space.dim} directions of the data are left, whose law only the data know; "
            "give destroyed=reference.sample_level(data, 0)"
        )

    # Generation -----------------------------------------------------------------------------------------------------

    def log_prob_reverse(self, guess: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """There is none."""
        raise self._no_density("a step, which is deterministic")
