"""Gaussian steps on data: a destruction that is learned, against the fixed reference, at few steps.

    python benchmarks/destruction_noise.py run --rows benchmarks/results/destruction_noise.jsonl
    python benchmarks/destruction_noise.py table --rows benchmarks/results/destruction_noise.jsonl

Both policies: generation learns mean and variance by maximum likelihood. `fixed` keeps the reference's destruction,
`learned` trains its mean and variance by VarGrad among the paths of each sample. A row that is already there is not run
again. One thread a run.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from rows import Row, group, read, run_missing, write_table

from ebbflow.agents import AgentConfig
from ebbflow.envs import get_target
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.evaluation import evaluate
from ebbflow.trainers.trainer import Trainer

VARIANTS = {"fixed": "generation", "learned": "adaptive"}
SHOWN = ("bits_per_dimension", "train_bits_per_dimension", "sinkhorn", "sinkhorn_floor", "cpu_seconds")
SAMPLES = 1_000
EQUAL_RATES = '{"destruction_optimiser": {"rate": 3e-3, "table_rate": 3e-3}}'  # the trainer's own choice is a tenth


def run(
    rows: Path,
    targets: tuple[str, ...] = ("digits-dequantised", "two-moons"),
    variants: tuple[str, ...] = tuple(VARIANTS),
    steps: tuple[int, ...] = (5, 10),
    seeds: tuple[int, ...] = (0, 1, 2),
    iterations: int = 800,
    label: str = "defaults",
    settings: str = EQUAL_RATES,
) -> None:
    """Run what is missing, and append a row for each run; `settings` are those of `TrainConfig`, as JSON."""
    torch.set_num_threads(1)
    keys = [
        {"label": label, "target": target, "steps": horizon, "destruction": variant, "seed": seed}
        | {"iterations": iterations}
        for seed in seeds
        for target in targets
        for horizon in steps
        for variant in variants
    ]
    changed: dict[str, Any] = json.loads(settings)

    def work(key: Row) -> Row:
        begun = time.process_time()
        agent = vars(AgentConfig(time_grid_power=None).variant(VARIANTS[key["destruction"]]))
        of_run = {name: key[name] for name in ("steps", "seed", "iterations")} | {"threads": 1}
        config = TrainConfig.from_dict(changed | of_run | {"agent": agent | changed.get("agent", {})})
        trainer = Trainer(get_target(key["target"]), config)
        trainer.train()
        cost = {"seconds": trainer.seconds, "cpu_seconds": time.process_time() - begun}
        numbers = evaluate(trainer.evaluated_agent, trainer.target, samples=SAMPLES)
        kept = {name: numbers[name] for name in (*SHOWN[:4], "log_likelihood", "log_likelihood_stderr")}
        return kept | cost | {"skipped": trainer.skipped, "settings": settings}

    run_missing(rows, keys, work, SHOWN)


COLUMNS = {
    "label": "settings",
    "target": "target",
    "steps": "T",
    "destruction": "destruction",
    "iterations": "iterations",
}
HEADING = """# Learned Gaussian destruction of data

Command: `python benchmarks/destruction_noise.py run --rows benchmarks/results/destruction_noise.jsonl`, then `table`.
Bits per dimension of a density, which may be negative: the bound of held-out samples, and of samples trained on.
Sinkhorn in squared state units; its floor is what a second draw of the data scores. Mean ± standard deviation over the
seeds named; batches of 256 paths; one thread a run. The rates of destruction are those of generation, 3e-3, where the
label does not say otherwise.

"""


def table(rows: Path, out: Path | None = None) -> None:
    """Markdown table, mean ± standard deviation over seeds."""
    found = sorted(read(rows), key=lambda row: (row["label"], row["target"], row["steps"]))
    write_table(group(found, COLUMNS), SHOWN, out, HEADING)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table})
