"""The density of several runs under `torch.vmap`: what each of them asks is evaluated at once.

Inside vmap a rollout of one run asks its density about its own states. That question is an operation with a rule for
vmap, by which all runs' states come together, in front of the one check and the one counter of the target.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..envs.target import Target

__all__ = ["SharedDensity"]


class SharedDensity:
    """The density of several runs inside `torch.vmap`: evaluated once for the rows of all; the calls are each run's.

    Args:
        target: evaluates; its own counters are not looked at.
        counted: the target of each run, whose counters are.

    Attributes:
        valid: of each run, which rows are any, `[S, n]` on the host; None for all. The others have the density 1, and
            cost nothing. A state `[1, dim]` is that of all rows of a run, and is any where one of them is.

    Example:
        >>> from ebbflow.envs import get_target
        >>> own = [get_target("gmm25") for _ in range(2)]
        >>> density = SharedDensity(own[0].counted_apart(), own)
        >>> torch.vmap(density)(torch.zeros(2, 5, 2)).shape, own[1].energy_calls
        (torch.Size([2, 5]), 5)
    """

    def __init__(self, target: Target, counted: Sequence[Target]) -> None:
        self.target = target
        self.counted = list(counted)
        self.valid: Tensor | None = None

    def __call__(self, x: Any, context: Any = None) -> Any:
        """Log densities `[n]` of states `[n, dim]` of each run."""
        return _Values.apply(x, self)

    def value_and_score(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log densities `[n]` of states `[n, dim]` of each run, and their gradients `[n, dim]`."""
        return _ValuesAndScores.apply(x, self)

    def of_runs(self, x: Tensor) -> Tensor:
        """Log densities of states of all runs, `[S, ..., dim] -> [S, ...]`."""
        rows, places = self._rows(x)
        values = self.target(rows)
        return self._filled(x.shape[:-1], places, values)

    def of_runs_with_scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities and gradients of states of all runs, `[S, ..., dim]`."""
        rows, places = self._rows(x)
        values, scores = self.target.value_and_score(rows)
        for target, n in zip(self.counted, self._counts(x), strict=True):
            target.gradient_calls += n
        return self._filled(x.shape[:-1], places, values), self._filled(x.shape, places, scores)

    def _rows(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        for target, n in zip(self.counted, self._counts(x), strict=True):
            target.energy_calls += n
        rows = x.reshape(-1, x.shape[-1])
        valid = self._valid(x)
        if valid is None:
            return rows, None
        places = valid.flatten().nonzero().squeeze(-1)
        if x.ndim > 3:  # whole paths
            inner = x.shape[2:-1].numel()
            places = (places[:, None] * inner + torch.arange(inner)).flatten()
        places = places.to(x.device, non_blocking=True)
        return rows[places], places

    def _counts(self, x: Tensor) -> list[int]:
        inner = x.shape[2:-1].numel()
        valid = self._valid(x)
        if valid is None:
            return [x.shape[1] * inner] * len(self.counted)
        return [n * inner for n in valid.sum(1).tolist()]

    def _valid(self, x: Tensor) -> Tensor | None:
        """`valid` of the rows of `x` `[S, n, ..., dim]`."""
        if self.valid is None or x.shape[1] == self.valid.shape[1]:
            return self.valid
        return self.valid.any(1, keepdim=True)

    @staticmethod
    def _filled(shape: torch.Size, places: Tensor | None, values: Tensor) -> Tensor:
        if places is None:
            return values.reshape(shape)
        return values.new_zeros(shape).view(-1, *values.shape[1:]).index_copy(0, places, values).view(shape)


class _Values(torch.autograd.Function):
    """`SharedDensity.of_runs` as an operation that vmap hands all runs to."""

    @staticmethod
    def forward(x: Tensor, density: SharedDensity) -> Tensor:
        raise RuntimeError("expected states of several runs, in torch.vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, density: SharedDensity) -> tuple[Tensor, int]:
        return density.of_runs(x.movedim(in_dims[0], 0)), 0


class _ValuesAndScores(torch.autograd.Function):
    """The same with gradients."""

    @staticmethod
    def forward(x: Tensor, density: SharedDensity) -> tuple[Tensor, Tensor]:
        raise RuntimeError("expected states of several runs, in torch.vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, x: Tensor, density: SharedDensity
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return density.of_runs_with_scores(x.movedim(in_dims[0], 0)), (0, 0)
