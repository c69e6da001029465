r"""The banana: a long Gaussian, bent.

    x_1 ~ N(0, s^2),    x_2 | x_1 ~ N(b (x_1^2 - s^2), 1),    x_i ~ N(0, 1)  for i = 3 .. dim,    log Z = 0

With s = 10 it is the twisted Gaussian of Haario, Saksman and Tamminen, *Adaptive proposal distribution for random walk
Metropolis algorithm*, Computational Statistics 14 (1999), with b = 0.03 (moderate) or 0.1 (strong); the sign of the
bend is turned. One mode, no mass to lose: what is hard is the curve, one unit wide and some sixty long.
"""

import math

import torch
from torch import Tensor

from ..errors import InputError, whole_number
from ..spaces import Continuous
from ..target import Target

__all__ = ["Banana"]


class Banana(Target):
    """The twisted Gaussian, normalised; twisting keeps volumes.

    Args:
        dim: number of coordinates, >= 2.
        bend: b; 0 for no bend.
        length: standard deviation s > 0 of the first coordinate.

    Raises:
        InputError: if `dim` is not a whole number >= 2, `bend` is not finite, or `length` is not positive and finite.

    Example:
        >>> banana = Banana()
        >>> banana(torch.tensor([[0.0, -3.0], [10.0, 0.0]]))
        tensor([-4.1405, -4.6405])
        >>> banana.sample(4).shape
        torch.Size([4, 2])
    """

    std: Tensor

    def __init__(self, dim: int = 2, bend: float = 0.03, length: float = 10.0) -> None:
        whole_number("dim", dim, least=2)
        if not -math.inf < bend < math.inf:
            raise InputError(f"bend: expected a finite number, got {bend!r}")
        if not 0.0 < length < math.inf:
            raise InputError(f"length: expected a positive finite length, got {length!r}")
        # Of the two bent coordinates, whatever the number of narrow ones: they are what has to be reached.
        scale = math.sqrt(0.5 * (length**2 + 1.0 + 2.0 * bend**2 * length**4))
        super().__init__(Continuous(dim), scale=scale, log_z=0.0, name="banana" if dim == 2 else f"banana-{dim}")
        self.bend, self.length = float(bend), float(length)
        std = torch.ones(dim)
        std[0] = length
        self.register_buffer("std", std, persistent=False)

    def _bow(self, first: Tensor) -> Tensor:
        """Where the middle of the second coordinate lies, given the first, `[..., 1] -> [..., 1]`."""
        return self.bend * (first**2 - self.length**2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log density, `[..., dim] -> [...]`."""
        first, second, rest = x[..., :1], x[..., 1:2], x[..., 2:]
        squares = torch.cat([first / self.length, second - self._bow(first), rest], dim=-1) ** 2
        return -0.5 * squares.sum(-1) - (math.log(self.length) + 0.5 * self.space.dim * math.log(2 * math.pi))

    def sample(self, n: int) -> Tensor:
        """`n` exact independent samples, `[n, dim]`, in the target's dtype and on its device."""
        straight = self.std * torch.randn(n, self.space.dim, dtype=self.std.dtype, device=self.std.device)
        first = straight[:, :1]
        return torch.cat([first, straight[:, 1:2] + self._bow(first), straight[:, 2:]], dim=-1)
