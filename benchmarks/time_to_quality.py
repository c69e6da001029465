"""Seconds and energy calls until a sampler is good, of two checkouts: what a change is worth to who waits for samples.

    git worktree add ../before 9e0a3fb
    python benchmarks/time_to_quality.py run --rows ROWS --checkout ../before --name before
    python benchmarks/time_to_quality.py run --rows ROWS --name after
    python benchmarks/time_to_quality.py run --rows ROWS --name compiled --settings '{"compile": true}'
    python benchmarks/time_to_quality.py table --rows ROWS

The training, search for anchors included, goes on until EUBO − ELBO of the averaged policies, on 2,000 generated and
2,000 destroyed samples, is below the target's bar, twice in a row; the first of the two counts. It is looked at every
25 iterations, with the clock stopped. Seconds are the processor's, of one thread; those of compiling, which keeps other
processes busy, are by the clock.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import tyro
from checkouts import environment_of

ROOT = Path(__file__).resolve().parents[1]
BARS = {"gmm25": 3.0, "manywell-32": 5.0}  # nats
EVERY, SAMPLES = 25, 2_000


def work(target_name: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train until the bar is met; what it took."""
    from ebbflow.envs import get_target
    from ebbflow.trainers import TrainConfig, Trainer
    from ebbflow.trainers.evaluation import log_weights_of_destroyed, looking_on, sample_agent
    from ebbflow.trainers.metrics.sandwich import sandwich

    chosen = {"target": target_name, "steps": 5, "iterations": 2000, "threads": 1, "seed": seed, **settings}
    target = get_target(target_name)
    clock = time.perf_counter if settings.get("compile") else time.process_time
    begun = clock()
    trainer = Trainer(target, TrainConfig.from_dict(chosen))
    trainer.prepare()
    search = spent = clock() - begun
    met: dict[str, Any] | None = None
    while trainer.iteration < trainer.config.iterations:
        begun = clock()
        trainer.train(trainer.iteration + EVERY)
        spent += clock() - begun
        agent = trainer.evaluated_agent
        with looking_on(agent, target, seed=1):
            generated = sample_agent(agent, target, SAMPLES)["log_weight"]
            destroyed = log_weights_of_destroyed(agent, target, target.sample(SAMPLES))
        width = sandwich(generated, destroyed)["sandwich_width"]
        if width is None or width >= BARS[target_name]:
            met = None
        elif met is not None:
            return met
        else:
            met = {"seconds": spent, "search_seconds": search, "iterations": trainer.iteration, "width": width}
            met |= {"energy_calls": trainer.energy_calls, "gradient_calls": trainer.gradient_calls}
    return {"failed": f"not met in {trainer.iteration} iterations: {width}"}


def run(
    rows: Path,
    checkout: Path = ROOT,
    name: str = "after",
    targets: tuple[str, ...] = tuple(BARS),
    seeds: tuple[int, ...] = (0, 1, 2),
    settings: str = "{}",
) -> None:
    """Run what is missing, and append a row for each run; code is taken from `checkout`."""
    from rows import run_missing  # here, for it imports ebbflow, which in a process of `one` may be an older one

    keys = [{"name": name, "target": target, "seed": seed} for seed in seeds for target in targets]
    with tempfile.TemporaryDirectory() as folder:
        environment = environment_of(checkout, Path(folder))

        def measured(key: dict[str, Any]) -> dict[str, Any]:
            words = ["--target", key["target"], "--seed", str(key["seed"]), "--settings", settings]
            call = [sys.executable, "-W", "ignore", __file__, "one", *words]
            made = subprocess.run(call, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            return json.loads(made.stdout) | {"settings": settings}

        run_missing(rows, keys, measured, ("seconds", "iterations", "width"), checkout)


def one(target: str, seed: int, settings: str = "{}") -> None:
    """One run, of the code that is imported; prints its numbers."""
    print(json.dumps(work(target, seed, json.loads(settings))))


COLUMNS = {"seconds": 1, "search_seconds": 1, "iterations": 0, "energy_calls": 0, "gradient_calls": 0}


def table(rows: Path, out: Path | None = None) -> None:
    """Markdown table: mean ± standard deviation over seeds."""
    from rows import read

    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in read(rows):
        groups[row["target"], row["name"]].append(row)
    lines = [
        "| target | code | seeds | seconds | of them search | iterations | energy calls | gradient calls | commit |"
    ]
    lines.append("|---" * 9 + "|")
    for (target, name), group in sorted(groups.items()):
        cells = [target, name, ", ".join(str(row["seed"]) for row in group)]
        for key, digits in COLUMNS.items():
            values = [row[key] for row in group if key in row]
            spread = f" ± {statistics.stdev(values):,.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):,.{digits}f}{spread}" if values else "")
        cells.append(", ".join(sorted({row["commit"] for row in group})))
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    print(text) if out is None else out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "one": one, "table": table})
