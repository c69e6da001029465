"""Figures of a run: samples against the density, training curves, importance weights, and paths step by step.

Blue is what was generated, orange what was destroyed, grey the truth, everywhere. Figures are drawn without pyplot, so
without display, backend or global state; drawing looks on and changes nothing, as evaluation does.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..agents.agent import Agent
from ..envs.target import Target
from .evaluation import check_agent, exact_samples, looking_on
from .metrics.weights import log_mean_exp

__all__ = ["write_figures"]

Array = numpy.ndarray[Any, numpy.dtype[Any]]
Limits = tuple[float, float]

GENERATION = "#1f6fb4"
DESTRUCTION = "#e0701b"
TRUTH = "#4d4d4d"

_PATHS = 2_000
_CHUNK = 250  # divides the above
_COORDINATES = 6  # the first ones are drawn
_COLUMNS = 11  # more steps than this are thinned out in the figure of the paths
_WIDEST_LINEAR = 25.0  # nats shown on a linear axis
_GRID = 200  # cells a side of a density
_DOTS = {"s": 4.0, "alpha": 0.45, "linewidths": 0.0, "rasterized": True}


@dataclass
class _Drawn:
    """What all figures are drawn from, arrays in float64; of the states the first coordinates, d = min(dim, 6).

    Attributes:
        generated: states of generated paths, `[n, T+1, d]`.
        destroyed: states of destroyed paths in order of time, `[n, T+1, d]`.
        exact: exact samples, `[n, d]`, or None; without them, generated samples were destroyed.
        weights: log-weights −D of generated paths, `[n]`, or None without a density.
        exact_weights: those of paths destroyed from exact samples, or None.
        times: the time grid, `[T+1]`.
    """

    generated: Array
    destroyed: Array
    exact: Array | None
    weights: Array | None
    exact_weights: Array | None
    times: Array


def write_figures(
    folder: Path,
    agent: Agent,
    target: Target,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> list[Path]:
    """Draw the figures of a run as PNG files.

    - `samples.png`: generated samples against the density (1 or 2 coordinates), or against exact samples, by pairs of
      coordinates and by marginals (more).
    - `training.png`: bounds, ESS and losses along the training; only if `metrics` hold any number.
    - `weights.png`: log-weights of generated and of destroyed paths; only for a target with a density.
    - `paths.png`: both policies step by step.

    Args:
        folder: where to; made if it does not exist.
        agent: who is drawn.
        target: on the agent's device.
        metrics: rows with any of the keys `iteration`, `elbo`, `eubo`, `log_z` (nats), `ess`, `loss_generation`,
            `loss_destruction`; blanks and numbers that are not finite are left out.
        seed: seed of the paths drawn, >= 0.

    Returns:
        The files that were written.

    Raises:
        InputError: for a target of another dimension, a diverged agent, and what the density raises on samples.
        OSError: when a file cannot be written.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs.targets.mixtures import gmm25
        >>> target = gmm25()
        >>> agent = build_agent(target.space, scale=target.scale, steps=2)
        >>> [path.name for path in write_figures(Path("figures"), agent, target)]
        ['samples.png', 'weights.png', 'paths.png']
    """
    check_agent(agent, target)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with looking_on(agent, target, seed):
        drawn = _draw(agent, target)
        figures = {
            "samples": _samples_figure(drawn, agent, target),
            "training": _training_figure(metrics or [], target.log_z),
            "weights": _weights_figure(drawn, target),
            "paths": _paths_figure(drawn, target),
        }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=130)
    return written


def _draw(agent: Agent, target: Target) -> _Drawn:
    density = target if target.has_log_prob else None
    exact = exact_samples(agent, target, _PATHS) if target.can_sample else None
    parts: dict[str, list[Array]] = {"generated": [], "destroyed": [], "weights": [], "exact_weights": []}
    for first in range(0, _PATHS, _CHUNK):
        generated = agent.generate(_CHUNK, density)
        x = generated["state"][:, -1] if exact is None else exact[first : first + _CHUNK]
        destroyed = agent.destroy(x, density)
        parts["generated"].append(_array(generated["state"][..., :_COORDINATES]))
        parts["destroyed"].append(_array(destroyed["state"][..., :_COORDINATES]))
        if density is not None:
            parts["weights"].append(_array(-agent.log_ratio(generated)))
            if exact is not None:
                parts["exact_weights"].append(_array(-agent.log_ratio(destroyed)))
    joined = {name: numpy.concatenate(arrays) if arrays else None for name, arrays in parts.items()}
    return _Drawn(
        exact=None if exact is None else _array(exact[:, :_COORDINATES]),
        times=numpy.asarray(agent.reference.times),
        **joined,  # type: ignore[arg-type]
    )


def _array(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()


# Samples --------------------------------------------------------------------------------------------------------------


def _samples_figure(drawn: _Drawn, agent: Agent, target: Target) -> Figure:
    if target.space.dim == 1:
        figure = _line_of_samples(drawn, agent, target)
    elif target.space.dim == 2 and target.has_log_prob:
        figure = _plane_of_samples(drawn, agent, target)
    else:
        figure = _pairs_of_samples(drawn)
    figure.suptitle(f"{target.name}: {_PATHS:,} generated samples")
    return figure


def _line_of_samples(drawn: _Drawn, agent: Agent, target: Target) -> Figure:
    x = drawn.generated[:, -1, 0]
    low, high = _limits(x if drawn.exact is None else drawn.exact[:, 0], x, tail=0.001)
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.subplots()
    bins = numpy.linspace(low, high, 81)
    style: dict[str, Any] = {"bins": bins, "weights": numpy.full(len(x), 1 / (len(x) * (bins[1] - bins[0])))}
    axes.hist(x, color=GENERATION, alpha=0.55, label=f"generated{_outside(x[:, None], (low, high))}", **style)
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
    _legend_above(axes, columns=3)
    return figure


def _plane_of_samples(drawn: _Drawn, agent: Agent, target: Target) -> Figure:
    x = drawn.generated[:, -1]
    known = x if drawn.exact is None else drawn.exact
    limits = [_limits(known[:, i], x[:, i], tail=0.001) for i in range(2)]
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
        axes.scatter(points[:, 0], points[:, 1], color=colour, **_DOTS)
        axes.set(
            title=f"{name}{_outside(points, *limits)}", xlabel="$x_1$ (state units)", xlim=limits[0], ylim=limits[1]
        )
    every[0].set_ylabel("$x_2$ (state units)")
    _equal_if_similar(every, limits)
    return figure


def _pairs_of_samples(drawn: _Drawn) -> Figure:
    x, exact = drawn.generated[:, -1], drawn.exact
    known = x if exact is None else exact
    dim = x.shape[1]
    limits = [_limits(known[:, i], x[:, i]) for i in range(dim)]
    starts = [i for i in (0, 2, 4) if i + 1 < dim]
    shown = max(len(starts), min(3, dim))
    figure = Figure(figsize=(0.6 + 3.3 * shown, 6.4), layout="constrained")
    rows = figure.subplots(2, shown, squeeze=False)
    for axes in rows[0, len(starts) :]:
        axes.set_axis_off()
    for axes, i in zip(rows[0], starts, strict=False):
        if exact is not None:
            axes.scatter(exact[:, i], exact[:, i + 1], color=TRUTH, label="exact", **(_DOTS | {"alpha": 0.3}))
        axes.scatter(x[:, i], x[:, i + 1], color=GENERATION, label="generated", **_DOTS)
        axes.set(
            xlabel=f"$x_{{{i + 1}}}$ (state units)",
            ylabel=f"$x_{{{i + 2}}}$ (state units)",
            xlim=limits[i],
            ylim=limits[i + 1],
        )
        outside = _outside(x[:, i : i + 2], limits[i], limits[i + 1])
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


def _log_density(target: Target, agent: Agent, grid: Array) -> Array:
    """Unnormalised log density of the rows of `grid`, `[n, dim] -> [n]`; −inf where it is not finite.

    Unchecked: a density may well be undefined in the corners of a picture that no sample has come to.
    """
    parts = torch.as_tensor(grid).to(agent.log_z).split(10_000)
    return numpy.concatenate(
        [
            numpy.nan_to_num(_array(target.log_prob(part)), nan=-numpy.inf, posinf=-numpy.inf, neginf=-numpy.inf)
            for part in parts
        ]
    )


# Training -------------------------------------------------------------------------------------------------------------


def _training_figure(metrics: Sequence[Mapping[str, Any]], true_log_z: float | None) -> Figure | None:
    curves = {name: _curve(metrics, name) for name in ("elbo", "eubo", "log_z", "ess", *_LOSSES)}
    curves = {name: curve for name, curve in curves.items() if len(curve[0])}
    bounds = [name for name in ("elbo", "eubo", "log_z") if name in curves]
    losses = [name for name in _LOSSES if name in curves]
    panels: list[Callable[[Axes], None]] = []
    if bounds:
        panels.append(lambda axes: _draw_bounds(axes, {name: curves[name] for name in bounds}, true_log_z))
    if "ess" in curves:
        panels.append(lambda axes: _draw_ess(axes, *curves["ess"]))
    if losses:
        panels.append(lambda axes: _draw_losses(axes, {name: curves[name] for name in losses}))
    if not panels:
        return None
    figure = Figure(figsize=(7.5, 0.6 + 2.5 * len(panels)), layout="constrained")
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(every, panels, strict=True):
        panel(axes)
        axes.grid(alpha=0.25)
    every[-1].set_xlabel("iteration")
    figure.suptitle("training")
    return figure


_LOSSES = {  # the second is dashed, since both are often the same number
    "loss_generation": ("generation", GENERATION, "-"),
    "loss_destruction": ("destruction", DESTRUCTION, "--"),
}


def _curve(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[Array, Array]:
    """Iterations and values of one column, where both are finite numbers."""
    pairs = [(_number(row.get("iteration", i)), _number(row.get(name))) for i, row in enumerate(metrics)]
    table = numpy.array([pair for pair in pairs if all(map(math.isfinite, pair))], dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _draw_bounds(axes: Axes, curves: dict[str, tuple[Array, Array]], true_log_z: float | None) -> None:
    # The bounds differ from log Z by thousands of nats at first and by a fraction of one in the end: a scale that is
    # linear within a nat of log Z and logarithmic beyond shows both.
    if true_log_z is not None:
        zero, name = true_log_z, "true $\\log Z$"
    elif "log_z" in curves:
        zero, name = curves["log_z"][1][-1], "last learned $\\log Z$"
    else:
        zero, name = numpy.mean([values[-1] for _, values in curves.values()]), "their last mean"
    styles = {
        "eubo": ("EUBO", DESTRUCTION, "-"),
        "log_z": ("learned $\\log Z$", TRUTH, ":"),
        "elbo": ("ELBO", GENERATION, "-"),
    }
    for key, (label, colour, line) in styles.items():
        if key in curves:
            iterations, values = curves[key]
            axes.plot(iterations, values - zero, line, color=colour, label=label, marker=_marker(values), ms=3)
    axes.axhline(0.0, color=TRUTH, lw=0.8)
    axes.set_yscale("symlog", linthresh=1.0, linscale=1.0)
    axes.yaxis.set_major_formatter(_signed)
    axes.set_ylabel(f"distance from\n{name} (nats)")
    _legend_above(axes, columns=3)


def _draw_ess(axes: Axes, iterations: Array, values: Array) -> None:
    axes.plot(iterations, values, color=GENERATION, marker=_marker(values), ms=3)
    axes.set(ylabel="ESS (share of\ngenerated paths)", ylim=(-0.03, 1.03))


def _draw_losses(axes: Axes, curves: dict[str, tuple[Array, Array]]) -> None:
    for name, (iterations, values) in curves.items():
        label, colour, line = _LOSSES[name]
        axes.plot(iterations, values, color=colour, alpha=0.35, lw=0.8, marker=_marker(values), ms=3)
        width = max(1, len(values) // 20)
        smooth = [numpy.median(values[max(0, i - width) : i + width + 1]) for i in range(len(values))]
        axes.plot(iterations, smooth, line, color=colour, lw=1.8, label=label)
    if all((values > 0).all() for _, values in curves.values()):
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog")
    axes.set_ylabel("loss")
    _legend_above(axes, columns=2)


def _marker(values: Array) -> str:
    return "o" if len(values) == 1 else ""


# Weights --------------------------------------------------------------------------------------------------------------


def _weights_figure(drawn: _Drawn, target: Target) -> Figure | None:
    if drawn.weights is None:
        return None
    groups = [("generated paths", "ELBO", drawn.weights, GENERATION)]
    if drawn.exact_weights is not None:
        groups.append(("paths destroyed from exact samples", "EUBO", drawn.exact_weights, DESTRUCTION))
    finite = [weights[numpy.isfinite(weights)] for _, _, weights, _ in groups]
    if target.log_z is not None:
        zero, name = target.log_z, "true $\\log Z$"
    elif len(finite[0]):
        zero, name = log_mean_exp(torch.as_tensor(finite[0])), "importance-weighted $\\log Z$"
    else:
        zero, name = 0.0, "0"
    ends = [end - zero for part in finite if len(part) for end in numpy.quantile(part, [0.002, 0.998])]
    low, high = min([-1.0, *ends]), max([1.0, *ends])
    # Weights of a poor sampler spread over thousands of nats: linear close to log Z, logarithmic beyond.
    squeeze, stretch = (_symlog, _symexp) if high - low > _WIDEST_LINEAR else (_same, _same)
    margin = 0.04 * (squeeze(numpy.array(high)) - squeeze(numpy.array(low)))
    edges = stretch(numpy.linspace(squeeze(numpy.array(low)) - margin, squeeze(numpy.array(high)) + margin, 91))
    low, high = float(edges[0]), float(edges[-1])
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("function", functions=(squeeze, stretch))
    if squeeze is _symlog:
        ticks = [0.0, *(sign * size for size in (1, 10, 100, 1e3, 1e4, 1e5, 1e6) for sign in (-1, 1))]
        axes.set_xticks([tick for tick in sorted(ticks) if low <= tick <= high], minor=False)
    axes.xaxis.set_major_formatter(_signed)
    for (what, bound, weights, colour), part in zip(groups, finite, strict=True):
        label = f"{what}{_outside(weights - zero, (low, high))}"
        share = numpy.full(len(part), 1 / len(weights))
        axes.hist(part - zero, bins=edges.tolist(), weights=share, color=colour, alpha=0.5, label=label)
        mean = weights.mean()
        inside = low <= mean - zero <= high
        axes.plot([], [], color=colour, label=f"{bound} = {mean:,.2f} nats" + ("" if inside else " (off the axis)"))
        if inside:
            axes.axvline(mean - zero, color=colour, lw=1.6)
    axes.axvline(0.0, color=TRUTH, lw=1.6, ls="--", label=f"{name} = {zero:,.2f} nats")
    axes.set(xlabel=f"log-weight $-D$ of a path, from {name} (nats)", ylabel="share of paths", xlim=(low, high))
    _legend_above(axes, columns=2)
    figure.suptitle(f"{target.name}: log importance weights (the more they overlap, the better)", fontsize=11)
    return figure


def _same(x: Array) -> Array:
    return x


def _symlog(x: Array) -> Array:
    return numpy.arcsinh(x)


def _symexp(x: Array) -> Array:
    return numpy.sinh(x)


# Paths ----------------------------------------------------------------------------------------------------------------


def _paths_figure(drawn: _Drawn, target: Target) -> Figure:
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
    every[0].set_ylim(_limits(*(states.ravel() for _, states, _ in reversed(rows)), tail=0.001))
    every[0].set_ylabel("$x_1$ (state units)")
    return figure


def _small_multiples(rows: Sequence[tuple[str, Array, str]], times: Array) -> Figure:
    last = len(times) - 1
    shown = sorted({round(i * last / (_COLUMNS - 1)) for i in range(_COLUMNS)}) if last >= _COLUMNS else range(last + 1)
    limits = [_limits(*(states[..., i].ravel() for _, states, _ in reversed(rows)), tail=0.003) for i in range(2)]
    figure = Figure(figsize=(1.2 + 1.75 * len(shown), 4.4), layout="constrained")
    grid = figure.subplots(len(rows), len(shown), sharex=True, sharey=True, squeeze=False)
    for line, (name, states, colour) in zip(grid, rows, strict=True):
        for axes, k in zip(line, shown, strict=True):
            axes.scatter(states[:, k, 0], states[:, k, 1], color=colour, **(_DOTS | {"s": 2.5}))
            axes.set(xlim=limits[0], ylim=limits[1])
            axes.tick_params(labelsize=7)
            axes.label_outer()
        line[0].set_ylabel(f"{name}\n$x_2$ (state units)", fontsize=9)
    for axes, k in zip(grid[0], shown, strict=True):
        axes.set_title(f"$t$ = {times[k]:.2f}", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("$x_1$", fontsize=9)
    _equal_if_similar(grid.flat, limits)
    return figure


def _legend_above(axes: Axes, columns: int) -> None:
    axes.legend(
        frameon=False, ncols=columns, fontsize=9, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2
    )


def _signed(value: float, _: float | None = None) -> str:
    return f"{value:+,.4g}" if value else "0"


# Axes -----------------------------------------------------------------------------------------------------------------


def _limits(first: Array, *others: Array, tail: float = 0.005) -> Limits:
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


def _outside(points: Array, *limits: Limits) -> str:
    """A remark on how many points lie outside the axes, if any: `[n]` or `[n, dim]` with limits for each column."""
    columns = points.reshape(len(points), -1)
    inside = numpy.ones(len(points), dtype=bool)
    for column, (low, high) in zip(columns.T, limits, strict=True):
        inside &= (column >= low) & (column <= high)
    share = 1.0 - inside.mean()
    return f" ({share:.1%} off the axes)" if share >= 0.0005 else ""


def _equal_if_similar(every: Iterable[Axes], limits: Sequence[Limits]) -> None:
    """Same units on both axes, unless one range would be squeezed to a line."""
    spans = [high - low for low, high in limits]
    if max(spans) < 3.0 * min(spans):
        for axes in every:
            axes.set_aspect("equal")
