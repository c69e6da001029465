"""Many small runs at once: runs of one target that differ in their seed and a few numbers, trained in one process.

A small network does not fill a processor, and least of all a GPU, whose time goes into being told what to do. Here the
parameters of S runs are one matrix, and rollouts, losses, gradients, updates, target networks and averages are each
computed once for all of them (`torch.vmap` over parameters and rows; the density is asked once about the rows of all).
Random numbers, memories, anchors, numbers and checkpoints are each run's own: run k of many is the run alone with its
seed, to rounding, and its folder is like any other.
"""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ..agents.agent import Agent
from ..envs.errors import InputError
from ..envs.target import Target
from .config import OPTIMISERS, TrainConfig
from .many_batches import ManyBatches
from .objectives.joint_loss import JointLoss
from .random_stream import RandomStream
from .run_folder import flatten
from .shared_density import SharedDensity
from .stacked_parameters import StackedParameters
from .trainer import Trainer

__all__ = ["ManyRuns"]

MAY_DIFFER = (  # settings, and tables of them, that change neither shapes nor the rule of the update
    *("seed", "agent.time_grid_power", "exploration", "replay", "anchors", "local_search", *OPTIMISERS),
    *("log_every", "checkpoint_every", "evaluation_samples"),
)
MUST_AGREE = ("replay.capacity", "replay.contents", "exploration.drift")


