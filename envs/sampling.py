"""Sampling as a walk: generation builds a state in a fixed number of steps, destruction takes it apart again.

Both are TorchRL environments over the target's space. All the physics is the space's `transition` and, at the end of
generation, the target's log density as the reward:

    x_{k+1} = transition(x_k, action, k),    reward = log R(x_T) on arriving at k = T, 0 before

The setting is that of Gritsaev et al., *Adaptive Destruction Processes for Diffusion Samplers*
(https://arxiv.org/abs/2506.01541). Environments keep no state of their own: everything is in the tensordict, so
rows may be at different steps, and partial resets (TorchRL's `_reset` entry) work. Each step reads one number back from
the device, as TorchRL's own rollouts do.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from .errors import InputError, whole_number
from .spaces import Continuous, Tokens
from .target import Target

__all__ = ["DestructionEnv", "GenerationEnv", "InitialLaw"]


@dataclass(frozen=True)
class InitialLaw:
    """The law of x_0: a Dirac at 0 where `std` is 0, else N(0, std^2) in each coordinate.

    Args:
        std: standard deviation, >= 0, in units of the state.

    Raises:
        InputError: if `std` is not a finite number >= 0.

    Example:
        >>> InitialLaw(0.0).sample(2, Continuous(3))
        tensor([[0., 0., 0.],
                [0., 0., 0.]])
        >>> InitialLaw(2.0).log_prob(torch.zeros(1, 2))
        tensor([-3.2242])
    """

    std: float = 0.0

    def __post_init__(self) -> None:
        ok = isinstance(self.std, (int, float)) and not isinstance(self.std, bool) and 0.0 <= self.std < math.inf
        if not ok:
            raise InputError(f"std: expected a finite standard deviation >= 0, got {self.std!r}")

    def sample(
        self,
        n: int,
        space: Continuous,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """`n` independent initial states, `[n, dim]`, normal in the coordinates of the space; from torch's global
        generator unless one is given.
        """
        if self.std == 0.0:
            return torch.zeros(n, *space.shape, device=device, dtype=dtype)
        u = self.std * torch.randn(n, *space.shape, generator=generator, device=device, dtype=dtype)
        return space.from_coordinates(u)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density, `[..., dim] -> [...]`; 0 for the Dirac, which adds no term to a path's log-ratio."""
        if self.std == 0.0:
            return x.new_zeros(x.shape[:-1])
        log_root = math.log(self.std) + 0.5 * math.log(2 * math.pi)
        return -0.5 * ((x / self.std) ** 2).sum(-1) - x.shape[-1] * log_root


