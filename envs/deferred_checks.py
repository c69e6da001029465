"""Checks of numbers that lie on a device: asked about at once or, where asking would wait for the device, later.

To ask whether numbers are finite, the host waits until they are computed. A loop that must not wait notes on the device
what a failed check would have said, and reads the note when it looks, every so often:

    check ─▶ raise at once                                        (by default)
    check ─▶ note: how many failed, and the first one ─▶ look     (inside `deferring`)

What has no checks of its own, as a space of states, takes those that defer now: `check_rows`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InputError

__all__ = ["DeferredChecks", "check_rows"]


class _Note(NamedTuple):
    """What was checked for one reason since the last look: `failed` of `total` rows, and `first` of those."""

    failed: Tensor  # []
    total: int
    first: list[Tensor]  # each [1, ...]


class DeferredChecks:
    """Checks rows of numbers; a failed check raises at once or, inside `deferring`, in the next `look`.

    Example:
        >>> checks = DeferredChecks()
        >>> def negative(failed, total, first):
        ...     return InputError(f"expected numbers >= 0, got {first.item():g}, and {failed} of {total} like it")
        >>> with checks.deferring():
        ...     for x in (torch.tensor([1.0, 2.0]), torch.tensor([3.0, -4.0, -5.0])):
        ...         checks.check(x < 0, [x], negative)
        >>> checks.look()
        Traceback (most recent call last):
        ebbflow.envs.errors.InputError: expected numbers >= 0, got -4, and 2 of 5 like it
    """

    def __init__(self) -> None:
        self._deferring = False
        self._notes: dict[Callable[..., InputError], _Note] = {}

    @contextmanager
    def deferring(self, on: bool = True) -> Iterator[None]:
        """Within it, checks do not wait for the device, and raise nothing.

        Args:
            on: False leaves everything as it is.
        """
        before, self._deferring = self._deferring, self._deferring or on
        token = _NOW.set(self if on else _NOW.get())
        try:
            yield
        finally:
            _NOW.reset(token)
            self._deferring = before

    def check(self, bad: Tensor, rows: Sequence[Tensor], error: Callable[..., InputError]) -> None:
        """Check that no row is bad.

        Args:
            bad: which rows are, `[n]` bool.
            rows: what the error tells of the first bad one, each `[n, ...]`.
            error: makes the error, of the number of bad rows, the number of rows, and what belongs to the first bad
                one; also what notes of the same check are known by.

        Raises:
            InputError: the error, unless checks are deferred.
        """
        if bad.numel() and (self._deferring or bool(bad.any())):
            self._note(bad, rows, error)
        if not self._deferring:
            self.look()

    def _note(self, bad: Tensor, rows: Sequence[Tensor], error: Callable[..., InputError]) -> None:
        index = bad.int().argmax(dim=0, keepdim=True)  # of equals the first
        note = _Note(bad.sum(), bad.numel(), [row.detach().index_select(0, index) for row in rows])
        if error in self._notes:
            old = self._notes[error]
            known = old.failed > 0
            first = [torch.where(known, a, b) for a, b in zip(old.first, note.first, strict=True)]
            note = _Note(old.failed + note.failed, old.total + note.total, first)
        self._notes[error] = note

    def look(self) -> None:
        """Read what was noted, once for each kind of check, and forget it.

        Raises:
            InputError: the error of a check that failed since the last look.
        """
        notes, self._notes = self._notes, {}
        for error, note in notes.items():
            failed = int(note.failed)
            if failed:
                raise error(failed, note.total, *(value[0] for value in note.first))


_NOW: ContextVar[DeferredChecks | None] = ContextVar("checks that defer now", default=None)


def check_rows(bad: Tensor, rows: Sequence[Tensor], error: Callable[..., InputError]) -> bool:
    """`DeferredChecks.check` of the checks that defer now, in whose `look` a failed one raises; at once where none do.

    Returns:
        Whether it is deferred: then what is bad must do no harm until it is told.

    Raises:
        InputError: the error, unless checks are deferred.

    Example:
        >>> checks, x = DeferredChecks(), torch.tensor([1.0, -4.0])
        >>> def negative(failed, total, first):
        ...     return InputError(f"expected numbers >= 0, got {first.item():g}")
        >>> with checks.deferring():
        ...     check_rows(x < 0, [x], negative)
        True
        >>> check_rows(x < 0, [x], negative)
        Traceback (most recent call last):
        ebbflow.envs.errors.InputError: expected numbers >= 0, got -4
    """
    now = _NOW.get()
    (DeferredChecks() if now is None else now).check(bad, rows, error)
    return now is not None
