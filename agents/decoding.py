r"""Decoding a network that was trained under random masking: in random order, in any order given, or block by block.

Such a network guesses any token from any set of others, so that the order of generation is free:

    p(x) = Π_j p(x_{o(j)} | x_{o(1)}, …, x_{o(j−1)})      for every order o, if the guesses are exact

A block writes several positions at once, each guessed from what was known before the block. That takes fewer passes of
the network, but it is an approximation even with exact guesses: within a block the tokens are drawn as if they were
independent of each other. Sources: arXiv 2605.30553; arXiv 2110.02037 (parallel decoding of any-order models).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..envs.errors import InputError, whole_number
from .denoising_agent import DenoisingAgent
from .references.tokens.mask_in_order import check_order
from .references.tokens.mask_one_random import MaskOneRandom
from .references.tokens.one_position import draw

__all__ = ["decode"]


@torch.no_grad()
def decode(agent: DenoisingAgent, n: int, *, order: str | Sequence[int] | Tensor = "random", block: int = 1) -> Tensor:
    """`n` samples, `[n, length]`, of an agent whose reference is `MaskOneRandom`.

    With `block` = 1 and random order they have the law of `agent.generate`; in a stated order, that of
    `DenoisingAgent(MaskInOrder(space, order), agent.network)`, whose likelihood bound is then that of this decoding.

    Args:
        agent: the agent.
        n: number of samples, >= 1.
        order: "random" (another one for each sample), "left_to_right", or the positions in the order to be written.
        block: how many positions are written at once, >= 1; more than one is an approximation (module docstring).

    Raises:
        InputError: for an agent with another reference, which knows one order only or none, and for settings out of
            range.

    Example:
        >>> from ebbflow.agents import TokenNetwork
        >>> from ebbflow.envs import Tokens
        >>> space = Tokens(length=4, vocabulary=3)
        >>> agent = DenoisingAgent(MaskOneRandom(space), TokenNetwork(space, steps=4, width=8))
        >>> decode(agent, 5, order="left_to_right").shape
        torch.Size([5, 4])
        >>> decode(agent, 5, order=[3, 0, 2, 1], block=2).shape  # in two passes of the network
        torch.Size([5, 4])
    """
    if not isinstance(agent.reference, MaskOneRandom):
        raise InputError(f"agent: expected the reference MaskOneRandom, got {type(agent.reference).__name__}")
    space = agent.reference.space
    whole_number("n", n, least=1)
    whole_number("block", block, least=1)
    state = space.fully_masked(n).to(agent.log_z.device)
    positions = _positions(order, state)
    for first in range(0, space.length, block):
        here = positions[:, first : first + block]  # [n, block]
        laws = agent.guess(state, first).softmax(-1)  # [n, length, vocabulary]
        tokens = draw(laws.gather(1, here.unsqueeze(-1).expand(-1, -1, space.vocabulary)))
        state = state.scatter(1, here, tokens)
    return state


def _positions(order: str | Sequence[int] | Tensor, state: Tensor) -> Tensor:
    """The order of each row, `[n, length]`."""
    n, length = state.shape
    if isinstance(order, str):
        if order == "random":
            return torch.rand(n, length, device=state.device).argsort(-1)
        if order != "left_to_right":
            raise InputError(f"order: expected 'random', 'left_to_right' or all positions, got {order!r}")
        order = range(length)
    return check_order(order, length).to(state.device).expand(n, -1)
