"""What all figures are drawn from: generated and destroyed paths, exact samples and log-weights, as arrays."""

from dataclasses import dataclass

import numpy
from torch import Tensor

from ...agents.policies import Policies
from ...envs.target import Target
from ..evaluation import exact_samples
from .style import Array

__all__ = ["PATHS", "Drawn", "draw_paths", "to_array"]

PATHS = 2_000
_CHUNK = 250  # divides the above
_COORDINATES = 6  # the first ones are drawn


@dataclass
class Drawn:
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


def draw_paths(agent: Policies, target: Target) -> Drawn:
    """Paths of both policies, generated from the start and destroyed from exact samples where there are any."""
    density = target if target.has_log_prob else None
    exact = exact_samples(agent, target, PATHS) if target.can_sample else None
    parts: dict[str, list[Array]] = {"generated": [], "destroyed": [], "weights": [], "exact_weights": []}
    for first in range(0, PATHS, _CHUNK):
        generated = agent.generate(_CHUNK, density)
        x = generated["state"][:, -1] if exact is None else exact[first : first + _CHUNK]
        destroyed = agent.destroy(x, density, None if density is not None else agent.log_z.new_zeros(len(x)))
        parts["generated"].append(to_array(generated["state"][..., :_COORDINATES]))
        parts["destroyed"].append(to_array(destroyed["state"][..., :_COORDINATES]))
        if density is not None:
            parts["weights"].append(to_array(-agent.log_ratio(generated)))
            if exact is not None:
                parts["exact_weights"].append(to_array(-agent.log_ratio(destroyed)))
    joined = {name: numpy.concatenate(arrays) if arrays else None for name, arrays in parts.items()}
    return Drawn(
        exact=None if exact is None else to_array(exact[:, :_COORDINATES]),
        times=numpy.asarray(agent.times),
        **joined,  # type: ignore[arg-type]
    )


def to_array(values: Tensor) -> Array:
    """A tensor as an array of float64 on the CPU."""
    return values.detach().double().cpu().numpy()
