"""Which destruction learns most from few samples: held-out likelihood of digits along a long training.

    python benchmarks/data_scarcity.py run --rows benchmarks/results/data_scarcity.jsonl
    python benchmarks/data_scarcity.py table --rows benchmarks/results/data_scarcity.jsonl \\
        --out benchmarks/results/data_scarcity.md --figure docs/data-scarcity.png

The first claim of arXiv 2605.30553: a richer destruction (random, any order) beats a clean order where data are few and
epochs many. So that it can fail, every destruction gets the same images, network size, batches and iterations, at a
constant rate, with no remedy against learning by heart; seeds draw other subsets of the images. Bits per pixel are
upper bounds of the same quantity, the code length of one of 17 levels: of the Gaussian noise that of uniformly
dequantised levels. "Any order, left to right" is the network of random masking judged (and so decoded) in the order of
autoregression, which it was never trained for alone. A level of `mask_last` teaches one token of an image, one of
`mask_one_random` all that are masked: at equal epochs autoregression has seen less of each image, and learns it by
heart later; compare where the curves are least.
"""

import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from rows import Row, read, run_missing

from ebbflow.agents import DenoisingAgent
from ebbflow.agents.references.tokens import mask_last
from ebbflow.envs.data.digits import digits_dequantised, digits_tokens
from ebbflow.trainers import TrainConfig, Trainer
from ebbflow.trainers.callbacks import Callback, MetricsLogger
from ebbflow.trainers.data_likelihood import bounds_of_samples
from ebbflow.trainers.evaluation import looking_on

REFERENCES = ("mask_last", "mask_one_random", "shuffle_one_token", "noise_preserving")
LEFT_TO_RIGHT = "any order, left to right"
TITLES = {
    "mask_last": "mask last (autoregression)",
    "mask_one_random": "mask one random",
    LEFT_TO_RIGHT: LEFT_TO_RIGHT,
    "shuffle_one_token": "shuffle one token",
    "noise_preserving": "Gaussian noise",
}
COLOURS = dict(zip(TITLES, ("#1f6fb4", "#e0701b", "#c9a227", "#6a9f3c", "#7d5ba6"), strict=True))
SAMPLES = (50, 200, 1000, 1438)
ITERATIONS = 3000
BATCH = 128
SETTINGS: dict[str, Any] = {"iterations": ITERATIONS, "batch_size": BATCH, "threads": 1, "log_every": 50}
SETTINGS["generation_optimiser"] = {"rate": 1e-3, "schedule": "constant"}
WIDTH = 256


class LeftToRight(Callback):
    """The held-out bits of the same network as an autoregression, when a row of metrics is due."""

    def __init__(self) -> None:
        self.bits: list[float] = []

    def on_iteration(self, trainer: Trainer, losses: Any) -> None:
        if trainer.iteration % trainer.config.log_every:
            return
        agent = trainer.evaluated_agent
        assert isinstance(agent, DenoisingAgent)
        ordered = DenoisingAgent(mask_last(trainer.target.space), agent.network)
        with looking_on(agent, trainer.target, seed=trainer.iteration):
            bound = bounds_of_samples(ordered, trainer.target.held_out).mean().item()
        self.bits.append(-bound / (trainer.target.space.length * math.log(2.0)))


def run_one(key: Row) -> Row:
    """The curves of one training."""
    reference = key["reference"]
    data = digits_dequantised if reference == "noise_preserving" else digits_tokens
    target = data(unique=key["samples"], seed=key["seed"])
    offset = 0.0 if target.level_width is None else -math.log2(target.level_width)
    config = TrainConfig.from_dict(SETTINGS | {"seed": key["seed"], "agent": {"reference": reference, "width": WIDTH}})
    metrics, ordered = MetricsLogger(samples=len(target.held_out)), LeftToRight()
    callbacks = [metrics, *([ordered] if reference == "mask_one_random" else [])]
    begun = time.process_time()
    Trainer(target, config, callbacks).train()
    return {
        "iterations": [row["iteration"] for row in metrics.rows],
        "bits": [row["bits_per_dimension"] + offset for row in metrics.rows],
        "train_bits": [row["train_bits_per_dimension"] + offset for row in metrics.rows],
        "left_to_right_bits": ordered.bits or None,
        "best": min(row["bits_per_dimension"] for row in metrics.rows) + offset,
        "last": metrics.rows[-1]["bits_per_dimension"] + offset,
        "cpu_seconds": time.process_time() - begun,
    }


