r"""The hybrid Rosenbrock density: narrow parabolic ridges that share their first coordinate.

    log R(x) = -a (x_1 - mu)^2 - b sum_j sum_{i=1..l} (x_ji - x_j,i-1^2)^2,    x_j0 = x_1,

with n blocks j of l coordinates each, dim = 1 + n l. Given its predecessors every coordinate is Gaussian, so that

    x_1 ~ N(mu, 1/2a),    x_ji | x_j,i-1 ~ N(x_j,i-1^2, 1/2b),    log Z = dim/2 log pi - 1/2 log a - (dim - 1)/2 log b.

Pagani, Wiegand and Nadarajah, *An n-dimensional Rosenbrock distribution for MCMC testing* (2019, equation 7, where l is
n_1 - 1 and n is n_2), https://arxiv.org/abs/1903.09556; mu = 1, a = 1/20 and b = 5 are its (and Goodman and Weare's)
values. The usual two-dimensional Rosenbrock density is n = l = 1.
"""

import math

import torch
from torch import Tensor

from ..errors import InputError, whole_number
from ..spaces import Continuous
from ..target import Target

__all__ = ["Rosenbrock"]


class Rosenbrock(Target):
    """The hybrid Rosenbrock density; with blocks of one coordinate by default, in any dimension.

    Beyond blocks of one, coordinates are squares of squares: the second of a block reaches ten thousands.

    Args:
        dim: number of coordinates, >= 2.
        block: length l of a block, >= 1; dim - 1 is a multiple of it.
        mu: mean of the first coordinate.
        a: half the precision of the first coordinate, > 0.
        b: half the precision of every other one, given its predecessor, > 0.

    Raises:
        InputError: if `dim` or `block` is not a whole number in range, they do not fit together, `mu` is not finite, or
            `a` or `b` is not positive and finite.

    Example:
        >>> target = Rosenbrock()
        >>> target(torch.tensor([[1.0, 1.0], [2.0, 4.0], [0.0, 1.0]]))
        tensor([-0.0000, -0.0500, -5.0500])
        >>> round(target.log_z, 4)  # log pi + log 2
        1.8379
    """

    centre: Tensor

    def __init__(self, dim: int = 2, block: int = 1, mu: float = 1.0, a: float = 0.05, b: float = 5.0) -> None:
        whole_number("dim", dim, least=2)
        whole_number("block", block, least=1)
        if (dim - 1) % block:
            raise InputError(f"dim: expected 1 plus a multiple of block = {block}, got {dim}")
        if not -math.inf < mu < math.inf:
            raise InputError(f"mu: expected a finite number, got {mu!r}")
        for field, value in (("a", a), ("b", b)):
            if not 0.0 < value < math.inf:
                raise InputError(f"{field}: expected a positive finite number, got {value!r}")
        log_z = 0.5 * (dim * math.log(math.pi) - math.log(a) - (dim - 1) * math.log(b))
        # Of the first pair, whatever the number of blocks; x_1^2 has the variance 4 mu^2 s^2 + 2 s^4.
        variance = 0.5 / a
        squared = 4.0 * mu**2 * variance + 2.0 * variance**2 + 0.5 / b
        name = "rosenbrock" + (f"-{dim}" if dim != 2 else "") + (f"-block{block}" if block > 1 else "")
        super().__init__(Continuous(dim), scale=math.sqrt(0.5 * (variance + squared)), log_z=log_z, name=name)
        self.block, self.mu, self.a, self.b = block, float(mu), float(a), float(b)
        # In Python floats the constants are exact in every dtype; the buffer tells which one samples are to have.
        self.register_buffer("centre", torch.tensor(self.mu), persistent=False)

    def log_prob(self, x: Tensor) -> Tensor:
        """Unnormalised log density, `[..., dim] -> [...]`."""
        first = x[..., :1]  # [..., 1]
        blocks = x[..., 1:].unflatten(-1, (-1, self.block))  # [..., n, l]
        before = torch.cat([first.unsqueeze(-2).expand(*blocks.shape[:-1], 1), blocks[..., :-1]], dim=-1)
        ridge = ((blocks - before**2) ** 2).sum((-2, -1))
        return -self.a * (first.squeeze(-1) - self.mu) ** 2 - self.b * ridge

    def sample(self, n: int) -> Tensor:
        """`n` exact independent samples, `[n, dim]`, in the target's dtype and on its device."""
        noise = torch.randn(n, self.space.dim, dtype=self.centre.dtype, device=self.centre.device)
        first = self.mu + math.sqrt(0.5 / self.a) * noise[:, :1]
        steps = math.sqrt(0.5 / self.b) * noise[:, 1:].unflatten(-1, (-1, self.block))  # [n, blocks, l]
        chain = [first.expand(n, steps.shape[1])]
        for i in range(self.block):
            chain.append(chain[-1] ** 2 + steps[..., i])
        return torch.cat([first, torch.stack(chain[1:], dim=-1).flatten(1)], dim=-1)
