"""The interface of a reference process that destroys sequences of tokens."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ....envs.errors import InputError
from ....envs.spaces import Tokens
from ..reference import Reference

__all__ = ["TokenReference"]


class TokenReference(Reference):
    """A destruction of token sequences; states are int64 `[..., length]`, guesses logits `[..., length, vocabulary]`.

    Log probabilities are in torch's default dtype, and −inf for what cannot happen.

    Class attributes:
        masks: whether states between x_0 and x_T may hold masks.

    Attributes:
        space: the token space.
        steps: number of steps T; by default one for each token.

    Raises:
        InputError: for a space that is not of tokens, and a number of steps that is no whole number >= 1.
    """

    masks: ClassVar[bool] = False

    space: Tokens

    def __init__(self, space: Tokens, steps: int | None = None) -> None:
        if not isinstance(space, Tokens):
            raise InputError(f"space: expected a space of Tokens, got {space!r}")
        super().__init__(space, space.length if steps is None else steps)

    def guess_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """`[..., length, vocabulary]`: logits of tokens at every position."""
        return (*shape, self.space.vocabulary)

    def tempered(self, guess: Tensor, scale: float) -> Tensor:
        """Logits divided by `scale`, > 0: above 1 guesses are more alike, below 1 surer."""
        return guess / scale

    def all_states(self) -> Tensor:
        """Every state that destruction may visit, and more, `[states, length]`; of tiny spaces, to enumerate them."""
        return self.space.all_states(masked=self.masks)
