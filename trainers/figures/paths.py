"""The figure of the paths: both policies step by step."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ...envs.target import Target
from .drawn import Drawn
from .style import DESTRUCTION, DOTS, GENERATION, Array, axis_limits, equal_if_similar

__all__ = ["paths_figure"]

_COLUMNS = 11  # more steps than this are thinned out


def paths_figure(drawn: Drawn, target: Target) -> Figure:
    """Fans of lines over time for 1 coordinate; else the first two, a panel per step."""
    source = "exact" if drawn.exact is not None else "generated"
    rows = (
        ("generation →", drawn.generated, GENERATION),
        (f"← destruction of\n{source} samples", drawn.destroyed, DESTRUCTION),
    )
    figure = _fans(rows, drawn.times) if target.space.dim == 1 else _small_multiples(rows, drawn.times)
    figure.suptitle(f"{target.name}: paths of both policies", fontsize=11)
    return figure


def _fans(rows: Sequence[tuple[str, Array, str]], times: Array) -> Figure:
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    every = figure.subplots(1, len(rows), sharey=True)
    for axes, (name, states, colour) in zip(every, rows, strict=True):
        axes.plot(times, states[:200, :, 0].T, color=colour, lw=0.6, alpha=0.25)
        axes.set(title=name.replace("\n", " "), xlabel="time $t$", xlim=(0.0, 1.0))
    every[0].set_ylim(axis_limits(*(states.ravel() for _, states, _ in reversed(rows)), tail=0.001))
    every[0].set_ylabel("$x_1$ (state units)")
    return figure


def _small_multiples(rows: Sequence[tuple[str, Array, str]], times: Array) -> Figure:
    last = len(times) - 1
    shown = sorted({round(i * last / (_COLUMNS - 1)) for i in range(_COLUMNS)}) if last >= _COLUMNS else range(last + 1)
    limits = [axis_limits(*(states[..., i].ravel() for _, states, _ in reversed(rows)), tail=0.003) for i in range(2)]
    figure = Figure(figsize=(1.2 + 1.75 * len(shown), 4.4), layout="constrained")
    grid = figure.subplots(len(rows), len(shown), sharex=True, sharey=True, squeeze=False)
    for line, (name, states, colour) in zip(grid, rows, strict=True):
        for axes, k in zip(line, shown, strict=True):
            axes.scatter(states[:, k, 0], states[:, k, 1], color=colour, **(DOTS | {"s": 2.5}))
            axes.set(xlim=limits[0], ylim=limits[1])
            axes.tick_params(labelsize=7)
            axes.label_outer()
        line[0].set_ylabel(f"{name}\n$x_2$ (state units)", fontsize=9)
    # As many digits as tell the last steps of a shrinking grid apart.
    digits = next(n for n in range(2, 10) if n == 9 or len({f"{times[k]:.{n}f}" for k in shown}) == len(shown))
    for axes, k in zip(grid[0], shown, strict=True):
        axes.set_title(f"$t$ = {times[k]:.{digits}f}", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("$x_1$", fontsize=9)
    equal_if_similar(grid.flat, limits)
    return figure
