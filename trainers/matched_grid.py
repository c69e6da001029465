r"""The time grid that suits a target: its last step is as long as the density is narrow.

On the grid t_k = 1 − (1 − k/T)^p the last reference step has the standard deviation σ·T^(−p/2). The corrections of the
destruction are multiples of the reference's, so that this sets how narrow a mode the last steps can resolve; steps far
shorter than that are wasted. With the local length ℓ of the density (`ebbflow.buffers.local_length`)

    σ·T^(−p/2) = ℓ   ⇒   p = 2·log(σ/ℓ) / log T,   not below 1, the uniform grid.
"""

import dataclasses
import math
from typing import Any

import torch

from ..buffers.anchors import Anchors
from ..buffers.local_length import local_length
from ..envs.errors import InputError
from ..envs.target import Target
from .anchor_search import find_anchors
from .config import STEPS, TrainConfig

__all__ = ["matched_power", "with_matched_grid"]

SEARCH: dict[str, Any] = {
    "count": 500,
    "contexts": 10,
    "temperatures": 30,
    "moves": 2,
    "final_moves": 0,
    "compression": None,
}
"""The short search, as changes of `config.anchors`."""

_LARGEST = 8.0


def matched_power(steps: int, sigma: float, length: float) -> float:
    """The power p of the module docstring, between 1 and 8, rounded to two digits.

    Args:
        steps: T, >= 1.
        sigma: diffusion rate, in state units per square root of time.
        length: local length of the density, in state units.

    Example:
        >>> matched_power(5, sigma=7.1, length=0.6), matched_power(5, sigma=1.0, length=1.0), matched_power(1, 7.0, 0.1)
        (3.07, 1.0, 1.0)
    """
    if steps == 1:
        return 1.0
    return round(min(_LARGEST, max(1.0, 2.0 * math.log(sigma / length) / math.log(steps))), 2)


def with_matched_grid(config: TrainConfig, target: Target, sigma: float, anchors: Anchors | None = None) -> TrainConfig:
    """The settings, with `agent.time_grid_power` chosen for the target where it is left open.

    The local length is that of a short search, or of samples of the user's own, which cost one gradient call a state.

    Args:
        config: settings; returned as they are where the power is given, or the grid has none. A single step has a
            power that does not matter, and costs nothing.
        target: on the device and in the floating point type of the training; its calls are counted.
        sigma: diffusion rate.
        anchors: states of the target to use instead of the search.

    Raises:
        InputError: whatever the search and the density raise.

    Example:
        >>> from ebbflow.envs import get_target
        >>> _ = torch.manual_seed(0)
        >>> config = TrainConfig.from_dict({"agent": {"time_grid_power": None}})
        >>> 3.5 < with_matched_grid(config, get_target("gmm25"), sigma=7.1).agent.time_grid_power < 4.0
        True
    """
    if config.agent.time_grid_power is not None or config.agent.time_grid != "shrinking":
        return config
    power, steps = 1.0, config.steps or STEPS
    if steps > 1:
        try:
            if anchors is None:
                search = dataclasses.replace(config.anchors, **SEARCH)
                device, dtype = torch.device(config.device), getattr(torch, config.dtype)
                anchors = find_anchors(target, search, sigma, device=device, dtype=dtype)
            length = local_length(target, anchors.states, anchors.contexts)
        except InputError as error:
            raise InputError(
                f"{error} (to match the time grid; a given agent.time_grid_power needs nothing)"
            ) from error
        power = matched_power(steps, sigma, length)
    return dataclasses.replace(config, agent=dataclasses.replace(config.agent, time_grid_power=power))