class _WalkEnv(EnvBase):
    """Specs and bookkeeping that both directions share; a direction says where it starts, ends and moves to."""

    def __init__(
        self,
        target: Target,
        steps: int,
        *,
        space: Continuous | None,
        batch_size: Sequence[int],
        device: torch.device | str | None,
        dtype: torch.dtype,
    ) -> None:
        if not dtype.is_floating_point:
            raise InputError(f"dtype: expected a floating point type, got {dtype}")
        if isinstance(target.space, Tokens):
            raise InputError(f"target {target.name!r}: environments walk in continuous spaces, got {target.space}")
        steps = whole_number("steps", steps, least=1)
        batch = torch.Size(batch_size)
        super().__init__(device=torch.device(device or "cpu"), batch_size=batch)
        self.target = target.to(self.device)
        self.space = target.space if space is None else space
        if self.space.shape != target.space.shape:
            raise InputError(f"space: expected states of shape {list(target.space.shape)}, got {self.space}")
        self.steps = steps
        self.state_dtype = dtype
        states = torch.Size([*batch, *self.space.shape])
        scalar = torch.Size([*batch, 1])
        where: dict[str, Any] = {"device": self.device}
        self.observation_spec = Composite(
            state=Unbounded(shape=states, dtype=dtype, **where),
            step=Bounded(low=0, high=steps, shape=scalar, dtype=torch.int64, **where),
            shape=batch,
        )
        if target.context_space is not None:
            contexts = torch.Size([*batch, *target.context_space.shape])
            self.observation_spec["context"] = Unbounded(shape=contexts, dtype=dtype, **where)
        self.action_spec = Unbounded(shape=states, dtype=dtype, **where)
        self.reward_spec = Unbounded(shape=scalar, dtype=dtype, **where)
        self.done_spec = Composite(
            done=Categorical(2, shape=scalar, dtype=torch.bool, **where),
            terminated=Categorical(2, shape=scalar, dtype=torch.bool, **where),
            shape=batch,
        )

    def _contexts(self, tensordict: TensorDictBase | None) -> dict[str, Tensor]:
        """The `context` entry `[*B, c]` of walks that start: given with the reset, or drawn; empty without contexts."""
        if self.target.context_space is None:
            return {}
        shape = (*self.batch_size, *self.target.context_space.shape)
        given = _given(tensordict, "context")
        context = self.target.sample_context(self.batch_size.numel()) if given is None else given
        if context.numel() != math.prod(shape):
            raise InputError(f"context: expected shape {list(shape)}, got {list(context.shape)}")
        context = context.detach().to(device=self.device, dtype=self.state_dtype)
        return {"context": context.reshape(shape).clone()}

    def _first(self, state: Tensor, step: int, contexts: dict[str, Tensor]) -> TensorDict:
        shape = (*self.batch_size, 1)
        over = torch.zeros(shape, dtype=torch.bool, device=self.device)
        return TensorDict(
            {
                "state": state,
                "step": torch.full(shape, step, dtype=torch.int64, device=self.device),
                "done": over,
                "terminated": over.clone(),
                **contexts,
            },
            batch_size=self.batch_size,
            device=self.device,
        )

    def _next(
        self, tensordict: TensorDictBase, state: Tensor, step: Tensor, reward: Tensor, over: Tensor
    ) -> TensorDict:
        contexts = {"context": tensordict["context"]} if self.target.is_conditional else {}
        return TensorDict(
            {"state": state, "step": step, "reward": reward, "done": over, "terminated": over.clone(), **contexts},
            batch_size=self.batch_size,
            device=self.device,
        )

    def _set_seed(self, seed: int | None) -> None:
        """Seed torch's global generator, from which initial states and the target's exact samples are drawn."""
        if seed is not None:
            torch.manual_seed(seed)


def _given(tensordict: TensorDictBase | None, key: str) -> Tensor | None:
    """An entry that the caller of a whole `reset` gave; rows of a partial reset start anew."""
    if tensordict is None or tensordict.get("_reset", None) is not None:
        return None
    return tensordict.get(key, None)


