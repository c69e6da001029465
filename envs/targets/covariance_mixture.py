r"""Mixtures of Gaussians with full covariances: modes that are long, thin and turned each its own way.

    p(x) = 1/M sum_m N(x; mu_m, Sigma_m),    log Z = 0

With M = 10, means uniform in [-10, 10]^dim and Sigma_m ~ Wishart(dim + 2, I) it is the "MoG" benchmark of Blessing et
al., *Beyond ELBOs* (https://arxiv.org/abs/2406.07423), in kind: means and covariances are draws of a stated seed.
"""

import math

import torch
from torch import Tensor

from ..errors import InputError, whole_number
from .exact_constants import ExactConstants
from .overlapping_mixture import OverlappingMixture

__all__ = ["CovarianceMixture", "gmm_wishart"]


class CovarianceMixture(OverlappingMixture):
    """Equally weighted Gaussians, each with a covariance matrix of its own.

    Cholesky factors and normalisers are computed once, in float64.

    Args:
        means: centres of the components, `[M, dim]`.
        covariances: symmetric positive definite matrices, `[M, dim, dim]`.
        scale: typical coordinate standard deviation; that of the mixture by default.
        name: what messages and reports call it.

    Raises:
        InputError: if means are not finite `[M, dim]`, or covariances do not match or are not positive definite.

    Example:
        >>> mixture = CovarianceMixture(torch.zeros(1, 2), torch.tensor([[[4.0, 0.0], [0.0, 0.25]]]))
        >>> mixture(torch.tensor([[0.0, 0.0], [2.0, 0.5]]))
        tensor([-1.8379, -2.8379])
    """

    def __init__(
        self, means: Tensor, covariances: Tensor, *, scale: float | None = None, name: str | None = None
    ) -> None:
        if means.ndim != 2 or not len(means) or not bool(means.isfinite().all()):
            raise InputError(f"means: expected finite values of shape [M, dim], got shape {list(means.shape)}")
        m, dim = means.shape
        if covariances.shape != (m, dim, dim):
            raise InputError(f"covariances: expected shape {[m, dim, dim]}, got {list(covariances.shape)}")
        exact = covariances.detach().double().cpu()
        factor, failed = torch.linalg.cholesky_ex(exact)  # [M, dim, dim]
        if bool(failed.any()) or not torch.allclose(exact, exact.mT, rtol=1e-5, atol=0.0):
            raise InputError("covariances: expected symmetric positive definite matrices")
        if scale is None:
            # Law of total variance, averaged over coordinates.
            spread = means.double().var(0, correction=0).mean().item()
            scale = math.sqrt(spread + exact.diagonal(dim1=-2, dim2=-1).mean().item())
        super().__init__(means, scale=scale, name=name)
        half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # [M]
        identity = torch.eye(dim, dtype=torch.float64).expand_as(factor)
        self._constants = ExactConstants(
            factor=factor,
            whitener=torch.linalg.solve_triangular(factor, identity, upper=False),
            offset=-half_log_det - 0.5 * dim * math.log(2 * math.pi) - math.log(m),
        )

    def component_log_prob(self, x: Tensor) -> Tensor:
        """log 1/M + log density of every component, `[..., dim] -> [..., M]`."""
        constants = self._constants.like(x)
        centred = x.unsqueeze(-2) - self.means.to(x.dtype)  # [..., M, dim]
        white = torch.einsum("mij,...mj->...mi", constants["whitener"], centred)
        return constants["offset"] - 0.5 * (white**2).sum(-1)

    def sample(self, n: int) -> Tensor:
        """`n` exact independent samples, `[n, dim]`, in the dtype and on the device of the means."""
        component = self._components(n)  # [n]
        noise = torch.randn(n, self.space.dim, dtype=self.means.dtype, device=self.means.device)
        x = self.means[component]
        for m, factor in enumerate(self._constants.like(self.means)["factor"]):  # [dim, dim]; never [n, dim, dim]
            x = torch.where((component == m).unsqueeze(-1), x + noise @ factor.mT, x)
        return x


def gmm_wishart(dim: int = 2, seed: int = 0) -> CovarianceMixture:
    """Ten Gaussians, means uniform in [-10, 10]^dim, Wishart covariances (dim + 2 degrees of freedom), equal weights.

    Args:
        dim: number of coordinates, >= 1.
        seed: seed of the local CPU generator that draws the means, in float32, and then the covariances, in float64;
            the benchmark is seed 0.

    Raises:
        InputError: if `dim` is not a whole number >= 1.

    Example:
        >>> target = gmm_wishart()
        >>> target.means.shape, target.name, gmm_wishart(5).name
        (torch.Size([10, 2]), 'gmm-wishart', 'gmm-wishart-5')
    """
    whole_number("dim", dim, least=1)
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(10, dim, generator=generator, dtype=torch.float32) * 20.0 - 10.0
    normal = torch.randn(10, dim + 2, dim, generator=generator, dtype=torch.float64)
    name = "gmm-wishart" + (f"-{dim}" if dim != 2 else "") + (f"-seed{seed}" if seed else "")
    return CovarianceMixture(means, normal.mT @ normal, name=name)
