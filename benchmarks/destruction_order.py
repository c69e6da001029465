"""A masking order that is learned, against random order and raster order, on digits.

    python benchmarks/destruction_order.py run --rows benchmarks/results/destruction_order.jsonl --pictures runs/orders
    python benchmarks/destruction_order.py table --rows benchmarks/results/destruction_order.jsonl

All orders have the same network for their guesses, as many iterations, and as many samples in each; a learned order
takes two whole paths of each sample, the others one. A row that is already there is not run again. One thread a run.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from rows import Row, group, read, run_missing, write_table

from ebbflow.agents import DenoisingAgent, TokenNetwork
from ebbflow.agents.references.tokens import MaskLearnedOrder, MaskOneRandom, TokenReference, mask_last
from ebbflow.envs import Tokens, get_target
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.evaluation import evaluate, looking_on
from ebbflow.trainers.figures.orders import mean_ranks, order_figure
from ebbflow.trainers.trainer import Trainer

ORDERS: dict[str, Callable[[Tokens], TokenReference]] = {
    "random": MaskOneRandom,
    "raster": mask_last,
    "learned": MaskLearnedOrder,
    "learned from raster": lambda space: MaskLearnedOrder(space, start=range(space.length), sharpness=4.0),
}
SHOWN = ("bits_per_dimension", "train_bits_per_dimension", "sinkhorn", "sinkhorn_floor", "cpu_seconds")
SAMPLES = 1_000


def train(key: Row) -> Trainer:
    """Train what a row is about."""
    target = get_target(key["target"])
    torch.manual_seed(key["seed"])
    reference = ORDERS[key["order"]](target.space)
    paths = key["paths_per_sample"] if reference.learned else 1
    config = TrainConfig.from_dict(
        {
            **{name: key[name] for name in ("iterations", "paths_per_sample", "seed")},
            "batch_size": key["samples"] * paths,
            **{"threads": 1, "objective": "maximum_likelihood", "target_networks": "none"},
            "destruction_optimiser": {"rate": key["rate"], "table_rate": key["table_rate"]},
        }
    )
    outputs = reference.guess_shape(target.space.shape)[-1]
    network = TokenNetwork(target.space, reference.steps, outputs=outputs)
    trainer = Trainer(target, config, agent=DenoisingAgent(reference, network))
    trainer.train()
    return trainer


def run(
    rows: Path,
    pictures: Path | None = None,
    targets: tuple[str, ...] = ("digits-binary",),
    orders: tuple[str, ...] = tuple(ORDERS),
    seeds: tuple[int, ...] = (0, 1, 2),
    iterations: int = 400,
    samples: int = 64,
    paths_per_sample: int = 2,
    rate: float = 1e-3,
    table_rate: float = 3e-2,
) -> None:
    """Run what is missing, and append a row for each run; the picture of a learned order goes beside them."""
    torch.set_num_threads(1)
    of_run = {"iterations": iterations, "samples": samples}
    of_destruction = {"paths_per_sample": paths_per_sample, "rate": rate, "table_rate": table_rate}
    keys = [
        {"target": target, "order": order, "seed": seed, **of_run, **of_destruction}
        for seed in seeds
        for target in targets
        for order in orders
    ]

    def work(key: Row) -> Row:
        begun = time.process_time()
        trainer = train(key)
        cost = {"seconds": trainer.seconds, "cpu_seconds": time.process_time() - begun}
        agent, target = trainer.evaluated_agent, trainer.target
        numbers = evaluate(agent, target, samples=SAMPLES)
        with looking_on(agent, target, seed=1):
            ranks = mean_ranks(agent.destroy(target.sample(SAMPLES))["state"], target.space.mask)
            if pictures is not None and agent.destruction.learned:
                pictures.mkdir(parents=True, exist_ok=True)
                figure = order_figure(agent, target, target.image_shape)
                name = f"{key['target']}-{key['order']}-{key['seed']}.png".replace(" ", "-")
                figure.savefig(pictures / name, dpi=110)
        kept = {name: numbers[name] for name in (*SHOWN[:4], "log_likelihood", "log_likelihood_stderr")}
        return kept | cost | {"ranks": [round(rank, 1) for rank in ranks.tolist()]}

    run_missing(rows, keys, work, SHOWN)


COLUMNS = {"target": "target", "order": "order", "iterations": "iterations"}
HEADING = """# Learned order of masking, on digits

Command: `python benchmarks/destruction_order.py run --rows benchmarks/results/destruction_order.jsonl`, then `table`.
Bits per dimension: the bound of held-out samples, and of samples trained on. Sinkhorn in differing tokens; its floor is
what a second draw of the data scores. Mean ± standard deviation over the seeds named; 64 samples an iteration; one
thread a run.

"""


def table(rows: Path, out: Path | None = None) -> None:
    """Markdown table, mean ± standard deviation over seeds."""
    found = sorted(read(rows), key=lambda row: (row["target"], row["iterations"]))
    write_table(group(found, COLUMNS), SHOWN, out, HEADING)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table})
