r"""The linear-Gaussian reference process, as plain numbers per step.

Every Gaussian reference used here is linear: with y = x_{k+1} and x = x_k,

    destruction   x_k     | y ~ N(destruction_factor[k] · y, destruction_variance[k] · I)
    generation    x_{k+1} | x ~ N(generation_factor[k] · x,  generation_variance[k] · I)
    initial law   x_0 ~ N(0, initial_std²·I), or the Dirac at 0 when initial_std = 0.

A Dirac initial law makes the last destruction step (k = 0) deterministic: factor 0, variance 0.
"""

import math
from dataclasses import dataclass

from ...envs.errors import InputError

__all__ = ["GaussianReference"]


@dataclass(frozen=True)
class GaussianReference:
    """Per-step factors and variances of a linear-Gaussian reference (module docstring).

    Args:
        times: the T + 1 grid times.
        destruction_factor, destruction_variance: T numbers each, index k for the step from x_{k+1} to x_k.
        generation_factor, generation_variance: T numbers each, index k for the step from x_k to x_{k+1}; variances > 0.
        initial_std: standard deviation of the initial law; 0 for the Dirac at the origin, infinite where the reference
            has no initial law of its own.

    Raises:
        InputError: for tables of unequal length or variances of the wrong sign.

    Example:
        >>> from ebbflow.agents.references import brownian_bridge
        >>> from ebbflow.agents import TimeGrid
        >>> brownian_bridge(TimeGrid.uniform(2), sigma=1.0).level(1)  # x_1 given x_2: mean x_2 / 2, variance 1/4
        (0.5, 0.25)
    """

    times: tuple[float, ...]
    destruction_factor: tuple[float, ...]
    destruction_variance: tuple[float, ...]
    generation_factor: tuple[float, ...]
    generation_variance: tuple[float, ...]
    initial_std: float

    def __post_init__(self) -> None:
        tables = (
            self.destruction_factor,
            self.destruction_variance,
            self.generation_factor,
            self.generation_variance,
        )
        if any(len(table) != self.steps for table in tables):
            raise InputError(f"reference: expected tables of {self.steps} steps, got {[len(t) for t in tables]}")
        if not all(v > 0 for v in self.generation_variance):
            raise InputError(f"generation_variance: expected numbers > 0, got {self.generation_variance!r}")
        stochastic = self.destruction_variance[1 if self.is_dirac else 0 :]
        if not all(v > 0 for v in stochastic):
            raise InputError(f"destruction_variance: expected numbers > 0, got {self.destruction_variance!r}")

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return len(self.times) - 1

    @property
    def is_dirac(self) -> bool:
        """Whether the initial law is the Dirac at the origin, so that the last destruction step has no density."""
        return self.initial_std == 0.0

    def level(self, k: int) -> tuple[float, float]:
        """Factor and variance of x_k given x_T under the reference destruction: x_k ~ N(factor · x_T, variance · I)."""
        if not 0 <= k <= self.steps:
            raise InputError(f"level: expected 0 <= k <= {self.steps}, got {k!r}")
        factor, variance = 1.0, 0.0
        for j in range(self.steps - 1, k - 1, -1):
            factor *= self.destruction_factor[j]
            variance = self.destruction_factor[j] ** 2 * variance + self.destruction_variance[j]
        return factor, variance


def check_length(name: str, value: float) -> float:
    """Return `value`, or raise an InputError unless it is a positive finite number."""
    if not 0.0 < value < math.inf:
        raise InputError(f"{name}: expected a positive finite number, got {value!r}")
    return float(value)
