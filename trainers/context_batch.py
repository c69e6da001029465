"""Contexts of a batch of a conditional target: several rows of each, remembered and new ones side by side.

A batch has `contexts_per_batch` contexts. Remembered rows and anchors bring their own, in proportion to their rows; the
rest is drawn anew from the target's law. New paths are spread evenly over all of them, so that a loss that compares
log-ratios within a context sees generated beside destroyed paths.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..buffers.context_groups import context_keys, numbered
from ..envs.errors import InputError
from ..envs.target import Target

__all__ = ["contexts_of_new_rows", "share_of_contexts"]


@dataclass(frozen=True)
class _NoContexts:
    """What is wrong with contexts that a target has drawn."""

    target: str
    n: int

    def __call__(self, *_: Any) -> InputError:
        return InputError(f"target {self.target!r}: sample_context({self.n}) must be finite, of shape [{self.n}, c]")


def share_of_contexts(contexts: int, rows: int, batch: int) -> int:
    """Contexts for `rows` of the `batch` rows: its share, at least one.

    Example:
        >>> share_of_contexts(32, rows=64, batch=256), share_of_contexts(4, rows=1, batch=256)
        (8, 1)
    """
    return max(1, round(contexts * rows / batch))


def contexts_of_new_rows(target: Target, n: int, fresh: int, remembered: Tensor | None = None) -> Tensor:
    """Contexts of `n` new paths, `[n, c]`: `fresh` ones from the target's law and the remembered ones, evenly.

    Args:
        target: conditional.
        n: number of rows.
        fresh: number of contexts drawn.
        remembered: contexts of the remembered rows of the same batch, `[m, c]`, if any.

    Raises:
        InputError: when the target's contexts are of a wrong shape or not finite (the last, where checks are deferred,
            in `target.checks.look`).

    Example:
        >>> from ebbflow.envs import get_target
        >>> contexts = contexts_of_new_rows(get_target("conditional-gmm"), 6, fresh=2, remembered=torch.zeros(5, 2))
        >>> contexts.shape, len(contexts.unique(dim=0)), int((contexts == 0).all(-1).sum())
        (torch.Size([6, 2]), 3, 2)
    """
    drawn = target.check_context(target.sample_context(fresh))
    wrong = _NoContexts(target.name, fresh)
    if drawn.shape[0] != fresh:
        raise wrong()
    target.checks.check(~drawn.isfinite().all(dim=-1), [], wrong)
    if remembered is None:
        return drawn[torch.arange(n, device=drawn.device) % fresh]
    group = numbered(context_keys(remembered))
    known = group.max() + 1  # so many contexts are remembered; a number on the device
    row = torch.zeros_like(group).index_copy(0, group, torch.arange(len(group), device=group.device))  # one of each
    place = torch.arange(n, device=group.device) % (known + fresh)  # first the remembered ones, then the others
    place = torch.where(place < known, row[place.clamp(max=len(row) - 1)], len(row) + place - known)
    return torch.cat([remembered, drawn.to(remembered)])[place]
