r"""The agent: a generation policy and a destruction policy over shared hidden vectors, with log Z.

A trajectory is a TensorDict of batch `[B]` with `state` `[B, T+1, dim]`, `log_reward` `[B]` and, where the agent reads
it, `score` `[B, T+1, dim]`; whoever mixes trajectories marks them by `origin` `[B]` (see `Origin`). The log-ratio of a
trajectory (arXiv 2506.01541) is

    D(τ) = log p_0(x_0) + Σ_k log p→(x_{k+1} | x_k) − log R(x_T) − Σ_k log p←(x_k | x_{k+1}),

so that E[−D] over generated paths is the ELBO and over paths destroyed from exact samples the EUBO. With a Dirac
initial law there is no p_0 term and the last destruction step, which is deterministic, has no density term.

A conditional agent reads one context per trajectory, `context` `[B, c]`: both policies and log Z depend on it.
A *segment* is the end x_j … x_T of a trajectory, with T + 1 − j states. Its log-ratio has the steps from j on, and no
p_0 term unless j = 0; two trajectories that part at x_j differ in D by what their segments do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchrl.modules import ProbabilisticActor

from ..envs.errors import InputError
from ..envs.spaces import Continuous
from .actors import DestructionHead, DiracNormal, GenerationHead, gaussian_log_prob
from .backbone import Backbone, StepIndex
from .features import StateFeatures
from .flow import StateFlow
from .policies import PathLogProbs, Policies
from .readout import JointReadout
from .recording import Recording
from .references.gaussian import GaussianReference
from .rollout import Density, Shared, rollout_destruction, rollout_generation
from .rows_innermost import steps_of

__all__ = ["Agent"]


class Agent(Policies):
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
        context_space: the space of contexts of a conditional agent; its backbones embed them.
        log_z_network: what log Z(c) of a conditional agent adds to `log_z`, `[..., c] -> [..., 1]`.

    Attributes:
        log_z: the learned log normalising constant (a scalar parameter); of a conditional agent the level common to all
            contexts, see `log_z_given`.

    Raises:
        InputError: for a context space without a log Z network, or the reverse.

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
        *,
        context_space: Continuous | None = None,
        log_z_network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if (context_space is None) != (log_z_network is None):
            raise InputError("log_z_network: expected with a context_space, and only with one")
        self.space = space
        self.reference = reference
        self.features = features
        self.backbone = backbone
        self.generation = generation
        self.destruction = destruction
        self.destruction_backbone = destruction_backbone
        self.flow = flow
        self.log_z = nn.Parameter(torch.zeros(()))
        self.context_space = context_space
        self.log_z_network = log_z_network
        self.needs_score = generation.langevin is not None or "score" in features.names

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return self.reference.steps

    @property
    def times(self) -> Sequence[float]:
        """The time of each grid point, T + 1 of them."""
        return self.reference.times

    @property
    def destruction_trunk(self) -> Backbone:
        """The backbone that the destruction head reads: its own, or the shared one."""
        return self.backbone if self.destruction_backbone is None else self.destruction_backbone

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by what trains them; a shared backbone belongs to generation, the network of log Z(c) to log Z."""
        destruction = [*self.destruction.parameters()]
        if self.destruction_backbone is not None:
            destruction += self.destruction_backbone.parameters()
        return {
            "generation": [*self.backbone.parameters(), *self.generation.parameters()],
            "destruction": destruction,
            "log_z": [self.log_z, *(() if self.log_z_network is None else self.log_z_network.parameters())],
            "flow": [] if self.flow is None else [*self.flow.parameters()],
        }

    def hold_means(self, bound: Tensor) -> None:
        """Let the mean of no step lead farther out than ± `bound` `[dim]`, in units of the coordinates; see `Reach`.

        Nothing is done for agents that were built without.
        """
        for head in (self.generation, self.destruction):
            if head.reach is not None:
                head.reach.bound.copy_(bound.unsqueeze(-1))

    # One step -----------------------------------------------------------------------------------------------------

    def generation_step(
        self,
        state: Tensor,
        k: StepIndex,
        score: Tensor | None = None,
        shared: Shared | None = None,
        coordinates: Tensor | None = None,
        kept: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the coordinates of x_{k+1} given `state` = x_k `[n, dim]` at grid point `k`.

        What is `shared` by all steps of a rollout and the `coordinates` of the state, where a caller has them, are not
        computed again. What is computed of the state on the way is written to `kept`, where that is given (see
        `Recording.at`).
        """
        u = self.space.coordinates(state) if coordinates is None else coordinates
        features, hidden, raw = self.seen(self.backbone, u, k, score, shared, kept)
        return self.generation(hidden, features, u, k, score, None if raw is None else raw[0])

    def destruction_step(
        self,
        state: Tensor,
        k: int | Tensor,
        score: Tensor | None = None,
        shared: Shared | None = None,
        coordinates: Tensor | None = None,
        kept: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the coordinates of x_{k−1} given `state` = x_k `[n, dim]` at grid point `k` >= 1.

        As in `generation_step`, what a caller has is not computed again, and what is computed may be `kept`.
        """
        u = self.space.coordinates(state) if coordinates is None else coordinates
        if not self.destruction.reads_state:
            return self.destruction(None, None, u, k - 1)
        features, hidden, raw = self.seen(self.destruction_trunk, u, k, score, shared, kept)
        return self.destruction(hidden, features, u, k - 1, None if raw is None else raw[1])

    def seen(
        self,
        trunk: Backbone,
        u: Tensor,
        k: StepIndex,
        score: Tensor | None = None,
        shared: Shared | None = None,
        kept: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Features `[n, dim, F]` and hidden vectors `[n, width]` of states with coordinates `u` `[n, dim]`.

        With them, where they are `kept`, comes what both heads read: columns `[dim, outputs, n]` of each.
        """
        times, context, readout = (None, None, None) if shared is None else shared
        if not kept:
            features = self.features(u, score)
            return features, trunk(features, k, times, context), None
        assert readout is not None and isinstance(k, int | Tensor)
        features = self.features(u, score, kept[0].unflatten(0, (u.shape[-1], -1)))
        hidden = trunk(features, k, times, context, kept[1:-1])
        return features, hidden, readout.parts(readout.read(hidden, features, k, kept[-1]))

    def joint_readout(self) -> JointReadout:
        """Both heads' readouts of a shared trunk as one, with their gradients."""
        assert self.destruction.readout is not None
        return JointReadout.of(self.generation.readout, self.destruction.readout)

    # Whole trajectories -------------------------------------------------------------------------------------------

    @property
    def starts_alike(self) -> bool:
        """Whether all paths begin with the same state and context: then one row of it is enough."""
        return self.reference.is_dirac and self.context_space is None and not self.starts_from_samples

    def initial_state(self, n: int) -> Tensor:
        """`n` draws of the initial law, `[n, dim]`."""
        like = self.generation.factor
        zeros = torch.zeros(n, *self.space.shape, dtype=like.dtype, device=like.device)
        if self.reference.is_dirac:
            return zeros
        return self.space.from_coordinates(self.reference.initial_std * torch.randn_like(zeros))

    def log_initial(self, states: Tensor) -> Tensor:
        """Log density of the initial law, which is no Dirac, in coordinates: of those of x_0, `[..., dim] -> [...]`."""
        std = states.new_full(self.space.shape, self.reference.initial_std)
        return gaussian_log_prob(states, torch.zeros_like(std), 2.0 * std.log())

    def generate(
        self,
        n: int,
        density: Density | None = None,
        *,
        context: Tensor | None = None,
        scale: float = 1.0,
        added: float = 0.0,
        drift: float = 0.0,
        start: Tensor | None = None,
        first: int = 0,
        differentiable: bool = False,
        recording: Recording | None = None,
    ) -> TensorDict:
        """Sample `n` generation paths.

        Args:
            n: number of paths.
            density: the target; without it the trajectory has no `log_reward`.
            context: of a conditional agent, one context for each path `[n, c]`, or one for all `[c]`.
            scale: factor on every step's standard deviation (exploration).
            added: extra standard deviation, as a multiple of the reference step's (exploration).
            drift: pushes every step's mean by drift · std · clip(std · ∇log R, ±1) (exploration); ½ is the drift of
                Langevin dynamics whose noise is the step's, bounded. One gradient call a step.
            start: states x_j `[n, dim]` to go on from, instead of the initial law; or one for all, `[1, dim]`.
            first: the grid point j of `start`, from 0 to T − 1.
            differentiable: keep the graph of the reparametrised path and of its log reward; scores stay constants.
            recording: of `n` rows, to keep in it what is computed of whole paths without gradient.

        Returns:
            A trajectory (module docstring) of batch `[n]`; a segment where it begins at a `first` > 0.

        Raises:
            InputError: when scores are read and there is no `density`, for a `first` > 0 without a `start`, for
                contexts that do not fit, and what the density itself raises.
        """
        return rollout_generation(
            self,
            n,
            density,
            context=context,
            scale=scale,
            added=added,
            drift=drift,
            start=start,
            first=first,
            differentiable=differentiable,
            recording=recording,
        )

    def destroy(
        self,
        x: Tensor,
        density: Density | None = None,
        log_reward: Tensor | None = None,
        *,
        context: Tensor | None = None,
        first: int = 0,
        recording: Recording | None = None,
    ) -> TensorDict:
        """Destroy samples `x` `[n, dim]` back to the initial law, without gradient.

        Args:
            x: the samples, `[n, dim]`.
            density: the target; without it and `log_reward` the trajectory has no `log_reward`.
            log_reward: log R(x) `[n]` where already known; saves evaluating the `density` again.
            context: of a conditional agent, one context for each sample `[n, c]`, or one for all `[c]`.
            first: the grid point j to stop at, from 0 to T − 1.
            recording: of `n` rows, to keep in it what is computed of whole paths.

        Returns:
            A trajectory (module docstring) of batch `[n]`, in the order of generation: x is its last state. A segment
            where `first` > 0.

        Raises:
            InputError: when the agent reads scores and there is no `density`, for contexts that do not fit, and what
                the density itself raises.
        """
        return rollout_destruction(self, x, density, log_reward, context=context, first=first, recording=recording)

    def path_features(self, trajectory: Mapping[str, Tensor], coordinates: Tensor | None = None) -> Tensor:
        """State features of stored trajectories, `[B, T+1, dim, F]`; their `coordinates` where a caller has them."""
        u = self.space.coordinates(trajectory["state"]) if coordinates is None else coordinates
        return self.features(u, trajectory["score"] if self.needs_score else None)

    def path_log_probs(
        self,
        trajectory: Mapping[str, Tensor],
        features: Tensor | None = None,
        *,
        coordinates: Tensor | None = None,
        trunk: str = "both",
        policies: str = "both",
        recording: Recording | None = None,
    ) -> PathLogProbs:
        """Log densities of all steps of stored trajectories, in one pass of all T + 1 states through the backbone.

        Of segments, which have fewer states, those of the steps that they have.

        `features`, where a caller already has the `path_features` of the trajectory, are not computed again, nor are
        the `coordinates` of its states; a plain dictionary of its tensors will do for a trajectory. `trunk` says whose
        log densities carry a gradient to a shared backbone: "both", "generation" or "destruction". `policies` says in
        the same words whose log densities are wanted; those of the other one are zeros. A `recording` of the very
        trajectories takes the place of features and of the pass, as long as parameters are what they were.
        """
        if recording is not None:
            features = recording.path_features(self.space.dim)
        # The grid point of the first state: 0 unless this is a segment.
        start = self.steps - trajectory["state"].shape[1] + 1
        if not self._in_chunks(trajectory, features):
            return self._log_probs_from(start, trajectory, features, coordinates, trunk, policies, recording)
        parts: list[PathLogProbs] = []
        for piece in self._chunks(trajectory):
            # Nothing random is computed again; parameters are the agent's own in the backward pass, too.
            part = checkpoint(
                self._log_probs_from,
                start,
                piece,
                None,
                None,
                trunk,
                policies,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            start += part.generation.shape[1]
            parts.append(part)
        generation = torch.cat([part.generation for part in parts], dim=1)
        return PathLogProbs(parts[0].initial, generation, torch.cat([part.destruction for part in parts], dim=1))

    def _in_chunks(self, trajectory: Mapping[str, Tensor], features: Tensor | None) -> bool:
        """Whether a trajectory is evaluated part by part; one that is followed is held by its own graph anyway."""
        states = trajectory["state"]
        long = self.chunk is not None and states.shape[1] > self.chunk + 1
        return long and features is None and not states.requires_grad

    def _chunks(self, trajectory: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Parts of `chunk` steps, which share the states at their ends."""
        assert self.chunk is not None
        given = {key: trajectory.get(key, None) for key in ("state", "score", "context")}
        for begin in range(0, trajectory["state"].shape[1] - 1, self.chunk):
            yield {
                key: value if key == "context" else value[:, begin : begin + self.chunk + 1]
                for key, value in given.items()
                if value is not None
            }

    def _log_probs_from(
        self,
        start: int,
        trajectory: Mapping[str, Tensor],
        features: Tensor | None,
        coordinates: Tensor | None,
        trunk: str,
        policies: str,
        recording: Recording | None = None,
    ) -> PathLogProbs:
        """`path_log_probs` of consecutive states, the first of them at grid point `start`, all at once."""
        volume = self.space.log_volume(trajectory["state"])  # [B, T+1]: densities are of x, steps normal in u
        states = self.space.coordinates(trajectory["state"]) if coordinates is None else coordinates  # [B, T+1, dim]
        score = trajectory["score"] if self.needs_score else None  # [B, T+1, dim]
        steps = states.shape[1] - 1
        stop = start + steps  # grid point of the last state
        if features is None:
            # A followed path has coordinates of its own in the features: its gradients add up in this order.
            features = self.path_features(trajectory, None if states.requires_grad else states)
        first = 1 if self.reference.is_dirac and start == 0 else 0  # with a Dirac, destruction step 0 has no density
        context = None
        if self.context_space is not None:
            context = self._contexts(trajectory.get("context", None)).unsqueeze(1)  # [B, 1, c]
        embedding = self.backbone.context_embedding(context)  # [B, 1, width]
        generates, destroys = policies != "destruction", policies != "generation"
        hidden_generation = hidden_destruction = raw_generation = raw_destruction = None
        if recording is not None:
            raw_generation, raw_destruction = recording.outputs(self, embedding, trunk)
        elif self.destruction_backbone is None and self.destruction.reads_state:
            points = slice(start, stop + 1)
            hidden = self.backbone(features, points, None, embedding)  # [B, T+1, width]
            if trunk == "both":
                joint = self.joint_readout()
                raw_generation, raw_destruction = joint.parts(joint.read(hidden, features, points))
                raw_generation, raw_destruction = raw_generation[:steps], raw_destruction[1 + first :]
            else:
                hidden_generation = steps_of(hidden, slice(steps))
                hidden_destruction = steps_of(hidden, slice(1 + first, None))
                if trunk == "generation":
                    hidden_destruction = hidden_destruction.detach()
                else:
                    hidden_generation = hidden_generation.detach()
        else:
            if generates:
                hidden_generation = self.backbone(features[:, :steps], slice(start, stop), None, embedding)
            if destroys and self.destruction.reads_state:
                own = self.destruction_trunk
                hidden_destruction = own(
                    features[:, 1 + first :],
                    slice(start + 1 + first, stop + 1),
                    None,
                    own.context_embedding(context),
                )
        if generates:
            mean, log_variance = self.generation(
                hidden_generation,
                features[:, :steps],
                states[:, :steps],
                slice(start, stop),
                None if score is None else score[:, :steps],
                raw_generation,
            )
            generation = gaussian_log_prob(states[:, 1:], mean, log_variance) - volume[:, 1:]  # [B, T]
        else:
            generation = torch.zeros_like(volume[:, 1:])
        if destroys:
            mean, log_variance = self.destruction(
                hidden_destruction,
                features[:, 1 + first :],
                states[:, 1 + first :],
                slice(start + first, stop),
                raw_destruction,
            )
            destruction = gaussian_log_prob(states[:, first:steps], mean, log_variance) - volume[:, first:steps]
        else:
            destruction = torch.zeros_like(volume[:, first:steps])
        initial = states.new_zeros(states.shape[0])
        if first:
            destruction = nn.functional.pad(destruction, (1, 0))
        elif start == 0:
            initial = self.log_initial(states[:, 0]) - volume[:, 0]
        return PathLogProbs(initial, generation, destruction)

    def path_log_flow(
        self, trajectory: TensorDictBase, features: Tensor, log_z: Tensor, coordinates: Tensor | None = None
    ) -> Tensor:
        """log F of the states x_1 … x_{T−1} of stored trajectories, `[B, T-1]`; see `StateFlow`.

        A forward-looking flow reads their log densities, `log_density` `[B, T-1]`. The `coordinates` `[B, T+1, dim]` of
        the states, where a caller has them, are not computed again.

        Raises:
            InputError: when the agent has no state flow.
        """
        if self.flow is None:
            return super().path_log_flow(trajectory, features, log_z, coordinates)
        states = trajectory["state"]
        volume = self.space.log_volume(states[:, 1:-1])  # flows are densities of x, the reference's law is one of u
        log_density = trajectory["log_density"] + volume if self.flow.forward_looking else None
        context = None if self.context_space is None else self._contexts(trajectory.get("context", None))
        u = self.space.coordinates(states) if coordinates is None else coordinates
        return self.flow(u, features, log_z, log_density, context) - volume

    # TorchRL actors -----------------------------------------------------------------------------------------------

    def generation_actor(self, density: Density | None = None) -> ProbabilisticActor:
        """The generation policy as a TorchRL actor: reads `state`, `step`; writes `hidden`, `loc`, `scale`, `action`.

        That of a conditional agent reads `context` too, which the environments of a conditional target carry.

        It samples unless TorchRL's `set_exploration_type` says otherwise. The parameters are this agent's own.
        `density` is needed where the policy reads scores. Actions are increments of the coordinates of `agent.space`:
        an environment that the actor walks in must have that `space` too.

        Raises:
            InputError: when the policy reads scores and there is no `density`.

        Example:
            >>> from ebbflow.agents import build_agent
            >>> from ebbflow.envs import GenerationEnv, get_target
            >>> target = get_target("gmm25")
            >>> agent = build_agent(target.space, scale=target.scale, steps=3)
            >>> env = GenerationEnv(target, steps=3, space=agent.space, batch_size=[4])
            >>> env.rollout(3, agent.generation_actor())["next", "reward"].shape
            torch.Size([4, 3, 1])
        """
        return self._actor(density, destroys=False)

    def destruction_actor(self, density: Density | None = None) -> ProbabilisticActor:
        """The destruction policy as a TorchRL actor, with the keys and errors of `generation_actor`."""
        return self._actor(density, destroys=True)

    def _actor(self, density: Density | None, *, destroys: bool) -> ProbabilisticActor:
        score: Callable[..., Tensor] | None = None
        if self.needs_score:
            if density is not None:
                score = _score_of(density)
            elif not destroys or "score" in self.features.names:
                raise InputError("this policy reads the gradient of the log density: pass the target as `density`")
        trunk = _Trunk(self.space, self.features, self.destruction_trunk if destroys else self.backbone, score)
        head = _Step(self.space, self.destruction if destroys else self.generation)
        read = ["state", "step", *(["context"] if self.context_space is not None else [])]
        return ProbabilisticActor(
            TensorDictSequential(
                TensorDictModule(trunk, read, ["hidden", "features", "score"]),
                TensorDictModule(head, ["hidden", "features", "score", "state", "step"], ["loc", "scale"]),
            ),
            in_keys=["loc", "scale"],
            out_keys=["action"],
            distribution_class=DiracNormal,
            default_interaction_type=InteractionType.RANDOM,
            return_log_prob=True,
        )


def _score_of(density: Density) -> Callable[..., Tensor]:
    """The score as a function, so that the target's tensors are neither parameters of an actor nor copied with it."""
    return lambda x, *context: density.value_and_score(x, *context)[1]


class _Trunk(nn.Module):
    """First half of an actor: state, step, context in; hidden vector, features and score (zero where not read) out."""

    def __init__(
        self,
        space: Continuous,
        features: StateFeatures,
        backbone: Backbone,
        score: Callable[..., Tensor] | None,
    ) -> None:
        super().__init__()
        self.space = space
        self.features = features
        self.backbone = backbone
        self.score = score

    def forward(self, state: Tensor, step: Tensor, *context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        score = None if self.score is None else self.space.score(state, self.score(state, *context))
        features = self.features(self.space.coordinates(state), score)
        embedding = self.backbone.context_embedding(*context) if context else None
        hidden = self.backbone(features, step.squeeze(-1), None, embedding)
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
