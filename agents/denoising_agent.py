r"""The agent that guesses back: a reference that destroys, and a generation policy that learns to guess the sample.

It serves every reference, of tokens and of continuous states alike; `*space` is the shape of a state, `[length]` or
`[dim]`. A trajectory is, as in `agent`, a TensorDict of batch `[B]`, with `state` `[B, T+1, *space]`, `log_reward`
`[B]`, and `context` `[B, c]` of a conditional agent. Of data there is no density: log R is a constant, which is set to
0. Then the log-ratio of a path destroyed from a sample x,

    D(τ) = log p_0(x_0) + Σ_k log p→(x_{k+1} | x_k) − Σ_k log p←(x_k | x_{k+1}),

has as its mean a lower bound of log p(x), the log-likelihood of x under generation. Where destruction is no Markov
chain, p← is given x_T too. A reference without densities (a deterministic transform) has paths, and no log-ratio.
Sources: arXiv 2605.30553 (destroy, then learn to generate); arXiv 2107.03006 and arXiv 2006.11239 (the bound, for
discrete and for Gaussian diffusion).
"""

from collections.abc import Callable, Mapping

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ..envs.errors import InputError
from ..envs.spaces import Continuous
from .policies import PathLogProbs, Policies
from .references.reference import Reference
from .rollout import Density

__all__ = ["DenoisingAgent"]


