"""Results of `ebbflow bench`: what their files hold, and how one or two of them are shown; nothing here imports torch.

A file is JSON with the `settings`, by dotted name, the `versions`, the `machine`, and the `results`: for each rate the
`median`, `low` and `high` of its rounds and the `rounds` themselves; whole numbers by name; and `processor_share`,
processor seconds of the process per second.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from ..envs.errors import InputError
from .run_folder import flatten

__all__ = ["COUNTS", "RATES", "compare_results", "load_result", "print_comparison", "print_result"]

RATES = {  # by name in files: title and unit
    "iterations_per_second": ("training", "iterations/s"),
    "samples_per_second": ("generation", "samples/s"),
    "energy_calls_per_second": ("density", "energy calls/s"),
    "gradient_calls_per_second": ("density with gradient", "gradient calls/s"),
}
COUNTS = {
    "energy_calls_per_iteration": ("density, in training", "calls/iteration"),
    "gradient_calls_per_iteration": ("gradient, in training", "calls/iteration"),
    "peak_memory_bytes": ("peak memory", "MB"),
}
BUSY = 0.9  # a processor share below it: others were using the machine
PARTS = ("settings", "versions", "machine", "results")


class Ratio(NamedTuple):
    """One quantity of two results.

    Attributes:
        before, after: its two values; None where it was not measured.
        ratio: after / before; None where that is not defined.
        apart: whether the ranges of the rounds of a rate do not overlap; None for a count.
    """

    before: float | None
    after: float | None
    ratio: float | None
    apart: bool | None


def load_result(path: Path) -> dict[str, Any]:
    """A result that `ebbflow bench --out` has written.

    Raises:
        InputError: when there is no such file, or it holds something else.
    """
    expected = f"compare: expected a file that `ebbflow bench --out` has written, got {str(path)!r}"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{expected} ({getattr(error, 'strerror', None) or f'not valid JSON: {error}'})") from error
    parts = [result.get(part) for part in PARTS] if isinstance(result, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise InputError(f"{expected} (a table of {', '.join(PARTS)} is not in it)")
    if not all(_is_rate(result["results"].get(name)) for name in RATES):
        raise InputError(f"{expected} (its results are not rates with median, low and high)")
    if not all(isinstance(result["results"].get(name), int | float | None) for name in (*COUNTS, "processor_share")):
        raise InputError(f"{expected} (its results are not numbers)")
    return result


def _is_rate(value: Any) -> bool:
    """Whether a value is a rate, or null: not measured."""
    if value is None:
        return True
    numbers = [value.get(key) for key in ("median", "low", "high")] if isinstance(value, dict) else [None]
    return all(isinstance(number, int | float) for number in numbers)


def compare_results(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Ratio], dict[str, tuple[Any, Any]]]:
    """Ratios of two results by name, and what else differs: settings, versions and machine, by dotted name.

    Example:
        >>> rate = {"median": 2.0, "low": 1.9, "high": 2.1}
        >>> faster = {"median": 3.0, "low": 2.0, "high": 3.1}
        >>> one = {"settings": {"steps": 5}, "results": {"samples_per_second": rate}}
        >>> other = {"settings": {"steps": 4}, "results": {"samples_per_second": faster}}
        >>> ratios, differing = compare_results(one, other)
        >>> ratios["samples_per_second"], differing
        (Ratio(before=2.0, after=3.0, ratio=1.5, apart=False), {'settings.steps': (5, 4)})
    """
    ratios = {}
    for name in (*RATES, *COUNTS):
        one, other = (result["results"].get(name) for result in (before, after))
        apart = None
        if isinstance(one, dict) and isinstance(other, dict):
            apart = one["high"] < other["low"] or other["high"] < one["low"]
        left, right = (value["median"] if isinstance(value, dict) else value for value in (one, other))
        ratios[name] = Ratio(left, right, right / left if left and right is not None else None, apart)
    sides = [
        {key: value for part in PARTS[:-1] for key, value in flatten(result.get(part, {}), f"{part}.").items()}
        for result in (before, after)
    ]
    names = dict.fromkeys([*sides[0], *sides[1]])
    differing = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
    return ratios, {name: pair for name, pair in differing.items() if pair[0] != pair[1]}


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """Print what was measured, of what, and on what.

    Example:
        >>> rate = {"median": 1234.5, "low": 1200.0, "high": 1300.0}
        >>> machine = {"device": "some CPU", "threads": 1}
        >>> agent = {"width": 64}
        >>> settings = {"target": "gmm25", "steps": 5, "batch_size": 8, "agent": agent, "variant": "adaptive"}
        >>> result = {"settings": settings, "machine": machine, "versions": {"torch": "2"}}
        >>> print_result(result | {"results": {"samples_per_second": rate}}, Console(width=80))
        gmm25, T = 5, batch 8, width 64, adaptive; some CPU, threads 1, torch 2
                        median          range  unit
        generation       1,234  1,200 … 1,300  samples/s
    """
    settings, machine = result["settings"], result["machine"]
    what = f"{settings['target']}, T = {settings['steps']}, batch {settings['batch_size']}"
    what += f", width {settings['agent']['width']}, {settings['variant']}"
    where = f"{machine['device']}, threads {machine['threads']}, torch {result['versions']['torch']}"
    console.print(f"{what}; {where}", highlight=False, markup=False, soft_wrap=True)
    table = Table("", box=None, header_style="dim")
    for title in ("median", "range"):
        table.add_column(title, justify="right")
    table.add_column("unit")
    for name, (title, unit) in (RATES | COUNTS).items():
        value = result["results"].get(name)
        if isinstance(value, dict):
            spread = f"{_text(value['low'], name)} … {_text(value['high'], name)}"
            table.add_row(title, _text(value["median"], name), spread, unit)
        elif value is not None:
            table.add_row(title, _text(value, name), "", unit)
    console.print(table)
    _tell_busy(result, "", console)


def print_comparison(
    before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str], cons: Console
) -> None:
    """Print two results side by side with their ratios, and then what differs between them.

    Args:
        before, after: the results.
        names: what they are called.
        cons: where to print.
    """
    ratios, differing = compare_results(before, after)
    table = Table("", box=None, header_style="dim")
    for title in ("a", "b", "b / a"):
        table.add_column(title, justify="right")
    for title in ("ranges", "unit"):
        table.add_column(title)
    for name, (title, unit) in (RATES | COUNTS).items():
        found = ratios[name]
        if found.before is not None or found.after is not None:
            values = [_text(value, name) for value in (found.before, found.after)]
            ratio = "" if found.ratio is None else f"{found.ratio:.2f}"
            apart = "" if found.apart is None else "apart" if found.apart else "overlap"
            table.add_row(title, *values, ratio, apart, unit)
    for letter, name in zip("ab", names, strict=True):
        cons.print(f"{letter}: {name}", highlight=False, markup=False, soft_wrap=True)
    cons.print(table)
    for letter, result in zip("ab", (before, after), strict=True):
        _tell_busy(result, f"{letter}: ", cons)
    if not differing:
        cons.print("the same settings, versions and machine", highlight=False)
        return
    cons.print("what differs:", highlight=False)
    for name, (one, other) in differing.items():
        cons.print(f"  {name}: {one} | {other}", highlight=False, markup=False, soft_wrap=True)


def _tell_busy(result: Mapping[str, Any], name: str, console: Console) -> None:
    """Say so where a measurement on CPUs had less than a processor to itself."""
    share = result["results"].get("processor_share")
    if share is not None and share < BUSY and result["settings"].get("device") == "cpu":
        remark = f"a busy machine: only {share:.0%} of a processor was to be had, so rates are too low"
        console.print(f"[yellow]not to be trusted:[/yellow] {name}{remark}", soft_wrap=not console.is_terminal)


def _text(value: float | None, name: str) -> str:
    if value is None:
        return ""
    if name == "peak_memory_bytes":
        return f"{value / 1e6:,.0f}"
    return f"{value:,.0f}" if value >= 100 or isinstance(value, int) else f"{value:.3g}"
