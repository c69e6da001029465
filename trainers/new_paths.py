"""New paths of the generation policy: how they are widened and pushed, for which contexts, and how they are marked."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict

from ..agents.exploration import NOT_WIDENED, Widening
from ..agents.origin import Origin
from ..agents.policies import Policies
from ..agents.recording import Recording
from ..agents.rows_innermost import cat_trajectories
from ..envs.target import Target
from .config import TrainConfig
from .context_batch import contexts_of_new_rows, share_of_contexts
from .objectives.joint_loss import JointLoss

__all__ = ["NewPaths"]


class NewPaths:
    """Generates the new part of a batch.

    Args:
        agent: whose generation policy acts.
        target: the density.
        config: batch size, contexts a batch, and the floor of log densities.
        objective: says which share of new paths must be on-policy, and whether they are followed by a gradient.

    Example:
        >>> from ebbflow.envs import get_target
        >>> from ebbflow.trainers import Trainer
        >>> trainer = Trainer(get_target("gmm25"), TrainConfig.from_dict({"agent": {"time_grid_power": 2.0}}))
        >>> trainer.new_paths.generate(8, NOT_WIDENED)["state"].shape
        torch.Size([8, 6, 2])
    """

    def __init__(self, agent: Policies, target: Target, config: TrainConfig, objective: JointLoss) -> None:
        self.agent = agent
        self.target = target
        self.config = config
        self.objective = objective

    def on_policy_rows(self, n: int, widening: Widening) -> int:
        """How many of `n` new paths are on-policy: all of them where nothing widens them."""
        return n if widening == NOT_WIDENED else math.ceil(n * self.objective.on_policy_share)

    def contexts(self, n: int, remembered: Sequence[torch.Tensor] = ()) -> torch.Tensor | None:
        """Contexts `[n, c]` of `n` new paths beside these `remembered` ones; None of an unconditional target."""
        if not self.target.is_conditional:
            return None
        fresh = share_of_contexts(self.config.contexts_per_batch, n, self.config.batch_size)
        return contexts_of_new_rows(self.target, n, fresh, torch.cat(list(remembered)) if remembered else None)

    def generate(
        self,
        n: int,
        widening: Widening,
        context: torch.Tensor | None = None,
        recording: Recording | None = None,
    ) -> TensorDict:
        """`n` new paths: on-policy for the objectives that need that, and the others widened by exploration.

        Where one objective of two needs on-policy paths, each kind is half of them, and each kind has all contexts.
        A `recording` of `n` rows keeps what was computed on the way.
        """
        on_policy = self.on_policy_rows(n, widening)
        first, second = (None, None) if context is None else (context[:on_policy], context[on_policy:])
        parts = []
        if on_policy:
            kept = None if recording is None else recording.rows(0, on_policy)
            follows = self.objective.follows_paths
            parts.append(self.collect(on_policy, context=first, differentiable=follows, recording=kept))
        if on_policy < n:
            kept = None if recording is None else recording.rows(on_policy, n)
            parts.append(self.collect(n - on_policy, widening, context=second, recording=kept))
        return cat_trajectories(parts)

    def collect(
        self,
        n: int,
        widening: Widening = NOT_WIDENED,
        *,
        context: torch.Tensor | None = None,
        differentiable: bool = False,
        recording: Recording | None = None,
    ) -> TensorDict:
        """`n` new paths of one kind."""
        settings: dict[str, Any] = {} if recording is None else {"recording": recording}
        paths = self.agent.generate(
            n, self.target, context=context, **widening._asdict(), differentiable=differentiable, **settings
        )
        paths["log_reward"] = paths["log_reward"].clamp_min(self.config.log_reward_floor)
        origin = Origin.ON_POLICY if widening == NOT_WIDENED else Origin.OFF_POLICY
        if origin == Origin.ON_POLICY and self.config.reward_path == "redrawn":
            # The samples are on-policy, and these paths are not: that is what this setting is there to show.
            paths = self.agent.destroy(paths["state"][:, -1], None, paths["log_reward"], context=context)
        return origin.mark(paths)
