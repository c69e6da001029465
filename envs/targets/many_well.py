r"""Many-well: independent pairs, each with two wells of unequal mass, 2^(dim/2) modes in all.

    log R(x) = sum over pairs (a, b) of  -k a^4 + 6 k a^2 + a/2 - b^2/2,    a = x[..., 0::2],  b = x[..., 1::2]

with the sharpness k = 1. A larger k leaves the wells where they are, at a = +-sqrt(3) or nearly so, and makes them
narrower, 1/sqrt(24 k), and deeper, 9 k: the narrow many-well is this project's own, with k = 4.

A sampler that loses a well loses it in a pair: the right well (a > 0) holds 0.84431 of the mass in every pair, so one
that knows only the right wells is short of log Z by (dim/2) * 0.169. Noé et al., *Boltzmann generators*, Science 365
(2019); in 32 dimensions: https://arxiv.org/abs/2208.01893 and https://arxiv.org/abs/2402.05098.
"""

import math

import torch
from torch import Tensor

from ..errors import InputError
from ..spaces import Continuous
from ..target import Target

__all__ = ["ManyWell", "narrow_many_well"]

NARROW = 4.0

_EDGE = 4.0  # at a = +-4 the density of a is below e^-160 of its peak, and lower yet for larger sharpness
_CELLS = 2**17
_SHARPEST = 50.0  # the density of a at its peak, e^(9 k), still fits into float64


def _double_well(a: Tensor, sharpness: float) -> Tensor:
    return -sharpness * a**4 + 6.0 * sharpness * a**2 + 0.5 * a


def _cumulative(sharpness: float) -> tuple[Tensor, Tensor]:
    """Grid `[_CELLS + 1]` and the unnormalised distribution function of `a` on it, by Simpson's rule in float64."""
    grid = torch.linspace(-_EDGE, _EDGE, _CELLS + 1, dtype=torch.float64)
    middle = 0.5 * (grid[1:] + grid[:-1])
    at_grid, at_middle = _double_well(grid, sharpness).exp(), _double_well(middle, sharpness).exp()
    cells = (at_grid[:-1] + 4.0 * at_middle + at_grid[1:]) * (2.0 * _EDGE / _CELLS / 6.0)
    return grid, torch.cat([cells.new_zeros(1), cells.cumsum(0)])


class ManyWell(Target):
    """The many-well density in any even dimension.

    The normalising constant is found by quadrature in float64 at construction. Samples of `a` invert the distribution
    function on a grid of 131,072 cells with linear interpolation, in float64: the distribution sampled differs from the
    true one by less than 1e-8 (times the sharpness) in Kolmogorov distance, far below what any number of samples in
    practice could show.

    Modes are too many to list, so the regions are the wells of each pair, which overlap across pairs: column 2i holds
    the states left in pair i (a < 0), column 2i + 1 those to the right (a > 0).

    Args:
        dim: number of coordinates, even and >= 2.
        sharpness: k, from 1 to 50; beyond 1 the target is called a narrow many-well.

    Raises:
        InputError: if `dim` is not an even whole number >= 2, or `sharpness` is out of range.

    Example:
        >>> target = ManyWell(dim=32)
        >>> round(target.log_z, 3)
        164.696
        >>> target(torch.zeros(1, 32))
        tensor([0.])
        >>> target.mode_masses[:2]
        tensor([0.1557, 0.8443])
    """

    masses: Tensor

    def __init__(self, dim: int = 32, sharpness: float = 1.0) -> None:
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 2 or dim % 2:
            raise InputError(f"dim: many-well needs an even number of coordinates >= 2, got {dim!r}")
        if not 1.0 <= sharpness <= _SHARPEST:
            raise InputError(f"sharpness: expected a number from 1 to {_SHARPEST:g}, got {sharpness!r}")
        grid, cumulative = _cumulative(float(sharpness))
        normaliser = cumulative[-1].item()
        right = 1.0 - cumulative[_CELLS // 2].item() / normaliser
        log_z = dim // 2 * (math.log(normaliser) + 0.5 * math.log(2 * math.pi))
        kind = {1.0: "manywell", NARROW: "manywell-narrow"}.get(sharpness, f"manywell-sharp{sharpness:g}")
        super().__init__(Continuous(dim), scale=1.5, log_z=log_z, name=f"{kind}-{dim}")
        self.sharpness = float(sharpness)
        self.register_buffer("masses", torch.tensor([1.0 - right, right]).repeat(dim // 2), persistent=False)
        # Plain attributes, not buffers: the table must stay float64 whatever dtype the target is moved to.
        self._grid, self._cumulative = grid, cumulative / normaliser

    def log_prob(self, x: Tensor) -> Tensor:
        """Unnormalised log density, `[..., dim] -> [...]`."""
        a, b = x[..., 0::2], x[..., 1::2]
        return (_double_well(a, self.sharpness) - 0.5 * b**2).sum(-1)

    def sample(self, n: int) -> Tensor:
        """`n` independent samples, `[n, dim]`, in the target's dtype and on its device; see the class for exactness."""
        device, pairs = self.masses.device, self.space.dim // 2
        grid, cumulative = self._grid.to(device), self._cumulative.to(device)
        u = torch.rand(n, pairs, dtype=torch.float64, device=device)
        # cumulative[upper - 1] <= u < cumulative[upper]
        upper = torch.searchsorted(cumulative, u, right=True).clamp(max=_CELLS)
        low, high = cumulative[upper - 1], cumulative[upper]
        a = grid[upper - 1] + (grid[1] - grid[0]) * (u - low) / (high - low)
        b = torch.randn(n, pairs, dtype=self.masses.dtype, device=device)
        return torch.stack([a.to(self.masses.dtype), b], dim=-1).flatten(-2)

    @property
    def mode_masses(self) -> Tensor:
        """Mass of the left and the right well of each pair in turn, `[dim]`; each pair sums to one."""
        return self.masses

    def mode_membership(self, x: Tensor) -> Tensor:
        """Left and right well of each pair in turn, `[n, dim] -> [n, dim]` bool; a = 0 lies in neither."""
        a = x[..., 0::2]
        return torch.stack([a < 0, a > 0], dim=-1).flatten(-2)

    def right_masses(self, x: Tensor) -> Tensor:
        """Fraction of the states right in each pair, `[n, dim] -> [dim/2]`; the truth is `mode_masses[1]`."""
        return self.mode_membership(x)[:, 1::2].to(x.dtype).mean(0)


def narrow_many_well(dim: int = 32) -> ManyWell:
    """The many-well of sharpness 4: wells half as wide (0.10) and four times as deep (36 nats), as heavy as before.

    Args:
        dim: number of coordinates, even and >= 2.

    Raises:
        InputError: if `dim` is not an even whole number >= 2.

    Example:
        >>> target = narrow_many_well(4)
        >>> target.name, round(target.log_z, 4), target.mode_masses[:2]
        ('manywell-narrow-4', 73.1762, tensor([0.1515, 0.8485]))
    """
    return ManyWell(dim, sharpness=NARROW)
