"""The figure of a generative commutative diagram: boxes, thick arrows, dashed edges.

In a finite diagram an orange arrow destroys information and a blue one creates it; blue on orange does both, and grey
neither. Edges that a report says fail are red.
"""

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ArrowStyle, ConnectionStyle, FancyArrowPatch, FancyBboxPatch

from ...envs.channels.information import Step
from ...envs.diagrams.commutation import information
from ...envs.diagrams.diagram import Box, Diagram, Edge, Equal, Lossless, title
from ...envs.diagrams.report import Report
from .diagram_layout import place_boxes
from .style import DESTRUCTION, GENERATION, TRUTH

__all__ = ["diagram_figure", "write_diagram"]

Point = tuple[float, float]

_FAILS = "#c0143c"
_HEIGHT = 0.42  # of a box, in inches, as all lengths here
_ROW = 1.05
_LETTER = 0.085
_AROUND = 0.5  # so far around a box in its way a line is bent
_NOTHING = 1e-9  # nats


def write_diagram(path: Path, diagram: Diagram, report: Report | None = None) -> None:
    """Write the figure; the ending of `path` says as what (.png, .pdf, .svg).

    Args:
        path: where to.
        diagram: what is drawn.
        report: of its check, to show which edges fail.

    Raises:
        InputError: for laws and channels of the diagram that do not fit.
        OSError: when the file cannot be written.

    Example:
        >>> from ebbflow.envs.diagrams import get_example
        >>> diagram = get_example("mash")
        >>> write_diagram(Path("mash.png"), diagram, diagram.check())
        >>> Path("mash.png").is_file()
        True
    """
    diagram_figure(diagram, report).savefig(path, dpi=130)


def diagram_figure(diagram: Diagram, report: Report | None = None) -> Figure:
    """Boxes from left to right along the arrows; what arrows do not connect is drawn one below the other."""
    places = place_boxes(diagram)
    labels = [arrow.label for arrow in diagram.arrows] or [""]
    widths = {box: max(_HEIGHT, 0.25 + _LETTER * len(title(box))) for box in places}
    column = max(widths.values()) + 0.45 + 0.85 * _LETTER * max(map(len, labels))
    centres = {box: (x * column, -y * _ROW) for box, (x, y) in places.items()}
    right, bottom = max(x for x, _ in centres.values()), min(y for _, y in centres.values())
    above, below = 1.1, 0.65
    figure = Figure(figsize=(right + column, above - bottom + below))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(-0.5 * column, right + 0.5 * column))
    axes.set_ylim(bottom - below, above)
    axes.axis("off")
    axes.text(right / 2, above - 0.08, diagram.name, ha="center", va="top", fontsize=11)
    patches = {box: _draw_box(axes, box, centres[box], widths[box]) for box in places}
    for box in places:
        for part in box if len(box) > 1 else ():
            axes.add_patch(_line(patches[(part,)], patches[box], 0.0, "-", color="#b8b8b8", lw=0.8, zorder=1))
    failing = {check.edge for check in report.failures} if report else set()
    steps = {step.name: step for step in information(diagram)} if diagram.finite else {}
    for edge in diagram.edges:
        _draw_edge(axes, edge, patches, centres, steps.get(str(edge)), str(edge) in failing)
    return figure


def _draw_edge(
    axes: Axes,
    edge: Edge,
    patches: dict[Box, FancyBboxPatch],
    centres: dict[Box, Point],
    step: Step | None,
    fails: bool,
) -> None:
    """An arrow or a dashed edge, with its label."""
    first, second = edge.ends
    dashes: Any = "-"
    if isinstance(edge, Equal):
        first, second = sorted((first, second), key=centres.__getitem__)
        bend, style, dashes, label = _bend(centres, first, second, 1), "-", (0, (4, 3)), title(edge.given)
        strokes = [(TRUTH, 1.2)]
    else:
        bend, label = _bend(centres, first, second, -1), edge.label
        style = "<|-|>" if isinstance(edge, Lossless) else "-|>"
        strokes = _strokes(step.created, step.destroyed) if step else [(TRUTH, 2.5)]
    for place, (colour, width) in enumerate(strokes, 1):
        looks = {"color": _FAILS if fails else colour, "lw": width, "ls": dashes, "zorder": 2}
        over = {"shrinkB": 9.0} if place < len(strokes) else {}  # only the last has a head
        axes.add_patch(_line(patches[first], patches[second], bend, "-" if over else style, **looks, **over))
    if label or fails:
        text = f"{label} fails".strip() if fails else label
        _draw_label(axes, text, centres[first], centres[second], bend, _FAILS if fails else TRUTH)


def _strokes(created: float, destroyed: float) -> list[tuple[str, float]]:
    """Colours and widths that an arrow is drawn with, one over the other."""
    creates, destroys = created > _NOTHING, destroyed > _NOTHING
    if creates and destroys:
        return [(DESTRUCTION, 5.0), (GENERATION, 1.8)]
    return [(GENERATION if creates else DESTRUCTION if destroys else TRUTH, 2.5)]


def _draw_box(axes: Axes, box: Box, centre: tuple[float, float], width: float) -> FancyBboxPatch:
    x, y = centre
    style = "round,pad=0,rounding_size=0.08"
    patch = FancyBboxPatch((x - width / 2, y - _HEIGHT / 2), width, _HEIGHT, boxstyle=style, fc="#f4f4f4", ec=TRUTH)
    patch.set_zorder(3)
    axes.add_patch(patch)
    axes.text(x, y, title(box), ha="center", va="center", fontsize=10, zorder=4)
    return patch


def _line(first: FancyBboxPatch, second: FancyBboxPatch, bend: float, style: str, **looks: Any) -> FancyArrowPatch:
    """A line or arrow from the edge of one box to that of another."""
    ends = [(box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2) for box in (first, second)]
    heads = {} if style == "-" else {"head_length": 5.0, "head_width": 3.0}
    looks = {"shrinkA": 2.0, "shrinkB": 2.0} | looks
    return FancyArrowPatch(
        *ends,
        patchA=first,
        patchB=second,
        arrowstyle=ArrowStyle(style, **heads),
        connectionstyle=ConnectionStyle("Arc3", rad=bend),
        **looks,
    )


def _bend(centres: dict[Box, Point], first: Box, second: Box, side: int) -> float:
    """Bend of a line, relative to its length: none, unless there are boxes in its way."""
    (x, y), (u, v) = centres[first], centres[second]
    length = math.hypot(u - x, v - y)
    for box, (p, q) in centres.items():
        along = ((p - x) * (u - x) + (q - y) * (v - y)) / length**2 if length else 0.0
        across = abs((p - x) * (v - y) - (q - y) * (u - x)) / length if length else 0.0
        if box not in (first, second) and 0.0 < along < 1.0 and across < 0.5 * _HEIGHT:
            return 2.0 * _AROUND * side / length
    return 0.0


def _draw_label(axes: Axes, text: str, first: Point, second: Point, bend: float, colour: str) -> None:
    """A label halfway along a line."""
    (x, y), (u, v) = first, second
    axes.text(
        (x + u) / 2 + bend / 2 * (v - y),
        (y + v) / 2 - bend / 2 * (u - x),
        text,
        color=colour,
        fontsize=8,
        ha="center",
        va="center",
        zorder=5,
        bbox={"fc": "white", "ec": "none", "pad": 1.0},
    )
