"""The front door for data of one's own: what a path ends in says how it is read."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, whole_number
from ..spaces import Tokens
from .array_file import read_array
from .csv_file import read_table
from .dataset import Dataset
from .image_folder import read_images
from .text import TextDataset

__all__ = ["load_data"]

_FAR = 3.0  # standard deviations
_UNEQUAL = 5.0  # ratio of standard deviations


def load_data(
    path: str | os.PathLike[str],
    *,
    length: int | None = None,
    levels: int | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    unique: int | None = None,
) -> Dataset:
    """The data set in a file or folder.

        .npy      floating point numbers [n, ...] are points, integers tokens
        .csv      a line of numbers is a point; a line of names may come first
        .txt      windows of UTF-8 text, a character is a token
        a folder  images of one size in grey, points of [−1, 1]^(height · width); with `levels`, tokens

    Args:
        path: the file or folder.
        length: characters of a window of text, 32 by default; of nothing else.
        levels: of images, the number of grey levels, from 2 to 256, that their tokens stand for.
        held_out: share of the samples that is held out.
        seed: of the split, and of the choice of fewer samples.
        unique: number of samples to learn from, by default all that are not held out (`Dataset.limited`).

    Raises:
        InputError: for a path that is none of these, or does not hold what is expected; it names the file.

    Example:
        >>> _ = Path("places.csv").write_text("east,north\\n-1,1\\n0,0\\n1,-1\\n")
        >>> places = load_data("places.csv", held_out=0.3)
        >>> places.name, places.space, len(places.train_rows), len(places.held_out)
        ('places.csv', Continuous(dim=2), 2, 1)
        >>> load_data("weights.csv")
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: weights.csv: cannot be read: No such file or directory
    """
    path = Path(path)
    kind = "folder" if path.is_dir() else path.suffix.lower()
    if kind not in (".npy", ".csv", ".txt", "folder"):
        raise InputError(f"{path}: expected .npy, .csv, .txt or a folder of images, got {kind or 'no suffix'!r}")
    for field, value, of in (("length", length, ".txt"), ("levels", levels, "folder")):
        if value is not None and kind != of:
            wanted = "text files" if of == ".txt" else "folders of images"
            raise InputError(f"{field}: expected for {wanted} only, got {value!r} for {path}")
    try:
        data = _read(path, kind, length, levels, {"held_out": held_out, "seed": seed, "name": str(path)})
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not isinstance(data.space, Tokens):
        _warn_of_units(path, data)
    return data if unique is None else data.limited(unique, seed)


def _warn_of_units(path: Path, data: Dataset) -> None:
    """Say when points lie far from 0, or their coordinates differ in size: destruction ends in one law about 0."""
    off = float(data.train_rows.mean(0).abs().max()) / data.scale
    spread = data.train_rows.std(0)
    ratio = float(spread.max()) / max(float(spread.min()), 1e-12)
    if off > _FAR or ratio > _UNEQUAL:
        warnings.warn(
            f"{path}: coordinates lie up to {off:.2g} standard deviations from 0 and differ in size by a factor of "
            f"{ratio:.2g}; data are learned better when centred and scaled",
            stacklevel=3,
        )


def _read(path: Path, kind: str, length: int | None, levels: int | None, settings: dict[str, Any]) -> Dataset:
    if kind == ".txt":
        return TextDataset.of(_text(path), length=32 if length is None else length, **settings)
    if kind == ".csv":
        rows = read_table(path)
    elif kind == ".npy":
        rows, settings["image_shape"] = read_array(path)
    else:
        images = read_images(path)
        settings["image_shape"] = tuple(images.shape[1:])
        rows = images.flatten(1)
        if levels is None:
            rows = rows.to(torch.get_default_dtype()) / 127.5 - 1.0
        else:
            if whole_number("levels", levels, least=2) > 256:
                raise InputError(f"levels: expected at most 256, as images have, got {levels}")
            settings["space"] = Tokens(rows.shape[1], levels)
            rows = rows * levels // 256
    if len(rows) < 2:
        raise InputError(f"{path}: expected at least 2 samples, one to learn from and one to hold out, got {len(rows)}")
    return Dataset.split(rows, **settings)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text in UTF-8, got another byte at position {error.start}") from error