def run(
    rows: Path,
    references: tuple[str, ...] = REFERENCES,
    samples: tuple[int, ...] = SAMPLES,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> None:
    """Run what is missing, and append a row for each run."""
    torch.set_num_threads(1)
    keys = [
        {"reference": reference, "samples": n, "seed": seed}
        for seed in seeds
        for n in samples
        for reference in references
    ]
    run_missing(rows, keys, run_one, shown=("best", "last", "cpu_seconds"))


def curves(rows: list[Row]) -> dict[tuple[int, str], list[tuple[list[int], list[float]]]]:
    """Epochs are left to whoever draws: iterations and held-out bits of every seed, by samples and destruction."""
    found: dict[tuple[int, str], list[tuple[list[int], list[float]]]] = {}
    for row in rows:
        found.setdefault((row["samples"], row["reference"]), []).append((row["iterations"], row["bits"]))
        if row["left_to_right_bits"]:
            curve = (row["iterations"], row["left_to_right_bits"])
            found.setdefault((row["samples"], LEFT_TO_RIGHT), []).append(curve)
    return found


HEADING = f"""# Few samples, many epochs: which destruction learns most

Command: `python benchmarks/data_scarcity.py run --rows benchmarks/results/data_scarcity.jsonl`, then `... table`.
Digits, 17 levels, {ITERATIONS:,} iterations of {BATCH} at a constant rate of 1e-3, width {WIDTH}, weights averaged.
Bits per pixel of 359 held-out images (upper bounds), mean ± standard deviation over the seeds, each with its own
subset. "Best" is the least along the training, as stopping in time would have it (chosen on the held-out images
themselves, so it is a little too good, for all alike); "last" is after all epochs. Chance is log₂ 17 = 4.09.
Figure: docs/data-scarcity.png. A level of mask last teaches one token, one of random masking all that are masked.

"""


def table(rows: Path, out: Path | None = None, figure: Path | None = None) -> None:
    """Markdown table of best and last bits, and the figure of the curves."""
    found = curves(read(rows))
    lines = [
        "| samples | destruction | seeds | best | after epochs | last | after epochs |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in sorted({n for n, _ in found}):
        for name, title in TITLES.items():
            seeds = found.get((n, name), [])
            if not seeds:
                continue
            places = [min(range(len(bits)), key=bits.__getitem__) for _, bits in seeds]
            best = [bits[place] for (_, bits), place in zip(seeds, places, strict=True)]
            when = [iterations[place] * BATCH / n for (iterations, _), place in zip(seeds, places, strict=True)]
            last = [bits[-1] for _, bits in seeds]
            epochs = seeds[0][0][-1] * BATCH / n
            cells = (
                n,
                title,
                len(seeds),
                spread(best),
                f"{statistics.fmean(when):,.0f}",
                spread(last),
                f"{epochs:,.0f}",
            )
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    text = HEADING + "\n".join(lines) + "\n"
    print(text) if out is None else out.write_text(text, encoding="utf-8")
    if figure is not None:
        draw(found).savefig(figure, dpi=130)


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def draw(found: dict[tuple[int, str], list[tuple[list[int], list[float]]]]) -> Figure:
    """A panel for each number of samples: held-out bits against epochs, the band from least to most of the seeds."""
    numbers = sorted({n for n, _ in found})
    figure = Figure(figsize=(3.4 * len(numbers), 4.0), layout="constrained")
    for axes, n in zip(figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0], numbers, strict=True):
        for name, title in TITLES.items():
            seeds = found.get((n, name), [])
            if not seeds:
                continue
            epochs = [iteration * BATCH / n for iteration in seeds[0][0]]
            each = list(zip(*(bits for _, bits in seeds), strict=True))
            axes.plot(epochs, [statistics.fmean(v) for v in each], color=COLOURS[name], label=title, lw=1.6)
            axes.fill_between(epochs, [min(v) for v in each], [max(v) for v in each], color=COLOURS[name], alpha=0.2)
        axes.set(title=f"{n:,} samples", xscale="log", xlabel="epochs", ylim=(1.8, 6.0))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.axhline(math.log2(17), color="#4d4d4d", lw=0.8, ls=":")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("held-out bits per pixel")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table})
