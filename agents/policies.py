r"""What every agent offers: a generation policy, a destruction policy and log Z over one state space.

Whoever trains, remembers, evaluates or draws asks for this, and not for what the policies are made of: `Agent` takes
Gaussian steps, `DenoisingAgent` guesses the sample. A trajectory is a TensorDict of batch `[B]` with `state`
`[B, T+1, *space.shape]` and `log_reward` `[B]`; x_0 is fully destroyed, x_T a sample. Its log-ratio is

    D(τ) = log p_0(x_0) + Σ_k log p→(x_{k+1} | x_k) − log R(x_T) − Σ_k log p←(x_k | x_{k+1}).

Source: arXiv 2506.01541.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from ..envs.errors import InputError
from ..envs.spaces import Continuous
from .flow import StateFlow
from .rollout import Density

__all__ = ["PathLogProbs", "Policies"]


class PathLogProbs(NamedTuple):
    """Log densities of whole trajectories, per step.

    Attributes:
        initial: log p_0(x_0), `[B]`; zeros for a Dirac initial law.
        generation: log p→ of every step, `[B, T]`.
        destruction: log p← of every step, `[B, T]`; zeros where the step is deterministic.

    Example:
        >>> import torch
        >>> one = PathLogProbs(torch.zeros(2), torch.ones(2, 3), torch.zeros(2, 3))
        >>> one.log_ratio(torch.tensor([0.0, 1.0]))
        tensor([3., 2.])
    """

    initial: Tensor
    generation: Tensor
    destruction: Tensor

    def log_ratio(self, log_reward: Tensor) -> Tensor:
        """D = log p_0 + Σ log p→ − log R − Σ log p←, `[B]`."""
        return self.initial + self.generation.sum(-1) - log_reward - self.destruction.sum(-1)


class Policies(nn.Module, ABC):
    """A generation and a destruction policy with log Z (module docstring).

    Attributes:
        trains_levels: whether generation may learn from single levels of destruction, without whole paths.
        starts_from_samples: whether x_0 has a law of which there are samples and no density, so that log-ratios of
            paths are not known.
        space: the state space.
        destruction: the destruction policy; `destruction.learned` says whether it has anything to learn.
        log_z: the learned log normalising constant, a scalar parameter, whose device and dtype are the agent's.
        context_space: the space of contexts of a conditional agent, or None.
        log_z_network: what log Z(c) of a conditional agent adds to `log_z`, `[..., c] -> [..., 1]`; else None.
        flow: the state flow, or None.
        needs_score: whether a policy reads the gradient of the log density.
        compiled: whether the steps of rollouts without gradient are compiled (`compiled`); False at first.
        cuda_graphs: whether those that are compiled are captured as CUDA graphs, too, on a GPU; False at first.
        chunk: how many steps of stored trajectories pass through the networks at once, which are then evaluated again
            in the backward pass; None, at first, for all. Bounds the memory of a loss, for about a forward pass more.
    """

    trains_levels: bool = False
    starts_from_samples: bool = False

    space: Any  # Continuous | Tokens; each agent says which
    destruction: Any
    log_z: nn.Parameter
    context_space: Continuous | None
    log_z_network: nn.Module | None
    flow: StateFlow | None
    needs_score: bool
    compiled: bool = False
    cuda_graphs: bool = False
    chunk: int | None = None

    _given: Tensor | None = None

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of steps T."""

    @property
    def times(self) -> Sequence[float]:
        """The time of each grid point, from 0 (destroyed) to 1 (sample), T + 1 of them; here evenly spaced."""
        return [k / self.steps for k in range(self.steps + 1)]

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by what trains them: `generation` (with a shared backbone), `destruction`, `log_z`, `flow`."""

    # Contexts -----------------------------------------------------------------------------------------------------

    def log_z_given(self, context: Tensor | None) -> Tensor:
        """The learned log Z(c) of contexts `[..., c] -> [...]`; the scalar `log_z` of an unconditional agent."""
        if self.log_z_network is None:
            return self.log_z
        return self.log_z + self.log_z_network(self._contexts(context)).squeeze(-1)

    def given(self, context: Tensor) -> Self:
        """This agent at one context `[c]`: the same parameters, and no context to be passed any more.

        Its `density` is that of the target at the same context, `target.given(context)`. With contexts `[n, c]` it is
        one for `n` rows, each at its own.

        Raises:
            InputError: for an unconditional agent or a context of another shape.

        Example:
            >>> import torch
            >>> from ebbflow.agents import AgentConfig, build_agent
            >>> from ebbflow.envs import get_target
            >>> target, context = get_target("conditional-gmm"), torch.tensor([0.5, 0.0])
            >>> agent = build_agent(
            ...     target.space, scale=3.0, steps=3, config=AgentConfig(width=8), context_space=target.context_space
            ... )
            >>> agent.given(context).generate(4, target.given(context))["log_reward"].shape
            torch.Size([4])
        """
        view = copy.copy(self)
        view._given = self._contexts(context)
        return view

    @property
    def free_context_space(self) -> Continuous | None:
        """The space of the contexts that have still to be passed: none at a context that is `given`."""
        return None if self._given is not None else self.context_space

    def contexts_of(self, n: int, context: Tensor | None) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """Contexts of `n` trajectories, `[n, c]` or None, and what a density takes of them beside the states.

        Raises:
            InputError: for contexts that are missing, not asked for, or of another shape.
        """
        if context is None and self.context_space is None:
            return None, ()
        given = context is None and self._given is not None
        rows = self._contexts(self._given if given else context)
        if rows.ndim > 2 or (rows.ndim == 2 and len(rows) not in (1, n)):
            raise InputError(
                f"context: expected one context, or one for each of {n} trajectories, got {list(rows.shape)}"
            )
        rows = rows.expand(n, -1)
        return rows, () if given else (rows,)

    def _contexts(self, context: Tensor | None) -> Tensor:
        """Contexts in this agent's dtype and on its device, or the error that names what is wrong with them."""
        if self.context_space is None:
            raise InputError("context: this agent is not conditional, and takes none")
        size = self.context_space.dim
        if context is None or context.shape[-1:] != (size,):
            got = "none" if context is None else list(context.shape)
            raise InputError(f"context: this agent is conditional and expects contexts [n, {size}], got {got}")
        return context.detach().to(self.log_z)

    # Whole trajectories -------------------------------------------------------------------------------------------

    @abstractmethod
    def generate(
        self,
        n: int,
        density: Density | None = None,
        *,
        context: Tensor | None = None,
        scale: float = 1.0,
        added: float = 0.0,
        drift: float = 0.0,
        differentiable: bool = False,
    ) -> TensorDict:
        """`n` generation paths, a trajectory of batch `[n]`; without a density it has no `log_reward`."""

    @abstractmethod
    def destroy(
        self,
        x: Tensor,
        density: Density | None = None,
        log_reward: Tensor | None = None,
        *,
        context: Tensor | None = None,
    ) -> TensorDict:
        """Destroy samples `x` `[n, *space.shape]`: a trajectory of batch `[n]`, of which x is the last state."""

    def redrawn(self, paths: TensorDict) -> TensorDict:
        """Of trajectories, what is learned from; here they themselves."""
        return paths

    @abstractmethod
    def path_features(self, trajectory: Mapping[str, Tensor], coordinates: Tensor | None = None) -> Tensor:
        """What policies read of the states of stored trajectories, `[B, T+1, ...]`."""

    @abstractmethod
    def path_log_probs(
        self,
        trajectory: Mapping[str, Tensor],
        features: Tensor | None = None,
        *,
        coordinates: Tensor | None = None,
        trunk: str = "both",
        policies: str = "both",
    ) -> PathLogProbs:
        """Log probabilities of all steps of stored trajectories, or of plain dictionaries of their tensors."""

    def path_log_flow(
        self, trajectory: TensorDictBase, features: Tensor, log_z: Tensor, coordinates: Tensor | None = None
    ) -> Tensor:
        """log F of the states x_1 … x_{T−1} of stored trajectories, `[B, T-1]`.

        Raises:
            InputError: when the agent has no state flow.
        """
        raise InputError("flow: expected an agent with a state flow, build_agent(..., flow=True)")

    def log_ratio(self, trajectory: TensorDictBase) -> Tensor:
        """D of stored trajectories, `[B]` (module docstring)."""
        return self.path_log_probs(trajectory).log_ratio(trajectory["log_reward"])
