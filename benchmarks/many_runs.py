"""What an iteration of S runs together costs, against one run and against S runs one after the other.

    python benchmarks/many_runs.py --out benchmarks/results/many_runs.md
    python benchmarks/many_runs.py --device cuda --out many_runs_gpu.md

gmm25, T = 5, everything at its default but the size: width 128 and batch 256, width 32 and batch 64, and width 4 and
batch 8, whose time is that of asking for operations and nothing else. Up to 40 iterations fill the memory first. Median
processor time in turns with a single run (on a GPU wall time, waiting for the device), and what does not depend on the
machine: how many operations the host asks for. Views are told apart, for they compute nothing.
"""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rows import commit
from torch.utils._python_dispatch import TorchDispatchMode

from ebbflow.envs.registry import get_target
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.many_runs import ManyRuns
from ebbflow.trainers.trainer import Trainer

SIZES = {"tiny": (4, 8), "small": (32, 64), "default": (128, 256)}  # width, batch
TOGETHER = (1, 2, 4, 8, 16)
PARTS = {  # of an iteration of many: whose method it is, and what it does
    "new paths": (lambda many: many.batches, "_generated"),
    "draws from memory": (lambda many: many.batches.replays, "draw"),
    "remembered paths": (lambda many: many.batches, "_destroyed"),
    "batches in all": (lambda many: many.batches, "mix"),
    "loss": (lambda many: many, "_losses"),
    "backward and update": (lambda many: many.parameters, "step"),
    "remembering": (lambda many: many.batches, "remember"),
}
VIEWS = {  # operations that say how memory is to be read
    *(
        "view",
        "_unsafe_view",
        "expand",
        "select",
        "slice",
        "unsqueeze",
        "squeeze",
        "transpose",
        "t",
        "permute",
        "detach",
    ),
    *("unbind", "split", "split_with_sizes", "alias", "as_strided", "unfold", "diagonal"),
    # Which arrive as they are where nothing is noted of how tensors come to be.
    *("movedim", "narrow", "flatten", "unflatten", "expand_as", "contiguous"),
}

EXPECTED = """Expected before measuring: of the 2,013 operations of a single iteration (views included) 360 are its
memory's, so that without batching these, 16 runs would ask for 3.7 times the operations of one, and with it for 1.3
times: what is left to each run are its random numbers. On a CPU small runs gain about 4 times, for they spend their
time on being called; runs of the default size gain 1.2 to 1.5 times, for they compute. Nothing was measured on a GPU:
there, operations are what small runs are limited by, and 16 should cost less than 3 single ones."""


class Operations(TorchDispatchMode):
    """Counts operations below autograd and vmap: `computing`, of which each is a kernel or a few, and `views`."""

    computing = 0
    views = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.name.removeprefix("aten::") in VIEWS:
            self.views += 1
        else:
            self.computing += 1
        return function(*args, **(kwargs or {}))


def configs_of(runs: int, width: int, batch: int, device: str) -> list[TrainConfig]:
    values = {
        "target": "gmm25",
        "batch_size": batch,
        "device": device,
        "threads": 1,
        "agent": {"width": width, "time_grid_power": 3.7},
        "anchors": {"count": 1000, "temperatures": 5, "moves": 1, "final_moves": 2},  # as many rows as any are drawn
    }
    first = TrainConfig.from_dict(values)
    return [replace(first, seed=seed) for seed in range(runs)]


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def medians(works: list[Callable[[], object]], turns: int, device: str) -> list[float]:
    times: list[list[float]] = [[] for _ in works]
    for turn in range(turns + 2):
        for work, own in zip(works, times, strict=True):
            begun = clock(device)
            work()
            if turn >= 2:
                own.append(clock(device) - begun)
    return [statistics.median(own) for own in times]


def operations(work: Callable[[], object]) -> Operations:
    with Operations() as counted:
        work()
    return counted


def shares(many: ManyRuns, turns: int, device: str) -> dict[str, float]:
    """Median share of an iteration's time that each part takes."""
    times: dict[str, list[float]] = {name: [] for name in PARTS}
    whole = []

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def work(*args: Any) -> Any:
            begun = clock(device)
            result = function(*args)
            times[name].append(clock(device) - begun)
            return result

        return work

    for name, (of, method) in PARTS.items():
        setattr(of(many), method, timed(name, getattr(of(many), method)))
    for _ in range(turns):
        begun = clock(device)
        many.step()
        whole.append(clock(device) - begun)
    for of, method in PARTS.values():
        delattr(of(many), method)
    return {name: statistics.median(own) / statistics.median(whole) for name, own in times.items()}


def run(
    together: Annotated[tuple[int, ...], tyro.conf.arg(help="how many runs together")] = TOGETHER,
    sizes: Annotated[tuple[str, ...], tyro.conf.arg(help="of tiny, small, default")] = tuple(SIZES),
    turns: Annotated[int, tyro.conf.arg(help="timed iterations of each")] = 11,
    device: Annotated[str, tyro.conf.arg(help="cpu or cuda")] = "cpu",
    out: Annotated[Path | None, tyro.conf.arg(help="write the page to this file instead of the terminal")] = None,
) -> None:
    """Measure, and write a Markdown page."""
    torch.set_num_threads(1)
    where = platform.machine() if device == "cpu" else torch.cuda.get_device_name(device)
    lines = [
        "# Many runs at once: cost of an iteration",
        "",
        f"Command: `python benchmarks/many_runs.py --device {device} --turns {turns}`, commit {commit()}, torch",
        f"{torch.__version__}, {where}, one thread; medians in turns with a single run, "
        f"{'processor' if device == 'cpu' else 'wall'} time.",
        "",
        *EXPECTED.splitlines(),
        "",
        "| size | runs together | ms, one run alone | ms, all together | in single runs | gain | computing operations, "
        "against one run | with views |",
        "|---|---|---|---|---|---|---|---|",
    ]
    where_time_goes = []
    for size in sizes:
        width, batch = SIZES[size]
        for number in together:
            configs = configs_of(number, width, batch, device)
            alone = Trainer(get_target("gmm25"), configs[0])
            many = ManyRuns(get_target("gmm25"), configs)
            filling = min(40, 10_000 // (batch // 2) // 4)  # of the memory a quarter, or less
            alone.train(filling)
            many.train(filling)
            one, all_of_them = medians([alone.step, many.step], turns, device)
            single, several = operations(alone.step), operations(many.step)
            lines.append(
                f"| {size}: width {width}, batch {batch} | {number} | {1e3 * one:.1f} | {1e3 * all_of_them:.1f} "
                f"| {all_of_them / one:.2f} | {number * one / all_of_them:.2f} "
                f"| {several.computing} / {single.computing} = {several.computing / single.computing:.2f} "
                f"| {(several.computing + several.views) / (single.computing + single.views):.2f} |"
            )
            print(lines[-1], flush=True)
        parts = ", ".join(f"{name} {share:.0%}" for name, share in shares(many, turns, device).items())
        where_time_goes.append(f"- {size}, {together[-1]} runs: {parts}.")
    lines += ["", "Where the time of an iteration goes:", "", *where_time_goes, ""]
    if out is None:
        print("\n".join(lines))
    else:
        out.write_text("\n".join(lines))


if __name__ == "__main__":
    tyro.cli(run)
