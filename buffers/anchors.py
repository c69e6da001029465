"""Anchors: states found by search, that no policy can overwrite.

A policy that has lost a mode never visits it again, and a memory of its own visits forgets it too. Anchors come from an
explorer that does not depend on the policy, `annealed_smc` or the user's own Markov chains, so that modes are
found by search and only then learned. A trainer draws a share of each replay batch from them and destroys the
states with the current destruction policy, as it does with remembered terminal states.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from tensordict import TensorDict
from torch import Tensor

from ..envs.errors import InputError, whole_number
from ..envs.spaces import Tokens
from ..envs.target import Target
from .context_groups import context_keys, draw_companions

__all__ = ["Anchors"]


@dataclass
class Anchors:
    """Equally weighted states of a target, with what finding them cost.

    Attributes:
        states: `[n, dim]`.
        log_reward: unnormalised log density of each, `[n]`, nats.
        log_z: the explorer's estimate of log Z in nats; NaN where it makes none.
        log_z_stderr: its standard error within one run, by the genealogy of the particles; NaN where unknown. What
            the run never met does not show in it: missed modes, or tails wider than the Gaussian it started from (on
            a 2-d funnel the estimate of Z is 2 % low at any number of particles).
        ess_history: effective sample size before each resampling decision as a share of n, `[temperatures]`.
        acceptance: mean acceptance of the gradient moves at each temperature, `[temperatures]`.
        energy_calls: single densities evaluated to get the states.
        gradient_calls: single gradients evaluated to get the states.
        contexts: of a conditional target, the context of each state, `[n, c]`; its states are equally weighted within
            each context. There is then no one log Z.

    Example:
        >>> from ebbflow.envs.spaces import Continuous
        >>> class Normal(Target):
        ...     def __init__(self):
        ...         super().__init__(Continuous(2))
        ...     def log_prob(self, x):
        ...         return -0.5 * x.square().sum(-1)
        >>> anchors = Anchors.from_samples(Normal(), torch.randn(10, 2))
        >>> anchors.draw(4)["state"].shape, anchors.energy_calls
        (torch.Size([4, 2]), 10)
    """

    states: Tensor
    log_reward: Tensor
    log_z: float = float("nan")
    log_z_stderr: float = float("nan")
    ess_history: Tensor = field(default_factory=lambda: torch.zeros(0))
    acceptance: Tensor = field(default_factory=lambda: torch.zeros(0))
    energy_calls: int = 0
    gradient_calls: int = 0
    contexts: Tensor | None = None

    @classmethod
    def from_samples(cls, target: Target, states: Tensor, contexts: Tensor | None = None) -> "Anchors":
        """Anchors from the user's own samples, for example of a long Markov chain; each costs one energy call.

        Args:
            target: has a log density.
            states: equally weighted samples, `[n, dim]`, floating point; tokens int64.
            contexts: of a conditional target, the context that each of them is a sample at, `[n, c]`.

        Raises:
            InputError: if the target has no log density, or the states are empty, of a wrong shape or dtype, not
                finite, or outside the support, or contexts are missing or do not fit.
        """
        target.require_log_prob("anchors")
        shape = target.space.shape
        if not isinstance(states, Tensor) or states.ndim != 2 or states.shape[1:] != shape or states.shape[0] == 0:
            got = list(states.shape) if isinstance(states, Tensor) else type(states).__name__
            raise InputError(f"states: expected a tensor [n >= 1, {shape[0]}], got {got}")
        if isinstance(target.space, Tokens):
            target.space.check("states", states)
        elif not states.is_floating_point():
            raise InputError(f"states: expected floating point values, got {states.dtype}")
        states = states.detach().clone()
        bad = int((~states.isfinite().all(dim=-1)).sum())
        if bad:
            raise InputError(f"states: expected finite values, got NaN or infinity in {bad} of {len(states)} rows")
        with torch.no_grad():
            log_reward = target(states, contexts)
        outside = int((log_reward == -torch.inf).sum())
        if outside:
            raise InputError(f"states: expected samples inside the support, got log density -inf for {outside} rows")
        rows = None if contexts is None else contexts.detach().to(log_reward).expand(len(states), -1).clone()
        return cls(states, log_reward, energy_calls=states.shape[0], contexts=rows)

    def __len__(self) -> int:
        """Number of states."""
        return self.states.shape[0]

    def draw(self, n: int, contexts: int | None = None) -> TensorDict:
        """`n` states drawn uniformly with replacement: `state` `[n, dim]`, `log_reward` `[n]`, any `context` `[n, c]`.

        With `contexts`, they are of at most so many contexts, an equal number of each.

        Raises:
            InputError: for a number that is not >= 1, or for `contexts` of anchors without.
        """
        whole_number("n", n, least=1)
        seeds = n if contexts is None else min(n, whole_number("contexts", contexts, least=1))
        index = torch.randint(len(self), (seeds,), device=self.states.device)
        if contexts is not None:
            if self.contexts is None:
                raise InputError("contexts: expected anchors with a context, got anchors without")
            uniform = torch.full((len(self),), 1.0 / len(self), dtype=torch.float64, device=self.states.device)
            index = draw_companions(index, context_keys(self.contexts), uniform, n)
        columns = {"state": self.states[index], "log_reward": self.log_reward[index]}
        if self.contexts is not None:
            columns["context"] = self.contexts[index]
        return TensorDict(columns, batch_size=[n], device=self.states.device)

    def refreshed(self, index: Tensor, states: Tensor, log_reward: Tensor) -> "Anchors":
        """These anchors with the rows `index` `[k]` replaced by moved `states` `[k, dim]` and their `log_reward` `[k]`.

        Moves that leave the target's law alone (`LocalSearch`) keep the anchors what they are, and make them new.
        """
        return dataclasses.replace(
            self,
            states=self.states.index_copy(0, index, states),
            log_reward=self.log_reward.index_copy(0, index, log_reward),
        )

    def shard(self, number: int, of: int) -> "Anchors":
        """Every `of`-th state, from `number` on: the part of one of `of` processes.

        Raises:
            InputError: where there are not enough states for all.
        """
        if of == 1:
            return self
        if len(self) < of:
            raise InputError(f"anchors: expected at least one state for each of {of} processes, got {len(self)}")
        contexts = None if self.contexts is None else self.contexts[number::of]
        return dataclasses.replace(
            self, states=self.states[number::of], log_reward=self.log_reward[number::of], contexts=contexts
        )

    @classmethod
    def joined(cls, shards: Sequence["Anchors"]) -> "Anchors":
        """The states of all shards; what is told of the search is that of the first.

        Example:
            >>> anchors = Anchors(torch.arange(3.0)[:, None], torch.zeros(3))
            >>> Anchors.joined([anchors.shard(0, of=2), anchors.shard(1, of=2)]).states.flatten()
            tensor([0., 2., 1.])
        """
        contexts = (
            None if shards[0].contexts is None else torch.cat([s.contexts for s in shards if s.contexts is not None])
        )
        return dataclasses.replace(
            shards[0],
            states=torch.cat([shard.states for shard in shards]),
            log_reward=torch.cat([shard.log_reward for shard in shards]),
            contexts=contexts,
        )

    def state_dict(self) -> dict[str, Tensor | int]:
        """A flat dict of tensors and whole numbers; log Z and its error as double-precision tensors `[]`."""
        state: dict[str, Tensor | int] = {
            key: getattr(self, key).clone() for key in ("states", "log_reward", "ess_history", "acceptance")
        }
        for key in ("log_z", "log_z_stderr"):
            state[key] = torch.tensor(getattr(self, key), dtype=torch.float64)
        if self.contexts is not None:
            state["contexts"] = self.contexts.clone()
        return state | {"energy_calls": self.energy_calls, "gradient_calls": self.gradient_calls}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor | int], device: torch.device | str = "cpu") -> "Anchors":
        """Anchors as `state_dict` gave them, bit for bit, without searching again.

        Raises:
            InputError: if a field is missing or the shapes of `states` and `log_reward` do not fit.
        """
        names = ("states", "log_reward", "log_z", "log_z_stderr", "ess_history", "acceptance")
        tensors: dict[str, Tensor] = {}
        for key in names:
            value = state.get(key)
            if not isinstance(value, Tensor):
                raise InputError(f"{key}: missing from the saved anchors")
            tensors[key] = value.detach().to(device, copy=True)
        for key in ("energy_calls", "gradient_calls"):
            if key not in state:
                raise InputError(f"{key}: missing from the saved anchors")
        states, log_reward = tensors["states"], tensors["log_reward"]
        if states.ndim != 2 or states.shape[0] == 0 or log_reward.shape != states.shape[:1]:
            raise InputError(
                f"states: expected [n >= 1, dim] with log_reward [n], got {list(states.shape)} and "
                f"{list(log_reward.shape)}"
            )
        contexts = state.get("contexts")
        return cls(
            states,
            log_reward,
            float(tensors["log_z"]),
            float(tensors["log_z_stderr"]),
            tensors["ess_history"],
            tensors["acceptance"],
            int(state["energy_calls"]),
            int(state["gradient_calls"]),
            contexts.detach().to(device, copy=True) if isinstance(contexts, Tensor) else None,
        )

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Replace everything here by what `state_dict` gave.

        Raises:
            InputError: as `from_state_dict`, and if the states have another dimension.
        """
        other = Anchors.from_state_dict(state, self.states.device)
        if other.states.shape[1] != self.states.shape[1]:
            raise InputError(f"states: expected dimension {self.states.shape[1]}, got {other.states.shape[1]}")
        self.__dict__.update(other.__dict__)
