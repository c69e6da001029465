"""Latent-space sampling: digits of a wanted class from an unconditional generator, against rejection sampling.

    python benchmarks/digits_gan.py --out runs/digits_gan
    python benchmarks/latent.py reference --rows benchmarks/results/latent.jsonl
    python benchmarks/latent.py run --rows benchmarks/results/latent.jsonl --pictures runs/latent
    python benchmarks/latent.py table --rows benchmarks/results/latent.jsonl

One conditional sampler for all ten classes a run, judged on each class apart; the numbers are means over classes. A row
that is already there (same label, policy, T, seed) is not run again. One thread a run.
"""

import functools
import json
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from digits_gan import CLASSES, LATENT, digits, digits_target, draw_grid
from rows import Row, read, run_missing
from sklearn.svm import SVC
from torch import Tensor

from ebbflow.agents import build_agent
from ebbflow.buffers.anchors import Anchors
from ebbflow.buffers.conditional_annealing import annealed_smc_by_context
from ebbflow.envs.targets import LatentTarget
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.evaluation import log_weights_of_destroyed, looking_on, sample_agent
from ebbflow.trainers.metrics.diversity import mean_pairwise_distance
from ebbflow.trainers.metrics.sandwich import sandwich
from ebbflow.trainers.metrics.weights import ess_reverse, importance_log_z
from ebbflow.trainers.trainer import Trainer

MODELS = Path("runs/digits_gan")
VARIANTS = ("generation", "adaptive")
RECIPE: dict[str, Any] = {"iterations": 3000, "threads": 1, "contexts_per_batch": 16}
RECIPE |= {"objective": "reverse_kl", "destruction_objective": "tlm", "replay": {"share": 0.0}}
RECIPE["agent"] = {"features": ["raw", "score"], "langevin": True, "compression": None}
RECIPE["exploration"] = {"scale": 1.0}  # wider steps leave the shell of the prior, benchmarks/results/latent.md
SAMPLES = 1000  # of each class
SHOWN = ("elbo", "eubo", "log_z", "ess_reverse", "accuracy", "judge_accuracy", "diversity_pixels")


@functools.cache
def judge() -> SVC:
    """A second opinion on the class, by a support vector machine: the sampler never saw it, nor did the generator."""
    x, y, test_x, test_y = digits()
    machine = SVC(C=10.0, gamma="scale").fit(x.numpy(), y.numpy())
    assert machine.score(test_x.numpy(), test_y.numpy()) >= 0.97
    return machine


def class_numbers(target: LatentTarget, z: Tensor, label: int) -> dict[str, float]:
    """What latents `[n, dim]` that were drawn for a class are worth."""
    with torch.no_grad():
        x = target.generator(z)
        classifier = target.reward.classifier
        return {
            "accuracy": (classifier(x).argmax(1) == label).double().mean().item(),
            "judge_accuracy": float((judge().predict(x.numpy()) == label).mean()),
            "reward": target.reward_of(z, torch.eye(CLASSES)[label].expand(len(z), -1)).mean().item(),
            "diversity_pixels": mean_pairwise_distance(x) or 0.0,
            "diversity_features": mean_pairwise_distance(classifier.features(x)) or 0.0,
        }


def over_classes(rows: list[dict[str, float]]) -> dict[str, float]:
    means = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
    return means | {"worst_accuracy": min(row["accuracy"] for row in rows)}


def exact(target: LatentTarget, per_class: int) -> tuple[Tensor, Tensor]:
    """Rejection samples of all classes, `[10 · per_class, dim]`, and their contexts."""
    context = torch.eye(CLASSES).repeat_interleave(per_class, 0)
    return target.sample(len(context), context), context


def reference(rows: Path, models: Path = MODELS, beta: float = 4.0, samples: int = SAMPLES) -> None:
    """Rejection sampling, exact, and the prior itself."""
    torch.manual_seed(1)
    target = digits_target(models, beta)
    before = target.energy_calls
    z = exact(target, samples)[0]
    calls = (target.energy_calls - before) / len(z)
    prior = torch.randn(200_000, LATENT)
    with torch.no_grad():
        rewards = torch.cat(
            [target.reward.classifier(target.generator(part)).log_softmax(1) for part in prior.split(5000)]
        )
    log_z = [importance_log_z(beta * column) for column in rewards.T]
    found = {
        "rejection": [class_numbers(target, part, k) for k, part in enumerate(z.split(samples))],
        "prior": [class_numbers(target, torch.randn(samples, LATENT), k) for k in range(CLASSES)],
    }
    more: dict[str, Row] = {
        "rejection": {
            "log_z": statistics.fmean(v for v, _ in log_z),
            "calls_per_sample": calls,
            "class_log_z": [v for v, _ in log_z],
            "class_log_z_stderr": [e for _, e in log_z],
        },
        "prior": {"elbo": float(beta * rewards.mean()), "calls_per_sample": 0.0},
    }
    keys = [{"label": "reference", "policy": policy, "steps": 0, "seed": 1, "beta": beta} for policy in found]
    run_missing(rows, keys, lambda key: over_classes(found[key["policy"]]) | more[key["policy"]], SHOWN)


