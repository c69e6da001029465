"""Lean rollouts: a bare loop over actor and transition, equal to `env.rollout` under the same seed, and faster.

Sampling is gradient-free unless asked otherwise; losses re-evaluate the stored states, or take what a `Recording` has
kept of them. Scores are constants always: a differentiable path carries no second derivatives of the density.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from ..envs.errors import InputError
from .compilation import begin_graphs, compiled
from .readout import JointReadout
from .recording import Recording
from .rows_innermost import rows_innermost, stack_steps

if TYPE_CHECKING:
    from .agent import Agent
    from .backbone import Backbone

__all__ = ["Density", "Shared", "rollout_destruction", "rollout_generation"]


class Density(Protocol):
    """What a rollout asks of a target: checked values, and values with scores.

    Contexts `[n, c]` are passed to that of a conditional target, and to no other.
    """

    def __call__(self, x: Any, context: Any = None) -> Any:
        """Log densities `[n]` of states `[n, dim]`."""

    def value_and_score(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log densities `[n]` and their gradients `[n, dim]`."""


class _Visits:
    """The states of `n` trajectories as they are visited, with their scores where the agent reads them.

    A state that is the same for all may be visited as `[1, dim]`.
    """

    def __init__(
        self, agent: "Agent", n: int, density: Density | None, conditions: tuple[Tensor, ...], first: int = 0
    ) -> None:
        if agent.needs_score and density is None:
            raise InputError("this agent reads the gradient of the log density: pass the target as `density`")
        if not 0 <= first < agent.steps:
            raise InputError(f"first: expected a grid point from 0 to {agent.steps - 1}, got {first!r}")
        self.n = n
        self.density = density
        self.conditions = conditions
        self.space = agent.space
        self.needs_score = agent.needs_score
        self.states: list[Tensor] = []
        self.scores: list[Tensor] = []
        # Log density of the state visited last and its gradient, where they came along with the score.
        self.value: Tensor | None = None
        self.gradient: Tensor | None = None

    def add(self, state: Tensor) -> Tensor | None:
        self.states.append(state)
        if not self.needs_score or self.density is None:
            return None
        self.value, self.gradient = self.density.value_and_score(state.contiguous(), *self.conditions)
        score = self.space.score(state, self.gradient)
        self.scores.append(score)
        return score

    def log_reward(self, *, differentiable: bool) -> Tensor | None:
        """Log density of the state visited last, as a function of it where `differentiable`."""
        if self.density is None:
            return None
        state, value = self.states[-1], self.value
        if not differentiable:
            return self.density(state.contiguous(), *self.conditions) if value is None else value
        # The value with its first derivative, not with its graph: counted as a gradient call, and refused where the
        # density has no gradient, which a graph would leave out in silence.
        gradient = self.gradient
        if value is None or gradient is None:
            value, gradient = self.density.value_and_score(state.contiguous(), *self.conditions)
        return value + (gradient * (state - state.detach())).sum(-1)

    def trajectory(self, log_reward: Tensor | None, context: Tensor | None, *, reverse: bool = False) -> TensorDict:
        order = -1 if reverse else 1
        visited = {"state": self.states, **({"score": self.scores} if self.scores else {})}
        columns = {
            name: stack_steps([one.expand(self.n, *one.shape[1:]) for one in each[::order]])
            for name, each in visited.items()
        }  # [B, T+1, dim]
        if log_reward is not None:
            columns["log_reward"] = log_reward
        if context is not None:
            columns["context"] = context
        return TensorDict(columns, batch_size=[self.n])


class Shared(NamedTuple):
    """What all steps of a rollout have in common, and is computed once for them.

    Attributes:
        times: embeddings of the grid points, `[T+1, width]`.
        context: embeddings of the contexts, `[n, width]`; None without.
        readout: of both heads, where what they read is kept.
    """

    times: Tensor
    context: Tensor | None
    readout: JointReadout | None

    @classmethod
    def of(cls, agent: "Agent", trunk: "Backbone", context: Tensor | None, recording: Recording | None) -> "Shared":
        """That of rollouts whose policy reads the `trunk`."""
        readout = None if recording is None else agent.joint_readout()
        return cls(trunk.time_embedding(), trunk.context_embedding(context), readout)


