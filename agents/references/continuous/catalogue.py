"""References of points by name, as a run's settings may have them: those that need nothing but a scale."""

from collections.abc import Callable

from ....envs.errors import InputError
from ....envs.spaces import Continuous
from ...time_grid import TimeGrid
from ..geometric_noise import geometric_noise
from ..variance_preserving import variance_preserving
from .gaussian_noise import GaussianNoise
from .reference import ContinuousReference

__all__ = ["CONTINUOUS_REFERENCES", "get_continuous_reference"]

_STEPS = 50
_SMALLEST, _LARGEST = 0.05, 20.0  # noise of the first and of the last step of destruction, in units of the scale


def _noise_preserving(space: Continuous, steps: int, scale: float) -> GaussianNoise:
    return GaussianNoise(space, variance_preserving(TimeGrid.shrinking(steps), sigma=scale), scale=scale)


def _noise_exploding(space: Continuous, steps: int, scale: float) -> GaussianNoise:
    process = geometric_noise(steps, smallest=_SMALLEST * scale, largest=_LARGEST * scale, scale=scale)
    return GaussianNoise(space, process, scale=scale)


CONTINUOUS_REFERENCES: dict[str, Callable[[Continuous, int, float], ContinuousReference]] = {
    "noise_exploding": _noise_exploding,
    "noise_preserving": _noise_preserving,
}


def get_continuous_reference(
    name: str, space: Continuous, steps: int | None = None, scale: float = 1.0
) -> ContinuousReference:
    """Reference by name.

    Args:
        name: a key of `CONTINUOUS_REFERENCES`.
        space: the space.
        steps: number of steps T, by default 50.
        scale: standard deviation of a coordinate of the data, about.

    Raises:
        InputError: for an unknown name, and settings out of range.

    Example:
        >>> get_continuous_reference("noise_preserving", Continuous(2)).steps
        50
    """
    if name not in CONTINUOUS_REFERENCES:
        raise InputError(f"reference: expected one of {sorted(CONTINUOUS_REFERENCES)} for points, got {name!r}")
    return CONTINUOUS_REFERENCES[name](space, _STEPS if steps is None else steps, scale)
