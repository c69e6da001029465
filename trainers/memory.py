"""What a training remembers, and how it comes back: own samples and anchors, destroyed again when they are drawn.

new paths ─ remember ─▶ replay ─┐ draw            ┌─▶ stored paths as they are ──────────┐
                                ├──────▶ rows ────┤                                      ├─▶ trajectories
                    anchors ────┘                 └─▶ terminal states, destroyed again ──┘
                       ▲  local search moves states of both now and then
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict

from ..agents.agent import Agent
from ..agents.ebb_and_flow import ebb_and_flow
from ..agents.origin import Origin
from ..agents.policies import Policies
from ..agents.recording import Recording
from ..buffers.anchors import Anchors
from ..buffers.local_search import EbbAndFlowSearch, LangevinSearch, LocalSearch
from ..buffers.replay import Replay
from ..envs.errors import InputError
from ..envs.target import Target
from .config import TrainConfig
from .context_batch import share_of_contexts

__all__ = ["Memory", "Remembered"]


class Remembered(NamedTuple):
    """Rows of a batch from memory; None where there are none.

    Attributes:
        own: the agent's own, with the `index` and `weight` of their draw.
        anchors: terminal states of anchors.
    """

    own: TensorDict | None
    anchors: TensorDict | None

    @property
    def contexts(self) -> list[torch.Tensor]:
        """Contexts of the rows, of a conditional target."""
        return [rows["context"] for rows in self if rows is not None]


class Memory:
    """Replay, anchors and local search of one training.

    Args:
        agent: whose destruction policy takes remembered states apart.
        target: the density.
        config: what is remembered, how it is drawn, and how it is searched.
        anchors: protected states; None for none, or none yet.
        device: where the rows live.

    Attributes:
        replay: the agent's own samples.
        anchors: the anchors; may be given later.
        local_search: what moves remembered states; None for none.

    Example:
        >>> from ebbflow.envs import get_target
        >>> from ebbflow.trainers import Trainer
        >>> config = {"iterations": 2, "batch_size": 8, "anchors": {"count": 50}, "agent": {"time_grid_power": 2.0}}
        >>> trainer = Trainer(get_target("gmm25"), TrainConfig.from_dict(config))
        >>> trainer.train()
        >>> own, anchors = trainer.memory.counts()
        >>> own, anchors, len(trainer.memory.trajectories(trainer.memory.draw(own, anchors)))
        (1, 3, 1)
    """

    def __init__(
        self, agent: Policies, target: Target, config: TrainConfig, anchors: Anchors | None, device: torch.device
    ) -> None:
        self.agent = agent
        self.target = target
        self.config = config
        self.anchors = anchors
        self.replay = Replay(
            config.replay.capacity,
            priority=config.replay.priority,
            uniform_mixture=config.replay.uniform_mixture,
            beta=config.replay.beta,
            contents=config.replay.contents,
            device=device,
        )
        self.local_search = self._build_local_search()

    def _build_local_search(self) -> LocalSearch | None:
        config = self.config.local_search
        if config.kind == "none":
            return None
        if not isinstance(self.agent, Agent):
            raise InputError(f"local_search.kind: expected 'none' for an agent for tokens, got {config.kind!r}")
        if config.kind == "mala":
            return LangevinSearch(self.target, config.moves, config.target_acceptance)
        propose = partial(ebb_and_flow, self.agent, density=self.target, steps_back=config.steps_back)
        return EbbAndFlowSearch(self.target, config.moves, propose)

    # Out ----------------------------------------------------------------------------------------------------------

    @property
    def most_rows(self) -> int:
        """Rows of a batch that come from memory, once there is one; at least one row stays new."""
        return min(round(self.config.batch_size * self.config.replay.share), self.config.batch_size - 1)

    def counts(self) -> tuple[int, int]:
        """Rows of the next batch from the agent's own samples, and from the anchors."""
        share = self.config.anchors.share or 0.0
        from_anchors = 0 if self.anchors is None else round(self.most_rows * share)
        return (self.most_rows - from_anchors if self.replay.filled else 0), from_anchors

    def draw(self, own: int, anchors: int) -> Remembered:
        """So many rows of each; of a conditional target several of each context."""

        def contexts(rows: int) -> int | None:
            if not self.target.is_conditional:
                return None
            return share_of_contexts(self.config.contexts_per_batch, rows, self.config.batch_size)

        drawn = self._drawn(own, contexts(own)) if own else None
        anchored = None
        if self.anchors is not None and anchors:
            anchored = self.anchors.draw(anchors, contexts(anchors))
        return Remembered(drawn, anchored)

    def _drawn(self, n: int, contexts: int | None = None) -> TensorDict:
        """Rows of the agent's own; where all that was seen so far is outside the support, of these at the floor."""
        drawn = self.replay.draw(n, contexts)
        return drawn.set("log_reward", drawn["log_reward"].clamp_min(self.config.log_reward_floor))

    def trajectories(self, drawn: Remembered, recording: Recording | None = None) -> list[TensorDict]:
        """Trajectories of the drawn rows and then of anchors: stored paths as they are, terminal states destroyed.

        A `recording` of their number keeps what was computed on the way; there must be no stored paths among them.
        """
        parts: list[TensorDict] = []
        terminal = []
        if drawn.own is not None and self.config.replay.contents == "path":
            paths = drawn.own.select("state", "log_reward", "context", strict=False)
            if self.agent.needs_score:
                paths["score"] = self.target.value_and_score(paths["state"], paths.get("context", None))[1]
            parts.append(Origin.OFF_POLICY.mark(paths))
        elif drawn.own is not None:
            terminal.append(drawn.own.select("state", "log_reward", "origin", "context", strict=False))
        if drawn.anchors is not None:
            terminal.append(Origin.DATA.mark(drawn.anchors))
        if terminal:
            rows = TensorDict.cat(terminal)
            context = rows.get("context", None)
            settings: dict[str, Any] = {} if recording is None else {"recording": recording}
            paths = self.agent.destroy(rows["state"], self.target, rows["log_reward"], context=context, **settings)
            parts.append(paths.set("origin", rows["origin"]))
        return parts

    # In -----------------------------------------------------------------------------------------------------------

    def comparable(self, log_ratio: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        """Log-ratios `[n]` that may be compared, as priorities do: D + log Z(c) where log Z depends on the context."""
        if context is None:
            return log_ratio
        with torch.no_grad():
            return log_ratio + self.agent.log_z_given(context)

    def remember(
        self,
        paths: TensorDict,
        log_ratio: torch.Tensor,
        origin: Origin = Origin.REPLAY,
        where: torch.Tensor | None = None,
    ) -> None:
        """Keep trajectories, with the comparable log-ratios `[n]` as priorities; those outside are never drawn.

        Where some are not to be kept, `where` `[n]` says which are.
        """
        inside = paths["log_reward"] > self.config.log_reward_floor
        log_reward = torch.where(inside, paths["log_reward"], -torch.inf)
        state = paths["state"] if self.config.replay.contents == "path" else paths["state"][:, -1]
        columns = {"state": state, "log_reward": log_reward, "log_ratio": log_ratio}
        if self.target.is_conditional:
            columns["context"] = paths["context"]
        self.replay.write(TensorDict(columns, batch_size=paths.batch_size), origin, where)

    def search(self, inverse_temperature: float) -> None:
        """Move remembered states, which makes new rows of those that moved, and anchors, which takes their place."""
        config = self.config.local_search
        from_replay = config.states if self.replay.filled else 0
        from_anchors = 0 if self.anchors is None else min(config.anchors, len(self.anchors))
        parts = []
        if from_replay:
            drawn = self._drawn(from_replay)
            state = drawn["state"] if self.config.replay.contents == "terminal" else drawn["state"][:, -1]
            parts.append((state, drawn["log_reward"], drawn.get("context", None)))
        if self.anchors is not None and from_anchors:
            index = torch.randperm(len(self.anchors), device=self.anchors.states.device)[:from_anchors]
            contexts = self.anchors.contexts
            own = None if contexts is None else contexts[index]
            parts.append((self.anchors.states[index], self.anchors.log_reward[index], own))
        if not parts or self.local_search is None:
            return
        before, log_reward = (torch.cat([part[i] for part in parts]) for i in range(2))
        context = torch.cat([part[2] for part in parts]) if self.target.is_conditional else None
        states, log_reward = self.local_search.run(before, log_reward, context)
        if self.anchors is not None and from_anchors:
            self.anchors = self.anchors.refreshed(index, states[from_replay:], log_reward[from_replay:])
        if from_replay:
            own = None if context is None else context[:from_replay]
            paths = self.agent.destroy(states[:from_replay], self.target, log_reward[:from_replay], context=own)
            with torch.no_grad():
                log_probs = self.agent.path_log_probs(paths)
            log_ratio = log_probs.log_ratio(inverse_temperature * paths["log_reward"])
            moved = (states[:from_replay] != before[:from_replay]).any(dim=-1)  # how many, only the device knows
            self.remember(paths, self.comparable(log_ratio, own), Origin.LOCAL_SEARCH, moved)
