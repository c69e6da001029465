"""Generation as gymnasium environments, for any agent that speaks that interface.

    import ebbflow.envs
    env = gymnasium.make("ebbflow/gmm25-v0", steps=5)
    envs = gymnasium.make_vec("ebbflow/gmm25-v0", num_envs=4)

Every built-in target has an id; any other target is `SamplingEnv(target="package.module:attribute", dim=...)`.

- Observation, Box `[dim + 1]` float32: the state, then the share of the steps that is behind, k/T in [0, 1]. That of a
  conditional target, `[dim + c + 1]`: the state, the walk's context (drawn in `reset`), the share of the steps.
- Action, Box `[dim]` float32 in [-1, 1], clipped to it: the increment in units of `max_increment`. So all states that
  can be reached are within `steps * max_increment` of where they started.
- Reward: log density of the final state, 0 before. The walk terminates after T steps, and is never truncated.

The physics is that of `GenerationEnv`: the space's `transition`, and the checked target in float32.
"""

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from .errors import InputError, whole_number
from .registry import get_target
from .sampling import InitialLaw
from .target import Target

__all__ = ["SamplingEnv", "VectorSamplingEnv"]

FloatArray = NDArray[np.float32]


class _Walks:
    """A batch of walks in lockstep on the CPU, with arrays at the doors."""

    def __init__(
        self,
        target: str | Target,
        steps: int,
        dim: int | None,
        initial_std: float,
        max_increment: float | None,
    ) -> None:
        self.target = get_target(target, dim=dim)
        self.target.require_log_prob("generation")
        self.steps = whole_number("steps", steps, least=1)
        self.law = InitialLaw(initial_std)
        self.reach = 2.0 * self.target.scale if max_increment is None else float(max_increment)
        if not 0.0 < self.reach < math.inf:
            raise InputError(f"max_increment: expected a positive finite length, got {max_increment!r}")
        self.step = 0
        self.state = torch.zeros(0, self.target.space.dim)  # [n, dim]
        self.context: Tensor | None = None  # [n, c]

        size = self.target.space.dim
        # Ten standard deviations of the initial law, and room for rounding.
        farthest = 1.0001 * (self.steps * self.reach + 10.0 * self.law.std)
        bound = np.full(size, farthest, dtype=np.float32)
        contexts = 0 if self.target.context_space is None else self.target.context_space.dim
        unbounded = np.full(contexts, 1e9, dtype=np.float32)  # gymnasium's check does not like infinity
        zero, one = np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.float32)
        self.observation_space = Box(
            np.concatenate([-bound, -unbounded, zero]), np.concatenate([bound, unbounded, one])
        )
        self.action_space = Box(-1.0, 1.0, shape=(size,), dtype=np.float32)

    def reset(self, n: int, generator: torch.Generator) -> FloatArray:
        self.step = 0
        self.state = self.law.sample(n, self.target.space, generator=generator, dtype=torch.float32)
        if self.target.is_conditional:
            with torch.random.fork_rng(devices=[]):  # a target draws contexts from the global generator
                torch.default_generator.manual_seed(generator.initial_seed())
                self.context = self.target.sample_context(n).float().cpu()
        return self.observe()

    def advance(self, actions: Any) -> tuple[FloatArray, NDArray[np.float64], bool]:
        """Observations `[n, dim + 1]`, rewards `[n]`, and whether the walks are over."""
        if self.step >= self.steps or not len(self.state):
            raise InputError(f"step: reset comes first, and again after {self.steps} steps")
        increments = np.asarray(actions, dtype=np.float32)
        if increments.shape != tuple(self.state.shape) or not np.isfinite(increments).all():
            raise InputError(f"action: expected finite values of shape {list(self.state.shape)}, got {actions!r}")
        increment: Tensor = torch.from_numpy(increments.clip(-1.0, 1.0)) * self.reach
        self.state = self.target.space.transition(self.state, increment, self.step)
        self.step += 1
        over = self.step == self.steps
        if over:
            with torch.no_grad():
                rewards = self.target(self.state, self.context).double().numpy()
        else:
            rewards = np.zeros(len(self.state))
        return self.observe(), rewards, over

    def observe(self) -> FloatArray:
        seen = self.state if self.context is None else torch.cat([self.state, self.context], dim=1)
        observation = np.empty((len(seen), seen.shape[1] + 1), dtype=np.float32)
        observation[:, :-1] = seen.numpy()
        observation[:, -1] = self.step / self.steps
        return observation


