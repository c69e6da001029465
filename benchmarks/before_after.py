"""Seconds of a training iteration of two checkouts, in turns: what a change is worth on a machine that others use, too.

    git worktree add ../before v0.1.0
    python benchmarks/before_after.py --before ../before --case recipe --steps 5

Each checkout trains in a process of its own, on one thread; a turn is some iterations of the one, then of the other.
What is compared is the processor time of the median turn, so that a busy machine slows both alike. Two processes of the
same code differ by some per cent, so there are several pairs of them: the table has the median ratio and the range.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro
from checkouts import environment_of

ROOT = Path(__file__).resolve().parents[1]
BASE = {"target": "gmm25", "iterations": 100_000, "batch_size": 256, "threads": 1, "agent": {"width": 64}}
GIVEN = {"time_grid_power": 2.0}  # no search for it
CASES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "generation": {"agent": {"width": 64, "destruction_mean": "reference", "destruction_variance": "reference"}},
    "reverse_kl": {"objective": "reverse_kl", "destruction_objective": "tlm", "replay": {"share": 0.0}},
}


def work(case: str, steps: int, chunk: int) -> None:
    """Train a chunk of iterations for each line on standard input, and answer with its processor seconds."""
    from ebbflow.envs import get_target
    from ebbflow.trainers import TrainConfig, Trainer

    settings = {**BASE, "anchors": {"count": 500, "temperatures": 5}, **CASES[case], "steps": steps}
    settings["agent"] = {**settings["agent"], **GIVEN}
    trainer = Trainer(get_target(settings["target"]), TrainConfig.from_dict(settings))
    trainer.train(20)
    for _ in sys.stdin:
        begun = time.process_time()
        trainer.train(trainer.iteration + chunk)
        print(time.process_time() - begun, flush=True)


def start(checkout: Path, folder: Path, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment_of(checkout, folder),
    )


def ratio_of(before: Path, after: Path, case: str, steps: int, turns: int, chunk: int) -> float:
    """Ratio of the median processor times, before / after, of one pair of processes."""
    with tempfile.TemporaryDirectory() as folder:
        places = {"before": before, "after": after}
        workers = {name: start(path, Path(folder) / name, case, steps, chunk) for name, path in places.items()}
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(turns):
            for name, worker in workers.items():
                assert worker.stdin is not None and worker.stdout is not None
                print(file=worker.stdin, flush=True)
                seconds[name].append(float(worker.stdout.readline()))
        for worker in workers.values():
            worker.communicate()
    return statistics.median(seconds["before"]) / statistics.median(seconds["after"])


def run(
    before: Path = Path("../before"),
    after: Path = ROOT,
    case: tuple[str, ...] = tuple(CASES),
    steps: tuple[int, ...] = (5, 20),
    pairs: int = 5,
    turns: int = 8,
    chunk: int = 10,
    worker: str = "",
) -> None:
    """Compare two checkouts, and print a Markdown table of ratios (above 1: the second one is faster)."""
    if worker:
        work(*json.loads(worker))
        return
    print("| case | T | before / after | of the pairs |\n|---|---|---|---|")
    for name in case:
        for horizon in steps:
            ratios = sorted(ratio_of(before, after, name, horizon, turns, chunk) for _ in range(pairs))
            spread = f"{ratios[0]:.2f}–{ratios[-1]:.2f}"
            print(f"| {name} | {horizon} | {statistics.median(ratios):.2f} | {spread} |", flush=True)


if __name__ == "__main__":
    tyro.cli(run)
