"""How figures look: colours and dots, legends, and axes that outliers do not squeeze."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy
from matplotlib.axes import Axes

__all__ = [
    "DESTRUCTION",
    "DOTS",
    "GENERATION",
    "TRUTH",
    "Array",
    "Limits",
    "axis_limits",
    "equal_if_similar",
    "legend_above",
    "outside_remark",
    "signed",
]

Array = numpy.ndarray[Any, numpy.dtype[Any]]
Limits = tuple[float, float]

GENERATION = "#1f6fb4"
DESTRUCTION = "#e0701b"
TRUTH = "#4d4d4d"

DOTS = {"s": 4.0, "alpha": 0.45, "linewidths": 0.0, "rasterized": True}


def legend_above(axes: Axes, columns: int) -> None:
    """A legend above the axes, where it hides nothing."""
    axes.legend(
        frameon=False, ncols=columns, fontsize=9, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2
    )


def signed(value: float, _: float | None = None) -> str:
    """A number with its sign, as ticks show a distance; the second argument is the tick's position."""
    return f"{value:+,.4g}" if value else "0"


def axis_limits(first: Array, *others: Array, tail: float = 0.005) -> Limits:
    """Limits that hold all but a `tail` on either side of each of the arrays, with a margin.

    Outliers of what was generated must not squeeze the truth: limits go at most one span of `first` beyond it.
    """
    low, high = numpy.quantile(first, [tail, 1.0 - tail])
    span = high - low
    for values in others:
        other_low, other_high = numpy.quantile(values, [tail, 1.0 - tail])
        low, high = min(low, max(other_low, low - span)), max(high, min(other_high, high + span))
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def outside_remark(points: Array, *limits: Limits) -> str:
    """A remark on how many points lie outside the axes, if any: `[n]` or `[n, dim]` with limits for each column."""
    columns = points.reshape(len(points), -1)
    inside = numpy.ones(len(points), dtype=bool)
    for column, (low, high) in zip(columns.T, limits, strict=True):
        inside &= (column >= low) & (column <= high)
    share = 1.0 - inside.mean()
    return f" ({share:.1%} off the axes)" if share >= 0.0005 else ""


def equal_if_similar(every: Iterable[Axes], limits: Sequence[Limits]) -> None:
    """Same units on both axes, unless one range would be squeezed to a line."""
    spans = [high - low for low, high in limits]
    if max(spans) < 3.0 * min(spans):
        for axes in every:
            axes.set_aspect("equal")
