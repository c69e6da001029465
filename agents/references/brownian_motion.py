r"""Brownian motion with free ends: the same noise in both directions, and no law of its own to begin with.

    generation    x_{k+1} | x_k     ~ N(x_k,     σ² Δ_k)
    destruction   x_k     | x_{k+1} ~ N(x_{k+1}, σ² Δ_k)

It is the time reversal of itself where x_0 has Lebesgue measure, the limit of `variance_exploding` as its initial
standard deviation grows: what two laws, one at each end, are bridged by (arXiv 1308.0215). Given both ends, x_0 and
x_T, it is a Brownian bridge between them, whatever the ends' laws.
"""

import math

from ..time_grid import TimeGrid
from .gaussian import GaussianReference, check_length

__all__ = ["brownian_motion"]


def brownian_motion(grid: TimeGrid, sigma: float) -> GaussianReference:
    """Brownian motion with diffusion rate `sigma` (state units; σ² is the variance of x_T given x_0).

    Its `initial_std` is infinite: who generates says where x_0 comes from.

    Raises:
        InputError: unless `sigma` is positive and finite.

    Example:
        >>> reference = brownian_motion(TimeGrid.uniform(4), sigma=2.0)
        >>> reference.level(0), reference.destruction_variance == reference.generation_variance
        ((1.0, 4.0), True)
    """
    rate = check_length("sigma", sigma) ** 2
    variances = tuple(rate * d for d in grid.increments)
    ones = (1.0,) * grid.steps
    return GaussianReference(
        times=grid.times,
        destruction_factor=ones,
        destruction_variance=variances,
        generation_factor=ones,
        generation_variance=variances,
        initial_std=math.inf,
    )
