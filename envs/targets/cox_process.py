r"""The log-Gaussian Cox process: the posterior of a log intensity on a grid, given where points were seen.

    f ~ N(mu, K),    K_ij = s^2 exp(-|c_i - c_j| / beta),    y_i | f ~ Poisson(exp(f_i) / dim)

for the cells i of an M x M grid on the unit square, with centres c_i and dim = M^2. The density is that of the field,

    log R(f) = log N(f; mu, K) + sum_i (y_i f_i - exp(f_i) / dim),

or, whitened, that of z in f = mu + L z with L L' = K: log N(z; 0, I) plus the same sum. The map between them is linear
and the Gaussians are normalised, so both have the same log Z. It is not known; nor are there exact samples.

Møller, Syversveen and Waagepetersen, *Log Gaussian Cox processes*, Scandinavian Journal of Statistics 25 (1998), with
s^2 = 1.91, beta = 1/33 and mu = log 126 - s^2/2 for 126 Finnish pines; as a benchmark of samplers with M = 40 in
Heng et al. (https://arxiv.org/abs/1708.08396) and Arbel et al. (https://arxiv.org/abs/2102.07501), not whitened. The
pines do not come with the project: without points of your own, counts are simulated from the model itself.
"""

import csv
import math
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError, whole_number
from ..spaces import Continuous
from ..target import Target
from .exact_constants import ExactConstants

__all__ = ["CoxProcess", "read_points", "whitened_cox_process"]

VARIANCE = 1.91
LENGTH = 1.0 / 33.0
MEAN = math.log(126.0) - 0.5 * VARIANCE


class CoxProcess(Target):
    """The posterior of a log-Gaussian Cox process on a square grid.

    The covariance is factorised once, in float64; a value costs one product with a dim x dim matrix, a gradient two.
    Cells are numbered along the second coordinate first, c = row * M + column. A point on the far edge belongs to the
    last cell.

    Args:
        dim: number of cells, a square number; 1600 is the 40 x 40 grid.
        points: positions in the unit square, `[n, 2]`, or the path of a file of them (see `read_points`); by default
            the counts are drawn from the model.
        whitened: whether states are z, a priori independent and standard normal, and not the field f.
        seed: seed of the local CPU generator that draws field and counts where there are no points, in float64; the
            benchmark is seed 0.

    Attributes:
        counts: points in each cell, `[dim]`.

    Raises:
        InputError: if `dim` is no square number, or points cannot be read, are not `[n, 2]`, or outside the square.

    Example:
        >>> target = CoxProcess(dim=16)
        >>> target(torch.zeros(3, 16)).shape, target.log_z, target.can_sample
        (torch.Size([3]), None, False)
        >>> CoxProcess(dim=4, points=torch.tensor([[0.1, 0.9], [1.0, 1.0], [0.2, 0.8]])).counts
        tensor([0., 2., 0., 1.])
    """

    counts: Tensor

    def __init__(
        self, dim: int = 1600, points: Tensor | str | Path | None = None, *, whitened: bool = False, seed: int = 0
    ) -> None:
        whole_number("dim", dim, least=1)
        side = math.isqrt(dim)
        if side * side != dim:
            raise InputError(
                f"dim: expected a square number of cells, say {side * side} or {(side + 1) ** 2}, got {dim}"
            )
        name = "lgcp" + ("-whitened" if whitened else "") + (f"-{dim}" if dim != 1600 else "")
        # Of a coordinate a priori, which most cells of an empty stretch keep.
        super().__init__(Continuous(dim), scale=1.0 if whitened else math.sqrt(VARIANCE), name=name)
        self.whitened = whitened
        factor = _covariance_factor(side)  # [dim, dim]
        counts = _simulated_counts(factor, seed) if points is None else _counted(points, side)
        self.register_buffer("counts", counts.float(), persistent=False)
        self._offset = -0.5 * dim * math.log(2 * math.pi)
        if whitened:
            self._constants = ExactConstants(factor=factor)
        else:
            self._offset -= factor.diagonal().log().sum().item()
            identity = torch.eye(dim, dtype=torch.float64)
            # One product is cheaper than a triangular solve and its gradient, and as good: K is well conditioned.
            self._constants = ExactConstants(whitener=torch.linalg.solve_triangular(factor, identity, upper=False))

    def log_prob(self, x: Tensor) -> Tensor:
        """Unnormalised log density, `[..., dim] -> [...]`."""
        if self.whitened:
            white, field = x, self.field(x)
        else:
            white, field = (x - MEAN) @ self._constants.like(x)["whitener"].mT, x
        likelihood = (field * self.counts.to(x.dtype) - field.exp() / self.space.dim).sum(-1)
        return self._offset - 0.5 * (white**2).sum(-1) + likelihood

    def field(self, x: Tensor) -> Tensor:
        """The log intensity of states, `[..., dim] -> [..., dim]`; expected counts are its exponential over dim."""
        return MEAN + x @ self._constants.like(x)["factor"].mT if self.whitened else x


