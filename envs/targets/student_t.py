r"""A mixture of Student-t distributions: many modes with tails so heavy that the variance is infinite.

    p(x) = 1/M sum_m prod_i t_nu(x_i - mu_mi),    t_nu(z) ~ (1 + z^2/nu)^(-(nu + 1)/2),    log Z = 0

With M = 10, nu = 2 and means uniform in [-10, 10]^dim it is the "MoS" benchmark of Blessing et al., *Beyond ELBOs*
(https://arxiv.org/abs/2406.07423); as in its code, the coordinates of a component are independent Student-t variables.
The means are one draw of a stated seed here, not the one of that code.
"""

import math

import torch
from torch import Tensor
from torch.distributions import StudentT

from ..errors import InputError, whole_number
from .overlapping_mixture import OverlappingMixture

__all__ = ["StudentTMixture", "student_t"]


class StudentTMixture(OverlappingMixture):
    """Equally weighted products of unit Student-t distributions.

    Args:
        means: centres of the components, `[M, dim]`.
        degrees_of_freedom: nu > 0; the variance is infinite up to 2.
        scale: typical length; by default root of the means' variance (averaged over coordinates) plus one.
        name: what messages and reports call it.

    Raises:
        InputError: if means are not finite `[M, dim]`, or `degrees_of_freedom` is not a positive finite number.

    Example:
        >>> mixture = StudentTMixture(torch.tensor([[0.0]]))
        >>> mixture(torch.tensor([[0.0], [100.0]]))  # 1 / sqrt(8), and about 1 / 100^3
        tensor([ -1.0397, -13.8158])
    """

    def __init__(
        self,
        means: Tensor,
        degrees_of_freedom: float = 2.0,
        *,
        scale: float | None = None,
        name: str | None = None,
    ) -> None:
        if means.ndim != 2 or not len(means) or not bool(means.isfinite().all()):
            raise InputError(f"means: expected finite values of shape [M, dim], got shape {list(means.shape)}")
        if not 0.0 < degrees_of_freedom < math.inf:
            raise InputError(f"degrees_of_freedom: expected a positive finite number, got {degrees_of_freedom!r}")
        if scale is None:
            scale = math.sqrt(means.double().var(0, correction=0).mean().item() + 1.0)
        super().__init__(means, scale=scale, name=name)
        nu = self.degrees_of_freedom = float(degrees_of_freedom)
        log_peak = math.lgamma(0.5 * (nu + 1.0)) - math.lgamma(0.5 * nu) - 0.5 * math.log(math.pi * nu)
        self._offset = self.space.dim * log_peak - math.log(len(means))

    def component_log_prob(self, x: Tensor) -> Tensor:
        """log 1/M + log density of every component, `[..., dim] -> [..., M]`."""
        nu = self.degrees_of_freedom
        squares = (x.unsqueeze(-2) - self.means.to(x.dtype)) ** 2  # [..., M, dim]
        return self._offset - 0.5 * (nu + 1.0) * torch.log1p(squares / nu).sum(-1)

    def sample(self, n: int) -> Tensor:
        """`n` exact independent samples, `[n, dim]`, in the dtype and on the device of the means."""
        centres = self.means[self._components(n)]
        return StudentT(torch.full_like(centres, self.degrees_of_freedom)).sample() + centres


def student_t(dim: int = 2, seed: int = 0) -> StudentTMixture:
    """Ten Student-t distributions with two degrees of freedom, means uniform in [-10, 10]^dim, equal weights.

    Args:
        dim: number of coordinates, >= 1.
        seed: seed of the local CPU generator that draws the means, in float32; the benchmark is seed 0.

    Raises:
        InputError: if `dim` is not a whole number >= 1.

    Example:
        >>> target = student_t()
        >>> target.means.shape, target.name, student_t(10).name
        (torch.Size([10, 2]), 'student-t', 'student-t-10')
    """
    whole_number("dim", dim, least=1)
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(10, dim, generator=generator, dtype=torch.float32) * 20.0 - 10.0
    name = "student-t" + (f"-{dim}" if dim != 2 else "") + (f"-seed{seed}" if seed else "")
    return StudentTMixture(means, name=name)
