"""Figures of data that are images: samples beside data, and both policies step by step."""

from typing import Any

import numpy
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ...agents.policies import Policies
from ...envs.spaces import Tokens
from ...envs.target import Target
from ..evaluation import exact_samples
from .drawn import to_array
from .style import Array

__all__ = ["image_paths_figure", "image_samples_figure", "steps_shown"]

_SIDE = 8  # images a side
_ROWS = 4  # samples whose paths are shown
_COLUMNS = 11
_UNKNOWN = "#f2b27c"  # a masked token


def image_samples_figure(agent: Policies, target: Target, shape: tuple[int, int]) -> Figure:
    """A grid of generated images, and one of data."""
    n = _SIDE**2
    panels = {
        "generated": to_array(agent.generate(n)["state"][:, -1]),
        "data": to_array(exact_samples(agent, target, n)),
    }
    figure = Figure(figsize=(8.4, 4.5), layout="constrained")
    for axes, (name, states) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        tiles = numpy.pad(states.reshape(-1, *shape), ((0, 0), (0, 1), (0, 1)), constant_values=numpy.nan)
        height, width = tiles.shape[1:]
        grid = tiles.reshape(_SIDE, _SIDE, height, width).swapaxes(1, 2).reshape(_SIDE * height, _SIDE * width)
        _show(axes, grid[:-1, :-1], target, panels["data"])
        axes.set_title(name)
    figure.suptitle(f"{target.name}: samples")
    return figure


def image_paths_figure(agent: Policies, target: Target, shape: tuple[int, int]) -> Figure:
    """Rows of a few samples from left (destroyed) to right (sample): generated ones above, destroyed data below."""
    exact = exact_samples(agent, target, _ROWS)
    destroyed = agent.destroy(exact, None, agent.log_z.new_zeros(_ROWS))["state"]
    rows = [("generation →", to_array(agent.generate(_ROWS)["state"])), ("← destruction", to_array(destroyed))]
    shown = steps_shown(agent.steps, _COLUMNS)
    figure = Figure(figsize=(0.6 + 0.85 * len(shown), 0.5 + 0.88 * 2 * _ROWS), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    for half, (name, states) in zip(halves, rows, strict=True):
        grid = half.subplots(_ROWS, len(shown), squeeze=False)
        for line, path in zip(grid, states, strict=True):
            for axes, k in zip(line, shown, strict=True):
                _show(axes, path[k].reshape(shape), target, to_array(exact))
        for axes, k in zip(grid[0], shown, strict=True):
            axes.set_title(f"$k$ = {k}", fontsize=8)
        half.supylabel(name, fontsize=10)
    figure.suptitle(f"{target.name}: paths of both policies", fontsize=11)
    return figure


def steps_shown(steps: int, columns: int) -> list[int]:
    """Grid points from 0 to `steps`, at most so many, evenly spread.

    Example:
        >>> steps_shown(64, 5), steps_shown(3, 5)
        ([0, 16, 32, 48, 64], [0, 1, 2, 3])
    """
    if steps < columns:
        return list(range(steps + 1))
    return [round(i * steps / (columns - 1)) for i in range(columns)]


def _show(axes: Any, image: Array, target: Target, data: Array) -> None:
    """Dark is much; masks have a colour of their own, and what lies between images is white."""
    greys = ListedColormap(numpy.linspace([1.0, 1.0, 1.0], [0.1, 0.1, 0.1], 256))
    low, high = float(data.min()), float(data.max())
    if isinstance(target.space, Tokens):
        low, high = 0.0, target.space.vocabulary - 1.0
    colours = greys.with_extremes(bad="white", over=_UNKNOWN if isinstance(target.space, Tokens) else None)
    axes.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("#dddddd")
