"""Samples from a folder of images, all of one size, in grey."""

from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError

__all__ = ["read_images"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp")
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_images(folder: Path) -> Tensor:
    """Grey values 0..255 of the images of a folder, in the order of their names, int64 `[n, height, width]`.

    Colours become grey by their luma (ITU-R 601-2); of moving images the first is taken. Folders in the folder are
    passed over, and so is what does not end as images do.

    Raises:
        InputError: for a folder without images, images of different sizes, or a file that is no image of 8 bits; it
            names the file.
        OSError: if the folder cannot be read.

    Example:
        >>> folder = Path("icons")
        >>> folder.mkdir()
        >>> for shade in (0, 255):
        ...     Image.new("L", (3, 2), color=shade).save(folder / f"{shade}.png")
        >>> read_images(folder).shape
        torch.Size([2, 2, 3])
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"{folder}: expected a folder of images ({', '.join(SUFFIXES)}), got none")
    images: list[numpy.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as image:
                mode = image.mode
                grey = numpy.asarray(image.convert("L"))
        except Exception as error:  # whatever the many formats' decoders meet in a damaged file
            raise InputError(f"{file}: expected an image, got {type(error).__name__}: {error}") from error
        if mode not in EIGHT_BITS:
            raise InputError(f"{file}: expected an image of 8 bits or less for each channel, got mode {mode}")
        if images and grey.shape != images[0].shape:
            (height, width), (first_height, first_width) = grey.shape, images[0].shape
            raise InputError(
                f"{file}: expected images of one size, {first_width} x {first_height} as {files[0].name}, got "
                f"{width} x {height}"
            )
        images.append(grey)
    return torch.from_numpy(numpy.stack(images).astype(numpy.int64))
