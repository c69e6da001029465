"""What one training iteration costs, and what each of the speed facts of the design is worth.

    python benchmarks/cost.py --out benchmarks/results/cost.md

Setting: funnel, T = 20, batch 300, width 64, learned variance and learned destruction, one thread. Every comparison
is a ratio of medians of interleaved timings in one run; absolute times are of the machine that ran it. Memory is the
peak resident size of a fresh process.

The facts, and what was expected of them before measuring:

1. one pass: states 0..T go through the shared backbone as one batch, read by both heads. Against a call per step and
   per policy (2T network calls), expected 3 times on the loss with its backward: the calls are small, so overhead
   rules, and the shared pass also halves the arithmetic.
2. the time embedding is computed on T + 1 grid points. Against one per row, expected 1.3 times on the loss with its
   backward: the embedding's second layer costs as much as a hidden layer.
3. sampling is gradient-free, and losses re-evaluate stored states. Against keeping the graph of the rollout, expected
   1.3 times on the rollout, and several times less memory for it.
4. rows lie side by side in memory. Against states of which each row's coordinates lie side by side, expected 1.3 times
   on the loss with its backward: it goes number by number for half of its time, and vectors of ten are short.
5. a loss takes hidden vectors from the recording of the rollouts. Against computing them again, expected 1.4 times on
   the loss with its backward: the forward pass of the trunk is a third of it.
"""

import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rows import commit
from tensordict import TensorDict
from torch import Tensor

from ebbflow.agents.actors import gaussian_log_prob
from ebbflow.agents.agent import Agent, PathLogProbs
from ebbflow.agents.backbone import Backbone
from ebbflow.agents.rows_innermost import linear
from ebbflow.envs.registry import get_target
from ebbflow.envs.sampling import GenerationEnv
from ebbflow.trainers.config import AnchorConfig, TrainConfig
from ebbflow.trainers.trainer import Trainer

BASE = TrainConfig(target="funnel", steps=20, batch_size=300, threads=1)


def make_trainer(batch_size: int = 300) -> Trainer:
    anchors = replace(BASE.anchors, count=1000, temperatures=5)
    config = replace(BASE, batch_size=batch_size, agent=replace(BASE.agent, width=64), anchors=anchors)
    trainer = Trainer(get_target(config.target), config)
    trainer.train(10)
    return trainer


