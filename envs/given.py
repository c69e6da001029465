"""A conditional target at one context: what is left is an unconditional target, for everything that expects one.

Annealed search, evaluation and figures know nothing of contexts; they get `target.given(context)`.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from .errors import InputError
from .target import Target

if TYPE_CHECKING:
    import torch

__all__ = ["GivenTarget"]


class GivenTarget(Target):
    """The density p(x | c) of a conditional target at one context c; best made by `target.given(context)`.

    It shares the tensors of the conditional target, and its call counters: a density evaluated here counts there.

    Args:
        source: the conditional target.
        context: `[c]`, finite.

    Raises:
        InputError: for an unconditional target, or a context of another shape or with values that are not finite.

    Example:
        >>> from ebbflow.envs import get_target
        >>> import torch
        >>> family = get_target("conditional-gmm")
        >>> member = family.given(torch.tensor([0.5, 0.0]))
        >>> member(torch.zeros(3, 2)).shape, family.energy_calls, member.is_conditional
        (torch.Size([3]), 3, False)
    """

    context: Tensor

    def __init__(self, source: Target, context: Tensor) -> None:
        row = source.check_context(context).detach().clone()
        if row.ndim != 1 or not bool(row.isfinite().all()):
            raise InputError(
                f"context: expected one finite context [c], got {row.tolist() if row.ndim == 1 else list(row.shape)}"
            )
        log_z = source.conditional_log_z(row.unsqueeze(0))
        super().__init__(
            source.space, scale=source.scale, log_z=None if log_z is None else float(log_z), name=source.name
        )
        self.source = source
        self.register_buffer("context", row, persistent=False)
        self._calls = source._calls
        self.checks = source.checks

    def log_prob(self, x: Tensor) -> Tensor:
        """The source's log density at the context, `[..., dim] -> [...]`."""
        return self.source.log_prob(x, self._rows(x.shape[:-1]).to(x))

    def sample(self, n: int) -> Tensor:
        """The source's exact samples at the context, `[n, dim]`."""
        return self.source.sample(n, self._rows((n,)))

    def _rows(self, batch: "torch.Size | tuple[int, ...]") -> Tensor:
        return self.context.expand(*batch, -1)

    @property
    def has_log_prob(self) -> bool:
        """Whether the source has a log density."""
        return self.source.has_log_prob

    @property
    def can_sample(self) -> bool:
        """Whether the source has exact samples at a context."""
        return self.source.can_sample_given
