"""Memory of a loss and its backward as trajectories grow longer and wider, at once and in chunks.

    python benchmarks/memory.py --out benchmarks/results/memory.md

Counted are the bytes of tensors that live at the same time (`live_bytes`), over those of the trajectories and the
parameters, which are there before: no noise, and no allocator. Expected before measuring: at once, bytes grow as T · d;
in chunks of K steps as K · d, whatever T is, but for the log densities [B, T] and the gradients of the parameters.
"""

import time
from pathlib import Path

import torch
import tyro
from live_bytes import LiveBytes
from rows import commit

from ebbflow.agents.architecture import build_agent
from ebbflow.agents.config import AgentConfig
from ebbflow.envs.spaces import Continuous
from ebbflow.trainers.objectives import JointLoss, VarGrad

BATCH = 16
WIDTH = 64
CHUNK = 10
MOST = 320_000  # T · d that is evaluated at once here: beyond, gigabytes


def peak(steps: int, dim: int, chunk: int | None, batch: int = BATCH) -> tuple[int, int, float]:
    """Most bytes at once of a loss and its backward, bytes of the trajectories, and processor seconds."""
    torch.manual_seed(0)
    agent = build_agent(Continuous(dim), scale=1.0, steps=steps, config=AgentConfig(width=WIDTH, tables=False))
    agent.chunk = chunk
    objective = JointLoss(agent, VarGrad(), target_networks="both")
    paths = agent.generate(batch)
    paths["log_reward"] = -0.5 * paths["state"][:, -1].square().sum(-1)

    def work() -> None:
        losses = objective(paths)
        (losses["loss_generation"] + losses["loss_destruction"]).backward()

    with LiveBytes() as live:
        work()
    begun = time.process_time()
    work()
    return live.peak, paths["state"].nbytes, time.process_time() - begun


def run(
    steps: tuple[int, ...] = (20, 50, 200, 1000),
    dim: tuple[int, ...] = (10, 100, 1600),
    out: Path | None = None,
) -> None:
    """Measure, and write a Markdown page."""
    torch.set_num_threads(1)
    mega = 1e6
    lines = [
        "# Memory of a loss",
        "",
        f"Command: `python benchmarks/memory.py`, commit {commit()}, torch {torch.__version__}.",
        f"Batch {BATCH}, width {WIDTH}, no tables, target networks on, single precision.",
        "Bytes of tensors that live at once during a loss and its backward, beyond trajectories and parameters, in MB;",
        "processor seconds, on one thread.",
        "",
        f"| d | T | trajectories | at once | chunks of {CHUNK} | at once, s | chunks, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for width in dim:
        for horizon in steps:
            whole, seconds = "–", "–"
            if horizon * width <= MOST:
                found, _, taken = peak(horizon, width, None)
                whole, seconds = f"{found / mega:.1f}", f"{taken:.2f}"
            found, stored, taken = peak(horizon, width, CHUNK)
            cells = (width, horizon, f"{stored / mega:.1f}", whole, f"{found / mega:.1f}", seconds, f"{taken:.2f}")
            lines.append(f"| {' | '.join(map(str, cells))} |")
            print(lines[-1], flush=True)
    if out is not None:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(run)
