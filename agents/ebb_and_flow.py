r"""Ebb-and-flow moves: destroy a sample k steps back, regenerate it, accept so that the target's law stays as it is.

From x = x_T, with j = T − k, draw the segment s = (x_j … x_{T−1}) from the destruction policy and then, from the same
x_j, a new segment x'_{j+1} … x'_T from the generation policy. Accept x'_T with probability min(1, α),

            R(x'_T) · Π p←(x'_{i−1} | x'_i) · Π p→(x_i  | x_{i−1})
    α  =  ─────────────────────────────────────────────────────────        products over i = j+1 … T, x'_j = x_j;
            R(x_T)  · Π p←(x_{i−1}  | x_i)  · Π p→(x'_i | x'_{i−1})

in terms of the log-ratio D of the two segments, log α = D(old) − D(new).

Why it is exact. On the extended space of (x_T, s) consider the density R(x_T) · Π p←, whose marginal in x_T is R.
Drawing s afresh from p←(· | x_T) is a Gibbs step of it. The second half is a Metropolis–Hastings step of it that keeps
x_j and proposes the rest with density Π p→; the reverse proposal has the density of the old rest, and the ratio above
is the usual one. Both leave the extended density invariant, hence R in x_T, for any two
policies with full support; forgetting s afterwards is free because it is drawn afresh every time. With exact policies D
is constant and every move is accepted, so the moves are independent draws from the conditional law given x_j.

With k = T and a Dirac initial law, it is the independence sampler of the generation policy on path space. Small k are
local: steps of the size that the last k destruction steps blur. Unlike Langevin moves they use no gradient, and cross
barriers that the policies have learned to cross. They resemble the back-and-forth moves of Kim et al., *Local search
GFlowNets* (arXiv 2310.02710).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..envs.errors import InputError
from .agent import Agent
from .rollout import Density

__all__ = ["Proposal", "ebb_and_flow"]


class Proposal(NamedTuple):
    """States proposed by a move, to be accepted with probability min(1, exp(log_acceptance)).

    Attributes:
        state: `[n, dim]`.
        log_reward: log R of each, `[n]`, nats; −inf outside the support.
        log_acceptance: log Metropolis–Hastings ratio, `[n]`; −inf outside the support.

    Example:
        >>> Proposal(torch.zeros(3, 2), torch.zeros(3), torch.full((3,), -0.5)).log_acceptance.exp()
        tensor([0.6065, 0.6065, 0.6065])
    """

    state: Tensor
    log_reward: Tensor
    log_acceptance: Tensor


def ebb_and_flow(
    agent: Agent,
    state: Tensor,
    log_reward: Tensor,
    density: Density,
    *,
    steps_back: int,
    context: Tensor | None = None,
) -> Proposal:
    """Propose a new state for each of `state` by destroying and regenerating its last steps (module docstring).

    One energy call a state; where the agent reads scores, also a value and a gradient at each state of both segments.

    Args:
        agent: the policies.
        state: x_T, `[n, dim]`.
        log_reward: log R of each, `[n]`, finite.
        density: the target.
        steps_back: k, from 1 to the agent's number of steps.
        context: of a conditional agent, the context of each state, `[n, c]`.

    Raises:
        InputError: for a k out of range, and what the density itself raises.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs import get_target
        >>> target = get_target("gmm25")
        >>> x = target.sample(4)
        >>> agent = build_agent(target.space, scale=target.scale, steps=5)
        >>> ebb_and_flow(agent, x, target(x), target, steps_back=2).state.shape
        torch.Size([4, 2])
    """
    if not 1 <= steps_back <= agent.steps:
        raise InputError(f"steps_back: expected a whole number from 1 to {agent.steps}, got {steps_back!r}")
    first = agent.steps - steps_back
    with torch.no_grad():
        old = agent.destroy(state, density, log_reward, context=context, first=first)
        new = agent.generate(state.shape[0], density, context=context, start=old["state"][:, 0], first=first)
        log_acceptance = agent.log_ratio(old) - agent.log_ratio(new)
    return Proposal(new["state"][:, -1], new["log_reward"], log_acceptance)
