"""The figure of the samples: generated ones against the density or against exact ones."""

from typing import Any

import numpy
import torch
from matplotlib.figure import Figure

from ...agents.policies import Policies
from ...envs.target import Target
from .drawn import PATHS, Drawn, to_array
from .style import DOTS, GENERATION, TRUTH, Array, axis_limits, equal_if_similar, legend_above, outside_remark

__all__ = ["samples_figure"]

_GRID = 200  # cells a side of a density


def samples_figure(drawn: Drawn, agent: Policies, target: Target) -> Figure:
    """A histogram for 1 coordinate, the plane for 2 with a density, else pairs and marginals."""
    if target.space.dim == 1:
        figure = _line_of_samples(drawn, agent, target)
    elif target.space.dim == 2 and target.has_log_prob:
        figure = _plane_of_samples(drawn, agent, target)
    else:
        figure = _pairs_of_samples(drawn)
    figure.suptitle(f"{target.name}: {PATHS:,} generated samples")
    return figure


def _line_of_samples(drawn: Drawn, agent: Policies, target: Target) -> Figure:
    x = drawn.generated[:, -1, 0]
    low, high = axis_limits(x if drawn.exact is None else drawn.exact[:, 0], x, tail=0.001)
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.subplots()
    bins = numpy.linspace(low, high, 81)
    style: dict[str, Any] = {"bins": bins, "weights": numpy.full(len(x), 1 / (len(x) * (bins[1] - bins[0])))}
    axes.hist(x, color=GENERATION, alpha=0.55, label=f"generated{outside_remark(x[:, None], (low, high))}", **style)
    if drawn.exact is not None:
        axes.hist(drawn.exact[:, 0], color=TRUTH, histtype="step", label="exact samples", **style)
    if target.has_log_prob:
        grid = numpy.linspace(low, high, 2001)
        value = _log_density(target, agent, grid[:, None])
        if target.log_z is not None:
            curve, label = numpy.exp(value - target.log_z), "density"
        else:
            curve = numpy.exp(value - value.max()) if numpy.isfinite(value.max()) else numpy.zeros_like(value)
            curve, label = curve / max(numpy.trapezoid(curve, grid), 1e-300), "density (normalised here)"
        axes.plot(grid, curve, color=TRUTH, lw=1.5, label=label)
    axes.set(xlabel="$x_1$ (state units)", ylabel="probability density", xlim=(low, high))
    legend_above(axes, columns=3)
    return figure


def _plane_of_samples(drawn: Drawn, agent: Policies, target: Target) -> Figure:
    x = drawn.generated[:, -1]
    known = x if drawn.exact is None else drawn.exact
    limits = [axis_limits(known[:, i], x[:, i], tail=0.001) for i in range(2)]
    panels = [("generated", x, GENERATION)]
    if drawn.exact is not None:
        panels.append(("exact", drawn.exact, TRUTH))
    figure = Figure(figsize=(0.6 + 4.6 * len(panels), 4.9), layout="constrained")
    every = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    ticks = [numpy.linspace(*edge, _GRID) for edge in limits]
    grid = numpy.stack(numpy.meshgrid(*ticks), axis=-1)  # [_GRID, _GRID, 2]
    value = _log_density(target, agent, grid.reshape(-1, 2)).reshape(_GRID, _GRID)
    for axes, (name, points, colour) in zip(every, panels, strict=True):
        if numpy.isfinite(value.max()):
            below = numpy.maximum(value - value.max(), -1e4)
            # Nats below the peak: 0.5 is one standard deviation of a Gaussian, 4.5 three.
            axes.contourf(
                *ticks, below, levels=[-8.0, -4.5, -2.0, -0.5, 0.0], cmap="Greys", alpha=0.45, vmin=-9, vmax=2
            )
        axes.scatter(points[:, 0], points[:, 1], color=colour, **DOTS)
        axes.set(
            title=f"{name}{outside_remark(points, *limits)}",
            xlabel="$x_1$ (state units)",
            xlim=limits[0],
            ylim=limits[1],
        )
    every[0].set_ylabel("$x_2$ (state units)")
    equal_if_similar(every, limits)
    return figure


def _pairs_of_samples(drawn: Drawn) -> Figure:
    x, exact = drawn.generated[:, -1], drawn.exact
    known = x if exact is None else exact
    dim = x.shape[1]
    limits = [axis_limits(known[:, i], x[:, i]) for i in range(dim)]
    starts = [i for i in (0, 2, 4) if i + 1 < dim]
    shown = max(len(starts), min(3, dim))
    figure = Figure(figsize=(0.6 + 3.3 * shown, 6.4), layout="constrained")
    rows = figure.subplots(2, shown, squeeze=False)
    for axes in rows[0, len(starts) :]:
        axes.set_axis_off()
    for axes, i in zip(rows[0], starts, strict=False):
        if exact is not None:
            axes.scatter(exact[:, i], exact[:, i + 1], color=TRUTH, label="exact", **(DOTS | {"alpha": 0.3}))
        axes.scatter(x[:, i], x[:, i + 1], color=GENERATION, label="generated", **DOTS)
        axes.set(
            xlabel=f"$x_{{{i + 1}}}$ (state units)",
            ylabel=f"$x_{{{i + 2}}}$ (state units)",
            xlim=limits[i],
            ylim=limits[i + 1],
        )
        outside = outside_remark(x[:, i : i + 2], limits[i], limits[i + 1])
        axes.set_title(f"pair {i + 1}, {i + 2}{outside}", fontsize=10)
    for i, axes in enumerate(rows[1, : min(shown, dim)]):
        bins = numpy.linspace(*limits[i], 61)
        width = bins[1] - bins[0]
        axes.hist(
            x[:, i], bins=bins, weights=numpy.full(len(x), 1 / (len(x) * width)), color=GENERATION, alpha=0.55,
            label="generated",
        )  # fmt: skip
        if exact is not None:
            weights = numpy.full(len(exact), 1 / (len(exact) * width))
            axes.hist(exact[:, i], bins=bins, weights=weights, color=TRUTH, histtype="step", lw=1.3, label="exact")
        axes.set(xlabel=f"$x_{{{i + 1}}}$ (state units)", xlim=limits[i])
        axes.set_title(f"marginal {i + 1}", fontsize=10)
    rows[1, 0].set_ylabel("probability density")
    rows[1, 0].legend(frameon=False, fontsize=9)
    return figure


def _log_density(target: Target, agent: Policies, grid: Array) -> Array:
    """Unnormalised log density of the rows of `grid`, `[n, dim] -> [n]`; −inf where it is not finite.

    Unchecked: a density may well be undefined in the corners of a picture that no sample has come to.
    """
    parts = torch.as_tensor(grid).to(agent.log_z).split(10_000)
    return numpy.concatenate(
        [
            numpy.nan_to_num(to_array(target.log_prob(part)), nan=-numpy.inf, posinf=-numpy.inf, neginf=-numpy.inf)
            for part in parts
        ]
    )
