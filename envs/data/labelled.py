"""Data with a class for each row: a conditional target, whose context is the class as a one-hot vector."""

from typing import Any, Self

import torch
from torch import Tensor

from ..errors import InputError
from ..spaces import Continuous
from .dataset import Dataset
from .split import split_rows

__all__ = ["LabelledDataset"]


class LabelledDataset(Dataset):
    """Rows with classes. Pairs are drawn as of every conditional target: contexts first, then a sample for each.

    Args:
        train_rows: as of `Dataset`.
        held_out: likewise.
        labels: the class of each row to learn from, int64 `[n]`, numbered from 0.
        held_out_labels: the class of each row that is held out, int64 `[m]`.
        classes: how many there are; by default as many as the labels tell.
        settings: those of `Dataset`.

    Attributes:
        contexts: the context of each class, the rows of the unit matrix `[classes, classes]`.

    Raises:
        InputError: as `Dataset`, and for labels that are no such numbers, one for each row.

    Example:
        >>> rows, labels = torch.arange(8.0)[:, None], torch.tensor([0, 1] * 4)
        >>> parity = LabelledDataset.split(rows, labels=labels, name="parity")
        >>> parity.context_space, parity.sample_context(3).shape
        (Continuous(dim=2), torch.Size([3, 2]))
        >>> odd = parity.given(torch.tensor([0.0, 1.0]))
        >>> bool((odd.sample(100) % 2 == 1).all())
        True
    """

    labels: Tensor
    held_out_labels: Tensor
    contexts: Tensor

    def __init__(
        self,
        train_rows: Tensor,
        held_out: Tensor,
        *,
        labels: Tensor,
        held_out_labels: Tensor,
        classes: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(train_rows, held_out, **settings)
        for field, each, rows in (("labels", labels, train_rows), ("held_out_labels", held_out_labels, held_out)):
            if not isinstance(each, Tensor) or each.dtype != torch.int64 or each.shape != rows.shape[:1]:
                got = f"{list(each.shape)} of {each.dtype}" if isinstance(each, Tensor) else type(each).__name__
                raise InputError(f"{self.name}: {field}: expected int64 [{len(rows)}], one for each row, got {got}")
        both = torch.cat((labels, held_out_labels))
        classes = int(both.max()) + 1 if classes is None else classes
        if int(both.min()) < 0 or int(both.max()) >= classes:
            wrong = int(both[(both < 0) | (both >= classes)][0])
            raise InputError(f"{self.name}: labels: expected classes from 0 to {classes - 1}, got {wrong}")
        self.context_space = Continuous(classes)
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("held_out_labels", held_out_labels, persistent=False)
        self.register_buffer("contexts", torch.eye(classes), persistent=False)

    @classmethod
    def split(cls, rows: Tensor, *, held_out: float = 0.2, seed: int = 0, block: int = 1, **settings: Any) -> Self:
        """A data set of these rows `[n, *space.shape]` with these `labels` `[n]`, split as `Dataset.split` does."""
        labels = settings.pop("labels")
        train, apart = split_rows(len(rows), held_out=held_out, seed=seed, block=block)
        if not isinstance(labels, Tensor) or labels.shape != rows.shape[:1]:
            got = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError(f"labels: expected int64 [{len(rows)}], one for each row, got {got}")
        return cls(rows[train], rows[apart], labels=labels[train], held_out_labels=labels[apart], **settings)

    def sample_context(self, n: int) -> Tensor:
        """Contexts of `n` rows to learn from, drawn uniformly: classes come as often as they do in the data."""
        return self.contexts[self.labels[self._drawn(n)]]

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """For each of the contexts `[n, classes]` a row of its class to learn from; without them rows of any class.

        Raises:
            InputError: for contexts that are no one-hot vectors, or of a class of which there is no row to learn from.
        """
        if context is None:
            return super().sample(n)
        wanted = self._classes_of(context)
        if len(wanted) != n:
            raise InputError(f"context: expected {n}, one for each sample, got {list(context.shape)}")
        counts = self.labels.bincount(minlength=len(self.contexts))
        missing = wanted[counts[wanted] == 0]
        if len(missing):
            raise InputError(f"context: target {self.name!r} has no sample of class {int(missing[0])} to learn from")
        by_class = self.labels.argsort(stable=True)
        first = counts.cumsum(0) - counts
        within = (torch.rand(n, device=wanted.device, dtype=torch.float64) * counts[wanted]).long()
        return self._within_levels(self.train_rows[by_class[first[wanted] + within]])

    def sample_pairs(self, n: int) -> tuple[Tensor, Tensor]:
        """`n` rows to learn from, uniformly and with replacement, `[n, *space.shape]`, and the context of each."""
        drawn = self._drawn(n)
        return self._within_levels(self.train_rows[drawn]), self.contexts[self.labels[drawn]]

    @property
    def held_out_contexts(self) -> Tensor:
        """The context of each row that is held out, `[m, classes]`."""
        return self.contexts[self.held_out_labels]

    def _classes_of(self, context: Tensor) -> Tensor:
        """The class of each context, int64 `[n]`."""
        context = self.check_context(context).to(self.contexts)
        classes = context.argmax(-1)
        if context.ndim != 2 or not torch.equal(self.contexts[classes], context):
            raise InputError(
                f"context: expected one-hot vectors [n, {len(self.contexts)}] of the classes of target {self.name!r}"
            )
        return classes

    def _keep(self, index: Tensor) -> None:
        super()._keep(index)
        self.labels = self.labels[index]
