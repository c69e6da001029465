"""Tables of a comparison: mean ± standard deviation for people (terminal, Markdown), apart for programs (CSV, JSON).

A table has the columns of `comparison.NUMBERS` for which some group has a number.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .comparison import NUMBERS, Group, Number, Summary
from .run_folder import flatten

__all__ = ["as_csv", "as_json", "as_markdown", "print_table"]

Column = tuple[str, list[str]]  # title and a cell for each group

SHOWN = (  # to people; files for programs hold all
    *("elbo_gap", "eubo_gap", "eubo_median_gap", "elbo", "eubo", "eubo_median", "width", "log_z_error", "log_z"),
    *(
        "ess_reverse",
        "sinkhorn",
        "bits_per_dimension",
        "train_bits_per_dimension",
        "mode_coverage",
        "energy_calls",
        "gradient_calls",
        "seconds",
    ),
)
_PADDING = 2


def as_text(summary: Summary | None, number: Number, runs: int) -> str:
    """A cell: `mean ± sd`, and out of how many runs where some do not have the number.

    Example:
        >>> as_text(Summary(1234.5678, 0.25, 2), NUMBERS[0], runs=3)
        '1,234.57 ± 0.25 (2 of 3)'
    """
    if summary is None:
        return ""
    text = f"{summary.mean:,.{number.digits}f}" if math.isfinite(summary.mean) else f"{summary.mean}"
    if summary.sd:  # exactly zero: a count, the same in every run
        text += f" ± {summary.sd:,.{number.digits}f}"
    return text if summary.runs == runs else f"{text} ({summary.runs} of {runs})"


def _columns(groups: Sequence[Group], names: Sequence[str] | None) -> list[tuple[Number, list[str]]]:
    """Numbers that some group has (of `names`, if given), each with its cells."""
    found = []
    for number in NUMBERS:
        if names is None or number.name in names:
            cells = [as_text(group.summary(number.name), number, len(group.evaluations)) for group in groups]
            if any(cells):
                found.append((number, cells))
    return found


def _labels(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group.labels))


def print_table(groups: Sequence[Group], console: Console) -> None:
    """Print a table as wide as the console.

    Where it does not fit, groups are numbered and told first, and the columns go into as many tables as they need.

    Example:
        >>> groups = [Group({"target": "mine"}, [{"elbo": -1.0, "eubo": 0.5, "seconds": 60.0}])]
        >>> print_table(groups, Console(width=80))
        target  ELBO   EUBO  width  seconds
        mine    -1.00  0.50  1.50   60
        >>> print_table(groups, Console(width=20))
        #  target
        1  mine
        <BLANKLINE>
        #  ELBO   EUBO
        1  -1.00  0.50
        <BLANKLINE>
        #  width  seconds
        1  1.50   60
    """
    labels = [(name, [group.labels.get(name, "") for group in groups]) for name in _labels(groups)]
    rest = [(number.title, cells) for number, cells in _columns(groups, SHOWN)]
    if _width([*labels, *rest]) > console.width:
        number = ("#", [str(i) for i in range(1, len(groups) + 1)])
        console.print(_table([number, *labels]))
        console.print()
        labels = [number]
    while True:
        block = [*labels, *rest[:1]]
        rest = rest[1:]
        while rest and _width([*block, rest[0]]) <= console.width:
            block.append(rest.pop(0))
        console.print(_table(block))
        if not rest:
            return
        console.print()


def as_markdown(groups: Sequence[Group], names: Sequence[str] = SHOWN) -> str:
    """A Markdown table of the numbers called `names`, of those that any group has.

    Example:
        >>> print(as_markdown([Group({"target": "mine"}, [{"seconds": 2}, {"seconds": 4}])]))
        | target | seconds |
        |---|---|
        | mine | 3 ± 1 |
    """
    labels, columns = _labels(groups), _columns(groups, names)
    rows = [[*labels, *(number.title for number, _ in columns)], ["---"] * (len(labels) + len(columns))]
    for i, group in enumerate(groups):
        row = [*(group.labels.get(name, "") for name in labels), *(cells[i] for _, cells in columns)]
        rows.append([cell.replace("|", "\\|").replace("\n", ", ") for cell in row])
    rule, texts = "|" + "|".join(rows[1]) + "|", ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([texts[0], rule, *texts[2:]])


def as_json(groups: Sequence[Group]) -> str:
    """Strict JSON: for each group its record and, by number, `mean`, `sd` and `runs`; null where undefined.

    Example:
        >>> record = json.loads(as_json([Group({}, [{"seconds": 2}], {"target": "mine"})]))[0]
        >>> record["target"], record["seconds"]
        ('mine', {'mean': 2.0, 'sd': None, 'runs': 1})
    """
    records = []
    for group in groups:
        summaries = {number.name: group.summary(number.name) for number, _ in _columns(groups, None)}
        numbers = {
            name: None if summary is None else {key: _finite(value) for key, value in summary._asdict().items()}
            for name, summary in summaries.items()
        }
        records.append({**group.record, **numbers})
    return json.dumps(records, indent=2, allow_nan=False)


def as_csv(groups: Sequence[Group]) -> str:
    """A row for each group: its record, settings by dotted name, and each number with its standard deviation (`_sd`).

    Example:
        >>> print(as_csv([Group({}, [{"seconds": 2}, {"seconds": 4}], {"target": "mine", "seeds": [0, 1]})]))
        target,seeds,seconds,seconds_sd
        mine,0 1,3.0,1.4142135623730951
    """
    rows: list[dict[str, Any]] = []
    for group in groups:
        record = {**group.record, **flatten(group.record.get("settings", {}))}
        record.pop("settings", None)
        row = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in record.items()}
        for number, _ in _columns(groups, None):
            summary = group.summary(number.name)
            row[number.name] = None if summary is None else summary.mean
            row[f"{number.name}_sd"] = None if summary is None else summary.sd
        rows.append(row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table(columns: Sequence[Column]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _PADDING, 0, 0), header_style="dim")
    for title, _ in columns:
        table.add_column(Text(title), overflow="fold")
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _width(columns: Sequence[Column]) -> int:
    widest = [max(cell_len(line) for cell in (title, *cells) for line in cell.split("\n")) for title, cells in columns]
    return sum(widest) + _PADDING * (len(columns) - 1)


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
