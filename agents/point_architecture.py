"""From a handful of settings to an agent that guesses points."""

import torch
from torch import Tensor

from ..envs.spaces import Continuous
from .architecture import log_z_network_of
from .config import AgentConfig
from .denoising_agent import DenoisingAgent
from .point_network import PointNetwork
from .references.continuous.catalogue import get_continuous_reference

__all__ = ["build_point_agent"]


def build_point_agent(
    space: Continuous,
    *,
    scale: float,
    steps: int | None = None,
    config: AgentConfig | None = None,
    context_space: Continuous | None = None,
    image_shape: tuple[int, int] | None = None,
    samples: Tensor | None = None,
) -> DenoisingAgent:
    """Agent for data of real numbers, in torch's default dtype, with freshly initialised parameters.

    Args:
        space: the space.
        scale: standard deviation of a coordinate of the data, about.
        steps: number of steps T; by default what suits the reference.
        config: the architecture, of which it takes `reference` (by default noise_preserving), `width` and `depth`.
        context_space: the space of contexts, for a conditional agent.
        image_shape, samples: of the data, where the reference needs them, see `get_continuous_reference`.

    Raises:
        InputError: for any setting out of range; the message names it.

    Example:
        >>> build_point_agent(Continuous(2), scale=1.0, steps=20, config=AgentConfig(width=8)).steps
        20
    """
    config = config or AgentConfig()
    reference = get_continuous_reference(
        config.reference or "noise_preserving", space, steps, scale, image_shape=image_shape, samples=samples
    )
    network = PointNetwork(reference, width=config.width, depth=config.depth, context_space=context_space)
    of_log_z = None if context_space is None else log_z_network_of(context_space.dim, config.width)
    agent = DenoisingAgent(reference, network, context_space=context_space, log_z_network=of_log_z)
    return agent.to(torch.get_default_dtype())
