"""What one of two gloo processes does for `test_ranks.py`: `python two_ranks.py RANK FOLDER`.

The folder holds `cases.json`, and gets `RANK.json` with what was found.
"""

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from test_iteration_counts import Waits
from torch import distributed

from ebbflow.envs import Target, Tokens, get_target
from ebbflow.trainers.callbacks import Callback
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.objectives import random_level
from ebbflow.trainers.objectives.random_level import RandomLevel
from ebbflow.trainers.ranks import Ranks
from ebbflow.trainers.trainer import Trainer

SIZE = 2


class Numbers(Target):
    """Samples of a Gaussian, without a density."""

    def sample(self, n):
        return torch.randn(n, 2, dtype=torch.float64)


class Words(Target):
    """Random words."""

    def sample(self, n):
        return torch.randint(2, (n, 3))


def target_of(name: str) -> Target:
    if name == "numbers":
        return Numbers(get_target("gmm25").space)
    return Words(Tokens(length=3, vocabulary=2)) if name == "words" else get_target(name)


def config_of(settings: dict[str, Any], target: str, changes: dict[str, Any]) -> TrainConfig:
    values = deepcopy(settings) | {"dtype": "float64", "generation_optimiser": {"warmup": 0}}
    if target in ("numbers", "words"):
        values |= {"objective": None, "agent": {"width": 8, "depth": 1}}
        values |= {"exploration": {}, "replay": {}, "anchors": {}}  # of data there are none
        if target == "words":
            values["steps"] = None
    for name, value in changes.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return TrainConfig.from_dict(values)


def rows_of(batch: Any, rank: int) -> Any:
    n = len(batch) // SIZE
    return batch[rank * n : (rank + 1) * n]


def share_batches(joint: Trainer, alone: Trainer) -> None:
    """Let the joint trainer make the same batch of the same noise as the one alone, and take its own rows of it."""
    joint._share = joint.new_paths.config = joint.config
    joint.memory = alone.memory
    joint.recording = None  # which would be of all rows
    mix, rank = joint._mix, joint.ranks.rank
    joint._mix = lambda progress: (mixed := mix(progress))._replace(batch=rows_of(mixed.batch, rank), places=None)
    joint._remember = lambda *_: None
    if joint.data is not None:
        type(joint.data).places = None  # rows of each kind lie elsewhere than it knows
        draw = joint.data.draw
        joint.data.config, joint.data.generated = joint.config, alone.data.generated
        joint.data.draw = lambda: rows_of(draw(), rank)
    if isinstance(joint.objective, RandomLevel):  # draws the levels itself: of all rows, to take the losses of its own
        joint.data.draw = draw
        whole = random_level.random_level_losses

        def own(agent, x, proposal=None):
            losses = whole(agent, x)
            return rows_of(losses, rank) if agent is joint.objective.agent else losses

        random_level.random_level_losses = own