class DenoisingAgent(Policies):
    """A generation policy over the time reversal of a reference, which destroys.

    The same network may serve several references of the same number of steps: one trained under random masking, put
    into an agent with `MaskInOrder`, is an autoregression in that order (see `decode`).

    Args:
        reference: the destruction.
        network: the guess of a state `[..., *space]` and a step k `[...]`, which is logits `[..., length, vocabulary]`
            for tokens and a point `[..., dim]` for continuous states: a module such as `TokenNetwork` or
            `PointNetwork`, or any function. That of a conditional agent takes contexts `[..., c]` beside them.
        context_space: the space of contexts of a conditional agent, whose guesses depend on them; destruction does not.
        log_z_network: what log Z(c) of a conditional agent adds to `log_z`, where log Z is to be learned.

    Attributes:
        log_z: a scalar parameter for objectives that learn log Z; of data it tends to −E[D].

    Raises:
        InputError: for what is no reference, or a network that cannot be called.

    Example:
        >>> from ebbflow.envs import Tokens
        >>> from ebbflow.agents import TokenNetwork
        >>> from ebbflow.agents.references.tokens import MaskOneRandom
        >>> reference = MaskOneRandom(Tokens(length=3, vocabulary=4))
        >>> agent = DenoisingAgent(reference, TokenNetwork(reference.space, reference.steps, width=8))
        >>> agent.generate(5)["state"].shape
        torch.Size([5, 4, 3])
        >>> paths = agent.destroy(torch.tensor([[0, 1, 2], [3, 3, 3]]))
        >>> agent.log_ratio(paths).exp()  # untrained: all 4³ sequences are alike
        tensor([0.0156, 0.0156], grad_fn=<ExpBackward0>)
    """

    def __init__(
        self,
        reference: Reference,
        network: Callable[..., Tensor],
        *,
        context_space: Continuous | None = None,
        log_z_network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(reference, Reference):
            raise InputError(f"reference: expected one such as MaskOneRandom, got {reference!r}")
        if not callable(network):
            raise InputError(f"network: expected a module or function of states and steps, got {network!r}")
        self.reference = reference
        self.network = network
        self.trains_levels = not reference.learned  # what destruction learns, it learns from whole paths
        self.space = reference.space
        self.context_space = context_space
        self.log_z_network = log_z_network
        self.flow = None
        self.needs_score = False
        self.log_z = nn.Parameter(torch.zeros(()))

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return self.reference.steps

    @property
    def destruction(self) -> Reference:
        """The destruction policy: the reference, which has nothing to learn unless it says so."""
        return self.reference

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by what trains them: those of the network, those of a learned destruction, and log Z."""
        network = [*self.network.parameters()] if isinstance(self.network, nn.Module) else []
        destruction = [*self.reference.parameters()] if isinstance(self.reference, nn.Module) else []
        log_z = [self.log_z, *(() if self.log_z_network is None else self.log_z_network.parameters())]
        return {"generation": network, "destruction": destruction, "log_z": log_z, "flow": []}

    # One step -----------------------------------------------------------------------------------------------------

    def guess(self, state: Tensor, k: int | Tensor) -> Tensor:
        """What the network guesses from x_k = `state`, of the shape that the reference wants.

        A conditional agent guesses at a context that is `given`, one for all or one for each row of states.

        Raises:
            InputError: when the network returns another shape, and without a context where there must be one.
        """
        guess = self.network(state, k, *self._contexts_beside(state))
        expected = self.reference.guess_shape(state.shape)
        if guess.shape != expected:
            raise InputError(f"network: expected a guess {list(expected)}, got {list(guess.shape)}")
        return guess

    def _contexts_beside(self, state: Tensor) -> tuple[Tensor, ...]:
        """The contexts `[..., c]` of states `[..., *space]`, of a conditional agent."""
        if self.context_space is None:
            return ()
        rows = self._contexts(self._given)
        if rows.ndim > 1:
            rows = rows.reshape(len(rows), *(1,) * (state.ndim - 2), -1)
        return (rows.expand(*state.shape[:-1], -1),)

    def step_log_prob(self, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """log p→(x_{k+1} | x_k) `[...]` of x_{k+1} = `following` given x_k = `state`."""
        return self.reference.log_prob_reverse(self.guess(state, k), following, state, k)

    def mean_step_log_prob(self, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """`step_log_prob` `[...]`, averaged over what x_{k+1} may have been given x_T = `sample`, if closed."""
        return self.reference.mean_log_prob_reverse(self.guess(state, k), sample, following, state, k)

    def step_cost(self, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """What training makes small, `[...]`: −`mean_step_log_prob` where that exists, else the error of the guess."""
        return self.reference.guess_cost(self.guess(state, k), sample, following, state, k)

    # Whole trajectories -------------------------------------------------------------------------------------------

    @torch.no_grad()
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
        """`n` generation paths, without gradient; their last states are samples.

        Args:
            n: number of paths.
            density: log R of samples, `[n, *space] -> [n]`; without it log R is 0, the constant of data.
            context: of a conditional agent, one context for each path `[n, c]`, or one for all `[c]`.
            scale: temperature of the guess (exploration), of tokens: logits are divided by it.
            added, drift, differentiable: not for this agent.

        Returns:
            A trajectory (module docstring) of batch `[n]`.

        Raises:
            InputError: for what this agent cannot do, and what the density itself raises.
        """
        _refuse(added=added != 0.0, drift=drift != 0.0, differentiable=differentiable)
        rows, conditions = self.contexts_of(n, context)
        agent = self if rows is None else self.given(rows)
        start = self.reference.sample_destroyed(n).to(self.log_z.device, non_blocking=True)
        states = [start.to(self.log_z.dtype) if start.is_floating_point() else start]
        for k in range(self.steps):
            states.append(
                self.reference.sample_reverse(self.reference.tempered(agent.guess(states[-1], k), scale), states[-1], k)
            )
        return self._trajectory(states, density, None, rows, conditions)

    @torch.no_grad()
    def destroy(
        self,
        x: Tensor,
        density: Density | None = None,
        log_reward: Tensor | None = None,
        *,
        context: Tensor | None = None,
    ) -> TensorDict:
        """Destroy samples `x`, `[n, *space]`, step by step.

        Args:
            x: the samples.
            density: log R of samples, `[n, *space] -> [n]`; without it and `log_reward` zeros, the constant of data.
            log_reward: log R of the samples `[n]` where already known.
            context: of a conditional agent, one context for each sample `[n, c]`, or one for all `[c]`.

        Returns:
            A trajectory (module docstring) of batch `[n]`, in the order of generation: x is its last state.

        Raises:
            InputError: for anything but states of the space, for contexts that do not fit, and what the density itself
                raises.
        """
        states = [self.space.check("x", x)]
        rows, conditions = self.contexts_of(len(x), context)
        for k in reversed(range(self.steps)):
            states.append(self.reference.sample_step_given(states[-1], x, k))
        return self._trajectory(states[::-1], density, log_reward, rows, conditions)

    def _trajectory(
        self,
        states: list[Tensor],
        density: Density | None,
        log_reward: Tensor | None,
        context: Tensor | None,
        conditions: tuple[Tensor, ...],
    ) -> TensorDict:
        if log_reward is None and density is not None:
            log_reward = density(states[-1], *conditions)
        elif log_reward is None:
            log_reward = self.log_z.new_zeros(len(states[-1]))
        columns = {"state": torch.stack(states, dim=1), "log_reward": log_reward}
        if context is not None:
            columns["context"] = context
        return TensorDict(columns, batch_size=[len(states[0])])

    def path_features(self, trajectory: Mapping[str, Tensor], coordinates: Tensor | None = None) -> Tensor:
        """What the policy reads of stored trajectories: the states, `[B, T+1, *space]`."""
        return trajectory["state"]

    def path_log_probs(
        self,
        trajectory: Mapping[str, Tensor],
        features: Tensor | None = None,
        *,
        coordinates: Tensor | None = None,
        trunk: str = "both",
        policies: str = "both",
    ) -> PathLogProbs:
        """Log probabilities of all steps of stored trajectories, in one pass of T states through the network.

        What an `Agent` takes beside has nothing to say here: policies read states, and share no backbone.

        Raises:
            InputError: for a reference whose steps have no densities.
        """
        states = trajectory["state"]
        agent = self if self.context_space is None else self.given(self._contexts(trajectory.get("context", None)))
        sample = states[:, -1:].expand_as(states[:, 1:])
        k = torch.arange(self.steps, device=states.device).expand(len(states), -1)  # [B, T]
        generation = agent.step_log_prob(states[:, 1:], states[:, :-1], k)
        destruction = self.reference.log_prob_step_given(states[:, :-1], states[:, 1:], sample, k)
        return PathLogProbs(self.reference.log_prob_destroyed(states[:, 0]), generation, destruction)


def _refuse(**asked: bool) -> None:
    """Raise an InputError for the first thing asked for that this agent cannot do."""
    for name, wanted in asked.items():
        if wanted:
            raise InputError(f"{name}: expected none, for this agent has none")