def interleaved(works: dict[str, Callable[[], object]], rounds: int = 40) -> dict[str, float]:
    """Median seconds of each piece of work, in turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 3):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            if i >= 3:
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def stepwise_log_probs(agent: Agent, paths: TensorDict) -> PathLogProbs:
    """Log densities by one network call per step and policy, as a straightforward implementation does it."""
    states = paths["state"]
    u, volume = agent.space.coordinates(states), agent.space.log_volume(states)
    generation, destruction = [], [torch.zeros_like(states[:, 0, 0])]
    for k in range(agent.steps):
        step = agent.generation_step(states[:, k], k)
        generation.append(gaussian_log_prob(u[:, k + 1], *step) - volume[:, k + 1])
    for k in range(2, agent.steps + 1):
        step = agent.destruction_step(states[:, k], k)
        destruction.append(gaussian_log_prob(u[:, k - 1], *step) - volume[:, k - 1])
    return PathLogProbs(states.new_zeros(len(states)), torch.stack(generation, 1), torch.stack(destruction, 1))


class RowwiseTime(Backbone):
    """The backbone with the time embedding computed for every row."""

    def forward(self, features: Tensor, step: object, *_: object) -> Tensor:
        waves = self.time_waves[step].expand(*features.shape[:-2], -1)
        columns = features.flatten(-2).movedim(0, -1)
        embedded = linear(columns, self.embed_state.weight, self.embed_state.bias)
        hidden = torch.nn.functional.gelu(embedded + self.embed_time(waves).movedim(0, -1))
        for layer in self.hidden_layers():
            hidden = torch.nn.functional.gelu(layer.of_columns(hidden))
        return hidden.movedim(-1, 0)


def phases(trainer: Trainer) -> dict[str, float]:
    """Seconds of each phase of one iteration."""
    agent, target, size = trainer.agent, trainer.target, trainer.config.batch_size
    half, quarter = size // 2, size // 4
    recording = trainer.recording
    batch = agent.generate(size, target, recording=recording)
    objective, optimisers = trainer.objective, trainer.optimisers
    log_ratio = torch.zeros(half)
    rows = TensorDict(
        {"state": batch["state"][:half, -1], "log_reward": batch["log_reward"][:half], "log_ratio": log_ratio}, [half]
    )

    def rollout() -> None:
        agent.generate(half, target, recording=recording.rows(0, half))
        agent.destroy(rows["state"], target, rows["log_reward"], recording=recording.rows(half, size))

    def loss() -> None:
        recording.begin(agent)  # for what is timed, of any parameters
        losses = objective(batch, recording=recording)
        (losses["loss_generation"] + losses["loss_destruction"] + losses["loss_log_z"]).backward()

    def optimise() -> None:
        for optimiser in optimisers.optimisers.values():
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
        trainer.target_update.step()
        trainer.averaged.update_parameters(agent)

    def buffer() -> None:
        drawn = trainer.replay.draw(quarter)
        trainer.anchors.draw(quarter)
        trainer.replay.write(rows)
        trainer.replay.update(drawn["index"], drawn["log_ratio"])

    loss()
    works = {
        "rollout (generate half, destroy half)": rollout,
        "loss + backward (online and target networks)": loss,
        "optimisers, clipping, target networks, average": optimise,
        "buffer (draw, extend, update)": buffer,
        "whole iteration": trainer.step,
    }
    return interleaved(works)


def facts(trainer: Trainer) -> list[tuple[str, str, float, str]]:
    """(fact, expected, measured ratio, of what) for each speed fact, and for the lean rollout."""
    agent, target, size = trainer.agent, trainer.target, trainer.config.batch_size
    batch = agent.generate(size, target)

    def backward(log_probs: PathLogProbs) -> None:
        log_probs.log_ratio(batch["log_reward"]).square().mean().backward()

    one, step = (lambda: backward(agent.path_log_probs(batch))), (lambda: backward(stepwise_log_probs(agent, batch)))
    difference = agent.path_log_probs(batch).generation - stepwise_log_probs(agent, batch).generation
    assert float(difference.detach().abs().max()) < 1e-3, "the naive evaluation must give the same numbers"
    seconds = interleaved({"one": one, "step": step})
    rows = [("1. one pass over all states", "3", seconds["step"] / seconds["one"], "loss + backward")]

    shared, rowwise = agent.backbone, RowwiseTime.__new__(RowwiseTime)
    rowwise.__dict__ = shared.__dict__

    def with_rowwise() -> None:
        agent.backbone = rowwise
        backward(agent.path_log_probs(batch))
        agent.backbone = shared

    seconds = interleaved({"grid": one, "row": with_rowwise})
    rows.append(("2. time embedding on the grid", "1.3", seconds["row"] / seconds["grid"], "loss + backward"))
    recorded = agent.generate(size, target, recording=trainer.recording)
    rows_outermost = {"state": batch["state"].contiguous(), "log_reward": batch["log_reward"]}

    def other_order() -> None:
        u = agent.space.coordinates(rows_outermost["state"])
        features = agent.features(u).contiguous()
        backward(agent.path_log_probs(rows_outermost, features, coordinates=u))

    seconds = interleaved({"innermost": one, "outermost": other_order})
    rows.append(
        ("4. rows side by side in memory", "1.3", seconds["outermost"] / seconds["innermost"], "loss + backward")
    )
    works = {"again": one, "recorded": lambda: backward(agent.path_log_probs(recorded, recording=trainer.recording))}
    seconds = interleaved(works)
    rows.append(("5. hidden vectors of the rollout", "1.4", seconds["again"] / seconds["recorded"], "loss + backward"))
    works = {
        "free": lambda: agent.generate(size, target),
        "graph": lambda: agent.generate(size, target, differentiable=True),
    }
    seconds = interleaved(works)
    rows.append(("3. gradient-free sampling", "1.3", seconds["graph"] / seconds["free"], "rollout"))
    env = GenerationEnv(target, trainer.config.steps, space=agent.space, batch_size=[size])
    actor = agent.generation_actor()

    def torchrl_rollout() -> None:
        with torch.no_grad():
            env.rollout(trainer.config.steps, actor)

    seconds = interleaved({"lean": works["free"], "torchrl": torchrl_rollout}, rounds=15)
    rows.append(("lean rollout against `env.rollout`", "2.3–3.4", seconds["torchrl"] / seconds["lean"], "rollout"))
    return sorted(rows)


def resident() -> float:
    """Peak resident size of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(kind: str) -> None:
    """Peak resident size of a process that imports, samples or trains at batch 2000 (printed; a process of its own)."""
    torch.set_num_threads(1)
    if kind == "train":
        config = replace(BASE, batch_size=2000, anchors=AnchorConfig())
        trainer = Trainer(get_target("funnel"), config)
        trainer.train(20)
    elif kind in ("free", "graph"):
        target = get_target("funnel")
        trainer = Trainer(target, replace(BASE, batch_size=2000))
        trainer.agent.generate(2000, target, differentiable=kind == "graph")
    print(f"{resident():.0f}")


def run(out: Path | None = None, measure_memory: Annotated[str, tyro.conf.arg(help="internal")] = "") -> None:
    """Measure, and write a Markdown page."""
    if measure_memory:
        memory(measure_memory)
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = make_trainer()
    split = phases(trainer)
    whole = split.pop("whole iteration")
    lines = [
        "# Cost of one training iteration",
        "",
        f"Command: `python benchmarks/cost.py`, commit {commit()}, torch {torch.__version__}, {platform.machine()}.",
        "Funnel, T = 20, batch 300, width 64, learned variance and destruction, one thread.",
        "",
        f"Whole iteration: {1e3 * whole:.0f} ms on that machine.",
        "",
        "| phase | share of the phases' sum |",
        "|---|---|",
        *(f"| {name} | {100 * value / sum(split.values()):.0f} % |" for name, value in split.items()),
        "",
        "| speed fact | expected ratio | measured ratio | of |",
        "|---|---|---|---|",
        *(f"| {fact} | {expected} | {ratio:.2f} | {of} |" for fact, expected, ratio, of in facts(trainer)),
        "",
        "| process (T = 20, batch 2000, width 128) | peak resident, MB |",
        "|---|---|",
    ]
    kinds = {
        "imports only": "import",
        "one gradient-free rollout": "free",
        "one rollout with its graph": "graph",
        "training, 20 iterations with anchors": "train",
    }
    for name, kind in kinds.items():
        call = [sys.executable, __file__, "--measure-memory", kind]
        result = subprocess.run(call, capture_output=True, text=True, check=True)
        lines.append(f"| {name} | {result.stdout.split()[-1]} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)


if __name__ == "__main__":
    tyro.cli(run)
