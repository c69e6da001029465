"""From a handful of settings to an agent for tokens."""

import torch

from ..envs.spaces import Continuous, Tokens
from .architecture import log_z_network_of
from .config import AgentConfig
from .denoising_agent import DenoisingAgent
from .references.tokens.catalogue import get_token_reference
from .token_network import TokenNetwork

__all__ = ["build_token_agent"]


def build_token_agent(
    space: Tokens,
    *,
    steps: int | None = None,
    config: AgentConfig | None = None,
    context_space: Continuous | None = None,
) -> DenoisingAgent:
    """Agent for a token space, in torch's default dtype, with freshly initialised parameters.

    Args:
        space: the token space.
        steps: number of steps T; by default what suits the reference.
        config: the architecture, of which it takes `reference`, `width` and `depth`.
        context_space: the space of contexts, for a conditional agent.

    Raises:
        InputError: for any setting out of range; the message names it.

    Example:
        >>> build_token_agent(Tokens(length=3, vocabulary=5), config=AgentConfig(width=8)).steps
        3
    """
    config = config or AgentConfig()
    size = {"width": config.width, "depth": config.depth}
    reference = get_token_reference(config.reference or "mask_one_random", space, steps, **size)
    outputs = reference.guess_shape(space.shape)[-1]
    network = TokenNetwork(space, reference.steps, **size, outputs=outputs, context_space=context_space)
    of_log_z = None if context_space is None else log_z_network_of(context_space.dim, config.width)
    agent = DenoisingAgent(reference, network, context_space=context_space, log_z_network=of_log_z)
    return agent.to(torch.get_default_dtype())
