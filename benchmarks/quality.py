"""Few-step quality: one recipe, all targets, three policies, several numbers of steps and seeds.

    python benchmarks/quality.py run --rows benchmarks/results/quality.jsonl --steps 5 10 20
    python benchmarks/quality.py run --rows benchmarks/results/settings.jsonl --targets gmm40 --variants adaptive \
        --seeds 0 --label width64 --settings '{"agent": {"width": 64}}'
    python benchmarks/quality.py table --rows benchmarks/results/quality.jsonl --out benchmarks/results/quality.md
    python benchmarks/quality.py claims --rows benchmarks/results/quality.jsonl
    python benchmarks/quality.py presets

Every run uses one thread. A row that is already there (same label, target, variant, steps and seed) is not run again,
so that an interrupted benchmark goes on where it stopped. `claims` holds two claims of arXiv 2506.01541 against them,
and `presets` writes the settings of the table as presets.
"""

import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rows import Row, group, read, run_missing, write_table

from ebbflow.envs.errors import InputError
from ebbflow.envs.registry import get_target
from ebbflow.envs.targets.many_well import ManyWell
from ebbflow.trainers.comparison import NUMBERS as COMPARED
from ebbflow.trainers.comparison import Group
from ebbflow.trainers.config import PRESETS, TrainConfig
from ebbflow.trainers.evaluation import looking_on, sample_agent
from ebbflow.trainers.tabulation import as_text
from ebbflow.trainers.train import evaluate_run
from ebbflow.trainers.trainer import Trainer

TARGETS = ("gmm25", "gmm25-narrow", "gmm40", "funnel", "manywell-32", "student-t")
VARIANTS = ("fixed", "generation", "adaptive")
STEPS = (5, 10, 20)
SHOWN = ("sandwich_width", "elbo", "eubo", "eubo_median", "true_log_z", "ess_reverse", "mode_coverage", "seconds")


def configure(key: Row, settings: dict[str, Any]) -> TrainConfig:
    """Settings of a run; what is left out keeps its default."""
    if clash := set(settings) & set(key):
        raise InputError(f"settings: expected what is not given otherwise, got {', '.join(sorted(clash))}")
    fixed = {name: key[name] for name in ("target", "steps", "seed")}
    config = TrainConfig.from_dict(settings | fixed | {"threads": 1}, origin="settings")
    return replace(config, agent=config.agent.variant(key["variant"]))


def run_one(config: TrainConfig) -> Row:
    """Train and evaluate; a training that cannot go on gives a row that says so."""
    target, trainer = get_target(config.target), None
    begun = time.process_time()
    try:
        trainer = Trainer(target, config)
        trainer.train()
        cpu_seconds = time.process_time() - begun
        row: Row = evaluate_run(trainer)
    except InputError as error:
        iteration = 0 if trainer is None else trainer.iteration
        return {"failed": str(error), "failed_at": iteration, "cpu_seconds": time.process_time() - begun}
    row["cpu_seconds"] = cpu_seconds
    if isinstance(target, ManyWell):
        with looking_on(trainer.evaluated_agent, target, seed=1):
            right = target.right_masses(sample_agent(trainer.evaluated_agent, target, 20_000)["x"])
        row["worst_right_mass_error"] = float((right - target.mode_masses[1]).abs().max())
    if trainer.anchors is not None:
        row["anchor_log_z_error"] = trainer.anchors.log_z - float(target.log_z or 0.0)
    return row


def run_all(rows: Path, cases: list[tuple[Row, dict[str, Any]]]) -> None:
    """Run the cases (key and settings) that have no row yet; all settings are checked before the first one runs."""
    torch.set_num_threads(1)
    configs = {json.dumps(key): configure(key, settings) for key, settings in cases}
    settings = {json.dumps(key): json.dumps(settings) for key, settings in cases}

    def work(key: Row) -> Row:
        name = json.dumps(key)
        return run_one(configs[name]) | {"settings": settings[name]}

    run_missing(rows, [key for key, _ in cases], work, SHOWN)