def anchors_of(target: LatentTarget, kind: str, count: int) -> Anchors | None:
    """Of the classes in equal shares: none, exact ones by rejection, or searched for (smc)."""
    if kind == "none":
        return None
    if kind == "rejection":
        states, contexts = exact(target, count // CLASSES)
        return Anchors.from_samples(target, states, contexts)
    return annealed_smc_by_context(target, torch.eye(CLASSES), count, initial_std=1.5, temperatures=20, moves=2)


def run_one(target: LatentTarget, config: TrainConfig, kind: str, picture: Path | None) -> dict[str, Any]:
    torch.manual_seed(config.seed)
    before = target.energy_calls
    anchors = anchors_of(target, kind, config.anchors.count)
    found = target.energy_calls - before  # rejected proposals, too
    trainer = Trainer(target, config, anchors=anchors)
    trainer.train()
    counted = 0 if anchors is None else anchors.energy_calls
    cost = {"energy_calls": trainer.energy_calls - counted + found, "seconds": trainer.seconds}
    cost["gradient_calls"] = trainer.gradient_calls
    agent, numbers, shown = trainer.evaluated_agent, [], []
    with looking_on(agent, target, seed=1):
        for k, context in enumerate(torch.eye(CLASSES)):
            at, member = agent.given(context), target.given(context)
            drawn = sample_agent(at, member, SAMPLES)
            destroyed = log_weights_of_destroyed(at, member, member.sample(SAMPLES))
            bounds = sandwich(drawn["log_weight"], destroyed)
            estimate, _ = importance_log_z(drawn["log_weight"])
            weights = {"log_z": estimate, "ess_reverse": ess_reverse(drawn["log_weight"])}
            kept = ("elbo", "eubo", "eubo_median", "sandwich_width")
            numbers.append(class_numbers(target, drawn["x"], k) | {key: bounds[key] for key in kept} | weights)
            shown.append(target.generator(drawn["x"][:16]))
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_before_and_after(target, trainer.config, torch.stack(shown), picture)
    return over_classes(numbers) | cost | {"class_accuracy": [row["accuracy"] for row in numbers]}


def draw_before_and_after(target: LatentTarget, config: TrainConfig, after: Tensor, path: Path) -> None:
    """Left: what the untrained sampler draws, which is the prior. Right: the trained one, a row for each class."""
    agent = build_agent(
        target.space, scale=target.scale, steps=config.steps, config=config.agent, context_space=target.context_space
    )
    context = torch.eye(CLASSES).repeat_interleave(16, 0)
    before = target.generator(agent.generate(len(context), target, context=context)["state"][:, -1])
    gap = torch.full((CLASSES, 1, before.shape[1]), -1.0)
    draw_grid(torch.cat([before.unflatten(0, (CLASSES, 16)), gap, after], dim=1), path)


def run(
    rows: Path,
    models: Path = MODELS,
    variants: tuple[str, ...] = VARIANTS,
    steps: tuple[int, ...] = (10,),
    seeds: tuple[int, ...] = (0, 1, 2),
    beta: float = 4.0,
    anchors: str = "none",
    label: str = "recipe",
    settings: str = "{}",
    pictures: Path | None = None,
) -> None:
    """Run what is missing, and append a row for each run."""
    torch.set_num_threads(1)
    keys = [
        {"label": label, "policy": variant, "steps": horizon, "seed": seed, "beta": beta, "anchors": anchors}
        for seed in seeds
        for horizon in steps
        for variant in variants
    ]

    def work(key: Row) -> Row:
        changed = RECIPE | json.loads(settings) | {"steps": key["steps"], "seed": key["seed"], "target": "latent"}
        changed["agent"] = RECIPE["agent"] | json.loads(settings).get("agent", {})
        config = TrainConfig.from_dict(changed, origin="settings")
        config = replace(config, agent=config.agent.variant(key["policy"]))
        name = f"{label}-{key['policy']}-t{key['steps']}-{key['seed']}.png"
        found = run_one(digits_target(models, beta), config, anchors, None if pictures is None else pictures / name)
        return found | {"settings": settings}

    run_missing(rows, keys, work, SHOWN)


COLUMNS = (  # key, title, digits
    ("elbo", "ELBO", 3),
    ("eubo", "EUBO", 3),
    ("log_z", "log Z", 3),
    ("ess_reverse", "ESS", 3),
    ("accuracy", "class reached", 4),
    ("worst_accuracy", "worst class", 4),
    ("judge_accuracy", "by the judge", 4),
    ("reward", "mean reward", 3),
    ("diversity_pixels", "diversity, pixels", 3),
    ("diversity_features", "diversity, features", 2),
    ("energy_calls", "energy calls", 0),
    ("gradient_calls", "gradient calls", 0),
    ("seconds", "seconds", 0),
)


def cell(group: list[dict[str, Any]], key: str, digits: int) -> str:
    values = [row[key] for row in group if row.get(key) is not None]
    if not values:
        return ""
    mean = f"{statistics.fmean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def table(rows: Path, out: Path | None = None) -> None:
    """Markdown table; means over classes, and mean ± standard deviation over seeds."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in read(rows):
        groups[row["label"], row["policy"], row["steps"]].append(row)
    lines = [
        "| settings | policy | T | seeds | " + " | ".join(title for _, title, _ in COLUMNS) + " |",
        "|---|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for (label, policy, steps), group in groups.items():
        cells = [cell(group, key, digits) for key, _, digits in COLUMNS]
        seeds = ", ".join(str(row["seed"]) for row in group)
        lines.append(f"| {label} | {policy} | {steps or ''} | {seeds} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    print(text) if out is None else out.write_text(text)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"reference": reference, "run": run, "table": table})