class GenerationEnv(_WalkEnv):
    """Build a state from the initial law in `steps` actions; the last one is rewarded by the target's log density.

    Entries: `state` `[*B, dim]`, `step` `[*B, 1]` int64 (0 to `steps`), `action` `[*B, dim]` (the increment), `reward`
    `[*B, 1]`, `done` and `terminated` `[*B, 1]`. The target is called (checked and counted) only for rows that arrive.
    With a conditional target there is `context` `[*B, c]` too, from the `context` entry passed to `reset`, else drawn.
    `set_seed` seeds torch's global generator.

    Args:
        target: what to sample; needs a log density. It is moved to `device`.
        steps: number of actions T, >= 1.
        initial_law: law of x_0.
        batch_size: shape B of the batch of walks, fixed.
        device: where the whole batch lives; the CPU by default.
        dtype: floating point type of states, actions and rewards.

    Raises:
        InputError: if `steps` or `dtype` is out of range, or the target has no log density; in `step`, if the density
            is not finite at an arriving state (a NaN action shows here), or a walk that is over is stepped on.

    Example:
        >>> from ebbflow.envs.targets import gmm25
        >>> env = GenerationEnv(gmm25(), steps=3, batch_size=[4])
        >>> walk = env.rollout(10)
        >>> walk["next", "state"].shape, walk["next", "done"][:, :, 0].tolist()[0]
        (torch.Size([4, 3, 2]), [False, False, True])
    """

    def __init__(
        self,
        target: Target,
        steps: int,
        initial_law: InitialLaw = InitialLaw(0.0),
        *,
        space: Continuous | None = None,
        batch_size: Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        target.require_log_prob("generation")
        super().__init__(target, steps, space=space, batch_size=batch_size, device=device, dtype=dtype)
        self.initial_law = initial_law

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        n = self.batch_size.numel()
        contexts = self._contexts(tensordict)
        state = self.initial_law.sample(n, self.space, device=self.device, dtype=self.state_dtype)
        return self._first(state.reshape(*self.batch_size, *self.space.shape), 0, contexts)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        step = tensordict["step"]  # [*B, 1]
        state = self.space.transition(tensordict["state"], tensordict["action"], step)
        step = step + 1
        over = step >= self.steps
        reward = torch.zeros_like(step, dtype=self.state_dtype)
        if bool(over.any()):
            if bool((step > self.steps).any()):
                raise InputError(f"step: a walk was over after {self.steps} steps; reset before stepping on")
            arrived = over.squeeze(-1)  # [*B]
            contexts = (tensordict["context"][arrived],) if self.target.is_conditional else ()
            reward[arrived] = self.target(state[arrived], *contexts).to(self.state_dtype).unsqueeze(-1)
        return self._next(tensordict, state, step, reward, over)


class DestructionEnv(_WalkEnv):
    """Take given states apart in `steps` actions, counting down from `steps` to 0; nothing is rewarded.

    Entries are those of `GenerationEnv`; an action is again what is added to the state. `reset` starts from the `state`
    entry `[*B, dim]` of the tensordict passed to it, else from `source`, else from the target's exact samples. Rows
    reset through a `_reset` entry (partial resets, and TorchRL's automatic ones) always start from source or target.
    With a conditional target, `context` is as in `GenerationEnv`; given states come with theirs, and the source is
    `n, context [n, c] -> [n, dim]`.
    `set_seed` seeds torch's global generator, which the target's samples come from.

    Args:
        target: whose space it is, and the exact samples unless there is a `source`. It is moved to `device`.
        steps: number of actions T, >= 1.
        source: where x_T comes from, `n -> [n, dim]`: data, a replay, another sampler.
        batch_size: shape B of the batch of walks, fixed.
        device: where the whole batch lives; the CPU by default.
        dtype: floating point type of states and actions.

    Raises:
        InputError: if `steps` or `dtype` is out of range; in `reset`, if given states have another shape, or there are
            neither given states nor a source nor exact samples; in `step`, if a walk that is over is stepped on.

    Example:
        >>> from ebbflow.envs.targets import gmm25
        >>> env = DestructionEnv(gmm25(), steps=2, batch_size=[1])
        >>> start = env.reset(TensorDict({"state": torch.ones(1, 2)}, batch_size=[1]))
        >>> start["state"].tolist(), start["step"].tolist()
        ([[1.0, 1.0]], [[2]])
    """

    def __init__(
        self,
        target: Target,
        steps: int,
        source: Callable[..., Tensor] | None = None,
        *,
        space: Continuous | None = None,
        batch_size: Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if source is not None and not callable(source):
            raise InputError(f"source: expected a function of a count, got {type(source).__name__}")
        super().__init__(target, steps, space=space, batch_size=batch_size, device=device, dtype=dtype)
        self.source = source

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        given = _given(tensordict, "state")
        if given is not None and self.target.is_conditional and _given(tensordict, "context") is None:
            raise InputError("context: expected beside the given states of a conditional target, got none")
        contexts = self._contexts(tensordict)
        rows = tuple(context.reshape(self.batch_size.numel(), -1) for context in contexts.values())
        if given is not None:
            origin, state, shape = "state", given, (*self.batch_size, *self.space.shape)
        else:
            n = self.batch_size.numel()
            if self.source is not None:
                origin, state = "source", self.source(n, *rows)
            else:
                self.target.require_sample("destruction without given states or a source")
                origin, state = f"target {self.target.name!r}", self.target.sample(n, *rows)
            shape = (n, *self.space.shape)
        if not isinstance(state, Tensor) or state.shape != shape:
            got = list(state.shape) if isinstance(state, Tensor) else type(state).__name__
            raise InputError(f"{origin}: expected states of shape {list(shape)} to destroy, got {got}")
        state = state.detach().to(device=self.device, dtype=self.state_dtype)
        return self._first(state.reshape(*self.batch_size, *self.space.shape).clone(), self.steps, contexts)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        step = tensordict["step"]  # [*B, 1]
        state = self.space.transition(tensordict["state"], tensordict["action"], step)
        step = step - 1
        over = step <= 0
        if bool((step < 0).any()):
            raise InputError(f"step: a walk was over after {self.steps} steps; reset before stepping on")
        return self._next(tensordict, state, step, torch.zeros_like(step, dtype=self.state_dtype), over)
