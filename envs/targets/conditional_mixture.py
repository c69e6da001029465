r"""A Gaussian mixture that moves with a context: the conditional target with known truth, for tests and as a benchmark.

    p(x | c) ∝ R(x | c) = exp(log Z(c)) · Σ_m w_m(c) · N(x; μ_m(c), s² I)

in two dimensions, with four components on the corners of a square, a context c in [-1, 1]² and

    μ_m(c) = 3 · rotation(π c_1 / 4) · corner_m,    w(c) = softmax_m(2 c_2 · (m mod 2)),    log Z(c) = 4 c_1 − 3 c_2².

So means, weights and the normalising constant all depend on the context; the law of contexts is uniform on the square,
and log Z(c) varies by some nats over it.
"""

import math

import torch
from torch import Tensor

from ..spaces import Continuous
from ..target import Target

__all__ = ["ConditionalMixture"]


class ConditionalMixture(Target):
    """The conditional mixture of the module docstring; contexts `[n, 2]`, states `[n, 2]`.

    Example:
        >>> target = ConditionalMixture()
        >>> context = target.sample_context(5)
        >>> target(target.sample(5, context), context).shape
        torch.Size([5])
        >>> target.conditional_log_z(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([ 4., -3.])
    """

    STD = 0.4

    corners: Tensor

    def __init__(self) -> None:
        super().__init__(Continuous(2), scale=3.0, name="conditional-gmm", context_space=Continuous(2))
        corners = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
        self.register_buffer("corners", corners, persistent=False)

    def _means(self, context: Tensor) -> Tensor:
        """`[..., 2] -> [..., 4, 2]`."""
        angle = (0.25 * math.pi) * context[..., :1]  # [..., 1]
        x, y = self.corners.to(context).unbind(-1)  # [4]
        return 3.0 * torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], dim=-1)

    def _log_weights(self, context: Tensor) -> Tensor:
        """`[..., 2] -> [..., 4]`."""
        odd = torch.arange(4, device=context.device) % 2
        return (2.0 * context[..., 1:] * odd).log_softmax(-1)

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        """Log density with normalising constant Z(c), `[..., 2], [..., 2] -> [...]`."""
        squares = (x.unsqueeze(-2) - self._means(context)).square().sum(-1)  # [..., 4]
        log_normal = -squares / (2.0 * self.STD**2) - math.log(2.0 * math.pi * self.STD**2)
        return (self._log_weights(context) + log_normal).logsumexp(-1) + self.conditional_log_z(context)

    def sample(self, n: int, context: Tensor) -> Tensor:
        """One exact sample for each of the contexts `[n, 2]`: `[n, 2]`."""
        component = torch.multinomial(self._log_weights(context).exp(), 1).squeeze(-1)  # [n]
        means = self._means(context)[torch.arange(n, device=context.device), component]
        return means + self.STD * torch.randn_like(means)

    def sample_context(self, n: int) -> Tensor:
        """Uniform on [-1, 1]², `[n, 2]`."""
        return 2.0 * torch.rand(n, 2, dtype=self.corners.dtype, device=self.corners.device) - 1.0

    def conditional_log_z(self, context: Tensor) -> Tensor:
        """log Z(c) = 4 c_1 − 3 c_2², `[..., 2] -> [...]`."""
        return 4.0 * context[..., 0] - 3.0 * context[..., 1].square()
