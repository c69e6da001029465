"""The batches of several runs, made at once: new paths, remembered rows, and their way back into the memories.

Random numbers are each run's own, drawn in the order in which the run alone would draw them: the noise of new paths,
the rows of its memory, the noise of their destruction. Everything else is done once for all runs. Runs may differ in
how many rows of a batch are new (`replay.share`, or a memory that is still empty): their rollouts are then as long as
the longest, filled up with states that are thrown away, and that no density is asked about.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from ..agents.agent import Agent
from ..agents.rollout import rollout_destruction, rollout_generation
from ..buffers.many_anchors import ManyAnchors
from ..buffers.many_replays import ManyReplays
from .random_stream import RandomStream
from .shared_density import SharedDensity
from .stacked_parameters import StackedParameters
from .trainer import Trainer

__all__ = ["ManyBatches", "ManyMixed"]


class ManyMixed(NamedTuple):
    """Batches of all runs, and what they were made of.

    Attributes:
        batch: the columns of the batches, each `[S, B, ...]`: new paths first, then the agent's own, then anchors.
        state: of the new paths, what is remembered, `[S, n, ...]`; the first of each run's are any.
        log_reward: of the new paths, `[S, n]`.
        new, own: how many rows of each run's batch are new, and the agent's own.
        place: where the latter lie in the memories, see `ManyReplays`; one tensor for each run.
    """

    batch: dict[str, Tensor]
    state: Tensor
    log_reward: Tensor
    new: list[int]
    own: list[int]
    place: list[Tensor]


class ManyBatches:
    """Makes the batches of several runs, and remembers (module docstring).

    Args:
        trainers: the runs; they agree in all that has to do with shapes.
        streams: the random numbers of each.
        parameters: of all.
        density: of all.

    Example:
        >>> from ebbflow.envs import get_target
        >>> from ebbflow.trainers import TrainConfig
        >>> from ebbflow.trainers.many_runs import ManyRuns
        >>> settings = {"agent": {"time_grid_power": 2.0}, "anchors": {"share": 0.0}, "batch_size": 8}
        >>> configs = [TrainConfig.from_dict({**settings, "seed": seed}) for seed in range(3)]
        >>> runs = ManyRuns(get_target("gmm25"), configs)
        >>> runs.batches.mix(0.0).batch["state"].shape
        torch.Size([3, 8, 6, 2])
    """

    def __init__(
        self,
        trainers: Sequence[Trainer],
        streams: Sequence[RandomStream],
        parameters: StackedParameters,
        density: SharedDensity,
    ) -> None:
        self.trainers = list(trainers)
        self.streams = list(streams)
        self.parameters = parameters
        self.density = density
        self.replays = ManyReplays([trainer.replay for trainer in self.trainers])
        first = self.trainers[0]
        assert isinstance(first.agent, Agent)
        self.agent = copy.deepcopy(first.agent)  # whose own parameters are never used
        self.config, self.device, self.dtype = first.config, first.device, first.dtype
        self.anchors = ManyAnchors()
        self._counts: tuple[tuple[int, ...], tuple[int, ...]] = (), ()
        self._places = torch.zeros(0, dtype=torch.long, device=self.device)
        self.as_paths = first.config.replay.contents == "path"

    def mix(self, progress: float) -> ManyMixed:
        """A batch of new paths and remembered ones for every run, as `Trainer` mixes its own."""
        counts = [trainer.memory.counts() for trainer in self.trainers]
        own, anchored = [n for n, _ in counts], [n for _, n in counts]
        new = [self.config.batch_size - a - b for a, b in counts]
        destroyed = anchored if self.as_paths else [a + b for a, b in counts]
        steps, dim, total = self.agent.steps, self.agent.space.dim, len(self.trainers)
        where: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        start = torch.zeros(total, 1 if self.agent.starts_alike else max(new), dim, **where)
        noise = torch.zeros(total, steps, max(new), dim, **where)
        noise_back = torch.zeros(total, steps, max(destroyed), dim, **where)
        uniform, picked = [], []
        for s, (trainer, stream) in enumerate(zip(self.trainers, self.streams, strict=True)):
            generator = stream.generator
            if not self.agent.starts_alike:
                with stream:
                    start[s, : new[s]] = trainer.agent.initial_state(new[s])  # type: ignore[operator]
            for k in range(steps):
                noise[s, k, : new[s]].normal_(generator=generator)
            uniform.append(torch.rand(own[s], dtype=torch.float64, device=self.device, generator=generator))
            size = 1 if trainer.anchors is None else len(trainer.anchors)
            picked.append(torch.randint(size, (anchored[s],), device=self.device, generator=generator))
            if destroyed[s]:
                for k in range(steps):
                    noise_back[s, k, : destroyed[s]].normal_(generator=generator)

        parts, lengths = [self._generated(start, noise, new, progress)], [new]
        log_reward, state = parts[0]["log_reward"], parts[0]["state"]
        place, weight = self.replays.draw(uniform)
        if self.as_paths and max(own):
            rows = self._remembered(place)
            if self.agent.needs_score:
                self.density.valid = self._valid(own)
                rows["score"] = self.density.of_runs_with_scores(rows["state"])[1]
            parts.append(rows)
            lengths.append(own)
        if max(destroyed):
            terminal = self._terminal([] if self.as_paths else place, picked)
            parts.append(self._destroyed(terminal, noise_back, destroyed))
            lengths.append(destroyed)
        batch = self._joined(parts, lengths)
        if any(trainer.config.replay.beta > 0 for trainer in self.trainers) and max(own):
            batch["weight"] = torch.ones(total, self.config.batch_size, device=self.device)
            for s, values in enumerate(weight):
                if self.trainers[s].config.replay.beta > 0:
                    batch["weight"][s, new[s] : new[s] + own[s]] = values
        tempering = [trainer.exploration.inverse_temperature_at(progress) for trainer in self.trainers]
        beta: float | Tensor = tempering[0]
        if len(set(tempering)) > 1:
            beta = self._on_device(tempering, self.dtype)[:, None]
        batch["log_reward"] = batch["log_reward"] * beta
        if self.trainers[0].objective.needs_log_density:
            self.density.valid = None
            between = self.density.of_runs(batch["state"][:, :, 1:-1]).clamp_min(self.config.log_reward_floor)
            batch["log_density"] = between * (beta[..., None] if isinstance(beta, Tensor) else beta)  # [S, B, T-1]
        return ManyMixed(batch, state if self.as_paths else state[:, :, -1], log_reward, new, own, place)

    def remember(self, mixed: ManyMixed, log_ratio: Tensor, progress: float) -> None:
        """New paths and new priorities, of log-ratios `[S, B]`, go into the memories; local search is each run's."""
        if any(mixed.own):
            values = [ratio[n : n + k] for ratio, n, k in zip(log_ratio, mixed.new, mixed.own, strict=True)]
            self.replays.update(torch.cat(mixed.place), torch.cat(values))
        inside = mixed.log_reward > self.config.log_reward_floor
        log_reward = torch.where(inside, mixed.log_reward, -torch.inf)
        counts = [
            n if trainer.config.replay.share > 0 else 0 for n, trainer in zip(mixed.new, self.trainers, strict=True)
        ]
        if any(counts):
            self.replays.write(mixed.state, log_reward, log_ratio[:, : mixed.state.shape[1]], counts)
        for trainer, stream in zip(self.trainers, self.streams, strict=True):
            if trainer.local_search is not None and (trainer.iteration + 1) % trainer.config.local_search.every == 0:
                with stream:
                    trainer.memory.search(trainer.exploration.inverse_temperature_at(progress))

    # Parts of a batch ---------------------------------------------------------------------------------------------

    def _generated(self, start: Tensor, noise: Tensor, counts: list[int], progress: float) -> dict[str, Tensor]:
        widenings = [trainer.exploration.widening_at(progress) for trainer in self.trainers]
        drift = widenings[0].drift
        scale = self._on_device([w.scale for w in widenings], self.dtype)
        added = self._on_device([w.added for w in widenings], self.dtype)
        alike = len(set(widenings)) == 1

        def generate(parameters: Any, start: Tensor, noise: Tensor, scale: Any, added: Any) -> dict[str, Tensor]:
            with TensorDict(parameters).to_module(self.agent):
                return dict(
                    rollout_generation(
                        self.agent,
                        noise.shape[1],
                        self.density,
                        start=start,
                        noise=noise,
                        scale=widenings[0].scale if alike else scale,
                        added=widenings[0].added if alike else added,
                        drift=drift,
                    ).items()
                )

        self.density.valid = self._valid(counts)
        with torch.no_grad():
            paths = torch.vmap(generate)(self.parameters.online, start, noise, scale, added)
        paths["log_reward"] = paths["log_reward"].clamp_min(self.config.log_reward_floor)
        return paths

    def _destroyed(self, terminal: dict[str, Tensor], noise: Tensor, counts: list[int]) -> dict[str, Tensor]:
        def destroy(parameters: Any, state: Tensor, log_reward: Tensor, noise: Tensor) -> dict[str, Tensor]:
            with TensorDict(parameters).to_module(self.agent):
                return dict(rollout_destruction(self.agent, state, self.density, log_reward, noise=noise).items())

        self.density.valid = self._valid(counts)
        with torch.no_grad():
            return torch.vmap(destroy)(self.parameters.online, terminal["state"], terminal["log_reward"], noise)

    def _remembered(self, place: Sequence[Tensor]) -> dict[str, Tensor]:
        """Rows of the memories at these places, as long as the longest."""
        return self._own_rows(_padded(place))

    def _own_rows(self, place: Tensor) -> dict[str, Tensor]:
        flat = self.replays.columns.flatten(0, 1)
        floor = self.config.log_reward_floor  # as in Memory
        return {"state": flat["state"][place], "log_reward": flat["log_reward"][place].clamp_min(floor)}

    def _terminal(self, place: Sequence[Tensor], picked: Sequence[Tensor]) -> dict[str, Tensor]:
        """States to be destroyed: the agent's own and then anchors, as long as the longest."""
        parts = []
        if any(map(len, place)):
            parts.append(self._own_rows(torch.cat(list(place))))
        if any(map(len, picked)):
            parts.append(self.anchors.rows([trainer.anchors for trainer in self.trainers], picked))
        rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = self._order(tuple(map(len, place)) or (0,) * len(picked), tuple(map(len, picked)))
        return {name: column[order] for name, column in rows.items()}

    def _order(self, own: tuple[int, ...], anchored: tuple[int, ...]) -> Tensor:
        """Where the rows of each run lie when all own ones are followed by all anchors, as long as the longest."""
        if (own, anchored) != self._counts:
            numbers = torch.arange(sum(own) + sum(anchored), device=self.device)
            split = numbers.split([*own, *anchored])
            rows = [torch.cat([split[s], split[s + len(own)]]) for s in range(len(own))]
            self._counts, self._places = (own, anchored), _padded(rows)
        return self._places

    def _joined(self, parts: Sequence[dict[str, Tensor]], lengths: Sequence[list[int]]) -> dict[str, Tensor]:
        """The rows of all parts that are any, `[S, B, ...]`."""
        joined = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
        if all(len(set(counts)) == 1 for counts in lengths):
            return joined
        valid = torch.cat([self._mask(counts) for counts in lengths], dim=1)  # [S, rows], B of them for each run
        places = valid.flatten().nonzero().squeeze(-1).to(self.device, non_blocking=True)
        size = len(self.trainers), self.config.batch_size
        return {name: values.flatten(0, 1)[places].unflatten(0, size) for name, values in joined.items()}

    def _valid(self, counts: list[int]) -> Tensor | None:
        return None if len(set(counts)) == 1 else self._mask(counts)

    def _mask(self, counts: list[int]) -> Tensor:
        """Which rows are any, `[S, largest]`, on the host."""
        return torch.arange(max(counts)) < torch.tensor(counts)[:, None]

    def _on_device(self, numbers: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(numbers, dtype=dtype).to(self.device, non_blocking=True)


def _padded(index: Sequence[Tensor]) -> Tensor:
    """Indices of each run, filled up with zeros to the longest: `[S, largest]`."""
    return torch.nn.utils.rnn.pad_sequence(list(index), batch_first=True)
