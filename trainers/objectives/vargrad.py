r"""VarGrad, the log-variance objective: Var(D(τ)) over a batch; the batch mean plays the part of −log Z.

For a conditional target the variance is that within each context, and its mean over them: the centre is the mean over
the rows of a batch with the same context, of which there must be several (the trainer draws batches so). This centre is
exact from the first iteration on; a learned log Z(c) in its place would be trajectory balance, and would train the
policies on its own errors. The mean over r rows takes up one of them, so a context counts 1 − 1/r.

On data, where the log density of a sample is not known, the variance is that among the paths destroyed from the same
sample, and destruction learns by it: its gradient is that of KL(p←(τ | x) ‖ p→(τ | x)), so that destruction becomes the
law of how generation came by the sample, and the likelihood bound of generation grows tight. Generation would learn
nothing of the data by it.

Off-policy safe. Equals trajectory balance at the optimal log Z of the batch. log Z itself then only tracks −E[D].
Source: arXiv 2010.10436 (VarGrad), arXiv 2005.05409 (log-variance); arXiv 2506.01541 (for both policies).
"""

from typing import ClassVar

from torch import Tensor

from .path_objective import PathObjective, PathTerms
from .residual import weighted_mean

__all__ = ["VarGrad"]


class VarGrad(PathObjective):
    """Variance of the log-ratio over the batch.

    Example:
        >>> import torch
        >>> from ebbflow.trainers.objectives import PathTerms, Residual
        >>> zeros = torch.zeros(2)
        >>> terms = PathTerms(zeros, torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1), zeros, zeros, Residual())
        >>> VarGrad().loss_of_paths(terms)
        tensor(1.)
        >>> zeros, log_ratio = torch.zeros(4), torch.tensor([[1.0], [3.0], [11.0], [13.0]])
        >>> group = torch.tensor([0, 0, 1, 1])  # two contexts, whose log Z differ by 10
        >>> VarGrad().loss_of_paths(PathTerms(zeros, log_ratio, 0 * log_ratio, zeros, zeros, Residual(), group=group))
        tensor(1.)
    """

    trains_on_data: ClassVar[tuple[str, ...]] = ("destruction",)

    def loss_of_paths(self, terms: PathTerms) -> Tensor:
        """Var(D), the mean square around the batch mean; with a bounded residual, that around its own centre."""
        # The centre needs no gradient: it is where the loss is least, so the loss does not change with it.
        log_ratio = terms.log_ratio
        center = terms.residual.center(log_ratio, terms.weight, terms.group)
        return weighted_mean(terms.residual(log_ratio - center), terms.weight)
