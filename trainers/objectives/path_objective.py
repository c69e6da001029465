r"""Losses of the path log-ratio D(τ), where each policy sees the other one through its target network.

With θ the online and θ' the target (exponentially averaged) parameters of generation, φ and φ' those of destruction,

    D_generation  = log p_0 + Σ log p→_θ  − log R − Σ log p←_φ'
    D_destruction = log p_0 + Σ log p→_θ' − log R − Σ log p←_φ.

A subclass says what loss of D it takes (trajectory balance, log-variance, ...). Both losses come from one pass of the
online networks and one gradient-free pass of the target networks; one backward of their sum is enough, since heads are
disjoint and a shared backbone is trained by both. Source: arXiv 2506.01541, section on joint training.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from torch import Tensor
from torchrl.objectives import LossModule

from ...agents.agent import Agent
from ...envs.errors import InputError
from .context_centre import context_groups, group_mean, group_median

__all__ = ["PathObjective"]


class PathObjective(LossModule):
    """Base of the objectives that are a loss of D, for each policy.

    Args:
        agent: the agent to train; its parameters are `agent_params`.
        destruction: the objective class whose loss trains the destruction policy; by default the same class.
        use_targets: let each loss see the other policy through its target network (`target_agent_params`, moved by
            TorchRL's `SoftUpdate`); otherwise through its detached online value.
        residual_bound: residuals beyond it (nats) count linearly instead of squared (Huber), so that a few samples
            between narrow modes do not drown all others; infinite for the plain squares.

    In keys: a trajectory (`state`, `log_reward`, `score` where the agent reads it) and optionally `weight` `[B]`, the
    importance correction of replay. A conditional agent reads `context` `[B, c]`; rows with equal ones are a group, and
    log Z is log Z(c), `[B]`.

    Out keys: `loss_generation`, `loss_destruction` (zero when nothing is learned there), `loss_log_z`, all scalars, and
    `log_ratio`, the detached online D `[B]` from which new priorities are made.

    Raises:
        InputError: when `destruction` is not such an objective.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs import get_target
        >>> from ebbflow.trainers.objectives import VarGrad
        >>> target = get_target("gmm25")
        >>> class MeanAbsolute(PathObjective):  # another loss of D takes one function
        ...     @staticmethod
        ...     def loss_of_log_ratio(log_ratio, log_z, weight, bound, group):
        ...         return weighted_mean((log_ratio + log_z).abs(), weight)
        >>> agent = build_agent(target.space, scale=target.scale, steps=3)
        >>> objective = MeanAbsolute(agent, destruction=VarGrad, use_targets=False)
        >>> losses = objective(agent.generate(16, target))
        >>> (losses["loss_generation"] + losses["loss_destruction"]).backward()
        >>> losses["log_ratio"].shape
        torch.Size([16])
    """

    agent: Agent
    agent_params: TensorDictParams
    target_agent_params: TensorDictParams

    in_keys: ClassVar[list[str]] = ["state", "log_reward"]
    out_keys: ClassVar[list[str]] = ["loss_generation", "loss_destruction", "loss_log_z", "log_ratio"]

    def __init__(
        self,
        agent: Agent,
        *,
        destruction: "type[PathObjective] | None" = None,
        use_targets: bool = True,
        residual_bound: float = math.inf,
    ) -> None:
        super().__init__()
        destruction = destruction or type(self)
        if not (isinstance(destruction, type) and issubclass(destruction, PathObjective)):
            raise InputError(f"destruction: expected an objective class, got {destruction!r}")
        if not residual_bound > 0:
            raise InputError(f"residual_bound: expected a number > 0 (nats), got {residual_bound!r}")
        self.residual_bound = float(residual_bound)
        self.use_targets = use_targets and agent.destruction.learned
        self.destruction_loss = destruction.loss_of_log_ratio
        self.convert_to_functional(agent, "agent", create_target_params=self.use_targets)

    @staticmethod
    @abstractmethod
    def loss_of_log_ratio(
        log_ratio: Tensor, log_z: Tensor, weight: Tensor | None, bound: float, group: Tensor | None
    ) -> Tensor:
        """Scalar loss of the D's `[B]`.

        Given are the (detached) log Z, optional row weights `[B]`, the residual bound and, of a conditional agent, the
        `context_groups` `[B]`.
        """

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Losses of a batch of trajectories (class docstring)."""
        weight = tensordict.get("weight", None)
        log_reward = tensordict["log_reward"]
        with self.agent_params.to_module(self.agent):
            log_z = self.agent.log_z_given(tensordict.get("context", None))
            features = self.agent.path_features(tensordict)  # nothing to learn in them: computed once for both passes
            online = self.agent.path_log_probs(tensordict, features)
        generation, destruction = online.generation.sum(-1), online.destruction.sum(-1)
        seen_generation, seen_destruction = generation.detach(), destruction.detach()
        if self.use_targets:
            with torch.no_grad(), self.target_agent_params.to_module(self.agent):
                other = self.agent.path_log_probs(tensordict, features)
            seen_generation, seen_destruction = other.generation.sum(-1), other.destruction.sum(-1)
        rest = online.initial - log_reward
        group = context_groups(tensordict) if self.agent.context_space is not None else None
        given = (log_z.detach(), weight, self.residual_bound, group)
        log_ratio = (rest + generation - destruction).detach()
        losses = {
            "loss_generation": self.loss_of_log_ratio(rest + generation - seen_destruction, *given),
            "loss_destruction": (
                self.destruction_loss(rest + seen_generation - destruction, *given)
                if self.agent.destruction.learned
                else torch.zeros_like(self.agent.log_z)
            ),
            "loss_log_z": self._loss_log_z(log_z, log_ratio, weight),
            "log_ratio": log_ratio,
        }
        return TensorDict(losses, batch_size=[])

    def _loss_log_z(self, log_z: Tensor, log_ratio: Tensor, weight: Tensor | None) -> Tensor:
        if self.agent.context_space is None:
            return (log_z + weighted_mean(log_ratio, weight)).square()
        # The same gradient where nothing is bounded; a network does not get over outliers as one number does.
        return weighted_mean(robust_square(log_z + log_ratio, self.residual_bound), weight)


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of `values` `[B]`, with row weights if any (normalised to sum one)."""
    return values.mean() if weight is None else (weight * values).sum() / weight.sum()


def robust_square(residual: Tensor, bound: float) -> Tensor:
    """Residuals squared, and linear beyond `bound` with the same slope there: twice the Huber loss.

    Example:
        >>> robust_square(torch.tensor([1.0, 3.0]), bound=2.0)
        tensor([1., 8.])
    """
    if bound == math.inf:
        return residual.square()
    size = residual.abs()
    return torch.where(size <= bound, residual.square(), bound * (2.0 * size - bound))


def robust_center(
    values: Tensor, weight: Tensor | None, bound: float, group: Tensor | None = None, iterations: int = 10
) -> Tensor:
    """Detached centre of `values` `[B]` that minimises the mean `robust_square` around it; the mean when unbounded.

    With groups `[B]`, every row has the centre of its own group, `[B]`.

    Example:
        >>> robust_center(torch.tensor([1.0, 3.0, 7.0]), None, math.inf, group=torch.tensor([0, 0, 1]))
        tensor([2., 2., 7.])
    """
    values = values.detach()

    def mean(values: Tensor) -> Tensor:
        return weighted_mean(values, weight) if group is None else group_mean(values, weight, group)

    if bound == math.inf:
        return mean(values)
    center = values.median() if group is None else group_median(values, group)
    for _ in range(iterations):
        center = center + mean((values - center).clamp(-bound, bound))
    return center
