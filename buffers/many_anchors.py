"""The anchors of several runs in one set of columns, so that rows of all can be taken at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .anchors import Anchors

__all__ = ["ManyAnchors"]


class ManyAnchors:
    """Takes rows of several anchors at once; their states and log rewards become parts of common columns.

    Anchors may be replaced, as local search does: those that are given next count.

    Example:
        >>> anchors = [Anchors(torch.full((3, 1), 1.0 * s), torch.zeros(3)) for s in range(2)]
        >>> ManyAnchors().rows(anchors, [torch.tensor([0]), torch.tensor([2, 1])])["state"].flatten()
        tensor([0., 1., 1.])
    """

    def __init__(self) -> None:
        self._of: list[Anchors | None] = []
        self._columns: dict[str, Tensor] = {}
        self._first: list[int] = []

    def rows(self, anchors: Sequence[Anchors | None], index: Sequence[Tensor]) -> dict[str, Tensor]:
        """Rows of all, one after the other: `state` `[k, dim]` and `log_reward` `[k]`.

        Args:
            anchors: of each run; None for none.
            index: which of them, `[k_s]`, of which k is the sum; none of a run without.
        """
        if len(anchors) != len(self._of) or any(a is not b for a, b in zip(anchors, self._of, strict=True)):
            self._join(anchors)
        place = torch.cat([own + first for own, first in zip(index, self._first, strict=True)])
        return {name: column[place] for name, column in self._columns.items()}

    def _join(self, anchors: Sequence[Anchors | None]) -> None:
        self._of, self._first, stop = list(anchors), [], 0
        own = [one for one in anchors if one is not None]
        self._columns = {
            "state": torch.cat([one.states for one in own]),
            "log_reward": torch.cat([one.log_reward for one in own]),
        }
        for one in anchors:
            self._first.append(stop)
            if one is not None:
                part = slice(stop, stop + len(one))
                one.states, one.log_reward = self._columns["state"][part], self._columns["log_reward"][part]
                stop = part.stop
