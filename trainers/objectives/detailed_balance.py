r"""Detailed balance: every step by itself, E[(log F(x_k) + log p→ − log F(x_{k+1}) − log p←)²], averaged over steps.

Off-policy safe. The square of one step has far less variance than that of a whole trajectory, but what the reward says
reaches the first step only through T − 1 learned flows. Sources: arXiv 2111.09266 (DB); arXiv 2301.12594 (continuous
states).
"""

from typing import ClassVar

from torch import Tensor

from .path_objective import PathObjective, PathTerms
from .residual import weighted_mean

__all__ = ["DetailedBalance"]


class DetailedBalance(PathObjective):
    """Squared balance of single steps; needs an agent with a state flow.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_agent
        >>> from ebbflow.envs import Continuous
        >>> from ebbflow.trainers.objectives import JointLoss
        >>> agent = build_agent(Continuous(1), scale=1.0, steps=3, config=AgentConfig(width=8), flow=True)
        >>> paths = agent.generate(16)
        >>> paths["log_reward"] = -0.5 * paths["state"][:, -1, 0].square()
        >>> losses = JointLoss(agent, DetailedBalance(), target_networks="none")(paths)
        >>> losses["loss_flow"].requires_grad
        True
    """

    needs_flow: ClassVar[bool] = True

    def loss_of_paths(self, terms: PathTerms) -> Tensor:
        """Mean square over steps and trajectories."""
        return weighted_mean(terms.residual(terms.step_residuals).mean(-1), terms.weight)
