"""Few-step quality: one recipe, all targets, three policies, several seeds; rows as they finish, tables from the rows.

    python benchmarks/quality.py run --rows benchmarks/results/quality.jsonl
    python benchmarks/quality.py run --rows benchmarks/results/settings.jsonl --targets gmm40 --variants adaptive \
        --seeds 0 --label width64 --settings '{"agent": {"width": 64}}'
    python benchmarks/quality.py table --rows benchmarks/results/quality.jsonl --out benchmarks/results/quality.md

Every run uses one thread. A row that is already there (same label, target, variant, seed) is not run again, so that an
interrupted benchmark goes on where it stopped.
"""

import json
import statistics
import subprocess
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro

from ebbflow.envs.registry import get_target
from ebbflow.envs.targets.many_well import ManyWell
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.evaluation import looking_on, sample_agent
from ebbflow.trainers.train import evaluate_run
from ebbflow.trainers.trainer import Trainer

TARGETS = ("gmm25", "gmm25-narrow", "gmm40", "funnel", "manywell-32")
VARIANTS = ("fixed", "generation", "adaptive")


def commit() -> str:
    """Short hash of the code that ran, with a + where it had uncommitted changes."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()

    name = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--", "../agents", "../envs", "../buffers", "../trainers")
    return name + ("+" if changed else "")


def run_one(target_name: str, variant: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    fixed = {"target": target_name, "seed": seed, "threads": 1}
    config = TrainConfig.from_dict(settings | fixed, origin="settings")  # what is left out keeps its default
    config = replace(config, agent=config.agent.variant(variant))
    target = get_target(target_name)
    trainer = Trainer(target, config)
    trainer.train()
    row = evaluate_run(trainer, samples=10_000)
    if isinstance(target, ManyWell):
        with looking_on(trainer.evaluated_agent, target, seed=1):
            right = target.right_masses(sample_agent(trainer.evaluated_agent, target, 20_000)["x"])
        row["worst_right_mass_error"] = float((right - target.mode_masses[1]).abs().max())
    if trainer.anchors is not None:
        row["anchor_log_z_error"] = trainer.anchors.log_z - float(target.log_z or 0.0)
    return row


def read(rows: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []


def run(
    rows: Path,
    targets: tuple[str, ...] = TARGETS,
    variants: tuple[str, ...] = VARIANTS,
    seeds: tuple[int, ...] = (0, 1, 2),
    label: str = "recipe",
    settings: str = "{}",
) -> None:
    """Run what is missing, and append a row for each run."""
    torch.set_num_threads(1)
    rows.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["label"], r["target"], r["variant"], r["seed"]) for r in read(rows)}
    for seed in seeds:
        for target in targets:
            for variant in variants:
                if (label, target, variant, seed) in done:
                    continue
                key = {"label": label, "target": target, "variant": variant, "seed": seed}
                row = (
                    key
                    | run_one(target, variant, seed, json.loads(settings))
                    | {"commit": commit(), "settings": settings}
                )
                with rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(
                    f"{label} {target} {variant} seed {seed}: width {row['sandwich_width']:.2f} "
                    f"(ELBO {row['elbo'] - row['true_log_z']:.2f}, EUBO {row['eubo'] - row['true_log_z']:.2f}, median "
                    f"{row['eubo_median'] - row['true_log_z']:.2f}), ESS {row['ess_reverse']:.3f}, "
                    f"modes {row['mode_coverage']}, {row['seconds']:.0f} s",
                    flush=True,
                )


COLUMNS = (  # key, title, subtract the true log Z, digits
    ("elbo", "ELBO gap", True, 2),
    ("eubo", "EUBO gap", True, 2),
    ("eubo_median", "EUBO median gap", True, 2),
    ("sandwich_width", "width", False, 2),
    ("median_width", "median width", False, 2),
    ("log_z", "log Z error (IW)", True, 3),
    ("ess_reverse", "ESS rev.", False, 3),
    ("ess_forward", "ESS fwd.", False, 3),
    ("sinkhorn", "Sinkhorn", False, 2),
    ("mode_coverage", "modes", False, 2),
    ("worst_right_mass_error", "worst well", False, 3),
    ("energy_calls", "energy calls", False, 0),
    ("seconds", "seconds", False, 0),
)


def cell(group: list[dict[str, Any]], key: str, minus: bool, digits: int) -> str:
    values = [r[key] - (r["true_log_z"] if minus else 0.0) for r in group if r.get(key) is not None]
    if not values:
        return ""
    mean = f"{statistics.fmean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def table(rows: Path, out: Path | None = None) -> None:
    """Markdown table, mean ± standard deviation over seeds; nats, relative to the true log Z."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in read(rows):
        row["median_width"] = row["eubo_median"] - row["elbo"]  # where the mean of the EUBO is all tail (funnel)
        groups[row["label"], row["target"], row["variant"]].append(row)
    lines = [
        "| settings | target | policy | seeds | " + " | ".join(title for _, title, _, _ in COLUMNS) + " | commit |",
        "|---|---|---|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for (label, target, variant), group in groups.items():
        cells = [cell(group, key, minus, digits) for key, _, minus, digits in COLUMNS]
        seeds = ", ".join(str(r["seed"]) for r in group)
        commits = ", ".join(sorted({r["commit"] for r in group}))
        lines.append(f"| {label} | {target} | {variant} | {seeds} | " + " | ".join(cells) + f" | {commits} |")
    text = "\n".join(lines) + "\n"
    print(text) if out is None else out.write_text(text)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table})
