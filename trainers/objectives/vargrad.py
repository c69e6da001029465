r"""VarGrad, the log-variance objective: Var(D(τ)) over a batch; the batch mean plays the part of −log Z.

Off-policy safe. Equals trajectory balance at the optimal log Z of the batch. log Z itself then only tracks −E[D].
Source: arXiv 2010.10436 (VarGrad), arXiv 2005.05409 (log-variance); arXiv 2506.01541 (for both policies).
"""

from torch import Tensor

from .path_objective import PathObjective, robust_center, robust_square, weighted_mean

__all__ = ["VarGrad"]


class VarGrad(PathObjective):
    """Variance of the log-ratio over the batch; see `PathObjective` for arguments and keys.

    Example:
        >>> import torch
        >>> VarGrad.loss_of_log_ratio(torch.tensor([1.0, 3.0]), torch.tensor(0.0), None, float("inf"))
        tensor(1.)
    """

    @staticmethod
    def loss_of_log_ratio(log_ratio: Tensor, log_z: Tensor, weight: Tensor | None, bound: float) -> Tensor:
        """Var(D), the mean square around the batch mean; with a bound, the robust square around the robust centre."""
        # The centre needs no gradient: it is where the loss is least, so the loss does not change with it.
        return weighted_mean(robust_square(log_ratio - robust_center(log_ratio, weight, bound), bound), weight)
