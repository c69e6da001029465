"""The figure of the importance weights: log-weights of generated and of destroyed paths around log Z."""

import numpy
import torch
from matplotlib.figure import Figure

from ...envs.target import Target
from ..metrics.weights import log_mean_exp
from .drawn import Drawn
from .style import DESTRUCTION, GENERATION, TRUTH, Array, legend_above, outside_remark, signed

__all__ = ["weights_figure"]

_WIDEST_LINEAR = 25.0  # nats shown on a linear axis


def weights_figure(drawn: Drawn, target: Target) -> Figure | None:
    """Histograms of the log-weights with their means, the bounds; None without a density."""
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
    axes.xaxis.set_major_formatter(signed)
    for (what, bound, weights, colour), part in zip(groups, finite, strict=True):
        label = f"{what}{outside_remark(weights - zero, (low, high))}"
        share = numpy.full(len(part), 1 / len(weights))
        axes.hist(part - zero, bins=edges.tolist(), weights=share, color=colour, alpha=0.5, label=label)
        mean = weights.mean()
        inside = low <= mean - zero <= high
        axes.plot([], [], color=colour, label=f"{bound} = {mean:,.2f} nats" + ("" if inside else " (off the axis)"))
        if inside:
            axes.axvline(mean - zero, color=colour, lw=1.6)
    axes.axvline(0.0, color=TRUTH, lw=1.6, ls="--", label=f"{name} = {zero:,.2f} nats")
    axes.set(xlabel=f"log-weight $-D$ of a path, from {name} (nats)", ylabel="share of paths", xlim=(low, high))
    legend_above(axes, columns=2)
    figure.suptitle(f"{target.name}: log importance weights (the more they overlap, the better)", fontsize=11)
    return figure


def _same(x: Array) -> Array:
    return x


def _symlog(x: Array) -> Array:
    return numpy.arcsinh(x)


def _symexp(x: Array) -> Array:
    return numpy.sinh(x)
