"""Comparing runs: groups that differ in the seed alone, and the mean and standard deviation of their numbers.

Everything comes from files that runs leave behind (`config.json`, `evaluation.json`), or from rows that a benchmark has
written with the same keys; nothing here imports torch. Bounds and log Z are shown as gaps to the true log Z (nats), and
as they are where it is not known. What is undefined for every group is left out of tables.
"""

import glob
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..envs.errors import InputError
from .config import TrainConfig
from .run_folder import RunFolder, flatten

__all__ = ["NUMBERS", "Group", "Number", "Run", "Summary", "find_runs", "group_runs"]

Values = Mapping[str, Any]


class Number(NamedTuple):
    """One column: its name in files, its title, how many digits are shown, and how it follows from an evaluation."""

    name: str
    title: str
    digits: int
    of: Callable[[Values], float | None]


class Summary(NamedTuple):
    """Mean and standard deviation (None of a single one) over the runs that have a number, and how many these are."""

    mean: float
    sd: float | None
    runs: int


def _plain(key: str) -> Callable[[Values], float | None]:
    def value(evaluation: Values) -> float | None:
        found = evaluation.get(key)
        if found is None and key == "elbo" and (evaluation.get("zero_density_share") or 0.0) > 0.0:
            return -math.inf  # which strict JSON cannot say
        return None if found is None else float(found)

    return value


def _gap(key: str) -> Callable[[Values], float | None]:
    return _difference(_plain(key), _plain("true_log_z"))


def _without_truth(key: str) -> Callable[[Values], float | None]:
    return lambda evaluation: _plain(key)(evaluation) if evaluation.get("true_log_z") is None else None


def _difference(
    one: Callable[[Values], float | None], other: Callable[[Values], float | None]
) -> Callable[[Values], float | None]:
    def value(evaluation: Values) -> float | None:
        left, right = one(evaluation), other(evaluation)
        return None if left is None or right is None else left - right

    return value


NUMBERS = (
    Number("elbo_gap", "ELBO gap", 2, _gap("elbo")),
    Number("eubo_gap", "EUBO gap", 2, _gap("eubo")),
    Number("eubo_median_gap", "median gap", 2, _gap("eubo_median")),
    Number("elbo", "ELBO", 2, _without_truth("elbo")),
    Number("eubo", "EUBO", 2, _without_truth("eubo")),
    Number("eubo_median", "median", 2, _without_truth("eubo_median")),
    Number("width", "width", 2, _difference(_plain("eubo"), _plain("elbo"))),
    # What is left of the width where the mean of the EUBO is all tail.
    Number("median_width", "median width", 2, _difference(_plain("eubo_median"), _plain("elbo"))),
    Number("log_z_error", "log Z error", 3, _gap("log_z")),
    Number("log_z", "log Z", 3, _without_truth("log_z")),
    Number("log_z_stderr", "own s.e.", 3, _plain("log_z_stderr")),
    Number("ess_reverse", "ESS", 3, _plain("ess_reverse")),
    Number("ess_forward", "ESS fwd.", 3, _plain("ess_forward")),
    Number("sinkhorn", "Sinkhorn", 2, _plain("sinkhorn")),
    Number("sinkhorn_floor", "its floor", 2, _plain("sinkhorn_floor")),
    Number("bits_per_dimension", "bits/dim.", 3, _plain("bits_per_dimension")),
    Number("train_bits_per_dimension", "trained on", 3, _plain("train_bits_per_dimension")),
    Number("mode_coverage", "modes", 2, _plain("mode_coverage")),
    Number("worst_right_mass_error", "worst well", 3, _plain("worst_right_mass_error")),
    Number("energy_calls", "energy calls", 0, _plain("energy_calls")),
    Number("gradient_calls", "gradients", 0, _plain("gradient_calls")),
    Number("seconds", "seconds", 0, _plain("seconds")),
    Number("cpu_seconds", "CPU seconds", 1, _plain("cpu_seconds")),
)


