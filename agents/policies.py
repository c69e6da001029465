r"""What every agent offers: a generation policy, a destruction policy and log Z over one state space.

Whoever trains, remembers, evaluates or draws asks for this, and not for what the policies are made of: `Agent` takes
Gaussian steps, `DenoisingAgent` guesses the sample. A trajectory is a TensorDict of batch `[B]` with `state`
`[B, T+1, *space.shape]` and `log_reward` `[B]`; x_0 is fully destroyed, x_T a sample. Its log-ratio is

    D(τ) = log p_0(x_0) + Σ_k log p→(x_{k+1} | x_k) − log R(x_T) − Σ_k log p←(x_k | x_{k+1}).

Source: arXiv 2506.01541.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

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

    Class attributes:
        trains_levels: whether generation may learn from single levels of destruction, without whole paths.

    Attributes:
        space: the state space.
        destruction: the destruction policy; `destruction.learned` says whether it has anything to learn.
        log_z: the learned log normalising constant, a scalar parameter, whose device and dtype are the agent's.
        context_space: the space of contexts of a conditional agent, or None.
        flow: the state flow, or None.
        needs_score: whether a policy reads the gradient of the log density.
        compiled: whether the steps of rollouts without gradient are compiled (`compiled`); False at first.
        chunk: how many steps of stored trajectories pass through the networks at once, which are then evaluated again
            in the backward pass; None, at first, for all. Bounds the memory of a loss, for about a forward pass more.
    """

    trains_levels: ClassVar[bool] = False

    space: Any  # Continuous | Tokens; each agent says which
    destruction: Any
    log_z: nn.Parameter
    context_space: Continuous | None
    flow: StateFlow | None
    needs_score: bool
    compiled: bool = False
    chunk: int | None = None

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of steps T."""

    @property
    def times(self) -> Sequence[float]:
        """The time of each grid point, from 0 (destroyed) to 1 (sample), T + 1 of them; here evenly spaced."""
        return [k / self.steps for k in range(self.steps + 1)]

    @property
    def free_context_space(self) -> Continuous | None:
        """The space of the contexts that have still to be passed."""
        return self.context_space

    def given(self, context: Tensor) -> "Policies":
        """This agent at one context `[c]`: the same parameters, and no context to be passed any more.

        Raises:
            InputError: for an agent without contexts.
        """
        raise InputError("context: this agent is not conditional, and takes none")

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by what trains them: `generation` (with a shared backbone), `destruction`, `log_z`, `flow`."""

    @abstractmethod
    def log_z_given(self, context: Tensor | None) -> Tensor:
        """The learned log Z(c) of contexts `[..., c] -> [...]`; the scalar `log_z` of an unconditional agent."""

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
