"""Local search: remembered states moved by Markov chains that leave the target's law alone.

A policy that has just reached a mode lands beside its peak; a few accepted moves later, the remembered state lies where
the density says, and the policy learns from that. Two kinds of moves:

- `LangevinSearch`: MALA (`langevin.py`), preconditioned by the standard deviation of the states at hand, with a step
  size that follows the acceptance by Robbins–Monro on its logarithm, from search to search. Sendera et al., *Improved
  off-policy training of diffusion samplers* (arXiv 2402.05098), search every 100 iterations with acceptance 0.574.
- `EbbAndFlowSearch`: proposals of the policies themselves. Buffers know no policies, so it takes a function that
  proposes; `ebbflow.agents.ebb_and_flow` is one.

Since the moves leave the target's law alone, states distributed by it (anchors) may be replaced by their moved selves.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from ..envs.errors import InputError, whole_number
from ..envs.target import Target
from .langevin import Chains, Tempered, adapted_move

__all__ = ["EbbAndFlowSearch", "LangevinSearch", "LocalSearch"]


class LocalSearch(ABC):
    """Moves states, and counts what that costs.

    Args:
        target: whose law the moves leave alone.
        moves: moves of each state in one search, >= 1.

    Attributes:
        acceptance: mean acceptance probability in the last search, `[]`, where its states are; NaN before the first.
        energy_calls: single densities evaluated by all searches so far.
        gradient_calls: single gradients evaluated by all searches so far.

    Raises:
        InputError: for a number of moves that is not >= 1.
    """

    def __init__(self, target: Target, moves: int) -> None:
        self.target = target
        self.moves = whole_number("moves", moves, least=1)
        self.acceptance = torch.tensor(torch.nan, dtype=torch.float64)
        self.energy_calls = 0
        self.gradient_calls = 0

    def run(self, states: Tensor, log_reward: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where `moves` moves take the `states` `[n, dim]` of finite `log_reward` `[n]`, and the log reward there.

        States of a conditional target come with a `context` each, `[n, c]`, which stays as it is.
        """
        calls = self.target.energy_calls, self.target.gradient_calls
        with torch.no_grad():
            states, log_reward, acceptance = self._move(states, log_reward, context)
        self.acceptance = torch.stack(acceptance).mean()
        self.energy_calls += self.target.energy_calls - calls[0]
        self.gradient_calls += self.target.gradient_calls - calls[1]
        return states, log_reward

    @abstractmethod
    def _move(self, states: Tensor, log_reward: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Moved states, their log reward, and the mean acceptance of each move, `[]` in double precision."""

    def state_dict(self) -> dict[str, float | int]:
        """Plain numbers: all that later searches depend on, and the counts."""
        return {
            "acceptance": float(self.acceptance),
            "energy_calls": self.energy_calls,
            "gradient_calls": self.gradient_calls,
        }

    def load_state_dict(self, state: Mapping[str, float | int]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            InputError: when a number is missing.
        """
        for key in self.state_dict():
            if key not in state:
                raise InputError(f"{key}: missing from the saved local search")
            value, on_device = state[key], isinstance(getattr(self, key), Tensor)
            setattr(self, key, torch.tensor(value, dtype=torch.float64) if on_device else value)


class LangevinSearch(LocalSearch):
    """Local search by MALA with adapted steps (module docstring): n · (moves + 1) energy and gradient calls a search.

    Args:
        target: has a differentiable log density.
        moves: moves of each state in one search, >= 1.
        target_acceptance: what the step size is adapted to, between 0 and 1.

    Attributes:
        log_step: log of the step size, in units of the states' standard deviation, `[]`, where these are.

    Raises:
        InputError: for a value out of range.

    Example:
        >>> from ebbflow.envs import get_target
        >>> _ = torch.manual_seed(0)
        >>> target = get_target("gmm25")
        >>> x = target.means + 1.0  # two standard deviations beside each mode
        >>> search = LangevinSearch(target, moves=30)
        >>> better, log_reward = search.run(x, target(x))
        >>> bool(log_reward.mean() > target(x).mean()), search.energy_calls, search.gradient_calls
        (True, 775, 775)
    """

    def __init__(self, target: Target, moves: int, target_acceptance: float = 0.574) -> None:
        super().__init__(target, moves)
        if not 0.0 < target_acceptance < 1.0:
            raise InputError(f"target_acceptance: expected a number between 0 and 1, got {target_acceptance!r}")
        self.target_acceptance = target_acceptance
        self.log_step = torch.zeros((), dtype=torch.float64)

    def _move(self, states: Tensor, log_reward: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        std = states.std(dim=0, correction=0).clamp_min(1e-6 * self.target.scale)
        density = Tempered(self.target, context=context)
        chains = Chains(states, *density.value_and_score(states))
        acceptance = []
        self.log_step = self.log_step.to(states.device, non_blocking=states.device.type != "cpu")
        for _ in range(self.moves):
            accepted, self.log_step = adapted_move(density, chains, std, self.log_step, self.target_acceptance)
            acceptance.append(accepted)
        return chains.x, chains.energy, acceptance

    def state_dict(self) -> dict[str, float | int]:
        """With the adapted step size."""
        return super().state_dict() | {"log_step": float(self.log_step)}


class _Proposal(Protocol):
    """Proposed states `[n, dim]`, their log reward `[n]`, and the log Metropolis–Hastings ratio `[n]`."""

    @property
    def state(self) -> Tensor: ...

    @property
    def log_reward(self) -> Tensor: ...

    @property
    def log_acceptance(self) -> Tensor: ...


class Propose(Protocol):
    """Proposes a new state for each of `states` `[n, dim]` with `log_reward` `[n]`.

    That of a conditional target takes the `context` `[n, c]` of each state by name.
    """

    def __call__(self, states: Tensor, log_reward: Tensor, /, **context: Tensor) -> _Proposal: ...


class EbbAndFlowSearch(LocalSearch):
    """Local search by proposals that come with their Metropolis–Hastings ratio, such as ebb-and-flow moves.

    Args:
        target: whose calls are counted.
        moves: moves of each state in one search, >= 1.
        propose: makes the proposals.

    Raises:
        InputError: for a number of moves that is not >= 1.

    Example:
        >>> from ebbflow.agents import build_agent, ebb_and_flow
        >>> from ebbflow.envs import get_target
        >>> target = get_target("gmm25")
        >>> agent = build_agent(target.space, scale=target.scale, steps=5)
        >>> propose = lambda x, log_reward: ebb_and_flow(agent, x, log_reward, target, steps_back=2)
        >>> search, x = EbbAndFlowSearch(target, moves=3, propose=propose), target.sample(10)
        >>> states, log_reward = search.run(x, target(x))
        >>> states.shape, search.energy_calls, search.gradient_calls
        (torch.Size([10, 2]), 30, 0)
    """

    def __init__(self, target: Target, moves: int, propose: Propose) -> None:
        super().__init__(target, moves)
        self.propose = propose

    def _move(self, states: Tensor, log_reward: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        given = {} if context is None else {"context": context}
        acceptance = []
        for _ in range(self.moves):
            proposal = self.propose(states, log_reward, **given)
            probability = proposal.log_acceptance.nan_to_num(nan=-torch.inf).clamp(max=0.0).exp()
            accepted = torch.rand_like(probability) < probability
            states = torch.where(accepted[:, None], proposal.state, states)
            log_reward = torch.where(accepted, proposal.log_reward, log_reward)
            acceptance.append(probability.mean().double())
        return states, log_reward, acceptance
