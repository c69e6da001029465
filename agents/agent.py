r"""The agent: a generation policy and a destruction policy over shared hidden vectors, with log Z.

A trajectory is a TensorDict of batch `[B]` with `state` `[B, T+1, dim]`, `log_reward` `[B]` and, where the agent reads
it, `score` `[B, T+1, dim]`; whoever mixes trajectories marks them by `origin` `[B]` (see `Origin`). The log-ratio of a
trajectory (arXiv 2506.01541) is

    D(τ) = log p_0(x_0) + Σ_k log p→(x_{k+1} | x_k) − log R(x_T) − Σ_k log p←(x_k | x_{k+1}),

so that E[−D] over generated paths is the ELBO and over paths destroyed from exact samples the EUBO. With a Dirac
initial law there is no p_0 term and the last destruction step, which is deterministic, has no density term.

A *segment* is the end x_j … x_T of a trajectory, with T + 1 − j states. Its log-ratio has the steps from j on, and no
p_0 term unless j = 0; two trajectories that part at x_j differ in D by what their segments do.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from ..envs.errors import InputError
from ..envs.spaces import Continuous
from .actors import DestructionHead, DiracNormal, GenerationHead, gaussian_log_prob
from .backbone import Backbone, StepIndex
from .features import StateFeatures
from .flow import StateFlow
from .references.gaussian import GaussianReference
from .rollout import Density, rollout_destruction, rollout_generation

__all__ = ["Agent", "PathLogProbs"]


class PathLogProbs(NamedTuple):
    """Log densities of whole trajectories, per step.

    Attributes:
        initial: log p_0(x_0), `[B]`; zeros for a Dirac initial law.
        generation: log p→ of every step, `[B, T]`.
        destruction: log p← of every step, `[B, T]`; zeros where the step is deterministic.

    Example:
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