def run(
    rows: Path,
    targets: tuple[str, ...] = TARGETS,
    variants: tuple[str, ...] = VARIANTS,
    steps: tuple[int, ...] = (5,),
    seeds: tuple[int, ...] = (0, 1, 2),
    label: str = "recipe",
    settings: str = "{}",
) -> None:
    """Run what is missing, and append a row for each run."""
    cases = [
        ({"label": label, "target": target, "variant": variant, "steps": count, "seed": seed}, json.loads(settings))
        for seed in seeds
        for count in steps
        for target in targets
        for variant in variants
    ]
    run_all(rows, cases)


NUMBERS = (
    *("elbo_gap", "eubo_gap", "eubo_median_gap", "width", "median_width", "log_z_error", "ess_reverse", "ess_forward"),
    *(
        "sinkhorn",
        "mode_coverage",
        "worst_right_mass_error",
        "energy_calls",
        "gradient_calls",
        "seconds",
        "cpu_seconds",
    ),
)
COLUMNS = {"label": "settings", "steps": "T", "target": "target", "variant": "policy"}
HEADING = """# Few-step quality

Command: `python benchmarks/quality.py run --rows benchmarks/results/quality.jsonl`, then `python benchmarks/quality.py table --rows benchmarks/results/quality.jsonl`.
2,000 iterations of 256, defaults of `ebbflow train`; nats, gaps to the true log Z, mean ± standard deviation over the seeds named; one thread a run.

"""  # noqa: E501


def table(rows: Path, out: Path | None = None) -> None:
    """Markdown table by T, mean ± standard deviation over seeds; nats, relative to the true log Z."""
    found = sorted(read(rows), key=lambda row: row["steps"])  # stable: otherwise in the order of the rows
    write_table(group(found, COLUMNS), NUMBERS, out, HEADING)


CLAIMS = {  # adaptive at T = 5 is narrower than these
    "fixed variance at T = 20": ("fixed", 20),
    "generation variance only at T = 5": ("generation", 5),
}


def claims(rows: Path, label: str = "recipe", width: str = "width") -> None:
    """Markdown table: is adaptive at T = 5 narrower, in the mean over seeds, than what the paper holds it against?"""
    found: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in read(rows):
        if row["label"] == label:
            found[row["target"], row["variant"], row["steps"]].append(row)
    print("| target | adaptive at T = 5 | " + " | ".join(f"{claim} | factor" for claim in CLAIMS) + " |")
    print("|---|---|" + "---|---|" * len(CLAIMS))
    holds = dict.fromkeys(CLAIMS, 0)
    number = next(number for number in COMPARED if number.name == width)
    for target in TARGETS:
        ours = Group({}, found.get((target, "adaptive", 5), []))
        cells = [as_text(ours.summary(width), number, len(ours.evaluations))]
        for claim, key in CLAIMS.items():
            theirs = Group({}, found.get((target, *key), []))
            one, other = ours.summary(width), theirs.summary(width)
            factor = None if one is None or other is None else other.mean / one.mean
            holds[claim] += factor is not None and factor > 1.0
            cells += [as_text(other, number, len(theirs.evaluations)), "" if factor is None else f"{factor:.2f}"]
        print(f"| {target} | " + " | ".join(cells) + " |")
    told = (f"than {claim}: on {count} of {len(TARGETS)} targets" for claim, count in holds.items())
    print(f"\nAdaptive at T = 5 is narrower {', '.join(told)}.")


def presets() -> None:
    """Write a preset for each row of the few-step table: the recipe, and what differs from the defaults."""
    defaults = TrainConfig()
    for target in TARGETS:
        for steps in STEPS:
            for variant in VARIANTS:
                agent = defaults.agent.variant(variant)
                changed = {k: v for k, v in vars(agent).items() if v != getattr(defaults.agent, k)}
                # The recipe's length is said, so that another default does not change what the row was.
                preset: Row = {"target": target, "steps": steps, "iterations": defaults.iterations, "threads": 1}
                text = json.dumps(preset | ({"agent": changed} if changed else {}), indent=2)
                (PRESETS / f"{target}-t{steps}-{variant}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table, "claims": claims, "presets": presets})
