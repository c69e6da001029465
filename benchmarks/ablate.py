"""Ablation: named changes of the recipe × targets × numbers of steps × seeds, read from a small JSON file.

    python benchmarks/ablate.py run benchmarks/ablations/paper.json --rows benchmarks/results/ablation.jsonl
    python benchmarks/ablate.py table benchmarks/ablations/paper.json --rows benchmarks/results/ablation.jsonl

The file holds `targets`, `steps`, `seeds`, the settings of every run (`base`), and `changes`: settings by dotted name,
as on the command line, for each name of a row. A change may set `steps` for itself. Rows are those of `quality.py`, and
go on where they stopped: all changes with one seed come before the next seed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from quality import NUMBERS, run_all
from rows import Row, group, read, write_table

from ebbflow.envs.errors import InputError


@dataclass(frozen=True)
class Grid:
    """What an ablation runs: every change, on every target, with every number of steps and seed."""

    targets: tuple[str, ...]
    changes: dict[str, dict[str, Any]]
    steps: tuple[int, ...] = (5,)
    seeds: tuple[int, ...] = (0, 1, 2)
    base: dict[str, Any] | None = None

    @classmethod
    def load(cls, path: Path) -> "Grid":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**values)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"grid {path}: expected JSON with {', '.join(cls.__annotations__)} ({error})") from error

    def cases(self) -> list[tuple[Row, dict[str, Any]]]:
        """Key and settings of each run, seeds outermost."""
        found: list[tuple[Row, dict[str, Any]]] = []
        for seed in self.seeds:
            for target in self.targets:
                for label, change in self.changes.items():
                    settings = {**(self.base or {}), **change}
                    for steps in [settings.pop("steps")] if "steps" in settings else self.steps:
                        key = {"label": label, "target": target, "variant": "adaptive", "steps": steps, "seed": seed}
                        found.append((key, nested(settings)))
        return found


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as nested tables."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        *path, last = name.split(".")
        table = found
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return found


def run(
    grid: tyro.conf.Positional[Path],
    rows: Path,
    only: tuple[str, ...] = (),
    targets: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
) -> None:
    """Run what is missing; `only` these changes, targets and seeds, where given."""
    cases = Grid.load(grid).cases()
    chosen = {"label": only, "target": targets, "seed": seeds}
    run_all(rows, [case for case in cases if all(case[0][name] in few for name, few in chosen.items() if few)])


def table(grid: tyro.conf.Positional[Path], rows: Path, out: Path | None = None) -> None:
    """Markdown table, target by target, in the order of the grid; the first change is what the others compare with."""
    keys = {json.dumps(key): place for place, (key, _) in enumerate(sorted(Grid.load(grid).cases(), key=_by_target))}
    names = ("label", "target", "variant", "steps", "seed")
    placed = {keys.get(json.dumps({name: row[name] for name in names})): row for row in read(rows)}
    placed.pop(None, None)  # rows of another grid
    found = [placed[place] for place in sorted(placed)]
    heading = f"# Ablation\n\nCommand: `python benchmarks/ablate.py run {grid} --rows {rows}`, then `... table`.\n\n"
    write_table(group(found, {"target": "target", "label": "change", "steps": "T"}), NUMBERS, out, heading)


def _by_target(case: tuple[Row, dict[str, Any]]) -> str:
    return str(case[0]["target"])


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table})