def largest_difference(one: Any, other: Any) -> float:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((largest_difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        return max((largest_difference(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, torch.Tensor):
        assert one.shape == other.shape
        return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    if isinstance(one, float):
        return 0.0 if one == other or (one != one and other != other) else abs(one - other)
    assert one == other, (one, other)
    return 0.0


def learned(trainer: Trainer) -> dict[str, Any]:
    state = trainer.state_dict()
    return {name: state[name] for name in ("agent", "averaged", "target_networks", "optimisers")}


def compare_with_one(config: TrainConfig, target: str, ranks: Ranks) -> dict[str, float]:
    """Differences, after three iterations, between a process alone and a rank of two with the same noise."""
    alone = Trainer(target_of(target), config)
    alone.prepare()
    joint = Trainer(target_of(target), config, ranks=ranks)
    start = deepcopy(learned(alone))
    joint.agent.load_state_dict(start["agent"])
    if joint.objective.use_targets:
        joint.objective.target_agent_params.data.update_(alone.objective.target_agent_params.data)
    share_batches(joint, alone)
    torch.manual_seed(0)  # on both ranks, whose noise would be each its own
    found = {"loss": 0.0, "log_ratio": 0.0}
    for _ in range(3):
        noise = torch.get_rng_state()
        there = joint.step()
        joint.iteration += 1
        torch.set_rng_state(noise)
        here = alone.step()
        alone.iteration += 1
        own = rows_of(here.pop("log_ratio"), ranks.rank)
        found["log_ratio"] = max(found["log_ratio"], largest_difference(own, there.pop("log_ratio")))
        found["loss"] = max(found["loss"], largest_difference(here.to_dict(), there.to_dict()))
    after = learned(alone)
    found["learned"] = largest_difference(after, learned(joint))
    found["moved"] = largest_difference(start["agent"], after["agent"])
    found["skipped"] = alone.skipped + joint.skipped
    return found


def skip_together(config: TrainConfig, ranks: Ranks) -> dict[str, Any]:
    """Whether a number that is not finite on the second rank alone keeps both from an update."""
    trainer = Trainer(target_of("gmm25"), config, ranks=ranks)
    trainer.prepare()
    mix = trainer._mix

    def broken(progress):
        mixed = mix(progress)
        if not ranks.main:
            mixed.batch["log_reward"][0] = torch.nan
        return mixed

    before = deepcopy(trainer.agent.state_dict())
    trainer._mix = broken
    trainer.step()
    return {"skipped": trainer.skipped, "moved": largest_difference(before, trainer.agent.state_dict())}


def waits_of_an_iteration(config: TrainConfig, ranks: Ranks) -> list[str]:
    """What the host would wait for a device for, were the tensors on one."""
    trainer = Trainer(target_of("gmm25"), config, ranks=ranks)
    trainer.look_every = 50
    trainer.train(2)
    with Waits([] if trainer.averaged is None else [trainer.averaged.n_averaged]) as waits:
        trainer.step()
    return waits.names


class StopAt(Callback):
    """Asks for a stop after an iteration, on one rank alone."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_iteration(self, trainer, losses):
        trainer.stop_requested = trainer.stop_requested or trainer.iteration == self.iteration


def train_and_resume(config: TrainConfig, ranks: Ranks) -> dict[str, Any]:
    """A straight run, an interrupted one that two ranks end, and one that goes on in one process, and in two again."""

    def trainer(**given: Any) -> Trainer:
        return Trainer(target_of("gmm25"), config, **given)

    straight = trainer(ranks=ranks)
    straight.train()
    first = trainer(ranks=ranks, callbacks=[] if ranks.main else [StopAt(4)])
    first.train()
    stopped = first.iteration
    saved = first.state_dict()
    saved = ranks.from_main(lambda: saved)
    second = trainer(ranks=ranks)
    second.load_state_dict(saved)
    second.train()
    ends = [one.state_dict() for one in (straight, second)]
    for end in ends:
        end["counters"].pop("seconds")
    one = trainer()
    one.load_state_dict(saved)
    remembered = len(one.replay)
    shards = [shard["replay"] for shard in (saved, *saved["other_ranks"])]
    rows, log_reward = (torch.cat([shard[name] for shard in shards]) for name in ("state", "log_reward"))
    drawable = int(log_reward.isfinite().sum())  # what a local search has not moved holds a place
    anchored = len(one.anchors)
    calls = one.energy_calls
    one.train(until=stopped + 2)
    again = trainer(ranks=ranks)
    again.load_state_dict(one.state_dict())
    split = ranks.totals(len(again.replay), len(again.anchors))
    again.train(until=stopped + 4)
    kept = one.replay.state_dict()["state"][: len(rows)]
    parameters = torch.cat([p.detach().flatten() for p in again.agent.parameters()])
    everywhere = ranks.gather_rows([parameters.unsqueeze(0)])[0]
    streams = ranks.gather_rows([torch.rand(1, 4)])[0]
    return {
        "stopped": stopped,
        "exact": largest_difference(*ends),
        "calls": [straight.energy_calls, second.energy_calls, calls, saved["counters"]["energy_calls"]],
        "rows": [remembered, drawable, split[0], len(one.replay)],
        "same rows": torch.equal(kept.unique(dim=0), rows.unique(dim=0)),
        "anchors": [anchored, split[1]],
        "other noise": bool((streams[0] != streams[1]).all()),
        "parameters apart": float((everywhere[0] - everywhere[1]).abs().max()),
        "iteration": again.iteration,
    }


def uneven_rows(ranks: Ranks) -> dict[str, Any]:
    """Rows of several kinds, of which one rank has fewer, travel whole; only the own ones have a gradient."""
    n = 3 * ranks.rank  # none on the first
    x = torch.arange(2.0 * n).reshape(n, 2).requires_grad_()
    whole, flags, numbers = ranks.gather_rows([x, x.detach().sum(1) > 1.0, torch.arange(n) + 2**40])
    (whole.sum() * (ranks.rank + 1)).backward()
    unused, used = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    here = torch.nn.Parameter(torch.ones(1))
    (used.sum() * (1.0 + ranks.rank) + (here.sum() if ranks.main else 0.0)).backward()
    ranks.sum_gradients([unused, used, here])
    return {
        "whole": whole.tolist(),
        "flags": flags.tolist(),
        "numbers": numbers.tolist(),
        "own gradient": x.grad.unique().tolist() if n else [],
        "sums": [None if p.grad is None else p.grad.tolist() for p in (unused, used, here)],
    }


def work(rank: int, folder: Path) -> None:
    given = json.loads((folder / "cases.json").read_text())
    settings = given["settings"]
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=SIZE)
    ranks = Ranks(rank, SIZE)
    torch.set_num_threads(1)
    tiny = config_of(settings, "gmm25", {})
    shuffled = {"local_search": {"kind": "mala", "every": 2, "states": 6, "anchors": 4, "moves": 2}}
    found: dict[str, Any] = {
        name: compare_with_one(config_of(settings, target, changes), target, ranks)
        for name, (target, changes) in given["cases"].items()
    }
    found["skip"] = skip_together(tiny, ranks)
    found["waits"] = waits_of_an_iteration(tiny, ranks)
    found["resume"] = train_and_resume(config_of(settings, "gmm25", shuffled), ranks)
    found["uneven"] = uneven_rows(ranks)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
