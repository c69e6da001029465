r"""The interface of a reference process that destroys, whatever the states are.

As everywhere, x_T is the sample, x_0 is fully destroyed, and step k lies between x_k and x_{k+1}:

    destruction   x_T → … → x_{k+1} → x_k → … → x_0      p←(x_k | x_{k+1}),  and in one go p←(x_k | x_T), a *level*
    generation    x_0 → … → x_k → x_{k+1} → … → x_T      p→(x_{k+1} | x_k)
    fully destroyed law   p_0(x_0), which does not depend on x_T

A generation step is made of a *guess* of the sample, or of what was destroyed of it, and of what the reference knows of
its own time reversal. A policy has to learn the guess alone. Its shape is the reference's business: logits
`[..., length, vocabulary]` for tokens, a point `[..., dim]` for continuous states; below, `*space` is the shape of a
state, `[length]` or `[dim]`.

Most destructions are Markov chains. One that is not takes x_T into account at every step, p←(x_k | x_{k+1}, x_T); the
methods called `…_given` serve both kinds. A deterministic destruction of continuous states has no densities: whoever
asks for one is told so by an `InputError`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...envs.deferred_checks import check_rows
from ...envs.errors import InputError, whole_number
from ...envs.spaces import Continuous, Tokens

__all__ = ["Reference"]


@dataclass(frozen=True)
class _NoIndex:
    """What is wrong with steps or levels that are not from 0 to `last`."""

    name: str
    last: int

    def __call__(self, failed: int, total: int, k: Any) -> InputError:
        got = k.item() if isinstance(k, Tensor) and k.numel() == 1 else k
        return InputError(f"{self.name}: expected whole numbers from 0 to {self.last}, got {got!r}")


class Reference(ABC):
    """A destruction in a fixed number of steps; logs are in nats.

    Steps and levels `k` are one whole number for all states, or int64 `[...]`, one for each. Everything is drawn from
    torch's global generator.

    Class attributes:
        deterministic: whether a state has only one way to be destroyed.
        markov: whether a step depends on nothing but the state before it.
        has_density: whether the steps have probabilities, or densities; without them there is no likelihood.
        learned: whether the destruction has parameters; that of a reference has none.

    Args:
        space: the state space.
        steps: number of steps T, >= 1.

    Raises:
        InputError: for a number of steps that is no whole number >= 1.
    """

    deterministic: bool = False
    markov: ClassVar[bool] = True
    has_density: bool = True
    learned: ClassVar[bool] = False

    space: Tokens | Continuous

    def __init__(self, space: Tokens | Continuous, steps: int) -> None:
        self.space = space
        self.steps = whole_number("steps", steps, least=1)

    @abstractmethod
    def guess_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the guess for states of this shape."""

    # Destruction ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """x_k given x_{k+1} = `following`, `[..., *space]`, for steps k from 0 to T − 1."""

    @abstractmethod
    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """log p←(x_k | x_{k+1}) `[...]` of x_k = `state` given x_{k+1} = `following`."""

    def sample_step_given(self, following: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """x_k given x_{k+1} = `following` and x_T = `sample`, which does not matter where destruction is Markov."""
        return self.sample_step(following, k)

    def log_prob_step_given(self, state: Tensor, following: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """log p←(x_k | x_{k+1}, x_T) `[...]`; where destruction is Markov, `log_prob_step`."""
        return self.log_prob_step(state, following, k)

    def mean_log_prob_step(self, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """log p←(x_k | x_{k+1}, x_T) `[...]`, averaged over both states given x_T = `sample` where that is closed.

        Here it is that of the one pair that was drawn.
        """
        return self.log_prob_step_given(state, following, sample, k)

    @abstractmethod
    def sample_level(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """x_k given x_T = `sample`, `[..., *space]`, without the states between, for levels k from 0 to T."""

    @abstractmethod
    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """log p←(x_k | x_T) `[...]` of x_k = `state` given x_T = `sample`."""

    # The fully destroyed law ----------------------------------------------------------------------------------------

    @abstractmethod
    def sample_destroyed(self, n: int) -> Tensor:
        """`n` draws of p_0, `[n, *space]`."""

    @abstractmethod
    def log_prob_destroyed(self, state: Tensor) -> Tensor:
        """log p_0(x_0) `[...]`."""

    def mean_log_prob_destroyed(self, sample: Tensor) -> Tensor:
        """log p_0(x_0) `[...]`, averaged over x_0 given x_T = `sample` where that is closed; here of one x_0, drawn."""
        return self.log_prob_destroyed(self.sample_level(sample, 0))

    # Generation -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def sample_reverse(self, guess: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """x_{k+1} given x_k = `state`, `[..., *space]`, by a guess, for steps k from 0 to T − 1."""

    def tempered(self, guess: Tensor, scale: float) -> Tensor:
        """The guess at another temperature, for exploration: 1 is that of the policy, and here the only one.

        Raises:
            InputError: for another temperature, where guesses have none.
        """
        if scale != 1.0:
            raise InputError(
                f"scale: expected 1, for a guess of {type(self).__name__} has no temperature, got {scale!r}"
            )
        return guess

    @abstractmethod
    def log_prob_reverse(self, guess: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """log p→(x_{k+1} | x_k) `[...]` of x_{k+1} = `following` given x_k = `state`, by a guess."""

    def mean_log_prob_reverse(
        self, guess: Tensor, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor
    ) -> Tensor:
        """log p→(x_{k+1} | x_k) `[...]`, averaged over x_{k+1} given x_k and x_T = `sample` where that is closed.

        Estimates that are drawn vary less with it, at the cost of no pass of a network; here it is that of the one
        x_{k+1} = `following`, which was drawn.
        """
        return self.log_prob_reverse(guess, following, state, k)

    def guess_cost(self, guess: Tensor, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """What a guess is trained to make small at step `k`, `[...]`: −`mean_log_prob_reverse`, where that exists."""
        return -self.mean_log_prob_reverse(guess, sample, following, state, k)

    def known_term(self, k: int | Tensor) -> Tensor:
        """The part of log p→ − log p← of step `k` that is the same for all states and guesses, `[...]`.

        Estimates of a likelihood bound count it exactly instead of drawing it; here there is none.
        """
        return torch.zeros(())

    @property
    def level_law(self) -> Tensor | None:
        """Probabilities of the steps `[T]`, all > 0, by which drawn estimates are expected to vary little.

        None for all alike. Estimates are unbiased for any.
        """
        return None

    # Checks ---------------------------------------------------------------------------------------------------------

    def _step(self, k: int | Tensor, like: Tensor) -> Tensor:
        return self._index("step", k, self.steps - 1, like)

    def _level(self, k: int | Tensor, like: Tensor) -> Tensor:
        return self._index("level", k, self.steps, like)

    def _index(self, name: str, k: int | Tensor, last: int, like: Tensor) -> Tensor:
        """Steps or levels as int64 `[...]`, on the device of the states `like`."""
        wrong = _NoIndex(name, last)
        if type(k) is int:
            if not 0 <= k <= last:
                raise wrong(1, 1, k)
            return torch.full((), k, device=like.device)  # to copy it there would wait for the device
        index = k if isinstance(k, Tensor) else torch.as_tensor(k)
        index = index.to(like.device, non_blocking=like.device.type != "cpu")
        if index.dtype != torch.int64:
            raise wrong(1, 1, k)
        later = check_rows(((index < 0) | (index > last)).flatten(), [index.flatten()], wrong)
        return index.clamp(0, last) if later else index  # they are looked up
