r"""Reverse KL by the log-derivative trick: ∇ E_{p→}[D] = E[(D − b)·∇ Σ log p→ − ∇ Σ log p←], b a baseline.

The baseline of a row is the mean D of the other rows (leave-one-out: no bias; the mean of all rows would give the same
gradient times (B − 1)/B); for a conditional target, of the other rows of its context. Paths must be on-policy but need
no graph: any density will do, and memory is that of trajectory balance. For generation, on the same on-policy rows, it
is VarGrad's gradient times B/(2(B − 1)); for destruction it is that of trajectory likelihood maximisation, and
VarGrad's is another one. Sources: arXiv 2506.10982; arXiv 1402.0030 (baselines).
"""

from typing import ClassVar

from torch import Tensor

from .context_centre import group_mean, group_sizes
from .path_objective import PathObjective, PathTerms, Rows
from .residual import weighted_mean

__all__ = ["ReverseKLLogDerivative"]


class ReverseKLLogDerivative(PathObjective):
    """Score-function gradient of the mean log-ratio of on-policy paths; the loss's value is that mean plus log Z.

    Example:
        >>> import torch
        >>> from ebbflow.trainers.objectives import PathTerms, Residual
        >>> log_prob, zeros = torch.tensor([[1.0], [3.0]], requires_grad=True), torch.zeros(2)
        >>> terms = PathTerms(zeros, log_prob, torch.zeros(2, 1), zeros, zeros, Residual())
        >>> loss = ReverseKLLogDerivative().loss_of_paths(terms)
        >>> loss.item(), torch.autograd.grad(loss, log_prob)[0].tolist()  # D is 1 below and above its mean, and B = 2
        (2.0, [[-1.0], [1.0]])
    """

    rows: ClassVar[Rows] = "on_policy"

    def loss_of_paths(self, terms: PathTerms) -> Tensor:
        """The surrogate whose gradient it is, shifted to the value E[D] + log Z."""
        log_ratio = terms.log_ratio.detach()
        if terms.group is None:
            n, center = log_ratio.new_full((), log_ratio.shape[0]), weighted_mean(log_ratio, terms.weight)
        else:
            n, center = group_sizes(terms.group).to(log_ratio), group_mean(log_ratio, terms.weight, terms.group)
        n = n.clamp_min(2)
        advantage = (log_ratio - center) * (n / (n - 1))
        surrogate = weighted_mean(advantage * terms.generation.sum(-1) - terms.destruction.sum(-1), terms.weight)
        return surrogate + (weighted_mean(log_ratio + terms.log_z, terms.weight) - surrogate).detach()