class ManyRuns:
    """Trains several runs of one target together (module docstring).

    Args:
        target: a log density, not conditional, of numbers. Each run gets it with call counters of its own.
        configs: the settings of each run. They may differ in the seed, the power of the time grid, exploration, replay,
            anchors, local search, rates and clipping of the optimisers, and in what is logged and saved when; not in
            what decides on shapes (`replay.capacity`, `replay.contents`) or on how often the gradient is asked for
            (`exploration.drift`).
        states: what `Trainer.state_dict` gave of each run, to go on from; all after the same number of iterations.

    Attributes:
        trainers: the runs, with their agents, averages, memories, counters and `callbacks`, to which the caller adds.
            `seconds` is each run's share: what the loop took, divided by the number of runs.
        iteration: iterations done.

    Raises:
        InputError: for no configuration, for settings that differ and may not, that do not suit runs in common, and
            whatever `Trainer` raises.

    Example:
        >>> from ebbflow.envs import get_target
        >>> settings = {"iterations": 3, "batch_size": 8, "anchors": {"count": 50}, "agent": {"time_grid_power": 2.0}}
        >>> configs = [TrainConfig.from_dict({**settings, "seed": seed}) for seed in range(4)]
        >>> runs = ManyRuns(get_target("gmm25"), configs)
        >>> runs.train()
        >>> [trainer.iteration for trainer in runs.trainers]
        [3, 3, 3, 3]
        >>> len({trainer.agent.log_z.item() for trainer in runs.trainers})  # each has its own
        4
    """

    def __init__(
        self, target: Target, configs: Sequence[TrainConfig], *, states: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        if not configs:
            raise InputError("configs: expected the settings of at least one run, got none")
        _check_target(target)
        _check_alike(configs)
        self.trainers: list[Trainer] = []
        self.streams: list[RandomStream] = []
        for k, config in enumerate(configs):
            trainer = Trainer(target.counted_apart(), config)
            if states is not None:
                trainer.load_state_dict(dict(states[k]))
            self.trainers.append(trainer)
            self.streams.append(RandomStream(trainer.device))  # from here on noise of its own
        self.iteration = self.trainers[0].iteration
        self._check_trainers()
        first = self.trainers[0]
        self.parameters = StackedParameters(self.trainers)
        density = SharedDensity(first.target.counted_apart(), [trainer.target for trainer in self.trainers])
        assert isinstance(first.objective, JointLoss)
        self._objective = copy.deepcopy(first.objective)  # whose own parameters are never used
        self.batches = ManyBatches(self.trainers, self.streams, self.parameters, density)

    def _check_trainers(self) -> None:
        first = self.trainers[0]
        if not isinstance(first.agent, Agent):
            raise InputError(
                f"agent.reference: expected one of Gaussian steps for runs in common, got "
                f"{first.config.agent.reference!r}"
            )
        for policy, objective in first.objective.objectives.items():
            if objective.rows != "any" or objective.follows_paths:
                field = "objective" if policy == "generation" else "destruction_objective"
                raise InputError(
                    f"{field}: expected one that learns from any rows for runs in common, such as vargrad, got "
                    f"{getattr(first.config, field) or first.config.objective}"
                )
        for name in ("iteration", "agent.reference.initial_std"):
            values = {_attribute(trainer, name) for trainer in self.trainers}
            if len(values) > 1:
                raise InputError(f"{name}: expected the same in runs in common, got {sorted(values)}")

    # The loop -----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Prepare every run, as `Trainer.prepare`; `train` does it first.

        Raises:
            InputError: as `Trainer.prepare`.
        """
        for trainer, stream in zip(self.trainers, self.streams, strict=True):
            with stream:
                trainer.prepare()

    def train(self, until: int | None = None) -> None:
        """Train until `until` iterations are done in all; by default to the end of the runs.

        Ctrl-C, or a callback of any run that sets its `stop_requested`, ends the loop after the iteration under way.
        """
        last = self.trainers[0].config.iterations
        until = last if until is None else min(until, last)
        for trainer in self.trainers:
            trainer.stop_requested = False
        self.prepare()
        before = [trainer.seconds for trainer in self.trainers]
        self._call("on_start")
        begun = time.perf_counter()
        while self.iteration < until and not any(trainer.stop_requested for trainer in self.trainers):
            losses = self.step()
            self.iteration += 1
            share = (time.perf_counter() - begun) / len(self.trainers)
            for trainer, seconds in zip(self.trainers, before, strict=True):
                trainer.iteration = self.iteration
                trainer.seconds = seconds + share
            if self.trainers[0].looks:
                self.trainers[0].look()
            self._call("on_iteration", losses)
        self.trainers[0].look()
        self._call("on_end")

    def _call(self, hook: str, losses: TensorDict | None = None) -> None:
        own = [()] * len(self.trainers) if losses is None else [(one,) for one in losses.unbind(0)]
        for trainer, stream, given in zip(self.trainers, self.streams, own, strict=True):
            if not trainer.callbacks:
                continue
            with stream:
                for callback in trainer.callbacks:
                    try:
                        getattr(callback, hook)(trainer, *given)
                    except InputError as error:
                        raise InputError(f"seed {trainer.config.seed}: {error}") from error

    def step(self) -> TensorDict:
        """One iteration of every run; returns the losses and log-ratios of all, batch size `[S]`.

        Like `Trainer.step` it does not wait for the device where `look_every` of the first run is more than 1.
        """
        first = self.trainers[0]
        with first.target.checks.deferring(first.look_every > 1):  # those of the targets of all
            return self._step(first)

    def _step(self, first: Trainer) -> TensorDict:
        progress = self.iteration / first.config.iterations
        mixed = self.batches.mix(progress)
        if first.config.residual_bound is not None:  # as in Trainer.step
            for trainer in self.trainers:
                trainer.objective.residual_bound = first.config.residual_bound / math.sqrt(max(1e-9, 1.0 - progress))
        losses = self._losses(mixed.batch)
        total = losses["loss_generation"] + losses["loss_destruction"] + losses["loss_log_z"] + losses["loss_flow"]
        self.parameters.step(total)
        self.batches.remember(mixed, losses["log_ratio"].detach(), progress)
        return TensorDict({name: value.detach() for name, value in losses.items()}, batch_size=[len(self.trainers)])

    def _losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        objective = self._objective
        objective.residual_bound = self.trainers[0].objective.residual_bound

        def losses_of(online: Any, lagging: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            paths = TensorDict(batch, batch_size=batch["log_reward"].shape)
            own = TensorDict(online), None if lagging is None else TensorDict(lagging)
            return dict(objective.with_parameters(paths, *own).items())

        return torch.vmap(losses_of, in_dims=(0, None if self.parameters.lagging is None else 0, 0))(
            self.parameters.online, self.parameters.lagging, batch
        )


def _check_target(target: Target) -> None:
    target.require_log_prob("training many runs in common")
    if target.is_conditional:
        raise InputError(f"target: expected one without contexts for runs in common, got {target.name!r}")


def _check_alike(configs: Sequence[TrainConfig]) -> None:
    """Raise an InputError for the first setting that runs in common cannot have, or cannot differ in."""
    first = configs[0]
    for name, wanted in (("compile", False), ("chunk", None), ("matmul_precision", "float32")):
        if getattr(first, name) != wanted:
            raise InputError(f"{name}: expected {wanted!r} for runs in common, got {getattr(first, name)!r}")
    settings = [flatten(config.to_dict()) for config in configs]
    for name, value in settings[0].items():
        may = any(name == one or name.startswith(f"{one}.") for one in MAY_DIFFER) and name not in MUST_AGREE
        # How long there is a drift is how often the gradient is asked for.
        may = may and (name != "exploration.until" or first.exploration.drift == 0.0)
        for other in settings[1:]:
            if not may and other[name] != value:
                raise InputError(f"{name}: expected the same in runs in common, got {value!r} and {other[name]!r}")


def _attribute(owner: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        owner = getattr(owner, name)
    return owner
