r"""The Brownian bridge from the Dirac at 0: variance exploding whose initial standard deviation is 0.

With y = x_{k+1}: destruction N((t_k / t_{k+1}) · y, σ² Δ_k t_k / t_{k+1}); generation N(x, σ² Δ_k).
Closed form: x_k given x_T is N(t_k · x_T, σ² t_k (1 − t_k)). The last destruction step lands on 0 exactly.
"""

from ..time_grid import TimeGrid
from .gaussian import GaussianReference
from .variance_exploding import variance_exploding

__all__ = ["brownian_bridge"]


def brownian_bridge(grid: TimeGrid, sigma: float) -> GaussianReference:
    """Reference from the Dirac at 0 with diffusion rate `sigma` (state units per √time).

    Raises:
        InputError: for a non-positive `sigma`.

    Example:
        >>> brownian_bridge(TimeGrid.uniform(2), sigma=2.0).destruction_variance
        (0.0, 1.0)
    """
    return variance_exploding(grid, sigma, initial_std=0.0)
