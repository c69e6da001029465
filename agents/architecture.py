"""From a handful of settings to an agent."""

import math

import torch
from torch import nn

from ..envs.errors import InputError
from ..envs.spaces import Compressed, Continuous
from .actors import DestructionHead, GenerationHead
from .agent import Agent
from .backbone import Backbone
from .config import AgentConfig
from .features import StateFeatures
from .flow import StateFlow
from .references.catalogue import get_reference
from .references.gaussian import GaussianReference
from .references.learned_schedule import LearnedSchedule
from .time_grid import get_time_grid

__all__ = ["build_agent", "log_z_network_of"]


def build_agent(
    space: Continuous,
    *,
    scale: float,
    steps: int,
    config: AgentConfig | None = None,
    context_space: Continuous | None = None,
    flow: bool = False,
    reference: GaussianReference | None = None,
) -> Agent:
    """Agent for a space, in torch's default dtype, with freshly initialised parameters (torch's global generator).

    Args:
        space: the state space; one that is not plain `Continuous` has coordinates of its own, which `compression`
            leaves alone.
        scale: typical length of the target, > 0; sets σ and the unit of the features.
        steps: number of steps T, >= 1.
        config: the architecture.
        context_space: the space of contexts of a conditional target; its agent reads contexts, and has a network for
            log Z(c).
        flow: with a state flow, for the objectives that need one.
        reference: a reference process of your own, instead of the one that `config` names and its time grid.

    Raises:
        InputError: for any setting out of range; the message names it.

    Example:
        >>> build_agent(Continuous(2), scale=1.0, steps=5).steps
        5
    """
    config = config or AgentConfig()
    sigma = scale if config.sigma is None else config.sigma
    power = config.time_grid_power
    if power is None and config.time_grid == "shrinking":
        raise InputError("time_grid_power: expected a number; only the trainer, which has a target, can choose it")
    grid = get_time_grid(config.time_grid, steps, 1.0 if power is None else power)
    features = StateFeatures(config.features, scale, config.frequencies)
    reference = reference or get_reference(config.reference or "bridge", grid, sigma)
    if reference.steps != steps:
        raise InputError(f"reference: expected one of {steps} steps, got one of {reference.steps}")
    if config.compression is not None:
        if not 0.0 < config.compression < math.inf:
            raise InputError(f"compression: expected a positive finite length, got {config.compression!r}")
        if type(space) is Continuous:
            space = Compressed(space.dim, config.compression * scale)
    if config.reach is not None and not 0.0 < config.reach < math.inf:
        raise InputError(f"reach: expected a positive finite factor, or None, got {config.reach!r}")
    reach = config.reach is not None and reference.is_dirac
    inputs = space.dim * features.count
    contexts = 0 if context_space is None else context_space.dim
    backbone = Backbone(inputs, reference.times, config.width, config.depth, contexts)
    if config.destruction_schedule not in ("fixed", "learned"):
        raise InputError(f"destruction_schedule: expected 'fixed' or 'learned', got {config.destruction_schedule!r}")
    schedule = LearnedSchedule(reference, space.dim) if config.destruction_schedule == "learned" else None
    generation = GenerationHead(
        reference,
        space.dim,
        width=config.width,
        features=features.count,
        variance=config.generation_variance,
        log_variance_bound=config.log_variance_bound,
        langevin=config.langevin,
        gain=config.gain,
        reach=reach,
        tables=config.tables,
        schedule=schedule,
    )
    destruction = DestructionHead(
        reference,
        space.dim,
        width=config.width,
        features=features.count,
        mean=config.destruction_mean,
        variance=config.destruction_variance,
        mean_bound=config.destruction_mean_bound,
        variance_bound=config.destruction_variance_bound,
        gain=config.gain,
        reach=reach,
        tables=config.tables,
        schedule=schedule,
    )
    separate = not config.shared_backbone and destruction.reads_state
    destruction_backbone = Backbone(inputs, reference.times, config.width, config.depth, contexts) if separate else None
    log_z_network = None if context_space is None else log_z_network_of(contexts, config.width)
    state_flow = None
    if flow:  # built last, so that the rest of the agent is the same with and without it
        state_flow = StateFlow(
            reference,
            inputs,
            width=config.width,
            depth=config.depth,
            forward_looking=config.forward_looking,
            contexts=contexts,
        )
    agent = Agent(
        space,
        reference,
        features,
        backbone,
        generation,
        destruction,
        destruction_backbone,
        state_flow,
        context_space=context_space,
        log_z_network=log_z_network,
    )
    return agent.to(torch.get_default_dtype())


def log_z_network_of(contexts: int, width: int) -> nn.Module:
    """What log Z(c) adds to the level common to all contexts, `[..., c] -> [..., 1]`; zero at first.

    Example:
        >>> log_z_network_of(contexts=2, width=8)(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(contexts, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), last)
