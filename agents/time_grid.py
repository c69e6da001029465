"""Time grids 0 = t_0 < t_1 < ... < t_T = 1 on which a trajectory lives."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from ..envs.errors import InputError, whole_number

__all__ = ["TIME_GRIDS", "TimeGrid", "get_time_grid"]


@dataclass(frozen=True)
class TimeGrid:
    """Increasing times from 0 to 1.

    Args:
        times: T + 1 times, the first 0 and the last 1.

    Raises:
        InputError: unless the times increase strictly from 0 to 1.

    Example:
        >>> TimeGrid.uniform(4).increments
        (0.25, 0.25, 0.25, 0.25)
        >>> [round(t, 4) for t in TimeGrid.shrinking(2).times]  # later steps are shorter
        [0.0, 0.75, 1.0]
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in pairwise(self.times))
        if len(self.times) < 2 or self.times[0] != 0.0 or self.times[-1] != 1.0 or not increasing:
            raise InputError(f"times: expected increasing times from 0.0 to 1.0, got {self.times!r}")

    @classmethod
    def uniform(cls, steps: int) -> "TimeGrid":
        """`steps` equal increments."""
        return cls(tuple(k / steps for k in range(whole_number("steps", steps, least=1) + 1)))

    @classmethod
    def shrinking(cls, steps: int, power: float = 2.0) -> "TimeGrid":
        """t_k = 1 − (1 − k/T)^power: steps shrink towards the sample, where a narrow density needs small variances.

        Raises:
            InputError: if `power` is not > 0.
        """
        if not 0.0 < power < math.inf:
            raise InputError(f"power: expected a finite number > 0, got {power!r}")
        return cls(tuple(1.0 - (1.0 - k / steps) ** power for k in range(whole_number("steps", steps, least=1) + 1)))

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return len(self.times) - 1

    @property
    def increments(self) -> tuple[float, ...]:
        """Δ_k = t_{k+1} − t_k, T numbers."""
        return tuple(b - a for a, b in pairwise(self.times))


TIME_GRIDS: dict[str, Callable[[int, float], TimeGrid]] = {
    "uniform": lambda steps, power: TimeGrid.uniform(steps),
    "shrinking": TimeGrid.shrinking,
}


def get_time_grid(name: str, steps: int, power: float = 2.0) -> TimeGrid:
    """Time grid by name; `power` is that of the shrinking one.

    Raises:
        InputError: for an unknown name or fewer than one step.

    Example:
        >>> get_time_grid("uniform", 2).times
        (0.0, 0.5, 1.0)
    """
    if name not in TIME_GRIDS:
        raise InputError(f"time_grid: expected one of {sorted(TIME_GRIDS)}, got {name!r}")
    return TIME_GRIDS[name](steps, power)
