r"""The interface of a reference process that destroys sequences of tokens.

As everywhere, x_T is the sample, x_0 is fully destroyed, and step k lies between x_k and x_{k+1}:

    destruction   x_T → … → x_{k+1} → x_k → … → x_0      p←(x_k | x_{k+1}),  and in one go p←(x_k | x_T), a *level*
    generation    x_0 → … → x_k → x_{k+1} → … → x_T      p→(x_{k+1} | x_k)
    fully destroyed law   p_0(x_0), which does not depend on x_T

A generation step is made of a *guess*, logits of tokens at every position, and of what the reference knows of its own
time reversal: which positions the step can have destroyed. A policy has to learn the guess alone.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ....envs.errors import InputError, whole_number
from ....envs.spaces import Tokens

__all__ = ["TokenReference"]


class TokenReference(ABC):
    """A destruction of token sequences in a fixed number of steps; states are int64 `[..., length]`, logs are in nats.

    Steps and levels `k` are one whole number for all states, or int64 `[...]`, one for each. Everything is drawn from
    torch's global generator; log probabilities are in torch's default dtype, and −inf for what cannot happen.

    Class attributes:
        deterministic: whether a state has only one way to be destroyed.
        learned: whether the destruction has parameters; that of a reference has none.
        masks: whether states between x_0 and x_T may hold masks.

    Attributes:
        space: the token space.
        steps: number of steps T; by default one for each token.

    Raises:
        InputError: for a space that is not of tokens, and a number of steps that is no whole number >= 1.
    """

    deterministic: bool = False
    learned: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def __init__(self, space: Tokens, steps: int | None = None) -> None:
        if not isinstance(space, Tokens):
            raise InputError(f"space: expected a space of Tokens, got {space!r}")
        self.space = space
        self.steps = space.length if steps is None else whole_number("steps", steps, least=1)

    # Destruction ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """x_k given x_{k+1} = `following`, `[..., length]`, for steps k from 0 to T − 1."""

    @abstractmethod
    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """log p←(x_k | x_{k+1}) `[...]` of x_k = `state` given x_{k+1} = `following`."""

    @abstractmethod
    def sample_level(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """x_k given x_T = `sample`, `[..., length]`, without the states between, for levels k from 0 to T."""

    @abstractmethod
    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """log p←(x_k | x_T) `[...]` of x_k = `state` given x_T = `sample`."""

    # The fully destroyed law ----------------------------------------------------------------------------------------

    @abstractmethod
    def sample_destroyed(self, n: int) -> Tensor:
        """`n` draws of p_0, `[n, length]`."""

    @abstractmethod
    def log_prob_destroyed(self, state: Tensor) -> Tensor:
        """log p_0(x_0) `[...]`."""

    # Generation -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def sample_reverse(self, logits: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """x_{k+1} given x_k = `state`, `[..., length]`, by a guess of the tokens.

        Args:
            logits: of tokens at every position, `[..., length, vocabulary]`.
            state: x_k, `[..., length]`.
            k: the step, from 0 to T − 1.
        """

    @abstractmethod
    def log_prob_reverse(self, logits: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """log p→(x_{k+1} | x_k) `[...]` of x_{k+1} = `following` given x_k = `state`, by a guess of the tokens."""

    def mean_log_prob_reverse(
        self, logits: Tensor, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor
    ) -> Tensor:
        """log p→(x_{k+1} | x_k) `[...]`, averaged over x_{k+1} given x_k and x_T = `sample` where that is closed.

        Estimates that are drawn vary less with it, at the cost of no pass of a network; here it is that of the one
        x_{k+1} = `following`, which was drawn.
        """
        return self.log_prob_reverse(logits, following, state, k)

    def known_term(self, k: int | Tensor) -> Tensor:
        """The part of log p→ − log p← of step `k` that is the same for all states and guesses, `[...]`.

        Estimates of a likelihood bound count it exactly instead of drawing it; here there is none.
        """
        return torch.zeros(())

    def all_states(self) -> Tensor:
        """Every state that destruction may visit, and more, `[states, length]`; of tiny spaces, to enumerate them."""
        return self.space.all_states(masked=self.masks)

    # Checks ---------------------------------------------------------------------------------------------------------

    def _step(self, k: int | Tensor, like: Tensor) -> Tensor:
        return self._index("step", k, self.steps - 1, like)

    def _level(self, k: int | Tensor, like: Tensor) -> Tensor:
        return self._index("level", k, self.steps, like)

    def _index(self, name: str, k: int | Tensor, last: int, like: Tensor) -> Tensor:
        """Steps or levels as int64 `[...]`, on the device of the states `like`."""
        index = torch.as_tensor(k, device=like.device)
        if index.dtype != torch.int64:
            raise InputError(f"{name}: expected whole numbers from 0 to {last}, got {k!r}")
        if index.numel() and (int(index.min()) < 0 or int(index.max()) > last):
            wrong = int(index[(index < 0) | (index > last)].flatten()[0])
            raise InputError(f"{name}: expected whole numbers from 0 to {last}, got {wrong}")
        return index
