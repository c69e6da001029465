r"""Trajectory balance: E[(D(τ) + log Z)²], with a learned log Z.

Off-policy safe: any behaviour with full support has its minimum at D constant = −log Z. The gradient of log Z is that
of the same square, taken with the online D. For a conditional target log Z is a function of the context, log Z(c).
Source: arXiv 2201.13259 (TB); arXiv 2506.01541 (for both policies).
"""

from torch import Tensor

from .path_objective import PathObjective, robust_square, weighted_mean

__all__ = ["TrajectoryBalance"]


class TrajectoryBalance(PathObjective):
    """Squared log-ratio against the learned log Z; see `PathObjective` for arguments and keys.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_agent
        >>> from ebbflow.envs import Continuous
        >>> agent = build_agent(Continuous(1), scale=1.0, steps=2, config=AgentConfig(width=8))
        >>> paths = agent.generate(16)
        >>> paths["log_reward"] = -0.5 * paths["state"][:, -1, 0].square()
        >>> losses = TrajectoryBalance(agent, use_targets=False)(paths)
        >>> sorted(losses.keys())
        ['log_ratio', 'loss_destruction', 'loss_generation', 'loss_log_z']
    """

    @staticmethod
    def loss_of_log_ratio(
        log_ratio: Tensor, log_z: Tensor, weight: Tensor | None, bound: float, group: Tensor | None
    ) -> Tensor:
        """E[(D + log Z)²]; with a bound, its robust square."""
        return weighted_mean(robust_square(log_ratio + log_z, bound), weight)
