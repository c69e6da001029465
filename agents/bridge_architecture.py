"""From a source of samples, a diffusion rate and a number of steps to the agent that bridges it to a target."""

from dataclasses import replace

from ..envs.errors import InputError
from ..envs.spaces import Continuous
from .architecture import build_agent
from .bridge_agent import BridgeAgent, Source
from .config import AgentConfig
from .references.brownian_motion import brownian_motion
from .time_grid import get_time_grid

__all__ = ["BRIDGE", "build_bridge_agent"]

BRIDGE = AgentConfig(
    time_grid="uniform",
    width=64,
    frequencies=(1.0, 2.0, 4.0),
    shared_backbone=False,
    destruction_mean="offset",
    destruction_variance="log_bounded",
    destruction_variance_bound=8.0,
)
"""The architecture of a bridge: both policies take the same form, for neither end is simpler than the other."""


def build_bridge_agent(
    space: Continuous,
    *,
    source: Source,
    sigma: float,
    steps: int,
    scale: float | None = None,
    config: AgentConfig = BRIDGE,
    redraw: bool = True,
) -> BridgeAgent:
    """Agent that generates from samples of `source`, with freshly initialised parameters (torch's global generator).

    Args:
        space: the state space of both ends.
        source: where x_0 comes from: a data set, or any target that can sample.
        sigma: σ, state units: σ² is the variance of x_T given x_0 of the reference, and what weighs the entropy of the
            transport plan against its cost ½|x_0 − x_T|².
        steps: number of steps T, >= 1.
        scale: typical length of both ends, > 0, the unit of the features; by default the source's.
        config: the architecture. Its `reference`, `sigma` and `compression` are not read: steps are those of
            `brownian_motion`, of the state itself, for in other coordinates the cost would be another one.
        redraw: see `BridgeAgent.redrawn`.

    Raises:
        InputError: for tokens, a source of another dimension, and any setting out of range; the message names it.

    Example:
        >>> from ebbflow.envs.data import two_moons
        >>> build_bridge_agent(Continuous(2), source=two_moons(500), sigma=0.5, steps=10).steps
        10
    """
    if type(space) is not Continuous:
        raise InputError(f"space: expected a plain Continuous space for a bridge, got {space}")
    grid = get_time_grid(config.time_grid, steps, 1.0 if config.time_grid_power is None else config.time_grid_power)
    built = build_agent(
        space,
        scale=source.scale if scale is None else scale,
        steps=steps,
        config=replace(config, reference=None, compression=None),
        reference=brownian_motion(grid, sigma),
    )
    return BridgeAgent(built, source, redraw=redraw)