def generate_step(
    agent: "Agent",
    state: Tensor,
    u: Tensor,
    k: int | Tensor,
    score: Tensor | None,
    shared: Shared,
    noise: Tensor,
    widening: tuple[float | Tensor, float | Tensor, float] | Tensor | None = None,
    slope: Tensor | None = None,
    kept: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """x_{k+1} and its coordinates, of states x_k `[n, dim]` with coordinates `u`, from as much standard normal `noise`.

    A state `[1, dim]` is that of all rows of the noise. What is `shared` and `kept` is as in `Agent.generation_step`.

    `widening` holds the scale, added and drift of `Agent.generate`, and `slope` the score that is drifted along. A step
    k that is a tensor `[1]` is that of all states, and makes no difference to what is compiled.
    """
    mean, log_variance = agent.generation_step(state, k, score, shared, u, kept)
    std = (0.5 * log_variance).exp()
    if widening is not None:
        scale, added, drift = widening
        if slope is not None:
            mean = mean + drift * std * (std * slope).clamp(-1.0, 1.0)
        if isinstance(scale, Tensor) or isinstance(added, Tensor) or scale != 1.0 or added != 0.0:
            extra = added**2 * agent.generation.variance[k]
            std = ((scale * std).square() + extra).sqrt()
    noise = noise if len(state) == len(noise) else rows_innermost(noise)  # as the states are, from here on
    return agent.space.moved_to(torch.addcmul(mean, std.expand_as(mean), noise), state, u, k)


def destroy_step(
    agent: "Agent",
    state: Tensor,
    u: Tensor,
    k: int | Tensor,
    score: Tensor | None,
    shared: Shared | None,
    noise: Tensor,
    kept: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """x_{k−1} and its coordinates, of states x_k `[n, dim]`; see `generate_step`."""
    mean, log_variance = agent.destruction_step(state, k, score, shared, u, kept)
    std = (0.5 * log_variance).exp()
    return agent.space.moved_to(torch.addcmul(mean, std.expand_as(mean), noise), state, u, k)


def take_steps(
    step: Callable[..., tuple[Tensor, Tensor]],
    agent: "Agent",
    state: Tensor,
    u: Tensor,
    points: Sequence[int | Tensor],
    score: Tensor | None,
    shared: Shared | None,
    noises: Sequence[Tensor],
    kept: Sequence[Sequence[Tensor]],
    *more: Any,
) -> list[Tensor]:
    """The states after each of the steps from `points`, and the coordinates of the last.

    The `score` is that of `state`: where scores are read, it is one step that is taken.
    """
    states = []
    for k, noise, places in zip(points, noises, kept, strict=True):
        state, u = step(agent, state, u, k, score, shared, noise, *more, kept=places)
        states.append(state)
    return [*states, u]


# Functions of their own, for the compiler gives up on one that it has compiled for eight kinds of arguments, and takes
# a number of rows that changes from call to call for one that may be any.


def generate_first_steps(*args: Any) -> list[Tensor]:
    """Some steps of generation from one row x_0, which all have in common; see `take_steps`."""
    return take_steps(generate_step, *args)


def generate_steps(*args: Any) -> list[Tensor]:
    """Some steps of generation; see `take_steps`."""
    return take_steps(generate_step, *args)


def destroy_steps(*args: Any) -> list[Tensor]:
    """Some steps of destruction; see `take_steps`."""
    return take_steps(destroy_step, *args)


def look(
    agent: "Agent",
    u: Tensor,
    k: int | Tensor,
    score: Tensor | None,
    shared: Shared,
    kept: Sequence[Tensor],
) -> Tensor:
    """Keeps what is computed of states with coordinates `u` `[n, dim]`, from which no step is taken."""
    return agent.seen(agent.backbone, u, k, score, shared, kept)[1]


def _begin(
    recording: Recording | None,
    agent: "Agent",
    n: int,
    first: int,
    *,
    given: bool = False,
    differentiable: bool = False,
) -> None:
    """Note the parameters, or raise an InputError where there is nothing to record, or no place for it."""
    if recording is None:
        return
    given = given and recording.starts_alike
    if first or given or differentiable or recording.features.shape[-1] != n:
        raise InputError(
            f"recording: expected {recording.features.shape[-1]} whole paths without gradient, got {n} paths from "
            f"{'given states' if given else f'grid point {first}'}{' with gradient' if differentiable else ''}"
        )
    recording.begin(agent)


def _noise(state: Tensor, n: int) -> Tensor:
    """Standard normal numbers for `n` rows, drawn row by row in whatever order the state lies in memory."""
    return torch.randn((n, *state.shape[1:]), dtype=state.dtype, device=state.device)


def _blocks(points: range, *, together: bool) -> list[range]:
    """Consecutive points, one by one or as many at a time as divide their number, at most five.

    What is compiled costs a tenth of a millisecond a call, and seconds of compiling for each step in it.
    """
    size = max(size for size in range(1, 6 if together else 2) if len(points) % size == 0)
    return [points[begin : begin + size] for begin in range(0, len(points), size)]


class _Calls:
    """How the functions above are called: as they are, or compiled as the agent says; what they return stays.

    Where steps are `free` of densities and gradients, nothing is noted of how their tensors came to be, which takes a
    tenth off a step (`torch.inference_mode`). A density, which may differentiate, is given a copy. Rollouts that are
    `recorded` are compiled for the number of their rows, which seldom changes.
    """

    def __init__(self, agent: "Agent", device: torch.device, *, compiles: bool, free: bool, recorded: bool) -> None:
        self.compiles = compiles and agent.compiled
        self.recorded = recorded
        self.free = free
        self.graphs = agent.cuda_graphs
        self.together = self.compiles and free
        # As tensors, for what is compiled would be compiled anew for other numbers.
        self.points = torch.arange(agent.steps + 1, device=device) if self.compiles else None

    def at(self, k: int) -> int | Tensor:
        """The grid point k."""
        return k if self.points is None else self.points[k : k + 1]

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        if not self.compiles:
            with torch.inference_mode() if self.free else nullcontext():
                return function(*args)
        call = compiled(function, dynamic=None if self.recorded else True, cuda_graphs=self.graphs)
        if not self.graphs:
            return call(*args)
        begin_graphs()  # one graph for all steps of a rollout: its results are written over by the next
        result = call(*args)
        return [one.clone() for one in result] if isinstance(result, list) else result.clone()


def rollout_generation(
    agent: "Agent",
    n: int,
    density: Density | None = None,
    *,
    context: Tensor | None = None,
    scale: float | Tensor = 1.0,
    added: float | Tensor = 0.0,
    drift: float = 0.0,
    start: Tensor | None = None,
    first: int = 0,
    noise: Tensor | None = None,
    differentiable: bool = False,
    recording: Recording | None = None,
) -> TensorDict:
    """Sample `n` generation paths; see `Agent.generate`.

    `noise` `[T - first, n, dim]`, standard normal numbers of each step, takes the place of torch's generator. A `start`
    `[1, dim]` is that of all paths. `scale` and `added` may be tensors `[]`, as they are where `torch.vmap` has one of
    each for every agent.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs import get_target
        >>> target = get_target("gmm25")
        >>> paths = rollout_generation(build_agent(target.space, scale=target.scale, steps=4), 3, target)
        >>> paths["state"].shape, paths["log_reward"].shape
        (torch.Size([3, 5, 2]), torch.Size([3]))
    """
    if start is None and first != 0:
        raise InputError(f"start: expected states at grid point {first}, got None")
    _begin(recording, agent, n, first, given=start is not None, differentiable=differentiable)
    if drift != 0.0 and density is None:
        raise InputError("drift: needs the gradient of the log density: pass the target as `density`")
    context, conditions = agent.contexts_of(n, context)
    with torch.set_grad_enabled(differentiable):
        visits = _Visits(agent, n, density, conditions, first)
        if start is None:
            start = agent.initial_state(1 if agent.starts_alike else n)
        if len(start) not in (1, n):
            raise InputError(f"start: expected {n} states, or one for all paths, got {len(start)}")
        alike = len(start) == 1  # one row for all
        state = rows_innermost(start)
        u = agent.space.coordinates(state)
        free = not (differentiable or agent.needs_score or drift)
        recorded = recording is not None
        call = _Calls(agent, state.device, compiles=not differentiable, free=free, recorded=recorded)
        shared = Shared.of(agent, agent.backbone, context, recording)
        numbers = (scale, added, drift)
        widening: Any = numbers
        if call.compiles:  # filled in on the device: to copy them there would wait for it
            widening = torch.cat([state.new_full((1,), float(number)) for number in numbers])
        elif not isinstance(scale, Tensor) and not isinstance(added, Tensor) and numbers == (1.0, 0.0, 0.0):
            widening = None
        for block in _blocks(range(first, agent.steps), together=call.together):
            score = visits.add(state)
            slope = None
            if drift != 0.0 and density is not None:
                slope = score
                if slope is None:
                    slope = agent.space.score(state, density.value_and_score(state.contiguous(), *conditions)[1])
            noises = [_noise(state, n) if noise is None else noise[k - first] for k in block]
            kept = [() if recording is None else recording.at(k) for k in block]
            places = [call.at(k) for k in block]
            more = (shared, noises, kept, widening, slope)
            steps = generate_first_steps if alike and block[0] == first else generate_steps
            *between, state, u = call(steps, agent, state, u, places, score, *more)
            visits.states += between
        state = state.clone() if free else state
        score = visits.add(state)
        if recording is not None:
            call(look, agent, u, call.at(agent.steps), score, shared, recording.at(agent.steps))
            recording.repeat_start()
        return visits.trajectory(visits.log_reward(differentiable=differentiable), context)


def rollout_destruction(
    agent: "Agent",
    x: Tensor,
    density: Density | None = None,
    log_reward: Tensor | None = None,
    *,
    context: Tensor | None = None,
    first: int = 0,
    noise: Tensor | None = None,
    recording: Recording | None = None,
) -> TensorDict:
    """Destroy the samples `x`; see `Agent.destroy`.

    `noise` `[T - first, n, dim]`, standard normal numbers of each step in the order of destruction, takes the place of
    torch's generator.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs import get_target
        >>> target = get_target("gmm25")
        >>> agent = build_agent(target.space, scale=target.scale, steps=4)
        >>> paths = rollout_destruction(agent, target.sample(3), target)
        >>> paths["state"].shape, paths["state"][:, 0].tolist()  # all the way back to the origin
        (torch.Size([3, 5, 2]), [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    """
    _begin(recording, agent, len(x), first)
    context, conditions = agent.contexts_of(len(x), context)
    with torch.no_grad():
        visits = _Visits(agent, len(x), density, conditions, first)
        reads = agent.destruction.reads_state
        shared = Shared.of(agent, agent.destruction_trunk, context, recording) if reads else None
        state = rows_innermost(x)
        u = agent.space.coordinates(state)
        free, recorded = not agent.needs_score, recording is not None
        call = _Calls(agent, state.device, compiles=True, free=free, recorded=recorded)
        if log_reward is None and density is not None and not agent.needs_score:
            log_reward = density(x.contiguous(), *conditions)
        for block in _blocks(range(agent.steps, first, -1), together=call.together):
            score = visits.add(state)
            log_reward = visits.value if log_reward is None else log_reward
            noises = [_noise(state, len(x)) if noise is None else noise[agent.steps - k] for k in block]
            kept = [() if recording is None else recording.at(k) for k in block]
            more = (score, shared, noises, kept)
            *between, state, u = call(destroy_steps, agent, state, u, [call.at(k) for k in block], *more)
            visits.states += between
        if agent.starts_alike and first == 0:
            state, u = state[:1], u[:1]
        score = visits.add(state)
        if recording is not None:
            call(look, agent, u, call.at(0), score, shared, recording.at(0))
            recording.repeat_start()
        return visits.trajectory(log_reward, context, reverse=True)
