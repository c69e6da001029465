"""Samples from a numpy file: floating point numbers are points, integers are tokens."""

from pathlib import Path

import numpy
import torch
from torch import Tensor

from ..errors import InputError

__all__ = ["read_array"]

MOST_TOKENS = 2**16


def read_array(path: Path) -> tuple[Tensor, tuple[int, int] | None]:
    """Rows `[n, d]` of a `.npy` file, one for each entry of the first axis, and the shape of the images that they are.

    Floating point numbers come in torch's default type; integers and booleans are tokens, int64. An array `[n, h, w]`
    is one of images of shape `(h, w)`.

    Raises:
        InputError: for what is no array, or one of other things than finite numbers, of negative tokens or of tokens
            of 65,536 and more, or without an axis of samples.
        OSError: if the file cannot be read.

    Example:
        >>> numpy.save("coins.npy", numpy.array([[0, 1], [1, 1]]))
        >>> read_array(Path("coins.npy"))
        (tensor([[0, 1],
                [1, 1]]), None)
    """
    try:
        with path.open("rb") as file:
            array = numpy.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise InputError(f"{path}: expected an array as numpy.save writes it, got {_first_line(error)!r}") from error
    if array.dtype.kind not in "buif":
        raise InputError(f"{path}: expected floating point numbers or integers, got an array of {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise InputError(f"{path}: expected an array [samples, ...], got shape {list(array.shape)}")
    rows = array.reshape(len(array), -1)
    image_shape = (array.shape[1], array.shape[2]) if array.ndim == 3 else None
    if array.dtype.kind == "f":
        wrong = numpy.argwhere(~numpy.isfinite(rows))
        if len(wrong):
            i, j = wrong[0].tolist()
            raise InputError(f"{path}: expected finite numbers, got {rows[i, j]} in row {i}, column {j}, from 0")
        return torch.from_numpy(rows.astype(numpy.float64)).to(torch.get_default_dtype()), image_shape
    least, most = int(rows.min()), int(rows.max())
    if least < 0 or most >= MOST_TOKENS:
        wrong_token = least if least < 0 else most
        raise InputError(f"{path}: integers are tokens: expected them from 0 to {MOST_TOKENS - 1}, got {wrong_token}")
    return torch.from_numpy(rows.astype(numpy.int64)), image_shape


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
