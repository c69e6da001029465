r"""Trajectory balance: E[(D(τ) + log Z)²], with a learned log Z.

Off-policy safe: any behaviour with full support has its minimum at D constant = −log Z. The gradient of log Z is that
of the same square, taken with the online D. For a conditional target log Z is a function of the context, log Z(c).
Source: arXiv 2201.13259 (TB); arXiv 2506.01541 (for both policies).
"""

from torch import Tensor

from .path_objective import PathObjective, PathTerms
from .residual import weighted_mean

__all__ = ["TrajectoryBalance"]


class TrajectoryBalance(PathObjective):
    """Squared log-ratio against the learned log Z.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_agent
        >>> from ebbflow.envs import Continuous
        >>> from ebbflow.trainers.objectives import JointLoss
        >>> agent = build_agent(Continuous(1), scale=1.0, steps=2, config=AgentConfig(width=8))
        >>> paths = agent.generate(16)
        >>> paths["log_reward"] = -0.5 * paths["state"][:, -1, 0].square()
        >>> losses = JointLoss(agent, TrajectoryBalance(), target_networks="none")(paths)
        >>> losses["loss_generation"].shape
        torch.Size([])
    """

    def loss_of_paths(self, terms: PathTerms) -> Tensor:
        """E[(D + log Z)²]; with a bounded residual, that instead of the square."""
        return weighted_mean(terms.residual(terms.log_ratio + terms.log_z), terms.weight)
