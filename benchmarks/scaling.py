"""How the cost of an iteration grows with the number of steps T, the batch, and the dimension d.

    python benchmarks/scaling.py --out benchmarks/results/scaling.md --figure docs/scaling.png

An iteration of on-policy training (funnel, width 64, both policies learned, target networks on), one of the three at a
time changed around T = 20, batch 256, d = 10: median processor time, eager. Beyond a few states a call, where work
rules and not its overhead, cost should grow linearly: exponents near 1 were expected of the larger half of each range,
and less of all of it. In d, what acts on the hidden vectors does not grow, so that linear is the most.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import torch
import tyro
from naive import ON_POLICY, medians
from rows import commit

from ebbflow.envs.registry import get_target
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.figures.style import GENERATION, TRUTH
from ebbflow.trainers.trainer import Trainer

BASE = {"T": 20, "batch": 256, "d": 10}
RANGES = {
    "T": (5, 10, 20, 40, 80, 160),
    "batch": (64, 128, 256, 512, 1024, 2048),
    "d": (4, 8, 16, 32, 64, 128),
}


def seconds(steps: int, batch: int, dim: int, turns: int) -> float:
    """Median processor seconds of an iteration."""
    values = ON_POLICY.to_dict() | {"steps": steps, "batch_size": batch, "target_rate": 0.05}
    trainer = Trainer(get_target("funnel", dim=dim), TrainConfig.from_dict(values))
    trainer.train(1)
    return medians({"iteration": trainer.step}, turns)["iteration"]


def exponent(sizes: numpy.ndarray, times: numpy.ndarray) -> float:
    """Slope of a straight line through the logarithms."""
    return float(numpy.polyfit(numpy.log(sizes), numpy.log(times), 1)[0])


def draw(measured: dict[str, numpy.ndarray], path: Path) -> None:
    """One panel for each quantity, with a line of slope 1 through the last point."""
    figure, panels = plt.subplots(1, 3, figsize=(9.0, 3.0), sharey=True, layout="constrained")
    for axes, (name, times) in zip(panels, measured.items(), strict=True):
        sizes = numpy.asarray(RANGES[name], dtype=float)
        axes.plot(sizes, 1e3 * times[-1] * sizes / sizes[-1], color=TRUTH, linewidth=1.0, linestyle="--")
        axes.plot(sizes, 1e3 * times, "o-", color=GENERATION, markersize=4.0)
        half = len(sizes) // 2
        axes.set_title(f"exponent {exponent(sizes[half:], times[half:]):.2f}", fontsize=10)
        axes.set(xscale="log", yscale="log", xlabel=name)
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ms an iteration (dashed: linear)")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def run(turns: int = 9, out: Path | None = None, figure: Path | None = None) -> None:
    """Measure, fit, and write a Markdown page and a figure."""
    measured, lines = {}, []
    for name, sizes in RANGES.items():
        times = []
        for size in sizes:
            setting = BASE | {name: size}
            times.append(seconds(setting["T"], setting["batch"], setting["d"], turns))
        measured[name] = numpy.asarray(times)
        x, half = numpy.asarray(sizes, dtype=float), len(sizes) // 2
        cells = ", ".join(f"{size}: {1e3 * t:.1f}" for size, t in zip(sizes, times, strict=True))
        fits = exponent(x[half:], measured[name][half:]), exponent(x, measured[name])
        lines.append(f"| {name} | {fits[0]:.2f} | {fits[1]:.2f} | {cells} |")
        print(lines[-1], flush=True)
    if out is not None:
        page = [
            "# Cost of an iteration as T, batch and d grow",
            "",
            "Command: `python benchmarks/scaling.py --out benchmarks/results/scaling.md --figure docs/scaling.png`,",
            f"commit {commit()}, torch {torch.__version__}, one thread; median processor time of {turns} iterations.",
            "Funnel, T = 20, batch 256, d = 10 where not said otherwise, width 64, both policies learned, target",
            "networks on, on-policy batches. Exponents: slope of log time over log size; expected 1 of the larger",
            "half, where work rules, and less of all, for overhead does not grow.",
            "",
            "| | exponent, larger half | exponent, all | size: ms |",
            "|---|---|---|---|",
            *lines,
            "",
            "![Time of an iteration against T, batch and d, with lines of slope 1](../../docs/scaling.png)",
        ]
        out.write_text("\n".join(page) + "\n")
    if figure is not None:
        draw(measured, figure)


if __name__ == "__main__":
    tyro.cli(run)
