"""Handwritten digits, 1,797 grey images of 8 × 8 pixels in 17 levels, as tokens of two kinds or as points of R^64.

They come with scikit-learn (the extra `sklearn`), and are the test part of "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository 1998, https://doi.org/10.24432/C50P49, CC BY 4.0. The split
is that of seed 0: 1,438 images to learn from, 359 held out, the same ones in every form.
"""

import torch
from torch import Tensor

from ..errors import InputError
from ..spaces import Tokens
from .dataset import Dataset

__all__ = ["digits", "digits_binary", "digits_dequantised", "digits_tokens"]

IMAGE = (8, 8)
LEVELS = 17


def digits(unique: int | None = None, seed: int = 0) -> Dataset:
    """Digits as points of [−1, 1]^64: level v of 0..16 is v / 8 − 1.

    The values are 17 numbers and have no density; `digits_dequantised` has.

    Args:
        unique: number of samples to learn from, by default all 1,438 (see `Dataset.limited`).
        seed: which samples these are.

    Raises:
        InputError: without scikit-learn, or if `unique` is out of range.

    Example:
        >>> target = digits()
        >>> target.space, target.held_out.shape, round(target.scale, 2)
        (Continuous(dim=64), torch.Size([359, 64]), 0.54)
    """
    levels = _levels("digits").to(torch.get_default_dtype())
    return _named("digits", Dataset.split(levels / 8.0 - 1.0, name="digits", image_shape=IMAGE), unique, seed)


def digits_dequantised(unique: int | None = None, seed: int = 0) -> Dataset:
    """Digits as points of [−1, 1)^64 with a density: level v is uniform in its seventeenth, 2 (v + u) / 17 − 1.

    Bits per pixel of the levels are at most −log₂ p(x) / 64 + log₂(17 / 2) (see `Dataset`, `level_width`).

    Arguments and errors are those of `digits`.

    Example:
        >>> target = digits_dequantised(unique=50)
        >>> len(target.train_rows), target.level_width == 2 / 17, len(target.sample(1000).unique(dim=0))
        (50, True, 1000)
    """
    name = "digits-dequantised"
    edges = _levels(name).to(torch.get_default_dtype()) * (2.0 / LEVELS) - 1.0
    data = Dataset.split(edges, name=name, image_shape=IMAGE, level_width=2.0 / LEVELS)
    return _named(name, data, unique, seed)


def digits_tokens(unique: int | None = None, seed: int = 0) -> Dataset:
    """Digits as sequences of 64 tokens, a pixel's level 0..16 each, line by line.

    Arguments and errors are those of `digits`.

    Example:
        >>> digits_tokens().space
        Tokens(length=64, vocabulary=17)
    """
    name = "digits-tokens"
    data = Dataset.split(_levels(name), space=Tokens(64, LEVELS), name=name, image_shape=IMAGE)
    return _named(name, data, unique, seed)


def digits_binary(unique: int | None = None, seed: int = 0) -> Dataset:
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
    name = "digits-binary"
    tokens = (_levels(name) >= 8).to(torch.int64)
    return _named(name, Dataset.split(tokens, space=Tokens(64, 2), name=name, image_shape=IMAGE), unique, seed)


def _levels(name: str) -> Tensor:
    """Grey levels 0..16 of all images, int64 `[1797, 64]`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            f"target {name!r}: scikit-learn is not installed; it comes with: pip install 'ebbflow[sklearn]'"
        ) from error
    return torch.as_tensor(load_digits().data).to(torch.int64)


def _named(name: str, data: Dataset, unique: int | None, seed: int) -> Dataset:
    """The data, limited to so many samples if that is asked for, which the name then tells."""
    if unique is None:
        return data
    data = data.limited(unique, seed)
    data.name = f"{name}-{unique}"
    return data
