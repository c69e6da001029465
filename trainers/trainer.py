"""The training loop, and nothing else:

    collect → draw → objective → optimisers → target networks → priorities → remember → search → callbacks.

Everything observable (progress, logging, checkpoints, the NaN guard) is a callback.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast
from zipfile import BadZipFile

import numpy
import torch
from tensordict import TensorDict
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchrl.objectives import SoftUpdate

from ..agents.agent import Agent
from ..agents.architecture import build_agent
from ..agents.ebb_and_flow import ebb_and_flow
from ..agents.exploration import NOT_WIDENED, Exploration, Widening
from ..agents.origin import Origin
from ..buffers.anchors import Anchors
from ..buffers.local_search import EbbAndFlowSearch, LangevinSearch, LocalSearch
from ..buffers.replay import Replay
from ..envs.errors import InputError
from ..envs.target import Target
from .anchor_search import search_for_anchors
from .callbacks import Callback
from .config import TrainConfig
from .context_batch import contexts_of_new_rows, share_of_contexts
from .evaluation import check_agent
from .matched_grid import with_matched_grid
from .objectives.catalogue import get_objective
from .objectives.joint_loss import JointLoss
from .optimisation import Optimisers

__all__ = ["Trainer"]


class Trainer:
    """Trains an agent on a target.

    Args:
        target: needs a log density; moved to the configured device and floating point type.
        config: all settings; an open `agent.time_grid_power` is chosen here, and then part of `trainer.config`.
        callbacks: called around the loop; see `Callback`.
        agent: an agent of your own instead of `build_agent(config.agent)`, on the target's space and with
            `config.steps` steps; moved as the target is.
        anchors: anchors of your own instead of the search that `config.anchors` describes, and of that for an open
            `agent.time_grid_power`.

    Attributes:
        agent: the agent being trained.
        averaged: the exponentially averaged agent, which is evaluated and sampled from.
        local_search: what moves remembered states, with its acceptance and its share of the calls; None for none.
        iteration: iterations done.
        seconds: seconds spent in `prepare` and the loop so far, over interruptions.
        skipped: updates left out because a loss or gradient was not finite.

    Raises:
        InputError: for settings that do not fit the target or each other, and whatever the density raises.

    Example:
        >>> from ebbflow.envs import get_target
        >>> config = TrainConfig.from_dict({"iterations": 3, "batch_size": 8, "anchors": {"count": 50}})
        >>> trainer = Trainer(get_target("gmm25"), config)
        >>> trainer.train()
        >>> trainer.iteration
        3
    """

    def __init__(
        self,
        target: Target,
        config: TrainConfig,
        callbacks: Sequence[Callback] = (),
        *,
        agent: Agent | None = None,
        anchors: Anchors | None = None,
    ) -> None:
        target.require_log_prob("training")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device_of(config)
        self.dtype = getattr(torch, config.dtype)
        self.target = target.to(self.device, self.dtype)
        before = target.energy_calls, target.gradient_calls
        if anchors is not None and anchors.states.shape[1:] != target.space.shape:
            raise InputError(f"anchors: expected states [n, {target.space.dim}], got {list(anchors.states.shape)}")
        if target.is_conditional and 2 * config.contexts_per_batch > config.batch_size:
            raise InputError(
                f"contexts_per_batch: expected at most half of batch_size = {config.batch_size}, so that there are two "
                f"trajectories of each, got {config.contexts_per_batch}"
            )
        if anchors is not None and (anchors.contexts is not None) != target.is_conditional:
            raise InputError("anchors: expected to have contexts for a conditional target, and only for one")
        if agent is None:
            self.config = config = with_matched_grid(config, self.target, self._sigma, anchors)
        found = (0, 0) if anchors is None else (anchors.energy_calls, anchors.gradient_calls)
        self._calls_before = before[0] - found[0], before[1] - found[1]
        generation = get_objective(config.objective, subtb_lambda=config.subtb_lambda)
        destruction = generation
        if config.destruction_objective is not None:
            name = config.destruction_objective
            destruction = get_objective(name, "destruction_objective", subtb_lambda=config.subtb_lambda)
        self.agent = agent or self._build_agent(flow=generation.needs_flow or destruction.needs_flow)
        check_agent(self.agent, target)
        if self.agent.steps != config.steps:
            raise InputError(f"steps: expected {self.agent.steps} as the given agent has, got {config.steps}")
        self.agent.to(self.device, self.dtype)
        decay = config.average_decay
        self.averaged = AveragedModel(self.agent, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay > 0 else None
        self.objective = JointLoss(
            self.agent,
            generation,
            destruction,
            target_networks=config.target_networks if config.target_rate > 0 else "none",
            trunk=config.trunk,
            residual=config.residual,
            residual_bound=float("inf") if config.residual_bound is None else config.residual_bound,
        )
        self.target_update = SoftUpdate(self.objective, tau=config.target_rate) if self.objective.use_targets else None
        configs = {
            "generation": config.generation_optimiser,
            "destruction": config.destruction_optimiser,
            "log_z": config.log_z_optimiser,
            "flow": config.flow_optimiser,
        }
        self.optimisers = Optimisers(self.agent, configs, config.iterations, single=config.single_optimiser)
        self.exploration = Exploration(**dataclasses.asdict(config.exploration))
        self.replay = Replay(
            config.replay.capacity,
            priority=config.replay.priority,
            uniform_mixture=config.replay.uniform_mixture,
            beta=config.replay.beta,
            contents=config.replay.contents,
            device=self.device,
        )
        self.anchors = anchors
        self.local_search = self._build_local_search()
        self.callbacks = list(callbacks)
        self.iteration = 0
        self.seconds = 0.0
        self.skipped = 0
        self.stop_requested = False
        self._prepared = False
        self._check_rows()

    @property
    def _scale(self) -> float:
        """Typical length of the target: the configured one, or the target's own."""
        return self.target.scale if self.config.scale is None else self.config.scale

    @property
    def _sigma(self) -> float:
        """Diffusion rate: the configured one, or the scale."""
        return self._scale if self.config.agent.sigma is None else self.config.agent.sigma

    def _build_agent(self, flow: bool) -> Agent:
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            config = self.config
            return build_agent(
                self.target.space,
                scale=self._scale,
                steps=config.steps,
                config=config.agent,
                context_space=self.target.context_space,
                flow=flow,
            )
        finally:
            torch.set_default_dtype(before)

    def _build_local_search(self) -> LocalSearch | None:
        config = self.config.local_search
        if config.kind == "none":
            return None
        if config.kind == "mala":
            return LangevinSearch(self.target, config.moves, config.target_acceptance)
        propose = partial(ebb_and_flow, self.agent, density=self.target, steps_back=config.steps_back)
        return EbbAndFlowSearch(self.target, config.moves, propose)

    @property
    def evaluated_agent(self) -> Agent:
        """The agent to judge and to sample from: the averaged one, or the last where nothing is averaged."""
        return self.agent if self.averaged is None else cast(Agent, self.averaged.module)

    @property
    def energy_calls(self) -> int:
        """Single densities evaluated for this training so far, anchors included, over interruptions."""
        return self.target.energy_calls - self._calls_before[0]

    @property
    def gradient_calls(self) -> int:
        """Single gradients evaluated for this training so far, anchors included, over interruptions."""
        return self.target.gradient_calls - self._calls_before[1]

    # The loop -----------------------------------------------------------------------------------------------------

    def train(self, until: int | None = None) -> None:
        """Train until `until` iterations are done in all; by default to the end of the run.

        Ctrl-C, or a callback that sets `stop_requested`, ends the loop after the iteration under way.
        """
        until = self.config.iterations if until is None else min(until, self.config.iterations)
        self.stop_requested = False
        self.prepare()
        begun = time.perf_counter() - self.seconds
        for callback in self.callbacks:
            callback.on_start(self)
        while self.iteration < until and not self.stop_requested:
            losses = self.step()
            self.iteration += 1
            self.seconds = time.perf_counter() - begun
            for callback in self.callbacks:
                callback.on_iteration(self, losses)
        for callback in self.callbacks:
            callback.on_end(self)

    def prepare(self) -> None:
        """Search for anchors, and start log Z from the estimate of a first batch instead of 0; `train` does it first.

        Raises:
            InputError: when the density is zero wherever it was looked at, and whatever the density raises.
        """
        if self._prepared:
            return
        begun = time.perf_counter()
        config = self.config
        if self.anchors is None and config.replay.share > 0 and config.anchors.share > 0:
            self.anchors = self._find_anchors()
        with torch.no_grad():
            context = self._new_contexts(config.batch_size, config.contexts_per_batch, ())
            paths = self._collect(config.batch_size, context=context)
            inside = paths["log_reward"] > config.log_reward_floor
            paths["log_reward"] *= self.exploration.inverse_temperature_at(0.0)
            log_ratio = self.agent.log_ratio(paths)
        if self.anchors is None and not bool(inside.any()):
            raise InputError(
                f"target {self.target.name!r}: the log density is -inf, or below log_reward_floor = "
                f"{config.log_reward_floor:g}, for all {config.batch_size} states of a first batch; check its scale, "
                "or use anchors"
            )
        with torch.no_grad():
            # Of the states inside the support: one outside would put log Z as far away as the floor.
            self.agent.log_z.copy_(-log_ratio[inside & log_ratio.isfinite()].mean().nan_to_num())
        self._prepared = True
        self.seconds += time.perf_counter() - begun

    def _find_anchors(self) -> Anchors:
        config = self.config.anchors
        if config.samples == "exact":
            self.target.require_sample("anchors.samples: exact")
            contexts = self._new_contexts(config.count, config.contexts, ())
            samples = self.target.sample(config.count, *(() if contexts is None else (contexts,)))
            return Anchors.from_samples(self.target, samples.to(self.device, self.dtype), contexts)
        if config.samples is not None and self.target.is_conditional:
            raise InputError(
                "anchors.samples: a file has no contexts; of a conditional target give anchors in Python, "
                "Trainer(anchors=Anchors.from_samples(target, states, contexts)), or write exact"
            )
        if config.samples is not None:
            return Anchors.from_samples(self.target, _load_samples(config.samples).to(self.device, self.dtype))
        return search_for_anchors(self.target, config, self._sigma, device=self.device, dtype=self.dtype)

    def step(self) -> TensorDict:
        """One iteration; returns the losses, and the log-ratios that became priorities.

        The batch mixes new paths with remembered ones: a loss that compares log-ratios within a batch then sees
        the gap between generated and destroyed paths, which separate batches would hide from it.
        """
        progress = self.iteration / self.config.iterations
        from_replay, from_anchors = self._remembered_counts()
        count = self.config.batch_size - from_replay - from_anchors
        widening = self.exploration.widening_at(progress)
        if self.target.is_conditional:  # new paths go to the contexts of remembered ones, so these are drawn first
            drawn, anchored = self._draw(from_replay, from_anchors)
            fresh = share_of_contexts(self.config.contexts_per_batch, count, self.config.batch_size)
            context = self._new_contexts(
                count, fresh, [rows["context"] for rows in (drawn, anchored) if rows is not None]
            )
            new = self._new_paths(count, widening, context)
        else:
            new = self._new_paths(count, widening)
            drawn, anchored = self._draw(from_replay, from_anchors)
        batch = TensorDict.cat([new, *self._remembered_paths(drawn, anchored)])
        if drawn is not None and self.config.replay.beta > 0:
            ones = drawn["weight"].new_ones
            batch["weight"] = torch.cat([ones(len(new)), drawn["weight"], ones(from_anchors)])
        # The memory keeps the target itself; only the loss, and the priorities made of it, see the tempered one.
        inverse_temperature = self.exploration.inverse_temperature_at(progress)
        batch["log_reward"] = batch["log_reward"] * inverse_temperature
        if self.objective.needs_log_density:
            inner = batch["state"][:, 1:-1].detach()
            between = self.target(inner, batch.get("context", None)).detach()  # [B, T-1]
            batch["log_density"] = between.clamp_min(self.config.log_reward_floor) * inverse_temperature
        if self.config.residual_bound is not None:
            # Robust while policies are coarse; the plain squares, which make both bounds tight, at the end.
            self.objective.residual_bound = self.config.residual_bound / math.sqrt(max(1e-9, 1.0 - progress))
        losses = self.objective(batch)
        total = losses["loss_generation"] + losses["loss_destruction"] + losses["loss_log_z"] + losses["loss_flow"]
        if self.optimisers.step(total):
            if self.target_update is not None:
                self.target_update.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.agent)
        else:
            self.skipped += 1
        log_ratio = losses["log_ratio"]
        log_ratio = self._within_context(log_ratio, batch.get("context", None))
        if drawn is not None:
            self.replay.update(drawn["index"], log_ratio[len(new) : len(new) + from_replay])
        if self.config.replay.share > 0:
            self._remember(new, log_ratio[: len(new)])
        if self.local_search is not None and (self.iteration + 1) % self.config.local_search.every == 0:
            self._search(self.local_search, self.exploration.inverse_temperature_at(progress))
        return losses.detach()

    def _within_context(self, log_ratio: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        """Log-ratios `[n]` that may be compared, as priorities do: D + log Z(c) where log Z depends on the context."""
        if context is None:
            return log_ratio
        with torch.no_grad():
            return log_ratio + self.agent.log_z_given(context)

    def _search(self, search: LocalSearch, inverse_temperature: float) -> None:
        """Move remembered states, which makes new rows of those that moved, and anchors, which takes their place."""
        config = self.config.local_search
        from_replay = config.states if len(self.replay) else 0
        from_anchors = 0 if self.anchors is None else min(config.anchors, len(self.anchors))
        parts = []
        if from_replay:
            drawn = self.replay.draw(from_replay)
            state = drawn["state"] if self.config.replay.contents == "terminal" else drawn["state"][:, -1]
            parts.append((state, drawn["log_reward"], drawn.get("context", None)))
        if self.anchors is not None and from_anchors:
            index = torch.randperm(len(self.anchors), device=self.device)[:from_anchors]
            contexts = self.anchors.contexts
            own = None if contexts is None else contexts[index]
            parts.append((self.anchors.states[index], self.anchors.log_reward[index], own))
        if not parts:
            return
        before, log_reward = (torch.cat([part[i] for part in parts]) for i in range(2))
        context = torch.cat([part[2] for part in parts]) if self.target.is_conditional else None
        states, log_reward = search.run(before, log_reward, context)
        if self.anchors is not None and from_anchors:
            self.anchors = self.anchors.refreshed(index, states[from_replay:], log_reward[from_replay:])
        moved = (states != before).any(dim=-1)
        moved[from_replay:] = False
        if bool(moved.any()):
            own = None if context is None else context[moved]
            paths = self.agent.destroy(states[moved], self.target, log_reward[moved], context=own)
            with torch.no_grad():
                log_probs = self.agent.path_log_probs(paths)
            log_ratio = self._within_context(log_probs.log_ratio(inverse_temperature * paths["log_reward"]), own)
            self._remember(paths, log_ratio, Origin.LOCAL_SEARCH)

    def _check_rows(self) -> None:
        """Raise an InputError where the settings leave an objective without rows that it may learn from."""
        config = self.config
        remembered = self._remembered_rows()
        new = config.batch_size - remembered
        explores = self.exploration.widening_at(0.0) != NOT_WIDENED
        on_policy = math.ceil(new * self.objective.on_policy_share) if explores else new
        destroyed = remembered if config.replay.contents == "terminal" else round(remembered * config.anchors.share)
        for policy, objective in self.objective.objectives.items():
            field = "objective" if policy == "generation" else "destruction_objective"
            name = getattr(config, field) or config.objective
            if objective.rows == "on_policy" and on_policy < 2:
                raise InputError(
                    f"{field}: {name} learns from new paths of the policy itself, of which batch_size = "
                    f"{config.batch_size} and replay.share = {config.replay.share:g} leave {on_policy} (expected >= 2)"
                )
            if objective.rows == "destroyed" and not destroyed:
                raise InputError(
                    f"{field}: {name} learns from destroyed samples, and there are none with replay.share = "
                    f"{config.replay.share:g}, replay.contents = {config.replay.contents} and anchors.share = "
                    f"{config.anchors.share:g}; expected anchors, exact samples or terminal states in every batch"
                )

    def _remembered_rows(self) -> int:
        """Rows of a batch that come from memory, once there is one; at least one row stays new."""
        return min(round(self.config.batch_size * self.config.replay.share), self.config.batch_size - 1)

    def _remembered_counts(self) -> tuple[int, int]:
        """Rows of the next batch from the agent's own memory, and from the anchors; at least one row stays new."""
        remembered = self._remembered_rows()
        from_anchors = 0 if self.anchors is None else round(remembered * self.config.anchors.share)
        return (remembered - from_anchors if len(self.replay) else 0), from_anchors

    def _draw(self, from_replay: int, from_anchors: int) -> tuple[TensorDict | None, TensorDict | None]:
        """Rows of the next batch from the agent's own memory, and from the anchors."""

        def contexts(rows: int) -> int | None:
            if not self.target.is_conditional:
                return None
            return share_of_contexts(self.config.contexts_per_batch, rows, self.config.batch_size)

        drawn = self.replay.draw(from_replay, contexts(from_replay)) if from_replay else None
        anchored = None
        if self.anchors is not None and from_anchors:
            anchored = self.anchors.draw(from_anchors, contexts(from_anchors))
        return drawn, anchored

    def _new_contexts(self, n: int, fresh: int, remembered: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Contexts `[n, c]` of new paths; None of an unconditional target."""
        if not self.target.is_conditional:
            return None
        return contexts_of_new_rows(self.target, n, fresh, torch.cat(list(remembered)) if remembered else None)

    def _new_paths(self, n: int, widening: Widening, context: torch.Tensor | None = None) -> TensorDict:
        """`n` new paths: on-policy for the objectives that need that, and the others widened by exploration.

        Where one objective of two needs on-policy paths, each kind is half of them, and each kind has all contexts.
        """
        on_policy = math.ceil(n * self.objective.on_policy_share) if widening != NOT_WIDENED else n
        first, second = (None, None) if context is None else (context[:on_policy], context[on_policy:])
        parts = []
        if on_policy:
            parts.append(self._collect(on_policy, context=first, differentiable=self.objective.follows_paths))
        if on_policy < n:
            parts.append(self._collect(n - on_policy, widening, context=second))
        return TensorDict.cat(parts)

    def _collect(
        self,
        n: int,
        widening: Widening = NOT_WIDENED,
        *,
        context: torch.Tensor | None = None,
        differentiable: bool = False,
    ) -> TensorDict:
        """New paths of the generation policy, widened and pushed by exploration."""
        paths = self.agent.generate(
            n, self.target, context=context, **widening._asdict(), differentiable=differentiable
        )
        paths["log_reward"] = paths["log_reward"].clamp_min(self.config.log_reward_floor)
        return self._from(paths, Origin.ON_POLICY if widening == NOT_WIDENED else Origin.OFF_POLICY)

    def _from(self, paths: TensorDict, origin: Origin) -> TensorDict:
        """The same rows, with where they come from."""
        return paths.set("origin", torch.full(paths.shape, int(origin), device=self.device))

    def _remember(self, paths: TensorDict, log_ratio: torch.Tensor, origin: Origin = Origin.REPLAY) -> None:
        inside = paths["log_reward"] > self.config.log_reward_floor
        state = paths["state"] if self.config.replay.contents == "path" else paths["state"][:, -1]
        columns = {"state": state, "log_reward": paths["log_reward"], "log_ratio": log_ratio}
        if self.target.is_conditional:
            columns["context"] = paths["context"]
        self.replay.extend(TensorDict(columns, batch_size=paths.batch_size)[inside], origin)

    def _remembered_paths(self, drawn: TensorDict | None, anchored: TensorDict | None) -> list[TensorDict]:
        """Trajectories of the drawn rows and then of anchors: stored paths as they are, terminal states destroyed."""
        parts: list[TensorDict] = []
        terminal = []
        if drawn is not None and self.config.replay.contents == "path":
            paths = drawn.select("state", "log_reward", "context", strict=False)
            if self.agent.needs_score:
                paths["score"] = self.target.value_and_score(paths["state"], paths.get("context", None))[1]
            parts.append(self._from(paths, Origin.OFF_POLICY))
        elif drawn is not None:
            terminal.append(drawn.select("state", "log_reward", "origin", "context", strict=False))
        if anchored is not None:
            terminal.append(self._from(anchored, Origin.DATA))
        if terminal:
            rows = TensorDict.cat(terminal)
            context = rows.get("context", None)
            paths = self.agent.destroy(rows["state"], self.target, rows["log_reward"], context=context)
            parts.append(paths.set("origin", rows["origin"]))
        return parts

    # Save and restore ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs, as nested dicts of tensors, numbers and None."""
        return {
            "agent": self.agent.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "target_networks": self.objective.target_agent_params.flatten_keys(".").to_dict()
            if self.objective.use_targets
            else None,
            "optimisers": self.optimisers.state_dict(),
            "replay": self.replay.state_dict(),
            "anchors": None if self.anchors is None else self.anchors.state_dict(),
            "local_search": None if self.local_search is None else self.local_search.state_dict(),
            "counters": {
                "iteration": self.iteration,
                "seconds": self.seconds,
                "skipped": self.skipped,
                "energy_calls": self.energy_calls,
                "gradient_calls": self.gradient_calls,
                "prepared": self._prepared,
            },
            "random": {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            InputError: when the state belongs to another configuration.
        """
        try:
            self.agent.load_state_dict(state["agent"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            if self.objective.use_targets:
                saved = TensorDict(state["target_networks"]).unflatten_keys(".")
                self.objective.target_agent_params.data.update_(saved)
            self.optimisers.load_state_dict(state["optimisers"])
            self.replay.load_state_dict(state["replay"])
            anchors = state["anchors"]
            self.anchors = None if anchors is None else Anchors.from_state_dict(anchors, self.device)
            if self.local_search is not None:
                self.local_search.load_state_dict(state["local_search"])
            counters = state["counters"]
            self.iteration, self.seconds, self.skipped = (counters[k] for k in ("iteration", "seconds", "skipped"))
            self._calls_before = (
                self.target.energy_calls - counters["energy_calls"],
                self.target.gradient_calls - counters["gradient_calls"],
            )
            self._prepared = counters["prepared"]
            torch.set_rng_state(state["random"]["torch"].cpu())
            if self.device.type == "cuda" and state["random"]["cuda"] is not None:
                torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), self.device)
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            reason = str(error).split("\n")[0]
            raise InputError(
                f"checkpoint: does not fit this configuration ({type(error).__name__}: {reason})"
            ) from error


def device_of(config: TrainConfig) -> torch.device:
    """The device of the settings.

    Raises:
        InputError: when torch cannot compute on it here.
    """
    name = config.device
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # `meta` holds shapes, but no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"device: expected one that torch can use here, got {name!r} ({reason})") from error
    return device


def _load_samples(path: str) -> torch.Tensor:
    try:
        with open(path, "rb") as file:
            return torch.from_numpy(numpy.load(file, allow_pickle=False))
    except (OSError, EOFError, TypeError, ValueError, BadZipFile) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"anchors.samples: expected a .npy file of numbers [n, dim], got {path!r} ({reason})"
        ) from error
