"""What a user would pick instead: the annealed SMC that seeds the anchors, alone, in the units of the few-step table.

    python benchmarks/smc.py run --rows benchmarks/results/smc.jsonl
    python benchmarks/smc.py table --rows benchmarks/results/smc.jsonl --out benchmarks/results/smc.md

Its particles are the samples, and its estimate of log Z stands alone: there is no ELBO and no EUBO. A budget is a
number of particles and of temperatures; two of them spend the energy calls of a training of the recipe (anchors, and a
density for each new trajectory). Where a density is so steep that the ladder's steps are shortened, it costs more.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from rows import Row, group, read, run_missing, write_table

from ebbflow.agents import build_agent
from ebbflow.envs.registry import get_target
from ebbflow.envs.targets.many_well import ManyWell
from ebbflow.trainers.anchor_search import search_for_anchors
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.evaluation import exact_samples, looking_on
from ebbflow.trainers.matched_grid import SEARCH
from ebbflow.trainers.metrics import mode_coverage, mode_shares, sinkhorn_divergence

TARGETS = ("gmm25", "gmm25-narrow", "gmm40", "funnel", "manywell-32", "student-t")
RECIPE = TrainConfig()


def energy_calls(particles: int, temperatures: int, config: TrainConfig = RECIPE) -> int:
    """Energy calls of a search as a training makes it, whose ladder needs no shortened step, without final moves.

    Of these there are as many as the target needs, in a training and here alike.
    """
    return particles * (1 + temperatures * (config.anchors.moves + 1))


def budgets(config: TrainConfig = RECIPE) -> dict[str, tuple[int, int]]:
    """Particles and temperatures by name."""
    count, temperatures = config.anchors.count, config.anchors.temperatures
    new = config.batch_size - round(config.batch_size * config.replay.share)  # trajectories with a new end
    spent = energy_calls(count, temperatures, config) + config.iterations * new + config.batch_size
    if config.agent.time_grid_power is None:  # a search for it, and the local length at each state found
        spent += SEARCH["count"] * (2 + SEARCH["temperatures"] * (SEARCH["moves"] + 1) + SEARCH["final_moves"])
    matched = (spent // count - 1) // (config.anchors.moves + 1)
    return {
        "a fifth of the anchors": (count // 5, temperatures),
        "the anchors": (count, temperatures),
        "a training, in temperatures": (count, matched),
        "a training, in particles": (count * spent // energy_calls(count, temperatures, config), temperatures),
    }


def run_one(key: Row) -> Row:
    """Particles, estimate and cost, with the metrics of the evaluation against exact samples."""
    target = get_target(key["target"])
    particles, temperatures = budgets()[key["budget"]]
    search = replace(RECIPE.anchors, count=particles, temperatures=temperatures)
    torch.manual_seed(key["seed"])
    begun, cpu = time.perf_counter(), time.process_time()
    found = search_for_anchors(target, search, target.scale, device=torch.device("cpu"), dtype=torch.float32)
    row: Row = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
    agent = build_agent(target.space, scale=target.scale, steps=1)  # asked for nothing but the evaluation's own samples
    with looking_on(agent, target, seed=0):
        exact, second = exact_samples(agent, target, 10_000), exact_samples(agent, target, 1_000)
    row |= {
        "particles": particles,
        "temperatures": temperatures,
        "log_z": found.log_z,
        "log_z_stderr": found.log_z_stderr,
        "true_log_z": target.log_z,
        "sinkhorn": sinkhorn_divergence(found.states, exact),
        "sinkhorn_floor": sinkhorn_divergence(second, exact),
        "mode_coverage": mode_coverage(mode_shares(target, found.states), target.mode_masses),
        "energy_calls": found.energy_calls,
        "gradient_calls": found.gradient_calls,
    }
    if isinstance(target, ManyWell):
        right = target.right_masses(found.states)
        row["worst_right_mass_error"] = float((right - target.mode_masses[1]).abs().max())
    return row


def run(rows: Path, targets: tuple[str, ...] = TARGETS, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Run what is missing, and append a row for each run."""
    torch.set_num_threads(1)
    keys = [
        {"target": target, "budget": budget, "seed": seed}
        for seed in seeds
        for target in targets
        for budget in budgets()
    ]
    run_missing(rows, keys, run_one, shown=("log_z", "true_log_z", "sinkhorn", "mode_coverage", "seconds"))


NUMBERS = (
    *("log_z_error", "log_z_stderr", "sinkhorn", "sinkhorn_floor", "mode_coverage", "worst_right_mass_error"),
    *("energy_calls", "gradient_calls", "seconds", "cpu_seconds"),
)

HEADING = """# Annealed SMC alone

Command: `python benchmarks/smc.py run --rows benchmarks/results/smc.jsonl`, then `... table`.
Nats; mean ± standard deviation over the seeds named; one thread a run. "Own s.e." is the error that a run states of its
estimate of log Z. The few-step samplers in the same units: [quality.md](quality.md).

"""


def table(rows: Path, out: Path | None = None) -> None:
    """Markdown table, mean ± standard deviation over seeds; nats, relative to the true log Z."""
    columns = {"target": "target", "budget": "budget of", "particles": "particles", "temperatures": "temperatures"}
    order = list(TARGETS)
    found = sorted(read(rows), key=lambda row: order.index(row["target"]) if row["target"] in order else len(order))
    write_table(group(found, columns), NUMBERS, out, HEADING)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table})
