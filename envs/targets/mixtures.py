r"""Mixtures of isotropic Gaussians, the benchmark of mode coverage.

    p(x) = sum_m w_m N(x; mu_m, s_m^2 I),    log Z = 0

`gmm25` is the 25-mode grid of Sendera et al., *Improved off-policy training of diffusion samplers*
(https://arxiv.org/abs/2402.05098); `gmm40` is the 40-mode mixture of Midgley et al., *Flow Annealed Importance Sampling
Bootstrap* (https://arxiv.org/abs/2208.01893) in kind, with unit standard deviation and means from a stated seed.
Exact samples draw the component of every sample at random, so that counts per mode fluctuate as they should.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..spaces import Continuous
from ..target import Target

__all__ = ["GaussianMixture", "gmm25", "gmm25_narrow", "gmm40"]


class GaussianMixture(Target):
    """A normalised mixture of isotropic Gaussians.

    Standard deviations and weights are kept as Python floats, so `.double()` evaluates them to float64 precision.
    Means are what they are in the dtype they came in (float32 from a list).

    Args:
        means: component means, `[M, dim]`.
        std: standard deviation > 0 of every component, or one for each, `[M]`.
        weights: probabilities > 0, `[M]`, normalised here; equal by default.
        scale: typical coordinate standard deviation; that of the mixture by default.
        name: what messages and reports call it.

    Raises:
        InputError: if means are not finite `[M, dim]`, or `std` or `weights` are not positive, or do not match.

    Example:
        >>> mixture = GaussianMixture([[-1.0], [1.0]], std=0.5, weights=[0.25, 0.75])
        >>> mixture(torch.tensor([[-1.0], [1.0]]))
        tensor([-1.6111, -0.5134])
        >>> mixture.mode_masses
        tensor([0.2500, 0.7500])
        >>> mixture.sample(3).shape
        torch.Size([3, 1])
    """

    means: Tensor

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]],
        std: float | Sequence[float],
        weights: Sequence[float] | None = None,
        *,
        scale: float | None = None,
        name: str | None = None,
    ) -> None:
        centres = means if isinstance(means, Tensor) else torch.tensor(means, dtype=torch.float32)
        if centres.ndim != 2 or not len(centres) or not bool(centres.isfinite().all()):
            raise InputError(f"means: expected finite values of shape [M, dim], got shape {list(centres.shape)}")
        m = len(centres)
        stds = self._per_component("std", std, m)
        shares = self._per_component("weights", 1.0 if weights is None else weights, m)
        total = math.fsum(shares)
        if scale is None:
            # Law of total variance, averaged over coordinates.
            w = torch.tensor(shares, dtype=torch.float64) / total
            x = centres.detach().double().cpu()
            spread = (w[:, None] * (x - w @ x) ** 2).sum(0).mean().item()
            scale = math.sqrt(spread + sum(v * s * s for v, s in zip(w.tolist(), stds, strict=True)))
        super().__init__(Continuous(centres.shape[1]), scale=scale, log_z=0.0, name=name)
        self.register_buffer("means", centres.detach().clone(), persistent=False)
        self.stds = stds
        self.weights = tuple(v / total for v in shares)
        self._constants: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    @staticmethod
    def _per_component(field: str, value: float | Sequence[float], m: int) -> tuple[float, ...]:
        try:
            values = (float(value),) * m if isinstance(value, (int, float)) else tuple(float(v) for v in value)
        except (TypeError, ValueError):
            raise InputError(f"{field}: expected a number > 0, or one for each component, got {value!r}") from None
        if len(values) != m:
            raise InputError(f"{field}: expected {m} values, one for each mean, got {len(values)}")
        for v in values:
            if not 0.0 < v < math.inf:
                raise InputError(f"{field}: expected positive finite values, got {v!r}")
        return values

    def _constants_like(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Precision 1/(2 s^2), log w - log normaliser, and s, each `[M]`; made once for each dtype and device."""
        key = (x.dtype, x.device)
        if key not in self._constants:
            log_root = 0.5 * math.log(2 * math.pi)
            rows = (
                [0.5 / (s * s) for s in self.stds],
                [
                    math.log(w) - self.space.dim * (math.log(s) + log_root)
                    for w, s in zip(self.weights, self.stds, strict=True)
                ],
                self.stds,
            )
            half, offset, std = (torch.tensor(row, dtype=x.dtype, device=x.device) for row in rows)
            self._constants[key] = (half, offset, std)
        return self._constants[key]

    def _squared_distances(self, x: Tensor) -> Tensor:
        return ((x.unsqueeze(-2) - self.means.to(x.dtype)) ** 2).sum(-1)  # [..., M]

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log density, `[..., dim] -> [...]`."""
        half_precision, offset, _ = self._constants_like(x)
        return torch.logsumexp(offset - half_precision * self._squared_distances(x), dim=-1)

    def sample(self, n: int) -> Tensor:
        """`n` exact independent samples, `[n, dim]`, in the dtype and on the device of the means."""
        *_, std = self._constants_like(self.means)
        weights = torch.tensor(self.weights, dtype=self.means.dtype, device=self.means.device)
        component = torch.multinomial(weights, max(n, 1), replacement=True)[:n]  # [n]
        noise = torch.randn(n, self.space.dim, dtype=self.means.dtype, device=self.means.device)
        return self.means[component] + std[component, None] * noise

    @property
    def mode_masses(self) -> Tensor:
        """The weights, `[M]`: the mass nearest to each mean, up to the overlap of neighbouring components."""
        return torch.tensor(self.weights, dtype=self.means.dtype, device=self.means.device)

    def mode_membership(self, x: Tensor) -> Tensor:
        """The nearest mean, one-hot, `[n, dim] -> [n, M]` bool."""
        nearest = self._squared_distances(x).argmin(-1, keepdim=True)  # [n, 1]
        return nearest == torch.arange(len(self.means), device=x.device)


def _grid() -> Tensor:
    ticks = torch.tensor([-10.0, -5.0, 0.0, 5.0, 10.0])
    return torch.cartesian_prod(ticks, ticks)  # [25, 2]


def gmm25() -> GaussianMixture:
    """25 Gaussians on the grid {-10, -5, 0, 5, 10}^2, covariance 0.3 I, equal weights (arXiv 2402.05098).

    Example:
        >>> target = gmm25()
        >>> target.space.dim, round(target.scale, 2), target.log_z
        (2, 7.09, 0.0)
    """
    return GaussianMixture(_grid(), std=math.sqrt(0.3), name="gmm25")


def gmm25_narrow() -> GaussianMixture:
    """The grid of `gmm25` with standard deviation 0.15: narrow modes, where few-step samplers fail first.

    Example:
        >>> gmm25_narrow()(torch.tensor([[5.0, -10.0]]))
        tensor([-1.2625])
    """
    return GaussianMixture(_grid(), std=0.15, name="gmm25-narrow")


def gmm40(seed: int = 0) -> GaussianMixture:
    """40 Gaussians with means uniform in [-40, 40]^2, standard deviation 1, equal weights.

    Args:
        seed: seed of the local CPU generator that draws the means, in float32; the benchmark is seed 0.

    Example:
        >>> target = gmm40()
        >>> target.means.shape, target.scale
        (torch.Size([40, 2]), 20.0)
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(40, 2, generator=generator, dtype=torch.float32) * 80.0 - 40.0
    return GaussianMixture(means, std=1.0, scale=20.0, name="gmm40" if seed == 0 else f"gmm40-seed{seed}")
