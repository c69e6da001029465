"""Samples from a table of numbers: a line is a sample, a column a coordinate."""

import csv
import math
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError

__all__ = ["read_table"]


def read_table(path: Path) -> Tensor:
    """The lines of a `.csv` file with commas between finite numbers, `[n, columns]` in torch's default type.

    A first line without any number names the columns, and empty lines are passed over.

    Raises:
        InputError: for cells that are no finite numbers, and lines of different lengths; it names the line.
        OSError: if the file cannot be read.

    Example:
        >>> _ = Path("sizes.csv").write_text("height,weight\\n1.5,60\\n1.75,80\\n")
        >>> read_table(Path("sizes.csv"))
        tensor([[ 1.5000, 60.0000],
                [ 1.7500, 80.0000]])
    """
    rows: list[list[float]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        try:
            for cells in lines:
                if not any(cell.strip() for cell in cells):
                    continue
                numbers = [_number(cell) for cell in cells]
                if not rows and all(number is None for number in numbers) and lines.line_num == 1:
                    continue
                row = [number for number in numbers if number is not None and math.isfinite(number)]
                if len(row) != len(cells):
                    wrong = next(c for c, x in zip(cells, numbers, strict=True) if x is None or not math.isfinite(x))
                    raise InputError(f"{path}: expected finite numbers, got {wrong!r} in line {lines.line_num}")
                if rows and len(row) != len(rows[0]):
                    raise InputError(
                        f"{path}: expected {len(rows[0])} columns as in the first line of numbers, got {len(row)} in "
                        f"line {lines.line_num}"
                    )
                rows.append(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: expected a table in UTF-8 text, got {str(error)!r}") from error
    if not rows:
        raise InputError(f"{path}: expected lines of numbers, got none")
    return torch.tensor(rows, dtype=torch.float64).to(torch.get_default_dtype())


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
