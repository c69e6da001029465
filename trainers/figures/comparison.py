"""The figure of a comparison: the sandwich of log Z, and its width, group by group."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..comparison import Group
from .style import DESTRUCTION, GENERATION, TRUTH, legend_above, signed

__all__ = ["comparison_figure", "write_comparison"]

_WIDE = 30.0  # ratio of widths from which on only a logarithmic axis shows the small ones


def write_comparison(path: Path, groups: Sequence[Group]) -> None:
    """Write the figure; the ending of `path` says as what (.png, .pdf, .svg).

    Raises:
        OSError: when the file cannot be written.

    Example:
        >>> write_comparison(Path("one.png"), [Group({"target": "mine"}, [{"elbo": -1.0, "eubo": 0.5}])])
        >>> Path("one.png").is_file()
        True
    """
    comparison_figure(groups).savefig(path, dpi=130)


def comparison_figure(groups: Sequence[Group]) -> Figure:
    """Left: ELBO and EUBO of each group as an interval around the true log Z, with the median of the EUBO and the
    importance-weighted log Z. Right: the width. Bars are standard deviations over seeds.

    Where log Z is not known, the interval is drawn around the group's own importance-weighted estimate, and dashed.
    """
    names = [_name(group, groups) for group in groups]
    targets = {group.labels.get("target", "") for group in groups}
    lines = sum(1 + name.count("\n") for name in names)
    figure = Figure(figsize=(10.0, 1.5 + 0.17 * lines + 0.16 * len(groups)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.6, 1.0])
    _draw_sandwich(left, groups)
    _draw_width(right, groups)
    left.set_yticks(range(len(groups)), names, fontsize=9)
    left.set_ylim(len(groups) - 0.5, -0.5)  # the first group on top, as in the table
    for axes, columns in ((left, 2), (right, 1)):
        axes.grid(axis="x", alpha=0.25)
        axes.tick_params(axis="x", labelsize=8)
        if axes.get_legend_handles_labels()[0]:
            legend_above(axes, columns)
        for place in range(1, len(groups)):
            if groups[place].labels.get("target") != groups[place - 1].labels.get("target"):
                axes.axhline(place - 0.5, color=TRUTH, lw=0.5)
    if len(targets) == 1:
        figure.suptitle(*targets)
    return figure


def _name(group: Group, groups: Sequence[Group]) -> str:
    """What tells the group from the others, apart from its seeds."""
    parts = []
    for title, label in group.labels.items():
        same = all(other.labels.get(title) == label for other in groups)
        if title != "seeds" and not same:
            parts.append(f"T = {label}" if title == "T" else label)
    return ", ".join(parts) or "all runs"


def _draw_sandwich(axes: Axes, groups: Sequence[Group]) -> None:
    marks = {
        "elbo": ("ELBO", "|", GENERATION),
        "eubo": ("EUBO", "|", DESTRUCTION),
        "eubo_median": ("EUBO, median", "d", DESTRUCTION),
        "log_z": ("log Z, importance-weighted", ".", TRUTH),
    }
    furthest, labelled = 1.0, set()
    for place, group in enumerate(groups):
        estimate = group.summary("log_z")
        zero = 0.0 if estimate is None else estimate.mean  # gaps have the truth for their zero already
        ends = {}
        for key, (label, marker, colour) in marks.items():
            gap = "log_z_error" if key == "log_z" else f"{key}_gap"
            summary = group.summary(gap) or group.summary(key)
            if summary is None or not math.isfinite(summary.mean):
                continue
            value = ends[key] = summary.mean - zero
            furthest = max(furthest, abs(value) + (summary.sd or 0.0))
            axes.errorbar(
                value,
                place,
                xerr=summary.sd,
                fmt=marker,
                ms=13 if marker == "|" else 5,
                mew=2 if marker == "|" else 1,
                color=colour,
                mfc="none" if marker == "d" else colour,
                elinewidth=1,
                capsize=2,
                label=None if key in labelled else label,
            )
            labelled.add(key)
        if "elbo" in ends and "eubo" in ends:
            line = "-" if estimate is None else "--"
            axes.plot([ends["elbo"], ends["eubo"]], [place, place], line, color="#b8b8b8", lw=3, zorder=0)
    axes.axvline(0.0, color=TRUTH, lw=0.8)
    if furthest > _WIDE:
        axes.set_xscale("symlog", linthresh=1.0)
    axes.xaxis.set_major_formatter(FuncFormatter(signed))
    axes.set_xlabel("distance from true log Z (nats)")


def _draw_width(axes: Axes, groups: Sequence[Group]) -> None:
    shown = []
    for key, marker, label in (("width", "o", "EUBO − ELBO"), ("median_width", "d", "median EUBO − ELBO")):
        found = [(place, group.summary(key)) for place, group in enumerate(groups)]
        kept = [(place, summary) for place, summary in found if summary is not None and math.isfinite(summary.mean)]
        if kept:
            axes.errorbar(
                [summary.mean for _, summary in kept],
                [place for place, _ in kept],
                xerr=[summary.sd or 0.0 for _, summary in kept],
                fmt=marker,
                ms=5,
                color=TRUTH if key == "width" else DESTRUCTION,
                mfc="none" if key == "median_width" else TRUTH,
                elinewidth=1,
                capsize=2,
                label=label,
            )
            shown += [summary.mean for _, summary in kept]
    if shown and min(shown) > 0 and max(shown) > _WIDE * min(shown):
        axes.set_xscale("log")
    elif shown:
        axes.set_xlim(left=min(0.0, min(shown)))
    axes.set_xlabel("width (nats)")
