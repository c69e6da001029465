r"""Conditioning by a predicate, exactly: what a target draws, rejected until the predicate holds.

    p(x | A) = p(x) [x in A] / P(A)

This is the reference for whatever generates at a condition without rejection. Source: arXiv 2605.30553.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError, whole_number
from ..target import Target

__all__ = ["Conditioned"]

_FIRST, _MOST = 1_000, 1_000_000  # draws at a time


class Conditioned(Target):
    """The samples of a target for which a predicate holds (module docstring).

    With a log density, that of the source where the predicate holds and −inf elsewhere; its log Z is not known.

    Args:
        source: an unconditional target with samples, a log density, or both.
        predicate: bool `[n]` of states `[n, *space.shape]`.
        limit: how many draws a wanted sample may cost, on average, before an error says that it is too rare.
        name: what messages and reports call it.

    Attributes:
        proposed: samples of the source drawn so far.
        accepted: those of them for which the predicate held.
        held_out: of a data set, the rows held out for which it holds.

    Raises:
        InputError: for a conditional source, and where the predicate returns no bool `[n]`.

    Example:
        >>> from ebbflow.envs import get_target
        >>> two_equal = Conditioned(get_target("potts"), lambda x: x[:, 0] == x[:, -1])
        >>> x = two_equal.sample(100)
        >>> bool((x[:, 0] == x[:, -1]).all()), 0.3 < two_equal.acceptance < 0.7
        (True, True)
        >>> two_equal(torch.tensor([[0, 0, 0, 0, 0, 1]]))
        tensor([-inf])
    """

    def __init__(
        self,
        source: Target,
        predicate: Callable[[Tensor], Tensor],
        *,
        limit: int = 10_000,
        name: str | None = None,
    ) -> None:
        if source.is_conditional:
            raise InputError(f"source: expected an unconditional target, got {source.name!r}; use given(context)")
        whole_number("limit", limit, least=1)
        super().__init__(source.space, scale=source.scale, name=name or f"{source.name}-conditioned")
        self.source = source
        self.predicate = predicate
        self.limit = limit
        self.proposed = self.accepted = 0

    @property
    def acceptance(self) -> float:
        """Share of the samples drawn so far for which the predicate held: an estimate of P(A); NaN before any."""
        return self.accepted / self.proposed if self.proposed else math.nan

    @property
    def has_log_prob(self) -> bool:
        """Whether the source has a log density."""
        return self.source.has_log_prob

    @property
    def can_sample(self) -> bool:
        """Whether the source has exact samples."""
        return self.source.can_sample

    @property
    def held_out(self) -> Tensor | None:
        """Rows that the source holds out and for which the predicate holds; None of a source that holds out none."""
        rows = getattr(self.source, "held_out", None)
        return None if rows is None else rows[self._holds(rows)]

    def log_prob(self, x: Tensor) -> Tensor:
        """The source's log density where the predicate holds, −inf elsewhere, `[..., *space.shape] -> [...]`."""
        rows = x.reshape(-1, *self.space.shape)
        return self.source.log_prob(x).masked_fill(~self._holds(rows).reshape(x.shape[:-1]), -torch.inf)

    def sample(self, n: int) -> Tensor:
        """`n` samples of the source for which the predicate holds, `[n, *space.shape]`, by rejection.

        Raises:
            InputError: when it holds for none, or for too few, of `limit` draws for each that is wanted.
        """
        kept: list[Tensor] = []
        found = drawn = 0
        while found < n or not kept:
            size = _FIRST if not found else math.ceil(1.2 * (n - found) * drawn / found)
            x = self.source.sample(max(n, min(max(size, _FIRST), _MOST)))
            x_kept = x[self._holds(x)]
            kept.append(x_kept)
            found, drawn = found + len(x_kept), drawn + len(x)
            self.proposed, self.accepted = self.proposed + len(x), self.accepted + len(x_kept)
            if found < n and drawn >= self.limit * max(1, min(n, found + 1)):
                raise InputError(
                    f"target {self.name!r}: the predicate holds for {found} of {drawn} samples of "
                    f"{self.source.name!r}; expected at least one in {self.limit}"
                )
        return torch.cat(kept)[:n]

    def _holds(self, x: Tensor) -> Tensor:
        holds = self.predicate(x)
        if not isinstance(holds, Tensor) or holds.dtype != torch.bool or holds.shape != x.shape[:1]:
            got = f"{list(holds.shape)} of {holds.dtype}" if isinstance(holds, Tensor) else type(holds).__name__
            raise InputError(f"predicate: expected bool [{len(x)}], one for each state, got {got}")
        return holds