def whitened_cox_process(dim: int = 1600) -> CoxProcess:
    """The whitened `CoxProcess`, on the same simulated counts.

    Args:
        dim: number of cells, a square number.

    Raises:
        InputError: if `dim` is no square number.

    Example:
        >>> whitened_cox_process(16).name
        'lgcp-whitened-16'
    """
    return CoxProcess(dim, whitened=True)


def _covariance_factor(side: int) -> Tensor:
    """Cholesky factor L of the prior's covariance, `[dim, dim]`."""
    ticks = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    centres = torch.cartesian_prod(ticks, ticks)  # [dim, 2]
    distance = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.linalg.cholesky(VARIANCE * torch.exp(-distance / LENGTH))


def _simulated_counts(factor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    field = MEAN + factor @ torch.randn(len(factor), generator=generator, dtype=torch.float64)
    return torch.poisson(field.exp() / len(factor), generator=generator)


def _counted(points: Tensor | str | Path, side: int) -> Tensor:
    x = points.detach().double().cpu() if isinstance(points, Tensor) else read_points(points)
    if x.ndim != 2 or x.shape[1] != 2 or not len(x):
        raise InputError(f"points: expected positions of shape [n, 2], got shape {list(x.shape)}")
    outside = ~((x >= 0.0) & (x <= 1.0)).all(-1)  # NaN is outside too
    if bool(outside.any()):
        i = int(outside.nonzero()[0, 0])
        raise InputError(f"points: expected positions within [0, 1] x [0, 1], got {x[i].tolist()} as point {i + 1}")
    cell = (x * side).long().clamp(max=side - 1)
    return torch.bincount(cell[:, 0] * side + cell[:, 1], minlength=side * side)


def read_points(path: str | Path) -> Tensor:
    """Positions from a file of comma-separated values, two columns after an optional line of names, `[n, 2]` float64.

    Raises:
        InputError: if the file cannot be read, or a line does not hold two numbers; it names the line.

    Example:
        >>> _ = Path("pines.csv").write_text("x,y\\n0.1,0.9\\n0.5,0.25\\n")
        >>> read_points("pines.csv")
        tensor([[0.1000, 0.9000],
                [0.5000, 0.2500]], dtype=torch.float64)
    """
    rows: list[list[float]] = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for number, line in enumerate(csv.reader(file), start=1):
                if not any(word.strip() for word in line):
                    continue
                try:
                    row = [float(word) for word in line]
                except ValueError:
                    row = []
                if len(row) == 2:
                    rows.append(row)
                elif rows or row or number > 1:
                    raise InputError(f"points: expected two numbers in line {number} of {path}, got {','.join(line)!r}")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"points: cannot read {path}: {reason}") from error
    if not rows:
        raise InputError(f"points: expected at least one line of two numbers in {path}, got none")
    return torch.tensor(rows, dtype=torch.float64)
