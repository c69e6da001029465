"""What an agent and its training cost on this machine: iterations, samples and energies a second, and peak memory.

Nothing is learned for it: an untrained agent does the same work. Of a density, the batch is that of the recipe, half of
it from replay and anchors, of which the replay is full, as it is for most of a training; the search that finds anchors
is short, and the time grid is not searched for. Of data, batches are what the trainer makes of them; there are no
energies then, and of tokens with a density no gradients: such rates are None, and counts of calls 0. Samples are those
of the agent that is evaluated: in full precision, and as a rule not compiled. All rates are by the clock, measured in
rounds, in turns, after a warm-up; `processor_share` tells whether the process had a processor to itself: on a busy
machine rates are too low.
"""

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..envs.errors import InputError, whole_number
from ..envs.registry import get_target
from ..envs.spaces import Tokens
from .bench_results import RATES
from .config import MatmulPrecision, TrainConfig, list_presets, load_preset
from .trainer import Trainer, device_of

__all__ = ["Effort", "measure"]

Work = tuple[Callable[[], object], int]  # a call, and how much of what is counted it does

ITERATIONS = 1_000_000  # of a training that never ends: its schedules stay at their beginning


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        rounds: how often each quantity is measured, >= 1.
        seconds: about how long each time, > 0.
        warmup: training iterations before, >= 1.

    Raises:
        InputError: for a value out of range.
    """

    rounds: int = 5
    seconds: float = 0.5
    warmup: int = 10

    def __post_init__(self) -> None:
        whole_number("rounds", self.rounds, least=1)
        whole_number("warmup", self.warmup, least=1)
        if not 0.0 < self.seconds < math.inf:
            raise InputError(f"seconds: expected a finite number > 0, got {self.seconds!r}")


def measure(
    target: str,
    *,
    dim: int | None = None,
    scale: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    width: int | None = None,
    variant: str = "adaptive",
    device: str = "cpu",
    threads: int | None = None,
    compile: bool = False,
    cuda_graphs: bool = False,
    chunk: int | None = None,
    matmul_precision: MatmulPrecision = "float32",
    seed: int = 0,
    effort: Effort | None = None,
) -> dict[str, Any]:
    """Measure one setting.

    Args:
        target: name of a density or of data, see `ebbflow targets`; or of a preset, for its target and its settings.
        dim, scale: as in `TrainConfig`.
        steps: T; by default that of the preset, or what suits the target.
        batch_size: trajectories per iteration, samples drawn at a time, and states in one call of the density; by
            default that of the preset, or 256.
        width: width of the backbone; by default that of the preset, or 128.
        variant: adaptive, generation or fixed; see `AgentConfig.variant`.
        device: cpu, cuda, cuda:1 ...
        threads: CPU threads of torch; None for the preset's, or torch's own choice.
        compile, cuda_graphs, chunk, matmul_precision: as in `TrainConfig`; of iterations.
        seed: of all random numbers.
        effort: how long to measure.

    Returns:
        The result, as plain values for JSON; see `bench_results`.

    Raises:
        InputError: for settings out of range or that do not fit the target, a target that cannot be had, and whatever
            its density raises.

    Example:
        >>> result = measure("gmm25", batch_size=8, width=8, threads=1, effort=Effort(rounds=2, seconds=0.01))
        >>> result["settings"]["agent"]["width"], result["results"]["energy_calls_per_iteration"]
        (8, 4)
        >>> rate = result["results"]["samples_per_second"]
        >>> len(rate["rounds"]), rate["low"] <= rate["median"] <= rate["high"]
        (2, True)
    """
    if not target:
        raise InputError("target: expected a name, plugin or package.module:attribute; see: ebbflow targets")
    effort = effort or Effort()
    base = load_preset(target) if target in list_presets() else TrainConfig(target=target)
    given: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "threads": threads, "dim": dim, "scale": scale}
    base = replace(base, **{name: value for name, value in given.items() if value is not None})
    power = 2.0 if base.agent.time_grid_power is None else base.agent.time_grid_power
    config = replace(
        base,
        iterations=ITERATIONS,
        contexts_per_batch=max(1, min(base.contexts_per_batch, base.batch_size // 2)),
        seed=seed,
        device=device,
        compile=compile,
        cuda_graphs=cuda_graphs,
        chunk=chunk,
        matmul_precision=matmul_precision,
        agent=replace(base.agent, width=base.agent.width if width is None else width, time_grid_power=power).variant(
            variant
        ),
    )
    measured = get_target(config.target, dim=config.dim, scale=config.scale)
    if measured.has_log_prob:  # data have no anchors
        quick = replace(config.anchors, count=1000, temperatures=5, moves=1, final_moves=0)
        config = replace(config, anchors=quick)
    where = device_of(config)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    trainer = Trainer(measured, config)
    trainer.prepare()
    if trainer.data is None and config.replay.share > 0:
        _fill(trainer)
    trainer.train(effort.warmup)
    before = trainer.energy_calls, trainer.gradient_calls
    trainer.train(trainer.iteration + 1)
    calls = trainer.energy_calls - before[0], trainer.gradient_calls - before[1]
    wall, processor = time.perf_counter(), time.process_time()
    rates = _rates(_works(trainer), effort, where)
    share = (time.process_time() - processor) / (time.perf_counter() - wall)
    return {
        "settings": {**trainer.config.to_dict(), "variant": variant, **asdict(effort)},
        "versions": {"ebbflow": _version(), "torch": torch.__version__, "python": platform.python_version()},
        "machine": {
            "device": _name_of(where),
            "threads": torch.get_num_threads(),
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
        },
        "results": {
            **{name: _summary(rates[name]) if name in rates else None for name in RATES},
            "energy_calls_per_iteration": calls[0],
            "gradient_calls_per_iteration": calls[1],
            "peak_memory_bytes": _peak_memory(where),
            "processor_share": share,
        },
    }


def _fill(trainer: Trainer) -> None:
    """Fill the replay with new paths, as far as they end inside the support."""
    rows = max(trainer.config.batch_size, 256)
    for _ in range(math.ceil(trainer.replay.capacity / rows)):
        context = trainer.new_paths.contexts(rows)
        with torch.no_grad():
            paths = trainer.new_paths.collect(rows, context=context)
            log_ratio = trainer.memory.comparable(trainer.agent.log_ratio(paths), context)
        trainer.memory.remember(paths, log_ratio)


def _works(trainer: Trainer) -> dict[str, Work]:
    """What is timed, by the name of its rate, and how much of it one call does; what there is none of is left out."""
    target, n = trainer.target, trainer.config.batch_size
    agent = trainer.evaluated_agent
    if target.has_log_prob:
        context = trainer.new_paths.contexts(n)
    else:
        context = target.sample_context(n) if target.is_conditional else None
    density = target if agent.needs_score else None  # samples alone cost no energy calls
    works: dict[str, Work] = {
        "iterations_per_second": (lambda: trainer.train(trainer.iteration + 1), 1),
        "samples_per_second": (lambda: agent.generate(n, density, context=context), n),
    }
    if not target.has_log_prob:
        return works
    with torch.no_grad():
        states = agent.generate(n, target, context=context)["state"][:, -1]

    def energies() -> None:
        with torch.no_grad():
            target(states, context)

    works["energy_calls_per_second"] = (energies, n)
    if not isinstance(target.space, Tokens):
        works["gradient_calls_per_second"] = (lambda: target.value_and_score(states, context), n)
    return works


def _rates(works: Mapping[str, Work], effort: Effort, device: torch.device) -> dict[str, list[float]]:
    """Amounts a second of each work, one for each round, in turns."""
    repeats = {}
    for name, (work, _) in works.items():
        _seconds(work, 1, device)  # the first call may set things up
        repeats[name] = max(1, math.ceil(effort.seconds / _seconds(work, 1, device)))
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(effort.rounds):
        for name, (work, amount) in works.items():
            rates[name].append(amount * repeats[name] / _seconds(work, repeats[name], device))
    return rates


def _seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Wall seconds of so many calls, to their end on the device."""
    _finish(device)
    begun = time.perf_counter()
    for _ in range(repeats):
        work()
    _finish(device)
    return max(time.perf_counter() - begun, 1e-9)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summary(rates: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(rates), "low": min(rates), "high": max(rates), "rounds": rates}


def _peak_memory(device: torch.device) -> int | None:
    """Bytes: allocated on a GPU; resident of the whole process, torch and all, on a CPU; None where not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on this system
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        names = [line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _version() -> str:
    try:
        return version("ebbflow")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"