@dataclass(frozen=True)
class Group:
    """Evaluations that belong together.

    Args:
        labels: what it is called, by column, as text.
        evaluations: one for each run, with the keys of evaluation.json.
        record: the same as plain values, for files that programs read.

    Example:
        >>> group = Group({"target": "mine"}, [{"elbo": -1.0, "eubo": 1.0}, {"elbo": -2.0, "eubo": 1.0}])
        >>> group.summary("width")
        Summary(mean=2.5, sd=0.7071067811865476, runs=2)
        >>> group.summary("log_z") is None
        True
    """

    labels: dict[str, str]
    evaluations: Sequence[Values]
    record: dict[str, Any] = field(default_factory=dict)

    def summary(self, name: str) -> Summary | None:
        """Mean ± standard deviation of the number called `name`; None where no run has it."""
        (number,) = (number for number in NUMBERS if number.name == name)
        values = [value for value in map(number.of, self.evaluations) if value is not None]
        if not values:
            return None
        finite = all(map(math.isfinite, values))
        mean = statistics.fmean(values) if finite else sum(values)
        return Summary(mean, statistics.stdev(values) if finite and len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Run:
    """A finished run: where it is, its settings by dotted name, and its numbers."""

    folder: Path
    settings: dict[str, Any]
    evaluation: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Read a run folder.

        Raises:
            InputError: when it is no run folder, was not evaluated yet, or a file of it cannot be read.
        """
        run = RunFolder(folder)
        config = run.load_config()
        evaluation = run.load_evaluation()
        if evaluation is None:
            why = "is not a valid JSON object" if run.evaluation.is_file() else "is not there"
            raise InputError(f"run {folder}: {run.evaluation.name} {why}; make one with: ebbflow evaluate {folder}")
        return cls(folder, flatten(config.to_dict()), evaluation)


def find_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """Runs at `paths`, each once, and a remark about every one that was found unfinished on the way.

    Args:
        paths: run folders, folders that hold run folders at any depth, or patterns (`runs/gmm*`).

    Raises:
        InputError: when a path leads to no run at all, and as `Run.load` for a run named as such.
    """
    runs: dict[Path, Run] = {}
    remarks: list[str] = []
    for path in map(str, paths):
        named = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True)) or [path]
        folders = [folder for name in named for folder in _run_folders(Path(name))]
        for folder in folders:
            if folder.resolve() in runs:
                continue
            try:
                runs[folder.resolve()] = Run.load(folder)
            except InputError as error:
                if str(folder) == str(Path(path)):
                    raise
                remarks.append(f"left out: {error}")
        if not folders:
            raise InputError(f"run: expected a run folder, or a folder that holds some, got {path!r}")
    if not runs:
        raise InputError(remarks[0].removeprefix("left out: "))
    return list(runs.values()), remarks


def _run_folders(path: Path) -> list[Path]:
    """The folder itself, if it is a run's, or the run folders below it."""
    if (path / "config.json").is_file() or not path.is_dir():
        return [path]
    return [config.parent for config in sorted(path.rglob("config.json")) if RunFolder(config.parent).holds_run]


def group_runs(runs: Sequence[Run], ignore: Sequence[str] = ()) -> list[Group]:
    """Groups of runs that differ in the seed alone, by target and number of steps, then in the order of the runs.

    Settings to `ignore` (dotted names) may differ within a group, as the seed does, such as `agent.time_grid_power`,
    which each run matches to the target by a search of its own.

    A group is labelled by target, T, and by those of its settings that differ among the groups and are not at their
    default; its record holds all settings that differ.

    Raises:
        InputError: for a name to ignore that is no setting's.
    """
    groups: dict[str, list[Run]] = {}
    unknown = [name for name in ignore if name not in flatten(TrainConfig().to_dict())]
    if unknown:
        raise InputError(f"ignore: expected names of settings, such as agent.time_grid_power, got {unknown[0]!r}")
    for run in runs:
        rest = {name: value for name, value in run.settings.items() if name not in ("seed", *ignore)}
        groups.setdefault(json.dumps(rest), []).append(run)
    firsts = [group[0].settings for group in groups.values()]
    apart = ("target", "steps", "seed", *ignore)
    differing = [
        name for name in firsts[0] if name not in apart and any(other[name] != firsts[0][name] for other in firsts)
    ]
    defaults = flatten(TrainConfig().to_dict())
    targets = list(dict.fromkeys(first["target"] for first in firsts))
    found = []

    def place(group: list[Run]) -> tuple[int, int]:
        return targets.index(group[0].settings["target"]), group[0].settings["steps"]

    for group in sorted(groups.values(), key=place):
        settings = group[0].settings
        shown = [f"{_short(name)}={_text(settings[name])}" for name in differing if settings[name] != defaults[name]]
        seeds = sorted(run.settings["seed"] for run in group)
        labels = {"target": settings["target"], "T": str(settings["steps"])}
        if differing:
            labels["settings"] = "\n".join(shown) or "defaults"
        labels["seeds"] = ", ".join(map(str, seeds))
        record = {
            **{name: settings[name] for name in ("target", "steps")},
            "settings": {name: settings[name] for name in differing},
            "seeds": seeds,
            "runs": [str(run.folder) for run in group],
        }
        found.append(Group(labels, [run.evaluation for run in group], record))
    return found


def _short(name: str) -> str:
    """The last part of a dotted name where it says enough."""
    every = [other.rpartition(".")[2] for other in flatten(TrainConfig().to_dict())]
    last = name.rpartition(".")[2]
    return last if every.count(last) == 1 else name


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
