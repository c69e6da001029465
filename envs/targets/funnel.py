r"""Neal's funnel: one coordinate sets the width of all the others, over many orders of magnitude.

    x_1 ~ N(0, 9),    x_i | x_1 ~ N(0, exp(x_1))  for i = 2 .. dim,    log Z = 0

Neal, *Slice sampling*, Annals of Statistics 31 (2003); as a sampler benchmark with dim = 10: https://arxiv.org/abs/2402.05098.
"""

import math

import torch
from torch import Tensor

from ..errors import InputError
from ..spaces import Continuous
from ..target import Target

__all__ = ["Funnel"]

_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)

# 27 standard deviations below zero the neck stops narrowing, so that exp(-x_1) stays finite in float32.
_LOWEST = -80.0


class Funnel(Target):
    """Neal's funnel, normalised.

    Below x_1 = -80, a set of probability 1e-156, the conditional variance is held at exp(-80), so that neither values
    nor gradients overflow in float32; the density is normalised all the same.

    Args:
        dim: number of coordinates, >= 2.

    Raises:
        InputError: if `dim` is not a whole number >= 2.

    Example:
        >>> funnel = Funnel(dim=3)
        >>> funnel(torch.zeros(1, 3))
        tensor([-3.8554])
        >>> funnel.sample(4).shape
        torch.Size([4, 3])
    """

    std: Tensor

    def __init__(self, dim: int = 10) -> None:
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 2:
            raise InputError(f"dim: a funnel needs a whole number of coordinates >= 2, got {dim!r}")
        super().__init__(Continuous(dim), scale=3.0, log_z=0.0, name="funnel" if dim == 10 else f"funnel-{dim}")
        self.register_buffer("std", torch.tensor(3.0), persistent=False)

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log density, `[..., dim] -> [...]`."""
        first, rest = x[..., 0], x[..., 1:]
        log_variance = first.clamp(min=_LOWEST)  # [...]
        head = -(first**2) / 18.0 - math.log(3.0) - _LOG_ROOT_TWO_PI
        squares = ((rest * torch.exp(-0.5 * log_variance).unsqueeze(-1)) ** 2).sum(-1)
        return head - 0.5 * squares - (self.space.dim - 1) * (0.5 * log_variance + _LOG_ROOT_TWO_PI)

    def sample(self, n: int) -> Tensor:
        """`n` exact independent samples, `[n, dim]`, in the target's dtype and on its device."""
        noise = torch.randn(n, self.space.dim, dtype=self.std.dtype, device=self.std.device)
        first = self.std * noise[:, :1]
        return torch.cat([first, noise[:, 1:] * torch.exp(0.5 * first.clamp(min=_LOWEST))], dim=-1)
