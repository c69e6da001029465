"""References of points by name, as a run's settings may have them: noise needs a scale, a transform needs data as well.

| name                                   | steps          | needs                                                     |
|----------------------------------------|----------------|-----------------------------------------------------------|
| `noise_preserving`, `noise_exploding`  | any, 50        | a scale                                                   |
| `blur`                                 | any, 10        | the shape of the images, samples to find the law of x_0   |
| `pixelate`                             | log₂ of a side | the same                                                  |
| `bijection` (random rotations)         | any, 10        | samples, whose law, moved, is that of x_0                 |
"""

from collections.abc import Callable

from torch import Tensor

from ....envs.errors import InputError
from ....envs.spaces import Continuous
from ...time_grid import TimeGrid
from ..geometric_noise import geometric_noise
from ..variance_preserving import variance_preserving
from .bijection import Bijection, random_rotations
from .blur import blur
from .gaussian_noise import GaussianNoise
from .linear_transform import LinearTransform
from .pixelate import pixelate
from .reference import ContinuousReference

__all__ = ["CONTINUOUS_REFERENCES", "IMAGE_REFERENCES", "TRANSFORMS", "get_continuous_reference"]

_STEPS, _TRANSFORM_STEPS = 50, 10
_SMALLEST, _LARGEST = 0.05, 20.0  # noise of the first and of the last step of destruction, in units of the scale


def _noise_preserving(space: Continuous, steps: int | None, scale: float) -> GaussianNoise:
    grid = TimeGrid.shrinking(_STEPS if steps is None else steps)
    return GaussianNoise(space, variance_preserving(grid, sigma=scale), scale=scale)


def _noise_exploding(space: Continuous, steps: int | None, scale: float) -> GaussianNoise:
    count = _STEPS if steps is None else steps
    process = geometric_noise(count, smallest=_SMALLEST * scale, largest=_LARGEST * scale, scale=scale)
    return GaussianNoise(space, process, scale=scale)


def _bijection(space: Continuous, steps: int | None, scale: float) -> LinearTransform:
    rotations = random_rotations(space.dim, steps=_TRANSFORM_STEPS if steps is None else steps, seed=0)
    return Bijection(space, rotations, scale=scale)


def _blur(image_shape: tuple[int, int], steps: int | None, scale: float) -> LinearTransform:
    return blur(*image_shape, steps=_TRANSFORM_STEPS if steps is None else steps, scale=scale)


def _pixelate(image_shape: tuple[int, int], steps: int | None, scale: float) -> LinearTransform:
    reference = pixelate(*image_shape, scale=scale)
    if steps not in (None, reference.steps):
        raise InputError(
            f"steps: pixelate doubles its blocks from pixels to images of {image_shape[0]} × {image_shape[1]}, so "
            f"expected {reference.steps}, got {steps!r}"
        )
    return reference


IMAGE_REFERENCES: dict[str, Callable[[tuple[int, int], int | None, float], LinearTransform]] = {
    "blur": _blur,
    "pixelate": _pixelate,
}
_POINT_REFERENCES: dict[str, Callable[[Continuous, int | None, float], ContinuousReference]] = {
    "bijection": _bijection,
    "noise_exploding": _noise_exploding,
    "noise_preserving": _noise_preserving,
}
CONTINUOUS_REFERENCES = frozenset(IMAGE_REFERENCES | _POINT_REFERENCES)
TRANSFORMS = frozenset(IMAGE_REFERENCES) | {"bijection"}  # deterministic, and without densities


def get_continuous_reference(
    name: str,
    space: Continuous,
    steps: int | None = None,
    scale: float = 1.0,
    *,
    image_shape: tuple[int, int] | None = None,
    samples: Tensor | None = None,
) -> ContinuousReference:
    """Reference by name.

    Args:
        name: one of `CONTINUOUS_REFERENCES`.
        space: the space.
        steps: number of steps T; by default that of the module docstring.
        scale: standard deviation of a coordinate of the data, about.
        image_shape: height and width, of `IMAGE_REFERENCES`, whose states are images row by row.
        samples: of the data, `[n, dim]`: fully destroyed, they are the law of x_0 of `TRANSFORMS`. Without them such a
            reference destroys, and does not generate.

    Raises:
        InputError: for an unknown name, settings out of range, and images of no shape, or of one that does not do.

    Example:
        >>> get_continuous_reference("noise_preserving", Continuous(2)).steps
        50
        >>> get_continuous_reference("pixelate", Continuous(64), image_shape=(8, 8)).steps
        3
    """
    if name not in CONTINUOUS_REFERENCES:
        raise InputError(f"reference: expected one of {sorted(CONTINUOUS_REFERENCES)} for points, got {name!r}")
    if name in _POINT_REFERENCES:
        reference = _POINT_REFERENCES[name](space, steps, scale)
    else:
        if image_shape is None or image_shape[0] * image_shape[1] != space.shape[0]:
            got = "no image_shape" if image_shape is None else f"image_shape {image_shape!r}"
            raise InputError(
                f"reference: {name} is of images, of height × width = {space.shape[0]} pixels, got {got}; expected "
                "noise_preserving, noise_exploding or bijection of other points"
            )
        reference = IMAGE_REFERENCES[name](image_shape, steps, scale)
    if samples is not None and isinstance(reference, LinearTransform):
        reference.law_of(reference.sample_level(samples, 0))
    return reference
