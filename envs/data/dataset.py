"""A data set: a target that draws samples from rows, keeps others apart to be judged on, and knows no density."""

import copy
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import InputError
from ..spaces import Continuous, Tokens
from ..target import Target
from .split import first_of_shuffle, split_rows

__all__ = ["Dataset"]


class Dataset(Target):
    """Samples to learn from, and samples to be judged on; there is no log density.

    Integers are sequences of tokens, floating point numbers are points of R^dim. `.to(device)` and `.double()` carry
    the rows along, and leave tokens int64.

    Args:
        train_rows: what `sample` draws from, `[n, *space.shape]`.
        held_out: what is not drawn, `[m, *space.shape]`, for judging.
        space: `Tokens` or `Continuous`; by default that of the rows, with the largest token as the last.
        image_shape: height and width, where a row is an image, read line by line.
        level_width: width w of a level of continuous rows which are the lower edges of levels (say, of grey): a sample
            is then a row plus uniform noise in [0, w), drawn anew each time (uniform dequantisation, Theis et al. 2016,
            arXiv 1511.01844). A density of it bounds the bits per dimension of the levels:
            −log₂ p(x) / dim + log₂(1 / w). The noise of `held_out` is drawn once, by seed 0.
        name: what messages and reports call it.

    Attributes:
        train_rows: `[n, *space.shape]`; int64 for tokens, floating point otherwise. (`train` is the mode of a module.)
        held_out: `[m, *space.shape]`.
        scale: standard deviation of continuous rows, in their own units, pooled over the coordinates (each about its
            own mean); 1 for tokens.

    Raises:
        InputError: for rows that are not `[n, d]`, of another dtype, none at all, or not finite, or that do not fit
            each other or the space; and for continuous rows that are all the same.

    Example:
        >>> coins = Dataset(torch.tensor([[0, 1], [1, 1], [1, 0]]), held_out=torch.tensor([[0, 0]]))
        >>> coins.space, coins.sample(5).shape, coins.has_log_prob
        (Tokens(length=2, vocabulary=2), torch.Size([5, 2]), False)
        >>> coins.limited(1).sample(3).unique(dim=0).shape
        torch.Size([1, 2])
        >>> coins(coins.held_out)
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: a value needs a log density, but target 'data' has samples but no ... (log_prob)
    """

    train_rows: Tensor
    held_out: Tensor

    def __init__(
        self,
        train_rows: Tensor,
        held_out: Tensor,
        *,
        space: Continuous | Tokens | None = None,
        image_shape: tuple[int, int] | None = None,
        level_width: float | None = None,
        name: str = "data",
    ) -> None:
        space = _checked_space(name, train_rows, held_out, space)
        scale = 1.0
        if not isinstance(space, Tokens):
            scale = float(train_rows.double().var(0, unbiased=False).mean().sqrt())
            if not scale > 0.0:
                raise InputError(f"{name}: expected samples that differ, got the same one {len(train_rows)} times")
        super().__init__(space, scale=scale, name=name)
        self.image_shape = image_shape
        self.level_width = level_width
        if level_width is not None:
            noise = torch.rand(held_out.shape, generator=torch.Generator().manual_seed(0)).to(held_out)
            held_out = held_out + level_width * noise
        self.register_buffer("train_rows", train_rows, persistent=False)
        self.register_buffer("held_out", held_out, persistent=False)

    @classmethod
    def split(cls, rows: Tensor, *, held_out: float = 0.2, seed: int = 0, block: int = 1, **settings: Any) -> Self:
        """A data set of these rows `[n, *space.shape]`, a share of them held out (see `split_rows`).

        Other settings are those of the class.

        Raises:
            InputError: for fewer than 2 rows, a share out of range, and whatever the class does not take.

        Example:
            >>> walks = Dataset.split(torch.randn(100, 2).cumsum(-1), held_out=0.1)
            >>> walks.train_rows.shape, walks.held_out.shape
            (torch.Size([90, 2]), torch.Size([10, 2]))
        """
        train, apart = split_rows(len(rows), held_out=held_out, seed=seed, block=block)
        return cls(rows[train], rows[apart], **settings)

    def limited(self, unique: int, seed: int = 0) -> Self:
        """The same data with `unique` of the rows to learn from, the first of a shuffle drawn by `seed`.

        What is held out, and the scale, stay those of all data, so that what was learned from fewer can be compared. A
        row that the data hold twice counts twice.

        Raises:
            InputError: unless 1 <= unique <= number of rows to learn from.
        """
        index = first_of_shuffle(len(self.train_rows), unique, seed).to(self.train_rows.device)
        limited = copy.deepcopy(self)
        limited._keep(index)
        return limited

    def sample(self, n: int) -> Tensor:
        """`n` rows to learn from, uniformly and with replacement, `[n, *space.shape]`."""
        return self._within_levels(self.train_rows[self._drawn(n)])

    def _drawn(self, n: int) -> Tensor:
        """Positions `[n]` of rows to learn from, uniformly and with replacement."""
        return torch.randint(len(self.train_rows), (n,), device=self.train_rows.device)

    def _keep(self, index: Tensor) -> None:
        """Keep only these rows to learn from."""
        self.train_rows = self.train_rows[index]

    def _within_levels(self, rows: Tensor) -> Tensor:
        """The rows, or with levels points in the level above each edge."""
        return rows if self.level_width is None else rows + self.level_width * torch.rand_like(rows)


def _checked_space(
    name: str, train_rows: Tensor, held_out: Tensor, space: Continuous | Tokens | None
) -> Continuous | Tokens:
    """The space of the rows, if they are rows of one."""
    for field, rows in (("train_rows", train_rows), ("held_out", held_out)):
        if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.numel() == 0:
            got = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise InputError(f"{name}: {field}: expected rows [n, d], n >= 1 and d >= 1, got {got}")
        if rows.dtype != train_rows.dtype or not (rows.dtype == torch.int64 or rows.is_floating_point()):
            raise InputError(f"{name}: {field}: expected tokens of int64 or floating point values, got {rows.dtype}")
        if not bool(rows.isfinite().all()):
            raise InputError(f"{name}: {field}: expected finite values, got {rows[~rows.isfinite()][0].item()}")
        if rows.shape[1] != train_rows.shape[1]:
            raise InputError(f"{name}: {field}: expected rows of length {train_rows.shape[1]}, got {rows.shape[1]}")
    length = train_rows.shape[1]
    is_tokens = train_rows.dtype == torch.int64
    if space is None and is_tokens:
        space = Tokens(length, max(int(train_rows.max()) + 1, int(held_out.max()) + 1, 2))
    elif space is None:
        space = Continuous(length)
    if isinstance(space, Tokens) != is_tokens or space.shape != (length,):
        expected = f"one for rows {list(train_rows.shape)} of {train_rows.dtype}"
        raise InputError(f"{name}: space: expected {expected}, got {space}")
    if isinstance(space, Tokens):
        for rows in (train_rows, held_out):
            space.check(name, rows)
    return space