def _torch_generator(np_random: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(np_random.integers(2**63)))


class SamplingEnv(gymnasium.Env[FloatArray, FloatArray]):
    """One walk from the initial law to a sample; see the module for observation, action and reward.

    Args:
        target: name, plugin, `package.module:attribute`, or a `Target`; needs a log density.
        steps: number of actions T, >= 1.
        dim: number of coordinates, for targets that leave it open.
        initial_std: standard deviation of the initial state; 0 starts at the origin.
        max_increment: length of a unit action in each coordinate, > 0; twice the target's scale by default.
        render_mode: None; nothing is rendered.

    Raises:
        InputError: if an argument is out of range; in `step`, before `reset`, or on an action that is not finite.

    Example:
        >>> import ebbflow.envs
        >>> env = gymnasium.make("ebbflow/gmm25-v0", steps=2)
        >>> env.reset(seed=0)[0]
        array([0., 0., 0.], dtype=float32)
        >>> observation, reward, terminated, truncated, info = env.step(np.zeros(2, dtype=np.float32))
        >>> float(observation[-1]), float(reward), terminated
        (0.5, 0.0, False)
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, gymnasium's own declaration

    def __init__(
        self,
        target: str | Target,
        steps: int = 5,
        *,
        dim: int | None = None,
        initial_std: float = 0.0,
        max_increment: float | None = None,
        render_mode: None = None,
    ) -> None:
        self._walks = _Walks(target, steps, dim, initial_std, max_increment)
        self.target = self._walks.target
        self.observation_space = self._walks.observation_space
        self.action_space = self._walks.action_space
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start a walk from the initial law: observation `[dim + 1]` and an empty dict."""
        super().reset(seed=seed)
        return self._walks.reset(1, _torch_generator(self.np_random))[0], {}

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Add `max_increment * action`: observation, reward, terminated, truncated (never), an empty dict."""
        observations, rewards, over = self._walks.advance(np.asarray(action)[None])
        return observations[0], float(rewards[0]), over, False, {}


class VectorSamplingEnv(VectorEnv[FloatArray, FloatArray, NDArray[Any]]):
    """`num_envs` walks in lockstep, computed as one batch; see the module for observation, action and reward.

    Automatic reset is gymnasium's next-step mode: the step after termination ignores its actions, and returns the first
    observations of new walks with zero rewards.

    Args:
        target: name, plugin, `package.module:attribute`, or a `Target`; needs a log density.
        num_envs: number of walks, >= 1.
        steps: number of actions T, >= 1.
        dim: number of coordinates, for targets that leave it open.
        initial_std: standard deviation of the initial state; 0 starts at the origin.
        max_increment: length of a unit action in each coordinate, > 0; twice the target's scale by default.

    Raises:
        InputError: as `SamplingEnv`.

    Example:
        >>> import ebbflow.envs
        >>> envs = gymnasium.make_vec("ebbflow/gmm25-v0", num_envs=4, steps=1)
        >>> _ = envs.reset(seed=0)
        >>> observations, rewards, terminated, truncated, infos = envs.step(np.zeros((4, 2), dtype=np.float32))
        >>> observations.shape, rewards.round(3).tolist(), terminated.all()
        ((4, 3), [-3.853, -3.853, -3.853, -3.853], np.True_)
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        target: str | Target,
        num_envs: int = 1,
        steps: int = 5,
        *,
        dim: int | None = None,
        initial_std: float = 0.0,
        max_increment: float | None = None,
    ) -> None:
        whole_number("num_envs", num_envs, least=1)
        self._walks = _Walks(target, steps, dim, initial_std, max_increment)
        self.target = self._walks.target
        self.num_envs = num_envs
        self.single_observation_space = self._walks.observation_space
        self.single_action_space = self._walks.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start all walks from the initial law: observations `[num_envs, dim + 1]` and an empty dict."""
        super().reset(seed=seed)
        self._over = False
        return self._walks.reset(self.num_envs, _torch_generator(self.np_random)), {}

    def step(self, actions: FloatArray) -> tuple[FloatArray, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Add `max_increment * actions`: observations, rewards, terminated, truncated `[num_envs]`, an empty dict."""
        never = np.zeros(self.num_envs, dtype=np.bool_)
        if self._over:
            observations, _ = self.reset()
            return observations, np.zeros(self.num_envs), never, never.copy(), {}
        observations, rewards, self._over = self._walks.advance(actions)
        return observations, rewards, np.full(self.num_envs, self._over), never, {}
