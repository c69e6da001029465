"""The figure of the training: bounds, ESS and losses by iteration."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import DESTRUCTION, GENERATION, TRUTH, Array, legend_above, signed

__all__ = ["training_figure"]

_LOSSES = {  # the second is dashed, since both are often the same number
    "loss_generation": ("generation", GENERATION, "-"),
    "loss_destruction": ("destruction", DESTRUCTION, "--"),
}

_BITS = {
    "bits_per_dimension": ("held-out samples", TRUTH, "-"),
    "train_bits_per_dimension": ("samples trained on", GENERATION, "--"),
}


def training_figure(metrics: Sequence[Mapping[str, Any]], true_log_z: float | None) -> Figure | None:
    """A panel each for bounds, ESS, likelihoods of data and losses, of those that `metrics` hold; None for none."""
    curves = {name: _curve(metrics, name) for name in ("elbo", "eubo", "log_z", "ess", *_BITS, *_LOSSES)}
    curves = {name: curve for name, curve in curves.items() if len(curve[0])}
    bounds: list[str] = [name for name in ("elbo", "eubo") if name in curves]
    if "log_z" in curves and (bounds or numpy.ptp(curves["log_z"][1]) > 0.0):  # else there was none to learn
        bounds.append("log_z")
    bits = [name for name in _BITS if name in curves]
    losses = [name for name in _LOSSES if name in curves and curves[name][1].any()]  # zeros: nothing to learn
    if bits:  # of data there is no log Z that the learned one could be told from
        bounds = []
    panels: list[Callable[[Axes], None]] = []
    if bounds:
        panels.append(lambda axes: _draw_bounds(axes, {name: curves[name] for name in bounds}, true_log_z))
    if "ess" in curves:
        panels.append(lambda axes: _draw_ess(axes, *curves["ess"]))
    if bits:
        panels.append(lambda axes: _draw_bits(axes, {name: curves[name] for name in bits}))
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
    axes.yaxis.set_major_formatter(signed)
    axes.set_ylabel(f"distance from\n{name} (nats)")
    legend_above(axes, columns=3)


def _draw_ess(axes: Axes, iterations: Array, values: Array) -> None:
    axes.plot(iterations, values, color=GENERATION, marker=_marker(values), ms=3)
    axes.set(ylabel="ESS (share of\ngenerated paths)", ylim=(-0.03, 1.03))


def _draw_bits(axes: Axes, curves: dict[str, tuple[Array, Array]]) -> None:
    for name, (iterations, values) in curves.items():
        label, colour, line = _BITS[name]
        axes.plot(iterations, values, line, color=colour, label=label, marker=_marker(values), ms=3)
    axes.set_ylabel("bits per dimension")
    legend_above(axes, columns=2)


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
    legend_above(axes, columns=2)


def _marker(values: Array) -> str:
    return "o" if len(values) == 1 else ""
