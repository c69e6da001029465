"""The training loop, and nothing else:

    collect → draw → objective → optimisers → target networks → priorities → remember → search → callbacks.

Everything observable (progress, logging, checkpoints, the NaN guard) is a callback.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from tensordict import TensorDict

from ..agents.agent import Agent
from ..agents.architecture import build_agent
from ..agents.compilation import check_compiler
from ..agents.exploration import Exploration, Widening
from ..agents.point_architecture import build_point_agent
from ..agents.policies import Policies
from ..agents.precision import set_matmul_precision
from ..agents.recording import Recording
from ..agents.references.continuous.catalogue import CONTINUOUS_REFERENCES, TRANSFORMS
from ..agents.references.tokens.catalogue import get_token_reference
from ..agents.references.tokens.reference import TokenReference
from ..agents.rows_innermost import cat_trajectories
from ..agents.token_architecture import build_token_agent
from ..buffers.anchors import Anchors
from ..buffers.local_search import LocalSearch
from ..buffers.replay import Replay
from ..envs.errors import InputError
from ..envs.registry import import_attribute
from ..envs.spaces import Tokens
from ..envs.target import Target
from .anchor_search import find_anchors
from .averaging import Average
from .callbacks import Callback
from .config import TrainConfig
from .data_batches import DataBatches, checked
from .evaluation import check_agent
from .freed_memory import keep_freed_memory
from .matched_grid import with_matched_grid
from .memory import Memory, Remembered
from .new_paths import NewPaths
from .objectives.catalogue import RANDOM_LEVEL, get_objective
from .objectives.joint_loss import JointLoss
from .objectives.path_objective import PathObjective, Rows
from .objectives.random_level import RandomLevel
from .optimisation import Optimisers
from .random_stream import RandomStream
from .ranks import ALONE, Ranks
from .suited import suited_config
from .target_update import TargetUpdate

__all__ = ["Trainer"]

LOOK_EVERY = 50  # iterations: a bad density is told soon enough, and the time of waiting does not count
_DESTROYED = 10_000  # samples that give x_0 its law, where only the data know it
SHARDED = ("replay", "anchors", "local_search", "random")  # of the state: what every rank has its own of


class Trainer:
    """Trains an agent on a target.

    Args:
        target: a log density, or samples without one; moved to the configured device and floating point type.
        config: all settings; what is open (None) is chosen here to suit the target, and then part of `trainer.config`.
        callbacks: called around the loop; see `Callback`.
        agent: an agent of your own instead of `build_agent(config.agent)`, on the target's space and with
            `config.steps` steps; moved as the target is.
        anchors: anchors of your own instead of the search that `config.anchors` describes, and of that for an open
            `agent.time_grid_power`.
        ranks: the processes of this training, which each run this same program; see `Ranks`. What is configured is
            the whole: batches and memory are split evenly over them, and all hold the same parameters.

    Attributes:
        agent: the agent being trained.
        averaged: the exponentially averaged agent, which is evaluated and sampled from.
        new_paths: where the new part of a batch comes from.
        memory: where the rest of it comes from.
        data: where whole batches come from, of a target without a log density; None of one that has it.
        iteration: iterations done.
        seconds: seconds spent in `prepare` and the loop so far, over interruptions.
        look_every: after how many iterations the host looks at what must not be waited for in each of them: whether
            densities were finite, and updates made. 1 on a CPU, where looking is free, and else `LOOK_EVERY`. What is
            saved was looked at before.

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
        agent: Policies | None = None,
        anchors: Anchors | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        if not target.has_log_prob:
            target.require_sample("training without a log density")
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        keep_freed_memory()
        torch.manual_seed(config.seed)
        self.ranks = ranks
        self.config = config = suited_config(config, target, agent, has_anchors=anchors is not None)
        self._share = ranks.share_of(config, conditional=target.is_conditional)
        self.device = device_of(config)
        self.dtype = getattr(torch, config.dtype)
        self.target = target.to(self.device, self.dtype)
        before = target.energy_calls, target.gradient_calls
        if anchors is not None and anchors.states.shape[1:] != target.space.shape:
            raise InputError(f"anchors: expected states [n, {target.space.dim}], got {list(anchors.states.shape)}")
        if target.has_log_prob and target.is_conditional and 2 * config.contexts_per_batch > config.batch_size:
            raise InputError(
                f"contexts_per_batch: expected at most half of batch_size = {config.batch_size}, so that there are two "
                f"trajectories of each, got {config.contexts_per_batch}"
            )
        if anchors is not None and (anchors.contexts is not None) != target.is_conditional:
            raise InputError("anchors: expected to have contexts for a conditional target, and only for one")
        if agent is None and not isinstance(target.space, Tokens):
            self.config = config = ranks.from_main(
                lambda: with_matched_grid(self.config, self.target, self._sigma, anchors)
            )
        found = (anchors.energy_calls, anchors.gradient_calls) if anchors is not None and ranks.main else (0, 0)
        self._calls_before = before[0] - found[0], before[1] - found[1]
        self._calls_elsewhere = 0, 0
        generation, destruction = self._objectives()
        self.agent = agent or self._build_agent(flow=any(one.needs_flow for one in (generation, destruction) if one))
        check_agent(self.agent, target)
        if self.agent.starts_from_samples and target.has_log_prob:
            raise InputError(
                f"target: expected a data set for an agent that starts from samples, such as Dataset.split(rows), but "
                f"{target.name!r} has a log density"
            )
        if self.agent.steps != config.steps:
            raise InputError(f"steps: expected {self.agent.steps} as the given agent has, got {config.steps}")
        self.agent.to(self.device, self.dtype)
        ranks.copy_from_main(self.agent.state_dict().values())
        for name, off in (("compile", False), ("chunk", None)):
            value = getattr(config, name)
            if value != off and not isinstance(self.agent, Agent):
                raise InputError(
                    f"{name}: expected {off} for a {type(self.agent).__name__}, which guesses the sample (it is for "
                    f"agents with Gaussian steps), got {value!r}"
                )
        if config.compile:
            check_compiler()
        self.agent.chunk = config.chunk
        decay = config.average_decay
        set_matmul_precision(self.agent, "float32")
        self.averaged = Average(self.agent, decay) if decay > 0 else None
        # Not of the averaged one: it is evaluated at any size, and exactly.
        self.agent.compiled, self.agent.cuda_graphs = config.compile, config.cuda_graphs
        set_matmul_precision(self.agent, config.matmul_precision)
        self.objective: JointLoss | RandomLevel
        if generation is None:
            target.require_sample("objective random_level")
            self.objective = RandomLevel(self.agent, ranks, proposal=self._proposal())
        else:
            self.objective = JointLoss(
                self.agent,
                generation,
                destruction,
                target_networks=config.target_networks if config.target_rate > 0 else "none",
                trunk=config.trunk,
                residual=config.residual,
                residual_bound=float("inf") if config.residual_bound is None else config.residual_bound,
                compile=config.compile,
                cuda_graphs=config.cuda_graphs,
                ranks=ranks,
            )
        self.target_update = (
            TargetUpdate(self.objective, tau=config.target_rate) if self.objective.use_targets else None
        )
        configs = {
            "generation": config.generation_optimiser,
            "destruction": config.destruction_optimiser,
            "log_z": config.log_z_optimiser,
            "flow": config.flow_optimiser,
        }
        single = config.single_optimiser
        self.optimisers = Optimisers(self.agent, configs, config.iterations, single=single, ranks=ranks)
        self.exploration = Exploration(**dataclasses.asdict(config.exploration))
        self.data = None
        if target.has_log_prob and config.path_cost is not None:
            raise InputError(f"path_cost: expected none for target {target.name!r}, whose density says what counts")
        if generation is None or not target.has_log_prob:  # single levels are those of samples
            cost = None if config.path_cost is None else import_attribute(config.path_cost, "path_cost")
            self.data = DataBatches(self.agent, self.target, self._share, self.objective, cost)
        self.new_paths = NewPaths(self.agent, self.target, self._share, self.objective)
        self.memory = Memory(self.agent, self.target, self._share, self._own(anchors), self.device)
        self.recording = self._recording()
        self.callbacks = list(callbacks)
        self.iteration = 0
        self.seconds = 0.0
        self.look_every = 1 if self.device.type == "cpu" else LOOK_EVERY
        self.stop_requested = False
        self._agreed_to_stop = False
        self._prepared = False
        if self.data is None:
            self._check_rows()
        if not ranks.main:
            torch.manual_seed(ranks.seed(config.seed))  # from here on noise of its own

    @property
    def _scale(self) -> float:
        """Typical length of the target: the configured one, or the target's own."""
        return self.target.scale if self.config.scale is None else self.config.scale

    @property
    def _sigma(self) -> float:
        """Diffusion rate: the configured one, or the scale."""
        return self._scale if self.config.agent.sigma is None else self.config.agent.sigma

    def _objectives(self) -> tuple[PathObjective | None, PathObjective | None]:
        """Those of generation and destruction; None for generation where it learns from single levels."""
        config = self.config
        assert config.objective is not None, "filled in by suited_config"
        if config.objective == RANDOM_LEVEL:
            return None, None
        generation = get_objective(config.objective, subtb_lambda=config.subtb_lambda)
        if config.destruction_objective is None:
            return generation, generation
        name = config.destruction_objective
        return generation, get_objective(name, "destruction_objective", subtb_lambda=config.subtb_lambda)

    def _proposal(self) -> TokenReference | None:
        """The reference whose levels are drawn in place of the agent's own; None for its own."""
        name = self.config.proposal
        return None if name is None else get_token_reference(name, self.target.space)

    def _build_agent(self, flow: bool) -> Policies:
        config = self.config
        assert config.steps is not None, "filled in by suited_config"
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            contexts = self.target.context_space
            settings: dict[str, Any] = {"steps": config.steps, "config": config.agent, "context_space": contexts}
            if isinstance(self.target.space, Tokens):
                return build_token_agent(self.target.space, **settings)
            if config.agent.reference in CONTINUOUS_REFERENCES:
                settings["image_shape"] = getattr(self.target, "image_shape", None)
                settings["samples"] = self._samples_to_destroy() if config.agent.reference in TRANSFORMS else None
                return build_point_agent(self.target.space, scale=self._scale, **settings)
            return build_agent(self.target.space, scale=self._scale, flow=flow, **settings)
        finally:
            torch.set_default_dtype(before)

    def _recording(self) -> Recording | None:
        """What rollouts compute, kept for the loss; None where a loss has to compute it (again)."""
        agent, config = self.agent, self.config
        anew = config.chunk is not None or config.cuda_graphs or config.replay.contents == "path"
        if self.data is not None or anew or self.objective.follows_paths or not Recording.suits(agent):
            return None
        return Recording.of_agent(cast(Agent, agent), self._share.batch_size)

    def _samples_to_destroy(self) -> torch.Tensor:
        """Samples whose law, destroyed, generation starts from; always the same ones, so that a run can be resumed."""
        with RandomStream(self.device, seed=0):
            return checked(self.target, self.target.sample(_DESTROYED))

    @property
    def evaluated_agent(self) -> Policies:
        """The agent to judge and to sample from: the averaged one, or the last where nothing is averaged.

        Its matrix products are in full precision; where those of the last one are not, it is a copy as of now.
        """
        if self.averaged is not None:
            return cast(Policies, self.averaged.module)
        if self.config.matmul_precision == "float32":
            return self.agent
        exact = copy.deepcopy(self.agent)
        set_matmul_precision(exact, "float32")
        return exact

    @property
    def replay(self) -> Replay:
        """The agent's own samples."""
        return self.memory.replay

    @property
    def anchors(self) -> Anchors | None:
        """The anchors: given, or found when the training is prepared; None for none."""
        return self.memory.anchors

    @anchors.setter
    def anchors(self, anchors: Anchors | None) -> None:
        self.memory.anchors = anchors

    @property
    def local_search(self) -> LocalSearch | None:
        """What moves remembered states, with its acceptance and its share of the calls; None for none."""
        return self.memory.local_search

    @property
    def skipped(self) -> int:
        """Updates left out because a loss or gradient was not finite; waits for the device."""
        return int(self.optimisers.skipped)

    @skipped.setter
    def skipped(self, count: int) -> None:
        self.optimisers.skipped.fill_(count)

    @property
    def energy_calls(self) -> int:
        """Single densities evaluated for this training so far, anchors included, over interruptions and ranks."""
        return self.target.energy_calls - self._calls_before[0] + self._calls_elsewhere[0]

    @property
    def gradient_calls(self) -> int:
        """Single gradients evaluated for this training so far, anchors included, over interruptions and ranks."""
        return self.target.gradient_calls - self._calls_before[1] + self._calls_elsewhere[1]

    # The loop -----------------------------------------------------------------------------------------------------

    def train(self, until: int | None = None) -> None:
        """Train until `until` iterations are done in all; by default to the end of the run.

        Ctrl-C, or a callback that sets `stop_requested`, ends the loop after the iteration under way; of several ranks
        one that asks for it stops all of them, after the one that follows.

        Raises:
            InputError: as `prepare` and `look`, and whatever callbacks raise.
        """
        until = self.config.iterations if until is None else min(until, self.config.iterations)
        self.stop_requested = self._agreed_to_stop = False
        self.prepare()
        begun = time.perf_counter() - self.seconds
        for callback in self.callbacks:
            callback.on_start(self)
        while self.iteration < until and not self._stopping:
            losses = self.step()
            self.iteration += 1
            self.seconds = time.perf_counter() - begun
            self._agree()
            if self.looks:
                self.look()
            for callback in self.callbacks:
                callback.on_iteration(self, losses)
        self.look()
        for callback in self.callbacks:
            callback.on_end(self)

    @property
    def looks(self) -> bool:
        """Whether the iteration just done is one after which the host looks."""
        return self.iteration % self.look_every == 0

    def look(self) -> None:
        """Wait for the device, and hear what was put off; `train` does so every `look_every` iterations and at its end.

        Raises:
            InputError: when the density or its gradient was not finite since the last look. No update was made of it,
                and none of it is remembered.
        """
        self.target.checks.look()

    @property
    def _stopping(self) -> bool:
        return self.stop_requested if self.ranks.size == 1 else self._agreed_to_stop

    def _agree(self) -> None:
        """Tell the other ranks whether to stop, and the calls made here."""
        if self.ranks.size == 1:
            return
        own = self.target.energy_calls - self._calls_before[0], self.target.gradient_calls - self._calls_before[1]
        stops, *calls = self.ranks.totals(int(self.stop_requested), *own)
        self._agreed_to_stop = stops > 0
        self._calls_elsewhere = calls[0] - own[0], calls[1] - own[1]

    def _own(self, anchors: Anchors | None) -> Anchors | None:
        """This rank's part of the anchors."""
        return None if anchors is None else anchors.shard(self.ranks.rank, of=self.ranks.size)

    def prepare(self) -> None:
        """Search for anchors, which say how far steps may lead, and start log Z from the estimate of a first batch.

        `train` does it first.

        Raises:
            InputError: when the density is zero wherever it was looked at, and whatever the density raises.
        """
        if self._prepared:
            return
        if self.data is not None:  # nothing to search for, and no log Z
            self._prepared = True
            return
        begun = time.perf_counter()
        config = self.config
        if self.anchors is None and config.replay.share > 0 and config.anchors.share:
            where = {"device": self.device, "dtype": self.dtype}
            self.anchors = self._own(
                self.ranks.from_main(lambda: find_anchors(self.target, config.anchors, self._sigma, **where))
            )
        self._hold_means()
        with torch.no_grad():
            context = self.new_paths.contexts(self._share.batch_size)
            paths = self.new_paths.collect(self._share.batch_size, context=context)
            inside = paths["log_reward"] > config.log_reward_floor
            paths["log_reward"] *= self.exploration.inverse_temperature_at(0.0)
            inside, log_ratio = self.ranks.gather_rows([inside, self.agent.log_ratio(paths)], even=True)
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
        self._agree()
        self.seconds += time.perf_counter() - begun

    def _hold_means(self) -> None:
        """No mean leads farther out than some times the anchors' extent, or the spread of the reference's samples."""
        factor = self.config.agent.reach
        if factor is None or self.anchors is None or not isinstance(self.agent, Agent):
            return
        extent = self.agent.space.coordinates(self.anchors.states).abs().amax(0)
        (extents,) = self.ranks.gather_rows([extent.unsqueeze(0)], even=True)  # each has anchors of its own
        bound = factor * extents.amax(0).clamp_min(self._sigma)
        agents = [self.agent, *([] if self.averaged is None else [cast(Agent, self.averaged.module)])]
        if isinstance(self.objective, JointLoss) and self.objective.use_targets:
            agents.append(cast(Agent, self.objective.target_agent))
        for agent in agents:
            agent.hold_means(bound)

    def step(self) -> TensorDict:
        """One iteration; returns the losses, and the log-ratios that became priorities.

        It does not wait for the device, where `look_every` is more than 1: whoever calls it is to `look` now and then.
        """
        with self.target.checks.deferring(self.look_every > 1):
            return self._step(self.iteration / self.config.iterations)

    def _step(self, progress: float) -> TensorDict:
        if self.data is None:
            mixed = self._mix(progress)
            batch, places = mixed.batch, mixed.places
        else:
            mixed, batch, places = None, self.data.draw(), self.data.places
        if self.config.residual_bound is not None:
            # Robust while policies are coarse; the plain squares, which make both bounds tight, at the end.
            self.objective.residual_bound = self.config.residual_bound / math.sqrt(max(1e-9, 1.0 - progress))
        losses = self.objective(batch) if places is None else self.objective(batch, places, self.recording)
        total = losses["loss_generation"] + losses["loss_destruction"] + losses["loss_log_z"] + losses["loss_flow"]
        self.optimisers.step(total)
        # These follow after an update that was left out, too: only the device knows whether it was.
        if self.target_update is not None:
            self.target_update.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.agent)
        if mixed is not None:
            self._remember(mixed, losses["log_ratio"], progress)
        return losses.detach()

    def _mix(self, progress: float) -> "_Mixed":
        """A batch of new paths and remembered ones.

        A loss that compares log-ratios within a batch then sees the gap between generated and destroyed paths, which
        separate batches would hide from it.
        """
        own, anchored = self.memory.counts()
        count = self._share.batch_size - own - anchored
        widening = self.exploration.widening_at(progress)
        recording = None if self.recording is None else self.recording.rows(0, count)
        if self.target.is_conditional:  # new paths go to the contexts of remembered ones, so these are drawn first
            drawn = self.memory.draw(own, anchored)
            new = self.new_paths.generate(count, widening, self.new_paths.contexts(count, drawn.contexts), recording)
        else:
            new = self.new_paths.generate(count, widening, recording=recording)
            drawn = self.memory.draw(own, anchored)
        recording = None if self.recording is None else self.recording.rows(count, self._share.batch_size)
        batch = cat_trajectories([new, *self.memory.trajectories(drawn, recording)])
        if self.config.replay.beta > 0 and (drawn.own is not None or self.ranks.size > 1):
            # Of several ranks one may remember something before another does: then both have weights.
            weight = torch.ones(len(batch), device=self.device)
            if drawn.own is not None:
                weight[count : count + own] = drawn.own["weight"]
            batch["weight"] = weight
        # The memory keeps the target itself; only the loss, and the priorities made of it, see the tempered one.
        inverse_temperature = self.exploration.inverse_temperature_at(progress)
        batch["log_reward"] = batch["log_reward"] * inverse_temperature
        if self.objective.needs_log_density:
            inner = batch["state"][:, 1:-1].detach()
            between = self.target(inner, batch.get("context", None)).detach()  # [B, T-1]
            batch["log_density"] = between.clamp_min(self.config.log_reward_floor) * inverse_temperature
        return _Mixed(batch, new, drawn, self._places(new, drawn, widening))

    def _places(self, new: TensorDict, drawn: Remembered, widening: Widening) -> dict[Rows, slice]:
        """Where in a batch the rows of each kind lie, which objectives may learn from alone."""
        stored = len(drawn.own) if drawn.own is not None and self.config.replay.contents == "path" else 0
        on_policy = self.new_paths.on_policy_rows(len(new), widening)
        return {"any": slice(None), "on_policy": slice(on_policy), "destroyed": slice(len(new) + stored, None)}

    def _remember(self, mixed: "_Mixed", log_ratio: torch.Tensor, progress: float) -> None:
        """New paths and new priorities go into the memory, whose states are moved now and then."""
        count = len(mixed.new)
        log_ratio = self.memory.comparable(log_ratio, mixed.batch.get("context", None))
        if mixed.drawn.own is not None:
            self.replay.update(mixed.drawn.own["index"], log_ratio[count : count + len(mixed.drawn.own)])
        if self.config.replay.share > 0:
            self.memory.remember(mixed.new, log_ratio[:count])
        if self.local_search is not None and (self.iteration + 1) % self.config.local_search.every == 0:
            self.memory.search(self.exploration.inverse_temperature_at(progress))

    def _check_rows(self) -> None:
        """Raise an InputError where the settings leave an objective without rows that it may learn from."""
        config = self._share
        remembered, anchored = self.memory.most_rows, config.anchors.share or 0.0
        if config.reward_path == "redrawn" and (
            config.objective != "reverse_kl_log_derivative" or self.agent.destruction.learned
        ):
            raise InputError(
                "reward_path: redrawn is for reverse_kl_log_derivative, and a destruction that has nothing to learn; "
                f"expected followed with {config.objective}"
            )
        on_policy = self.new_paths.on_policy_rows(config.batch_size - remembered, self.exploration.widening_at(0.0))
        destroyed = remembered if config.replay.contents == "terminal" else round(remembered * anchored)
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
                    f"{anchored:g}; expected anchors, exact samples or terminal states in every batch"
                )

    # Save and restore ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs, as nested dicts of tensors, numbers and None.

        Of several ranks all must call it, and the state is whole on the first one.

        Raises:
            InputError: as `look`, so that nothing bad is saved.
        """
        self.look()
        state = {
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
        if self.ranks.size > 1:
            state["other_ranks"] = self.ranks.to_main({name: on_cpu(state[name]) for name in SHARDED})[1:]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        With as many ranks as it was saved with, the continuation is bit for bit the same; with another number, what was
        remembered is split anew, and the noise is other noise.

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
            shards = [{name: state[name] for name in SHARDED}, *state.get("other_ranks", [])]
            same = len(shards) == self.ranks.size
            own = shards[self.ranks.rank] if same else shards[0]
            of_ranks = [shard["anchors"] for shard in ([own] if same else shards) if shard["anchors"] is not None]
            anchors = [Anchors.from_state_dict(saved, self.device) for saved in of_ranks]
            if same:
                self.replay.load_state_dict(own["replay"])
                self.anchors = anchors[0] if anchors else None
            else:
                self.replay.load_shard([shard["replay"] for shard in shards], self.ranks.rank, of=self.ranks.size)
                self.anchors = self._own(Anchors.joined(anchors)) if anchors else None
            if self.local_search is not None:
                self.local_search.load_state_dict(own["local_search"])
            counters = state["counters"]
            self.iteration, self.seconds, self.skipped = (counters[k] for k in ("iteration", "seconds", "skipped"))
            calls = (counters["energy_calls"], counters["gradient_calls"]) if self.ranks.main else (0, 0)
            self._calls_before = self.target.energy_calls - calls[0], self.target.gradient_calls - calls[1]
            self._calls_elsewhere = 0, 0  # all that was saved is counted by the first rank
            self._prepared = counters["prepared"]
            if same:
                torch.set_rng_state(own["random"]["torch"].cpu())
                if self.device.type == "cuda" and own["random"]["cuda"] is not None:
                    torch.cuda.set_rng_state(own["random"]["cuda"].cpu(), self.device)
            else:
                torch.manual_seed(self.ranks.seed(self.config.seed, self.iteration))
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            reason = str(error).split("\n")[0]
            raise InputError(
                f"checkpoint: does not fit this configuration ({type(error).__name__}: {reason})"
            ) from error


class _Mixed(NamedTuple):
    """A batch of a training on a density, and what it was made of: new paths first, then the agent's own, anchors.

    `places` says where the rows of each kind lie; None leaves it to the loss to look for them by their `origin`.
    """

    batch: TensorDict
    new: TensorDict
    drawn: Remembered
    places: Mapping[Rows, slice] | None = None


def on_cpu(value: Any) -> Any:
    """Nested dicts with their tensors on the CPU, where another process can read them."""
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    return value.cpu() if isinstance(value, torch.Tensor) else value


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
