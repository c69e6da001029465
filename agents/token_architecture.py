"""From a handful of settings to an agent for tokens."""

import torch

from ..envs.spaces import Tokens
from .config import AgentConfig
from .denoising_agent import DenoisingAgent
from .references.tokens.catalogue import get_token_reference
from .token_network import TokenNetwork

__all__ = ["build_token_agent"]


def build_token_agent(space: Tokens, *, steps: int | None = None, config: AgentConfig | None = None) -> DenoisingAgent:
    """Agent for a token space, in torch's default dtype, with freshly initialised parameters.

    Args:
        space: the token space.
        steps: number of steps T; by default what suits the reference.
        config: the architecture, of which it takes `reference`, `width` and `depth`.

    Raises:
        InputError: for any setting out of range; the message names it.

    Example:
        >>> build_token_agent(Tokens(length=3, vocabulary=5), config=AgentConfig(width=8)).steps
        3
    """
    config = config or AgentConfig()
    reference = get_token_reference(config.reference or "mask_one_random", space, steps)
    network = TokenNetwork(space, reference.steps, width=config.width, depth=config.depth)
    return DenoisingAgent(reference, network).to(torch.get_default_dtype())
