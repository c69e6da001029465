"""Figures of data that are images: samples beside data, at contexts a row each, and both policies step by step."""

from typing import Any

import numpy
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from ...agents.policies import Policies
from ...envs.spaces import Tokens
from ...envs.target import Target
from ..evaluation import exact_samples
from .drawn import to_array
from .style import Array

__all__ = ["image_contexts_figure", "image_paths_figure", "image_samples_figure", "steps_shown"]

_SIDE = 8  # images a side
_ROWS = 4  # samples whose paths are shown
_COLUMNS = 11
_UNKNOWN = "#f2b27c"  # a masked token


def image_samples_figure(agent: Policies, target: Target, shape: tuple[int, int]) -> Figure:
    """A grid of generated images, and one of data."""
    n = _SIDE**2
    panels = {"generated": _square(to_array(agent.generate(n)["state"][:, -1]))}
    if target.can_sample:
        panels["data"] = _square(to_array(exact_samples(agent, target, n)))
    figure = _panels(panels, target, shape)
    figure.suptitle(f"{target.name}: samples")
    return figure


def image_contexts_figure(agent: Policies, target: Target, shape: tuple[int, int], contexts: Tensor) -> Figure:
    """A row of generated images for each of the contexts `[m, c]`, and of data where there are samples at one."""
    ways = {"generated": lambda c: agent.given(c).generate(_SIDE)["state"][:, -1]}
    if target.can_sample_given:
        ways["data"] = lambda c: exact_samples(agent, target.given(c), _SIDE)
    panels = {name: numpy.stack([to_array(way(c)) for c in contexts]) for name, way in ways.items()}
    figure = _panels(panels, target, shape)
    first = figure.axes[0]
    first.set_yticks([(shape[0] + 1) * i + (shape[0] - 1) / 2 for i in range(len(contexts))])
    first.set_yticklabels([_label(c) for c in contexts], fontsize=9)
    first.tick_params(length=0)
    figure.suptitle(f"{target.name}: samples at contexts, a row each")
    return figure


def image_paths_figure(agent: Policies, target: Target, shape: tuple[int, int]) -> Figure:
    """Rows of a few samples from left (destroyed) to right (sample): generated ones above, destroyed data below."""
    generated = agent.generate(_ROWS)["state"]
    exact = exact_samples(agent, target, _ROWS) if target.can_sample else generated[:, -1]
    destroyed = agent.destroy(exact, None, agent.log_z.new_zeros(_ROWS))["state"]
    rows = [("generation →", to_array(generated)), ("← destruction", to_array(destroyed))]
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


def _square(states: Array) -> Array:
    """Images in as many rows as there are in each, `[side, side, pixels]`."""
    return states.reshape(_SIDE, _SIDE, -1)


def _panels(panels: dict[str, Array], target: Target, shape: tuple[int, int]) -> Figure:
    """Rows of images `[rows, columns, pixels]` side by side, in shades of the last of them."""
    height, width = shape
    rows = max(len(states) for states in panels.values())
    figure = Figure(figsize=(4.2 * len(panels), 0.3 + 0.525 * rows), layout="constrained")
    data = [*panels.values()][-1]
    for axes, (name, states) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        tiles = states.reshape(*states.shape[:2], height, width)
        tiles = numpy.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=numpy.nan)
        grid = tiles.swapaxes(1, 2).reshape(len(states) * (height + 1), -1)
        _show(axes, grid[:-1, :-1], target, data)
        axes.set_title(name)
    return figure


def _label(context: Tensor) -> str:
    """A context in few characters: the number of the class, or of the bin, that a one-hot vector stands for."""
    numbers = context.tolist()
    if len(numbers) > 1 and sorted(numbers)[-2:] == [0.0, 1.0] and sum(numbers) == 1.0:
        return str(numbers.index(1.0))
    return ", ".join(f"{number:.3g}" for number in numbers[:3]) + (" …" if len(numbers) > 3 else "")


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
