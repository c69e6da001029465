"""What an iteration costs with matrix products in bfloat16, beside float32.

    python benchmarks/precision.py --out cost.md
    python benchmarks/precision.py --compile

Trainers that differ in nothing else take turns in one process on one thread; what counts is the processor's time of an
iteration, the median over the turns, as a ratio. What it does to the quality is measured by
`ablate.py run benchmarks/ablations/precision.json`.

tf32 is not in it: on a CPU it is float32.
"""

import platform
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from naive import medians
from rows import commit

from ebbflow.agents.config import AgentConfig
from ebbflow.envs.registry import get_target
from ebbflow.trainers.config import AnchorConfig, TrainConfig
from ebbflow.trainers.trainer import Trainer

PRECISIONS = ("float32", "bfloat16")
BASE = TrainConfig(
    steps=5,
    iterations=1_000_000,  # of which few are done: the rates stay what they are
    threads=1,
    agent=AgentConfig(time_grid_power=2.0),
    anchors=AnchorConfig(count=500, temperatures=5, moves=1, final_moves=0),
)
CASES = (("gmm25", 256, 128), ("gmm25", 2000, 128), ("manywell-32", 256, 128), ("gmm25", 256, 512))
TITLES = ("target", "batch", "width", "float32, ms", "bfloat16, ms", "bfloat16 / float32")


def trainer_of(target: str, batch: int, width: int, precision: str, *, compile: bool) -> Trainer:
    """A trainer some iterations in, so that all it does has been done once."""
    config = replace(BASE, target=target, batch_size=batch, agent=replace(BASE.agent, width=width), compile=compile)
    trainer = Trainer(get_target(target), TrainConfig.from_dict({**config.to_dict(), "matmul_precision": precision}))
    trainer.train(4)
    return trainer


def run(
    turns: Annotated[int, tyro.conf.arg(help="timed iterations of each")] = 15,
    compile: Annotated[bool, tyro.conf.arg(help="compiled iterations instead of eager ones")] = False,
    out: Annotated[Path | None, tyro.conf.arg(help="write the table to this file, too")] = None,
) -> None:
    """Compare an iteration's processor time."""
    lines = [
        f"torch {torch.__version__}, {platform.machine()}, commit {commit()}; {turns} turns, one thread, "
        f"{'compiled' if compile else 'eager'}.",
        "",
        f"| {' | '.join(TITLES)} |",
        "|---" * len(TITLES) + "|",
    ]
    print("\n".join(lines), flush=True)
    for case in CASES:
        works = {precision: trainer_of(*case, precision, compile=compile).step for precision in PRECISIONS}
        exact, low = medians(works, turns).values()
        numbers = (f"{1e3 * exact:.1f}", f"{1e3 * low:.1f}", f"{low / exact:.2f}")
        lines.append(f"| {' | '.join(map(str, (*case, *numbers)))} |")
        print(lines[-1], flush=True)
    if out is not None:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(run)
