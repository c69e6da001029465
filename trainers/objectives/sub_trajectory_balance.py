r"""Sub-trajectory balance, SubTB(λ): the square of every part of a trajectory, longer parts weighted by powers of λ.

With the state flow F (F(x_0) = Z·p_0(x_0) and F(x_T) = R(x_T) at the ends),

    Σ_{i<j} λ^{j−i} · r_ij² / Σ_{i<j} λ^{j−i},    r_ij = log F(x_i) + Σ_{i<=k<j} (log p→ − log p←)_k − log F(x_j),

averaged over trajectories. λ → 0 is detailed balance and λ → ∞ trajectory balance, both reached exactly here.
Off-policy safe. Sources: arXiv 2209.12782 (SubTB); arXiv 2310.02679 (on diffusion samplers).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...envs.errors import InputError
from .path_objective import PathObjective, PathTerms
from .residual import weighted_mean

__all__ = ["SubTrajectoryBalance"]


@dataclass(frozen=True)
class SubTrajectoryBalance(PathObjective):
    """Squared balance of all sub-trajectories; needs an agent with a state flow.

    Args:
        subtb_lambda: λ, >= 0; may be infinite.

    Raises:
        InputError: for a negative λ.

    Example:
        >>> SubTrajectoryBalance(subtb_lambda=2.0).length_weights(3)  # of parts of 1, 2 and 3 steps
        tensor([0.2500, 0.5000, 1.0000])
    """

    needs_flow: ClassVar[bool] = True

    subtb_lambda: float = 2.0

    def __post_init__(self) -> None:
        if not self.subtb_lambda >= 0.0:
            raise InputError(f"subtb_lambda: expected a number >= 0, got {self.subtb_lambda!r}")

    def length_weights(self, steps: int) -> Tensor:
        """λ^length for lengths 1 … `steps`, `[steps]`, up to a factor that keeps them finite for any λ."""
        from_largest = 1 if self.subtb_lambda <= 1.0 else steps  # whose weight is 1
        return torch.tensor([self.subtb_lambda ** (length - from_largest) for length in range(1, steps + 1)])

    def loss_of_paths(self, terms: PathTerms) -> Tensor:
        """Weighted mean over parts, then mean over trajectories."""
        steps = terms.generation.shape[-1]
        # Flows telescope: the residual of a part is the sum of the residuals of its steps.
        total = torch.nn.functional.pad(terms.step_residuals.cumsum(-1), (1, 0))  # [B, T+1]
        first, last = torch.triu_indices(steps + 1, steps + 1, offset=1, device=total.device)
        weight = self.length_weights(steps).to(total, non_blocking=True)[last - first - 1]  # one for each part
        parts = terms.residual(total[:, last] - total[:, first])  # [B, T(T+1)/2]
        return weighted_mean((parts * (weight / weight.sum())).sum(-1), terms.weight)
