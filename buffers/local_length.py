r"""How narrow a density is where its mass is: the length on which log R changes, as opposed to the extent of all of it.

For a Gaussian mode of standard deviation s, E|∇log R|² / dim = 1 / s², whatever lies between the modes. The *local
length* of a density is a low quantile over its samples of sqrt(dim) / |∇log R|: somewhat below s for a mixture of equal
Gaussians, and the width of the narrower parts where widths differ from place to place.
"""

import torch
from torch import Tensor

from ..envs.errors import InputError
from ..envs.target import Target

__all__ = ["local_length"]

_QUANTILE = 0.1  # found on T = 5: benchmarks/results/settings.md


def local_length(target: Target, states: Tensor, context: Tensor | None = None) -> float:
    """Lowest tenth over `states` of sqrt(dim) / |∇log R|, in units of the state; one gradient call a state.

    Args:
        target: has a differentiable log density.
        states: samples of it, exact or nearly so, `[n, dim]`, n >= 1.
        context: their contexts `[n, c]`, of a conditional target.

    Raises:
        InputError: when there is no state, no gradient, or the density is flat at more than nine tenths of the states.

    Example:
        >>> from ebbflow.envs import get_target
        >>> target = get_target("gmm25")  # standard deviation 0.55, on a square of width 20
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> 0.3 < local_length(target, target.sample(1000)) < 0.4
        True
    """
    if len(states) == 0:
        raise InputError("states: expected at least one, to see how narrow the density is")
    score = target.value_and_score(states, context)[1].flatten(1)
    lengths = score.shape[1] ** 0.5 / score.norm(dim=1)  # infinite where it is flat, and NaN between two such
    length = float(lengths.quantile(_QUANTILE).nan_to_num(nan=torch.inf, posinf=torch.inf))
    if not 0.0 < length < float("inf"):
        raise InputError(f"target {target.name!r}: its local length is {length}; is its log density flat?")
    return length
