r"""VarGrad, the log-variance objective: Var(D(τ)) over a batch; the batch mean plays the part of −log Z.

Off-policy safe. Equals trajectory balance at the optimal log Z of the batch. log Z itself then only tracks −E[D].
Source: arXiv 2010.10436 (VarGrad), arXiv 2005.05409 (log-variance); arXiv 2506.01541 (for both policies).
"""

from torch import Tensor

from .path_objective import PathObjective, weighted_mean

__all__ = ["VarGrad"]


class VarGrad(PathObjective):
    """Variance of the log-ratio over the batch; see `PathObjective` for arguments and keys.

    Example:
        >>> import torch
        >>> VarGrad.loss_of_log_ratio(torch.tensor([1.0, 3.0]), torch.tensor(0.0), None)
        tensor(1.)
    """

    @staticmethod
    def loss_of_log_ratio(log_ratio: Tensor, log_z: Tensor, weight: Tensor | None) -> Tensor:
        """Var(D), the mean square around the batch mean."""
        return weighted_mean((log_ratio - weighted_mean(log_ratio, weight)).square(), weight)
