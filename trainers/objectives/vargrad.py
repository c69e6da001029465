r"""VarGrad, the log-variance objective: Var(D(τ)) over a batch; the batch mean plays the part of −log Z.

For a conditional target the variance is that within each context, and its mean over them: the centre is the mean over
the rows of a batch with the same context, of which there must be several (the trainer draws batches so). This centre is
exact from the first iteration on; a learned log Z(c) in its place would be trajectory balance, and would train the
policies on its own errors. The mean over r rows takes up one of them, so a context counts 1 − 1/r.

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
        >>> VarGrad.loss_of_log_ratio(torch.tensor([1.0, 3.0]), torch.tensor(0.0), None, float("inf"), None)
        tensor(1.)
        >>> group = torch.tensor([0, 0, 1, 1])  # two contexts, whose log Z differ by 10
        >>> log_ratio = torch.tensor([1.0, 3.0, 11.0, 13.0])
        >>> VarGrad.loss_of_log_ratio(log_ratio, torch.tensor(0.0), None, float("inf"), group)
        tensor(1.)
    """

    @staticmethod
    def loss_of_log_ratio(
        log_ratio: Tensor, log_z: Tensor, weight: Tensor | None, bound: float, group: Tensor | None
    ) -> Tensor:
        """Var(D), the mean square around the batch mean; with a bound, the robust square around the robust centre."""
        # The centre needs no gradient: it is where the loss is least, so the loss does not change with it.
        centre = robust_center(log_ratio, weight, bound, group)
        return weighted_mean(robust_square(log_ratio - centre, bound), weight)
