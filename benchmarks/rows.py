"""Rows of a benchmark: one JSON object a line, appended as runs finish, so that an interrupted benchmark goes on.

A row begins with its key (what was run); the numbers that follow are those of `evaluation.json`.
"""

import json
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ebbflow.trainers.comparison import Group
from ebbflow.trainers.tabulation import as_markdown

Row = dict[str, Any]

OLDER = {"steps": 5}  # what rows were about when they did not say so yet


HERE = Path(__file__).resolve().parents[1]


def commit(checkout: Path = HERE) -> str:
    """Short hash of the code that ran, with a + where it had uncommitted changes."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True).stdout.strip()

    name = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--", "agents", "envs", "buffers", "trainers")
    return name + ("+" if changed else "")


def read(path: Path) -> list[Row]:
    """All rows; a last one that was cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(OLDER | json.loads(line))
        except ValueError:
            continue
    return rows


def run_missing(
    path: Path, keys: Iterable[Row], work: Callable[[Row], Row], shown: Sequence[str], checkout: Path = HERE
) -> None:
    """Append `key | work(key)` for each key that has no row yet, also not one that another process has just written.

    Rows name the commit of `checkout`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for key in keys:
        if any(all(row.get(name) == value for name, value in key.items()) for row in read(path)):
            continue
        code = commit(checkout)  # of the code that begins: it may change on the way
        row = key | work(key) | {"commit": code}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        numbers = (f"{name} {row[name]:.3f}" for name in shown if row.get(name) is not None)
        print(*key.values(), "·", row.get("failed") or ", ".join(numbers), flush=True)


def group(rows: Iterable[Row], columns: dict[str, str]) -> list[Group]:
    """Groups of rows that are equal in `columns` (key: title), in order of first appearance.

    Runs that failed are named among the seeds and have no numbers.
    """
    together: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        together.setdefault(tuple(row.get(name) for name in columns), []).append(row)
    groups = []
    for values, members in together.items():
        seeds = [f"{row['seed']}{' (failed)' if 'failed' in row else ''}" for row in members]
        labels = dict(zip(columns.values(), map(str, values), strict=True))
        labels |= {"seeds": ", ".join(seeds), "commit": ", ".join(sorted({row["commit"] for row in members}))}
        groups.append(Group(labels, [row for row in members if "failed" not in row]))
    return groups


def write_table(groups: Sequence[Group], numbers: Sequence[str], out: Path | None, heading: str = "") -> None:
    """Print a Markdown table, or write it to `out` under its heading."""
    text = f"{heading}{as_markdown(groups, numbers)}\n"
    print(text) if out is None else out.write_text(text, encoding="utf-8")
