r"""Variance exploding from a Gaussian: Brownian motion started at N(0, σ_0²), and its exact time reversal.

With v_k = σ_0² + σ² t_k and y = x_{k+1} (arXiv 2506.01541 and its code lineage, arXiv 2402.05098):

    generation    N(x, σ² Δ_k)
    destruction   N((v_k / v_{k+1}) · y, σ² Δ_k · v_k / v_{k+1}).
"""

import math

from ...envs.errors import InputError
from ..time_grid import TimeGrid
from .gaussian import GaussianReference, check_length

__all__ = ["variance_exploding"]


def variance_exploding(grid: TimeGrid, sigma: float, initial_std: float | None = None) -> GaussianReference:
    """Reference from N(0, initial_std²) with diffusion rate `sigma` (state units per √time).

    Args:
        grid: the time grid.
        sigma: diffusion rate, > 0.
        initial_std: standard deviation of x_0, >= 0; by default `sigma`; 0 gives the Brownian bridge.

    Raises:
        InputError: unless `sigma` is positive and finite, and `initial_std` finite and not negative.

    Example:
        >>> reference = variance_exploding(TimeGrid.uniform(2), sigma=1.0, initial_std=1.0)
        >>> [round(f, 4) for f in reference.destruction_factor]
        [0.6667, 0.75]
    """
    rate = check_length("sigma", sigma) ** 2
    initial_std = sigma if initial_std is None else initial_std
    if not 0.0 <= initial_std < math.inf:
        raise InputError(f"initial_std: expected a finite number >= 0, got {initial_std!r}")
    v = [initial_std**2 + rate * t for t in grid.times]
    ratio = tuple(v[k] / v[k + 1] for k in range(grid.steps))
    steps = grid.increments
    return GaussianReference(
        times=grid.times,
        destruction_factor=ratio,
        destruction_variance=tuple(rate * d * r for d, r in zip(steps, ratio, strict=True)),
        generation_factor=(1.0,) * grid.steps,
        generation_variance=tuple(rate * d for d in steps),
        initial_std=float(initial_std),
    )
