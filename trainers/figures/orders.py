"""The order in which tokens are written, as a picture: which come first, and which are left for last."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...agents.policies import Policies
from ...envs.target import Target
from ..evaluation import exact_samples
from .drawn import to_array

__all__ = ["mean_ranks", "order_figure"]

_PATHS = 500


@torch.no_grad()
def mean_ranks(states: Tensor, mask: int) -> Tensor:
    """Mean step, 1 … T, at which paths `[n, T+1, length]` write each position: `[length]`.

    Example:
        >>> mean_ranks(torch.tensor([[[2, 2], [2, 1], [0, 1]]]), mask=2)
        tensor([2., 1.])
    """
    return (states != mask).long().argmax(1).to(torch.get_default_dtype()).mean(0)


def order_figure(agent: Policies, target: Target, shape: tuple[int, int]) -> Figure:
    """Mean rank of each pixel: under destruction of data, read backwards, and under generation."""
    exact = exact_samples(agent, target, _PATHS)
    halves = (
        ("destroyed data, read backwards", agent.destroy(exact, None, agent.log_z.new_zeros(len(exact)))["state"]),
        ("generated", agent.generate(_PATHS)["state"]),
    )
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    for one, (name, states) in zip(axes, halves, strict=True):
        ranks = to_array(mean_ranks(states, target.space.mask)).reshape(shape)
        image = one.imshow(ranks, cmap="viridis", vmin=1, vmax=agent.steps, interpolation="nearest")
        for (row, column), rank in [((i, j), ranks[i, j]) for i in range(shape[0]) for j in range(shape[1])]:
            colour = "white" if rank < 0.6 * agent.steps else "black"
            one.text(column, row, f"{rank:.0f}", ha="center", va="center", fontsize=8, color=colour)
        one.set(xticks=[], yticks=[])
        one.set_title(name, fontsize=10)
    figure.colorbar(image, ax=axes, label="mean step at which a pixel is written", shrink=0.8)
    figure.suptitle(f"{target.name}: the order that was learned", fontsize=11)
    return figure
