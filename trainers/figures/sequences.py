"""Figures of sequences of tokens: samples beside data or exact samples, and both policies step by step, as lines."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...agents.policies import Policies
from ...envs.spaces import Tokens
from ...envs.target import Target
from ..evaluation import exact_samples
from .images import steps_shown
from .style import DESTRUCTION, GENERATION, TRUTH

__all__ = ["sequence_paths_figure", "sequence_samples_figure"]

_LINES = 16  # samples shown
_STEPS = 12
_CHARACTERS = 72  # of a line
_UNKNOWN = "▒"


def sequence_samples_figure(agent: Policies, target: Target) -> Figure:
    """Lines of generated samples, and of data or exact samples where there are any."""
    panels = [("generated", agent.generate(_LINES)["state"][:, -1], GENERATION)]
    if target.can_sample:
        name = "exact samples" if target.has_log_prob else "data"
        panels.append((name, exact_samples(agent, target, _LINES), TRUTH))
    lines = {name: [_line(target, row) for row in rows] for name, rows, _ in panels}
    figure = _page(max(len(line) for found in lines.values() for line in found), len(panels) * (_LINES + 1) + 1)
    column = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (name, _, colour) in zip(column, panels, strict=True):
        _write(axes, lines[name], colour)
        axes.set_title(name, loc="left", fontsize=10)
    figure.suptitle(f"{target.name}: samples", fontsize=11)
    return figure


def sequence_paths_figure(agent: Policies, target: Target) -> Figure:
    """One sample step by step: generated above, and one destroyed below, from destroyed (top) to sample (bottom)."""
    exact = exact_samples(agent, target, 1) if target.can_sample else agent.generate(1)["state"][:, -1]
    destroyed = agent.destroy(exact, None, agent.log_z.new_zeros(1))["state"][0]
    shown = steps_shown(agent.steps, _STEPS)
    halves = (
        ("generation, from top to bottom", agent.generate(1)["state"][0], GENERATION),
        ("destruction of a sample, from bottom to top", destroyed, DESTRUCTION),
    )
    lines = {name: [f"{k:>3}  {_line(target, path[k])}" for k in shown] for name, path, _ in halves}
    figure = _page(max(len(line) for found in lines.values() for line in found), 2 * len(shown) + 3)
    for axes, (name, _, colour) in zip(figure.subplots(2, 1), halves, strict=True):
        _write(axes, lines[name], colour)
        axes.set_title(name, loc="left", fontsize=10)
    figure.suptitle(f"{target.name}: paths of both policies", fontsize=11)
    return figure


def _page(width: int, lines: int) -> Figure:
    return Figure(figsize=(max(5.0, 0.6 + 0.085 * width), 0.8 + 0.2 * lines), layout="constrained")


def _write(axes: Axes, lines: list[str], colour: str) -> None:
    axes.set_axis_off()
    style: dict[str, Any] = {"family": "monospace", "fontsize": 9, "color": colour, "va": "top", "parse_math": False}
    axes.text(0.0, 1.0, "\n".join(lines), transform=axes.transAxes, linespacing=1.35, **style)


def _line(target: Target, state: Tensor) -> str:
    """A state `[length]` as one line: letters where the target has them, else numbers; masks are shaded."""
    assert isinstance(target.space, Tokens)
    characters = getattr(target, "characters", None)
    found = []
    for token in state.tolist():
        if token == target.space.mask:
            found.append(_UNKNOWN)
        else:
            found.append(str(token) if characters is None else _printable(characters[token]))
    text = (" " if characters is None and target.space.vocabulary > 10 else "").join(found)
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"


def _printable(character: str) -> str:
    return {"\n": "⏎", "\t": "→"}.get(character, character)