class Agent(nn.Module):
    """Generation and destruction policies, best built by `build_agent`.

    Args:
        space: the state space.
        reference: the reference process that both heads correct.
        features: state features, read by the backbone and by the tables of the heads.
        backbone: the shared trunk.
        generation: the generation head.
        destruction: the destruction head.
        destruction_backbone: a separate trunk for the destruction head; by default it shares `backbone`.
        flow: the state flow, for the objectives that balance parts of a trajectory; by default there is none.

    Attributes:
        log_z: the learned log normalising constant (a scalar parameter).

    Example:
        >>> from ebbflow.agents import AgentConfig, build_agent
        >>> agent = build_agent(Continuous(2), scale=1.0, steps=3, config=AgentConfig(width=16))
        >>> paths = agent.generate(5, density=None)
        >>> paths["state"].shape
        torch.Size([5, 4, 2])
        >>> paths["log_reward"] = -0.5 * paths["state"][:, -1].square().sum(-1)
        >>> agent.log_ratio(paths).shape
        torch.Size([5])
    """

    def __init__(
        self,
        space: Continuous,
        reference: GaussianReference,
        features: StateFeatures,
        backbone: Backbone,
        generation: GenerationHead,
        destruction: DestructionHead,
        destruction_backbone: Backbone | None = None,
        flow: StateFlow | None = None,
    ) -> None:
        super().__init__()
        self.space = space
        self.reference = reference
        self.features = features
        self.backbone = backbone
        self.generation = generation
        self.destruction = destruction
        self.destruction_backbone = destruction_backbone
        self.flow = flow
        self.log_z = nn.Parameter(torch.zeros(()))
        self.needs_score = generation.langevin is not None or "score" in features.names

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return self.reference.steps

    @property
    def destruction_trunk(self) -> Backbone:
        """The backbone that the destruction head reads: its own, or the shared one."""
        return self.backbone if self.destruction_backbone is None else self.destruction_backbone

    # One step -----------------------------------------------------------------------------------------------------

    def generation_step(
        self, state: Tensor, k: StepIndex, score: Tensor | None = None, time_embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the coordinates of x_{k+1} given `state` = x_k `[n, dim]` at grid point `k`."""
        u = self.space.coordinates(state)
        features = self.features(u, score)
        return self.generation(self.backbone(features, k, time_embedding), features, u, k, score)

    def destruction_step(
        self, state: Tensor, k: int | Tensor, score: Tensor | None = None, time_embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the coordinates of x_{k−1} given `state` = x_k `[n, dim]` at grid point `k` >= 1."""
        u = self.space.coordinates(state)
        if not self.destruction.learned:
            return self.destruction(None, None, u, k - 1)
        features = self.features(u, score)
        return self.destruction(self.destruction_trunk(features, k, time_embedding), features, u, k - 1)

    # Whole trajectories -------------------------------------------------------------------------------------------

    def initial_state(self, n: int) -> Tensor:
        """`n` draws of the initial law, `[n, dim]`."""
        like = self.generation.factor
        zeros = torch.zeros(n, *self.space.shape, dtype=like.dtype, device=like.device)
        if self.reference.is_dirac:
            return zeros
        return self.space.transition(zeros, self.reference.initial_std * torch.randn_like(zeros), 0)

    def generate(
        self,
        n: int,
        density: Density | None = None,
        *,
        scale: float = 1.0,
        added: float = 0.0,
        drift: float = 0.0,
        start: Tensor | None = None,
        first: int = 0,
        differentiable: bool = False,
    ) -> TensorDict:
        """Sample `n` generation paths.

        Args:
            n: number of paths.
            density: the target; without it the trajectory has no `log_reward`.
            scale: factor on every step's standard deviation (exploration).
            added: extra standard deviation, as a multiple of the reference step's (exploration).
            drift: pushes every step's mean by drift · std · clip(std · ∇log R, ±1) (exploration); ½ is the drift of
                Langevin dynamics whose noise is the step's, bounded. One gradient call a step.
            start: states x_j `[n, dim]` to go on from, instead of the initial law.
            first: the grid point j of `start`, from 0 to T − 1.
            differentiable: keep the graph of the reparametrised path and of its log reward; scores stay constants.

        Returns:
            A trajectory (module docstring) of batch `[n]`; a segment where it begins at a `first` > 0.

        Raises:
            InputError: when scores are read and there is no `density`, for a `first` > 0 without a `start`, and what
                the density itself raises.
        """
        return rollout_generation(
            self,
            n,
            density,
            scale=scale,
            added=added,
            drift=drift,
            start=start,
            first=first,
            differentiable=differentiable,
        )

    def destroy(
        self, x: Tensor, density: Density | None = None, log_reward: Tensor | None = None, *, first: int = 0
    ) -> TensorDict:
        """Destroy samples `x` `[n, dim]` back to the initial law, without gradient.

        Args:
            x: the samples, `[n, dim]`.
            density: the target; without it and `log_reward` the trajectory has no `log_reward`.
            log_reward: log R(x) `[n]` where already known; saves evaluating the `density` again.
            first: the grid point j to stop at, from 0 to T − 1.

        Returns:
            A trajectory (module docstring) of batch `[n]`, in the order of generation: x is its last state. A segment
            where `first` > 0.

        Raises:
            InputError: when the agent reads scores and there is no `density`, and what the density itself raises.
        """
        return rollout_destruction(self, x, density, log_reward, first=first)

    def path_features(self, trajectory: TensorDictBase) -> Tensor:
        """State features of stored trajectories, `[B, T+1, dim, F]`."""
        return self.features(
            self.space.coordinates(trajectory["state"]), trajectory["score"] if self.needs_score else None
        )

    def path_log_probs(
        self, trajectory: TensorDictBase, features: Tensor | None = None, *, trunk: str = "both"
    ) -> PathLogProbs:
        """Log densities of all steps of stored trajectories, in one pass of all T + 1 states through the backbone.

        Of segments, which have fewer states, those of the steps that they have.

        `features`, where a caller already has the `path_features` of the trajectory, are not computed again. `trunk`
        says whose log densities carry a gradient to a shared backbone: "both", "generation" or "destruction".
        """
        volume = self.space.log_volume(trajectory["state"])  # [B, T+1]: densities are of x, steps normal in u
        states = self.space.coordinates(trajectory["state"])  # [B, T+1, dim]
        score = trajectory["score"] if self.needs_score else None  # [B, T+1, dim]
        steps = states.shape[1] - 1
        start = self.steps - steps  # grid point of the first state: 0 unless this is a segment
        features = self.path_features(trajectory) if features is None else features
        first = 1 if self.reference.is_dirac and start == 0 else 0  # with a Dirac, destruction step 0 has no density
        shared = self.destruction_backbone is None
        if shared and self.destruction.learned:
            hidden = self.backbone(features, slice(start, None))  # [B, T+1, width]
            hidden_generation, hidden_destruction = hidden[:, :steps], hidden[:, 1 + first :]
            if trunk == "generation":
                hidden_destruction = hidden_destruction.detach()
            elif trunk == "destruction":
                hidden_generation = hidden_generation.detach()
        else:
            hidden_generation = self.backbone(features[:, :steps], slice(start, self.steps))
            hidden_destruction = None
            if self.destruction.learned:
                hidden_destruction = self.destruction_trunk(features[:, 1 + first :], slice(start + 1 + first, None))
        mean, log_variance = self.generation(
            hidden_generation,
            features[:, :steps],
            states[:, :steps],
            slice(start, None),
            None if score is None else score[:, :steps],
        )
        generation = gaussian_log_prob(states[:, 1:], mean, log_variance) - volume[:, 1:]  # [B, T]
        mean, log_variance = self.destruction(
            hidden_destruction, features[:, 1 + first :], states[:, 1 + first :], slice(start + first, None)
        )
        destruction = gaussian_log_prob(states[:, first:steps], mean, log_variance) - volume[:, first:steps]
        initial = states.new_zeros(states.shape[0])
        if first:
            destruction = nn.functional.pad(destruction, (1, 0))
        elif start == 0:
            std = states.new_full(self.space.shape, self.reference.initial_std)
            initial = gaussian_log_prob(states[:, 0], torch.zeros_like(std), 2.0 * std.log()) - volume[:, 0]
        return PathLogProbs(initial, generation, destruction)

    def path_log_flow(self, trajectory: TensorDictBase, features: Tensor, log_z: Tensor) -> Tensor:
        """log F of the states x_1 … x_{T−1} of stored trajectories, `[B, T-1]`; see `StateFlow`.

        A forward-looking flow reads their log densities, `log_density` `[B, T-1]`.

        Raises:
            InputError: when the agent has no state flow.
        """
        if self.flow is None:
            raise InputError("flow: expected an agent with a state flow, build_agent(..., flow=True)")
        states = trajectory["state"]
        volume = self.space.log_volume(states[:, 1:-1])  # flows are densities of x, the reference's law is one of u
        log_density = trajectory["log_density"] + volume if self.flow.forward_looking else None
        return self.flow(self.space.coordinates(states), features, log_z, log_density) - volume

    def log_ratio(self, trajectory: TensorDictBase) -> Tensor:
        """D of stored trajectories, `[B]` (module docstring)."""
        return self.path_log_probs(trajectory).log_ratio(trajectory["log_reward"])

    # TorchRL actors -----------------------------------------------------------------------------------------------

    def generation_actor(self, density: Density | None = None) -> ProbabilisticActor:
        """The generation policy as a TorchRL actor: reads `state`, `step`; writes `hidden`, `loc`, `scale`, `action`.

        It samples unless TorchRL's `set_exploration_type` says otherwise. The parameters are this agent's own.
        `density` is needed where the policy reads scores.

        Raises:
            InputError: when the policy reads scores and there is no `density`.

        Example:
            >>> from ebbflow.agents import build_agent
            >>> from ebbflow.envs import GenerationEnv, get_target
            >>> target = get_target("gmm25")
            >>> actor = build_agent(target.space, scale=target.scale, steps=3).generation_actor()
            >>> GenerationEnv(target, steps=3, batch_size=[4]).rollout(3, actor)["next", "reward"].shape
            torch.Size([4, 3, 1])
        """
        return self._actor(density, destroys=False)

    def destruction_actor(self, density: Density | None = None) -> ProbabilisticActor:
        """The destruction policy as a TorchRL actor, with the keys and errors of `generation_actor`."""
        return self._actor(density, destroys=True)

    def _actor(self, density: Density | None, *, destroys: bool) -> ProbabilisticActor:
        score: Callable[[Tensor], Tensor] | None = None
        if self.needs_score:
            if density is not None:
                score = _score_of(density)
            elif not destroys or "score" in self.features.names:
                raise InputError("this policy reads the gradient of the log density: pass the target as `density`")
        trunk = _Trunk(self.space, self.features, self.destruction_trunk if destroys else self.backbone, score)
        head = _Step(self.space, self.destruction if destroys else self.generation)
        return ProbabilisticActor(
            TensorDictSequential(
                TensorDictModule(trunk, ["state", "step"], ["hidden", "features", "score"]),
                TensorDictModule(head, ["hidden", "features", "score", "state", "step"], ["loc", "scale"]),
            ),
            in_keys=["loc", "scale"],
            out_keys=["action"],
            distribution_class=DiracNormal,
            default_interaction_type=InteractionType.RANDOM,
            return_log_prob=True,
        )


def _score_of(density: Density) -> Callable[[Tensor], Tensor]:
    """The score as a function, so that the target's tensors are neither parameters of an actor nor copied with it."""
    return lambda x: density.value_and_score(x)[1]


class _Trunk(nn.Module):
    """First half of an actor: state and step in; hidden vector, features and score (zero where not read) out."""

    def __init__(
        self,
        space: Continuous,
        features: StateFeatures,
        backbone: Backbone,
        score: Callable[[Tensor], Tensor] | None,
    ) -> None:
        super().__init__()
        self.space = space
        self.features = features
        self.backbone = backbone
        self.score = score

    def forward(self, state: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        score = None if self.score is None else self.space.score(state, self.score(state))
        features = self.features(self.space.coordinates(state), score)
        hidden = self.backbone(features, step.squeeze(-1))
        return hidden, features, torch.zeros_like(state) if score is None else score


class _Step(nn.Module):
    """Second half of an actor: mean and standard deviation of the increment, from what the first half wrote."""

    def __init__(self, space: Continuous, head: GenerationHead | DestructionHead) -> None:
        super().__init__()
        self.space = space
        self.head = head

    def forward(
        self, hidden: Tensor, features: Tensor, score: Tensor, state: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        k = step.squeeze(-1)
        u = self.space.coordinates(state)
        if isinstance(self.head, DestructionHead):
            mean, log_variance = self.head(hidden, features, u, k - 1)
        else:
            mean, log_variance = self.head(hidden, features, u, k, score)
        return mean - u, (0.5 * log_variance).exp().expand_as(mean)
