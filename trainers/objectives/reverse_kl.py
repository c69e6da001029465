r"""Reverse KL by reparametrised paths, as in the path integral sampler: E_{p→}[D(τ)] + log Z = KL(p→ ‖ p←·R/Z).

The paths are x_{k+1} = mean + std · noise, and the gradient of generation runs through them, through log R(x_T) and
through log p← of the states. Paths must be on-policy and are kept with their graph, so memory holds T networks; one
gradient of the density a path. The gradient of destruction needs no path derivative and is that of trajectory
likelihood maximisation. Mode-seeking: what no path visits does not count. Source: arXiv 2111.15141 (PIS).
"""

from typing import ClassVar

from torch import Tensor

from .path_objective import PathObjective, PathTerms, Rows
from .residual import weighted_mean

__all__ = ["ReverseKL"]


class ReverseKL(PathObjective):
    """Mean log-ratio of on-policy paths that carry their gradient.

    Example:
        >>> import torch
        >>> from ebbflow.agents import Origin, build_agent
        >>> from ebbflow.envs import get_target
        >>> from ebbflow.trainers.objectives import JointLoss
        >>> target = get_target("gmm25")
        >>> agent = build_agent(target.space, scale=target.scale, steps=3)
        >>> paths = agent.generate(16, target, differentiable=True)
        >>> paths["origin"] = torch.full((16,), Origin.ON_POLICY)
        >>> JointLoss(agent, ReverseKL(), target_networks="none")(paths)["loss_generation"].backward()
    """

    rows: ClassVar[Rows] = "on_policy"
    follows_paths: ClassVar[bool] = True

    def loss_of_paths(self, terms: PathTerms) -> Tensor:
        """E[D] + log Z."""
        return weighted_mean(terms.log_ratio + terms.log_z, terms.weight)
