r"""A bridge whose schedule is learned: how much of the way each step goes, in each coordinate.

With v_k the variance that generation's reference step k adds (σ² Δ_k of the given bridge at first) and the learned
table θ `[T, dim]`, of each coordinate

    w_k = v_k · exp(L·tanh(U·θ_k/L)),                  c_k = w_0 + … + w_{k−1}
    generation    x_{k+1} | x_k     ~ N(x_k,  w_k)
    destruction   x_k     | x_{k+1} ~ N((c_k / c_{k+1})·x_{k+1},  w_k·c_k / c_{k+1}).

Both are the bridge from the Dirac at 0 whatever θ is, and time reversals of each other: where each policy's own
corrections would have to follow the other's step by small step, θ moves both at once. U = 10 makes a table's rate suit
a number that is a logarithm; L = 8.

A learned destruction of this kind is one noise schedule for each coordinate (compare https://arxiv.org/abs/2107.00630,
whose schedule is one for all).
"""

import torch
from torch import Tensor, nn

from ...envs.errors import InputError
from .gaussian import GaussianReference

__all__ = ["LearnedSchedule"]

_BOUND = 8.0  # largest |log| of the change of a step's variance
_UNIT = 10.0


class LearnedSchedule(nn.Module):
    """Tables of the learned bridge (module docstring), in the units of `reference`.

    Args:
        reference: the bridge to begin with, from the Dirac at 0.
        dim: coordinates of a state.

    Raises:
        InputError: for a reference that does not begin at 0.

    Example:
        >>> from ebbflow.agents import TimeGrid
        >>> from ebbflow.agents.references import brownian_bridge
        >>> schedule = LearnedSchedule(brownian_bridge(TimeGrid.uniform(2), sigma=2.0), dim=3)
        >>> schedule.generation_variance().shape, schedule.destruction()[0][1].tolist()
        (torch.Size([2, 3]), [0.5, 0.5, 0.5])
    """

    variance: Tensor

    def __init__(self, reference: GaussianReference, dim: int) -> None:
        super().__init__()
        if not reference.is_dirac:
            raise InputError(
                "destruction_schedule: expected 'fixed' with a reference that does not begin at 0 (only a bridge's "
                "schedule can be learned), got 'learned'"
            )
        variance = torch.as_tensor(reference.generation_variance, dtype=torch.get_default_dtype())
        self.register_buffer("variance", variance.unsqueeze(-1), persistent=False)  # [T, 1]
        self.table = nn.Parameter(torch.zeros(reference.steps, dim))

    def generation_variance(self) -> Tensor:
        """Variance of each step of generation, `[T, dim]`; its factor is 1."""
        return self.variance * (_BOUND * (self.table * (_UNIT / _BOUND)).tanh()).exp()

    def destruction(self) -> tuple[Tensor, Tensor]:
        """Factor and variance of each step of destruction, `[T, dim]` each; both 0 for the step to 0."""
        variance = self.generation_variance()
        reached = variance.cumsum(0)
        factor = torch.cat([torch.zeros_like(reached[:1]), reached[:-1] / reached[1:]])
        return factor, variance * factor
