r"""A bound on how far out the mean of a step may lead: no path is thrown far beyond where the density was found.

A network that was trained on a thousand paths a second meets, in a few of 10,000, a state farther out than all it has
seen, and what it gives there is thrown farther at the next step. One such path decides the mean of log weights, above
all in compressed coordinates, where a Gaussian step is an exponential one of the state. Where it is known how far out
samples lie, each coordinate of a mean is held within a box about them. The step is Gaussian still, so that its density
is exact; only the policy has no such means.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Reach"]

_ANYWHERE = 1e30  # in place of infinity, so that all that is saved is finite


class Reach(nn.Module):
    """Holds means `[..., dim, B]` within ± `bound`.

    Args:
        dim: state dimension.

    Attributes:
        bound: `[dim, 1]`, in units of the coordinates; 1e30 until it is known. It is saved with the parameters.

    Example:
        >>> reach = Reach(dim=2)
        >>> reach.bound.copy_(torch.tensor([[1.0], [2.0]]))
        tensor([[1.],
                [2.]])
        >>> reach(torch.tensor([[0.5, -3.0], [1.5, 9.0]]))
        tensor([[ 0.5000, -1.0000],
                [ 1.5000,  2.0000]])
    """

    bound: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("bound", torch.full((dim, 1), _ANYWHERE))

    def forward(self, mean: Tensor) -> Tensor:
        """The means, or the next ones within the bound."""
        return mean.clamp(-self.bound, self.bound)

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *args: Any) -> None:
        state = {prefix + "bound": torch.full_like(self.bound, _ANYWHERE)} | dict(state)  # saved before there was one
        super()._load_from_state_dict(state, prefix, *args)
