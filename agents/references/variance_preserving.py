r"""Variance preserving: an Ornstein–Uhlenbeck process that is stationary, and reversible, at N(0, σ²).

With a_k = exp(−decay · Δ_k): destruction N(a_k · y, (1 − a_k²) σ²), generation N(a_k · x, (1 − a_k²) σ²).
"""

import math

from ..time_grid import TimeGrid
from .gaussian import GaussianReference, check_length

__all__ = ["variance_preserving"]


def variance_preserving(grid: TimeGrid, sigma: float, decay: float = 3.0) -> GaussianReference:
    """Reference that shrinks a sample by exp(−decay) in all while noise keeps the variance at sigma².

    Args:
        grid: the time grid.
        sigma: stationary standard deviation (state units), > 0; also that of the initial law.
        decay: total log shrinkage of a sample over the whole destruction, > 0.

    Raises:
        InputError: for a non-positive `sigma` or `decay`.

    Example:
        >>> reference = variance_preserving(TimeGrid.uniform(2), sigma=1.0, decay=2.0)
        >>> round(reference.level(0)[0], 4), round(sum(reference.level(0)) + reference.level(0)[0] ** 2, 4)
        (0.1353, 1.1353)
    """
    check_length("sigma", sigma)
    check_length("decay", decay)
    factor = tuple(math.exp(-decay * d) for d in grid.increments)
    variance = tuple((1.0 - a * a) * sigma**2 for a in factor)
    return GaussianReference(grid.times, factor, variance, factor, variance, float(sigma))
