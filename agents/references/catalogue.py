"""Reference processes by name."""

from collections.abc import Callable

from ...envs.errors import InputError
from ..time_grid import TimeGrid
from .bridge import brownian_bridge
from .gaussian import GaussianReference
from .variance_exploding import variance_exploding
from .variance_preserving import variance_preserving

__all__ = ["REFERENCES", "get_reference"]

REFERENCES: dict[str, Callable[[TimeGrid, float], GaussianReference]] = {
    "bridge": brownian_bridge,
    "variance_exploding": variance_exploding,
    "variance_preserving": variance_preserving,
}


def get_reference(name: str, grid: TimeGrid, sigma: float) -> GaussianReference:
    """Reference process by name, on a time grid with diffusion rate `sigma`.

    Raises:
        InputError: for an unknown name.

    Example:
        >>> get_reference("bridge", TimeGrid.uniform(4), sigma=1.0).is_dirac
        True
    """
    if name not in REFERENCES:
        raise InputError(f"reference: expected one of {sorted(REFERENCES)}, got {name!r}")
    return REFERENCES[name](grid, sigma)
