"""Handwritten digits, 1,797 grey images of 8 × 8 pixels in 17 levels, as tokens of two kinds or as points of R^64.

They come with scikit-learn (the extra `sklearn`), and are the test part of "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository 1998, https://doi.org/10.24432/C50P49, CC BY 4.0. The split
is that of seed 0: 1,438 images to learn from, 359 held out, the same ones in every form.
"""

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..spaces import Tokens
from .dataset import Dataset
from .labelled import LabelledDataset

__all__ = ["digits", "digits_binary", "digits_dequantised", "digits_tokens"]

IMAGE = (8, 8)
LEVELS = 17


def digits(unique: int | None = None, seed: int = 0, *, labelled: bool = False) -> Dataset:
    """Digits as points of [−1, 1]^64: level v of 0..16 is v / 8 − 1.

    The values are 17 numbers and have no density; `digits_dequantised` has.

    Args:
        unique: number of samples to learn from, by default all 1,438 (see `Dataset.limited`).
        seed: which samples these are.
        labelled: whether the target is conditional on the class, 0..9, as a one-hot vector (see `LabelledDataset`).

    Raises:
        InputError: without scikit-learn, or if `unique` is out of range.

    Example:
        >>> target = digits()
        >>> target.space, target.held_out.shape, round(target.scale, 2)
        (Continuous(dim=64), torch.Size([359, 64]), 0.54)
        >>> threes = digits(labelled=True).given(torch.eye(10)[3])
        >>> threes.sample(5).shape
        torch.Size([5, 64])
    """
    levels, labels = _images("digits")
    rows = levels.to(torch.get_default_dtype()) / 8.0 - 1.0
    return _data("digits", rows, labels if labelled else None, unique, seed)


def digits_dequantised(unique: int | None = None, seed: int = 0, *, labelled: bool = False) -> Dataset:
    """Digits as points of [−1, 1)^64 with a density: level v is uniform in its seventeenth, 2 (v + u) / 17 − 1.

    Bits per pixel of the levels are at most −log₂ p(x) / 64 + log₂(17 / 2) (see `Dataset`, `level_width`).

    Arguments and errors are those of `digits`.

    Example:
        >>> target = digits_dequantised(unique=50)
        >>> len(target.train_rows), target.level_width == 2 / 17, len(target.sample(1000).unique(dim=0))
        (50, True, 1000)
    """
    levels, labels = _images("digits-dequantised")
    width = 2.0 / LEVELS
    edges = levels.to(torch.get_default_dtype()) * width - 1.0
    return _data("digits-dequantised", edges, labels if labelled else None, unique, seed, level_width=width)


def digits_tokens(unique: int | None = None, seed: int = 0, *, labelled: bool = False) -> Dataset:
    """Digits as sequences of 64 tokens, a pixel's level 0..16 each, line by line.

    Arguments and errors are those of `digits`.

    Example:
        >>> digits_tokens().space
        Tokens(length=64, vocabulary=17)
    """
    levels, labels = _images("digits-tokens")
    return _data("digits-tokens", levels, labels if labelled else None, unique, seed, space=Tokens(64, LEVELS))


def digits_binary(unique: int | None = None, seed: int = 0, *, labelled: bool = False) -> Dataset:
    """Digits as sequences of 64 tokens, 1 for a pixel of level 8 or more and 0 otherwise, line by line.

    Arguments and errors are those of `digits`.

    Example:
        >>> digits_binary().held_out[0].reshape(8, 8)
        tensor([[0, 0, 0, 1, 1, 1, 0, 0],
                [0, 0, 1, 1, 1, 1, 0, 0],
                [0, 0, 1, 1, 0, 1, 1, 0],
                [0, 0, 1, 0, 0, 1, 1, 0],
                [0, 0, 1, 0, 0, 1, 1, 0],
                [0, 0, 1, 0, 0, 1, 0, 0],
                [0, 0, 1, 1, 1, 1, 0, 0],
                [0, 0, 0, 1, 1, 0, 0, 0]])
    """
    levels, labels = _images("digits-binary")
    tokens = (levels >= 8).to(torch.int64)
    return _data("digits-binary", tokens, labels if labelled else None, unique, seed, space=Tokens(64, 2))


def _images(name: str) -> tuple[Tensor, Tensor]:
    """Grey levels 0..16 of all images, int64 `[1797, 64]`, and their classes, int64 `[1797]`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            f"target {name!r}: scikit-learn is not installed; it comes with: pip install 'ebbflow[sklearn]'"
        ) from error
    levels, labels = load_digits(return_X_y=True)
    return torch.as_tensor(levels).to(torch.int64), torch.as_tensor(labels).to(torch.int64)


def _data(name: str, rows: Tensor, labels: Tensor | None, unique: int | None, seed: int, **settings: Any) -> Dataset:
    """The data set of all rows, with classes or limited to so many samples if asked for, which its name then tells."""
    name = name if labels is None else f"{name}-labelled"
    settings |= {"image_shape": IMAGE, "name": name if unique is None else f"{name}-{unique}"}
    data = Dataset.split(rows, **settings) if labels is None else LabelledDataset.split(rows, labels=labels, **settings)
    return data if unique is None else data.limited(unique, seed)
