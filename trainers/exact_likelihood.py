"""Likelihoods of a policy for tokens by enumerating all states: the oracle of tiny spaces, exact up to rounding."""

import torch
from torch import Tensor

from ..agents.denoising_agent import DenoisingAgent
from ..agents.references.tokens.reference import TokenReference
from ..envs.errors import InputError

__all__ = ["exact_bound", "exact_law"]


@torch.no_grad()
def exact_bound(agent: DenoisingAgent, x: Tensor) -> Tensor:
    """The bound of `likelihood` for each sample, `[n, length] -> [n]`: a sum over all levels and all states.

    Costs T · states² step probabilities; of masks there are (vocabulary + 1)^length states.

    Raises:
        InputError: for a reference that is not one of tokens, anything but tokens of the space, and a space that is too
            large to list.

    Example:
        >>> from ebbflow.agents import TokenNetwork
        >>> from ebbflow.agents.references.tokens import MaskOneRandom
        >>> from ebbflow.envs import Tokens
        >>> space = Tokens(length=2, vocabulary=2)
        >>> agent = DenoisingAgent(MaskOneRandom(space), TokenNetwork(space, steps=2, width=8))
        >>> exact_bound(agent, torch.tensor([[0, 1]])).exp()  # untrained
        tensor([0.2500])
    """
    reference = _tokens(agent)
    states = reference.all_states().to(x.device)
    samples = agent.space.check("x", x).unsqueeze(1)  # [n, 1, length]
    bound = _mean(reference.log_prob_level(states, samples, 0).exp(), reference.log_prob_destroyed(states))
    for k in range(agent.steps):
        level = reference.log_prob_level(states, samples, k + 1).exp()  # [n, states]: of x_{k+1}
        destruction = reference.log_prob_step(states, states.unsqueeze(1), k)  # [x_{k+1}, x_k]
        term = _mean(destruction.exp(), _generation(agent, states, k).T - destruction)
        bound = bound + _mean(level, term)
    return bound


@torch.no_grad()
def exact_law(agent: DenoisingAgent) -> Tensor:
    """Probability that generation ends in each sample, `[vocabulary ** length]`, in the order of `space.all_states()`.

    Raises:
        InputError: for a reference that is not one of tokens, and a space that is too large to list.

    Example:
        >>> from ebbflow.agents import TokenNetwork
        >>> from ebbflow.agents.references.tokens import MaskOneRandom
        >>> from ebbflow.envs import Tokens
        >>> space = Tokens(length=2, vocabulary=2)
        >>> exact_law(DenoisingAgent(MaskOneRandom(space), TokenNetwork(space, steps=2, width=8)))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    reference = _tokens(agent)
    states = reference.all_states().to(agent.log_z.device)
    law = reference.log_prob_destroyed(states).exp()
    for k in range(agent.steps):
        law = law @ _generation(agent, states, k).exp()
    return law[(states != reference.space.mask).all(-1)]


def _tokens(agent: DenoisingAgent) -> TokenReference:
    if not isinstance(agent.reference, TokenReference):
        raise InputError(f"agent: expected a reference of tokens, got {type(agent.reference).__name__}")
    return agent.reference


def _generation(agent: DenoisingAgent, states: Tensor, k: int) -> Tensor:
    """log p→ from each state to each state, `[x_k, x_{k+1}]`."""
    guess = agent.guess(states, k).unsqueeze(1)
    return agent.reference.log_prob_reverse(guess, states, states.unsqueeze(1), k)


def _mean(law: Tensor, values: Tensor) -> Tensor:
    """Mean over the last dimension, where what cannot happen does not count."""
    return torch.where(law > 0.0, law * values, 0.0).sum(-1)
