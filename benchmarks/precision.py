"""What products in bfloat16 cost and change, beside float32.

    python benchmarks/precision.py cost
    python benchmarks/precision.py cost --compile --cases 3
    python benchmarks/precision.py rounding

Cost: trainers that differ in nothing else take turns in one process on one thread; what counts is the processor's time
of an iteration, the median over the turns, as a ratio. Rounding: what it adds to the log-ratios of one agent, trained
in bfloat16, on paths that it generates and that it destroys from exact samples. What becomes of a training is measured
by `ablate.py run benchmarks/ablations/precision.json`.

tf32 is not in it: on a CPU it is float32.
"""

import platform
from dataclasses import replace
from typing import Annotated

import torch
import tyro
from naive import medians
from rows import commit

from ebbflow.agents.config import AgentConfig
from ebbflow.agents.precision import set_matmul_precision
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
TARGETS = ("gmm25", "gmm25-narrow", "funnel")
TITLES = ("target", "batch", "width", "float32, ms", "bfloat16, ms", "bfloat16 / float32")


def trainer_of(target: str, batch: int, width: int, precision: str, *, compile: bool) -> Trainer:
    """A trainer some iterations in, so that all it does has been done once."""
    config = replace(BASE, target=target, batch_size=batch, agent=replace(BASE.agent, width=width), compile=compile)
    trainer = Trainer(get_target(target), TrainConfig.from_dict({**config.to_dict(), "matmul_precision": precision}))
    trainer.train(4)
    return trainer


def cost(
    turns: Annotated[int, tyro.conf.arg(help="timed iterations of each")] = 15,
    compile: Annotated[bool, tyro.conf.arg(help="compiled iterations instead of eager ones")] = False,
    cases: Annotated[tuple[int, ...], tyro.conf.arg(help="which of the cases, from 0")] = tuple(range(len(CASES))),
) -> None:
    """Compare an iteration's processor time."""
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, {platform.machine()}, commit {commit()}; {turns} turns, one thread, "
        f"{'compiled' if compile else 'eager'}.\n"
    )
    print(f"| {' | '.join(TITLES)} |\n{'|---' * len(TITLES)}|", flush=True)
    for case in (CASES[i] for i in cases):
        works = {precision: trainer_of(*case, precision, compile=compile).step for precision in PRECISIONS}
        exact, low = medians(works, turns).values()
        numbers = (f"{1e3 * exact:.1f}", f"{1e3 * low:.1f}", f"{low / exact:.2f}")
        print(f"| {' | '.join(map(str, (*case, *numbers)))} |", flush=True)


def rounding(
    targets: Annotated[tuple[str, ...], tyro.conf.arg(help="densities with exact samples")] = TARGETS,
    iterations: Annotated[int, tyro.conf.arg(help="of the training before")] = 300,
    samples: Annotated[int, tyro.conf.arg(help="paths of each kind")] = 5000,
) -> None:
    """Compare log-ratios of the same paths."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, commit {commit()}; {iterations} iterations, {samples} paths.\n")
    print(
        "| target | paths | mean change of D | sd | largest | sd of D itself |\n|---|---|---|---|---|---|", flush=True
    )
    for name in targets:
        target = get_target(name)
        config = TrainConfig(
            target=name, iterations=iterations, threads=1, matmul_precision="bfloat16", agent=BASE.agent
        )
        trainer = Trainer(target, config)
        trainer.train()
        agent = trainer.evaluated_agent
        with torch.no_grad():
            kinds = {
                "generated": agent.generate(samples, target),
                "destroyed": agent.destroy(target.sample(samples), target),
            }
            for kind, paths in kinds.items():
                found = []
                for precision in PRECISIONS:
                    set_matmul_precision(agent, precision)
                    found.append(agent.log_ratio(paths))
                change = found[1] - found[0]
                numbers = (change.mean(), change.std(), change.abs().max(), found[0].std())
                print(f"| {name} | {kind} | {' | '.join(f'{float(number):.4f}' for number in numbers)} |", flush=True)
        set_matmul_precision(agent, "float32")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"cost": cost, "rounding": rounding})
