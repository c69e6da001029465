r"""The interface of a reference process that destroys continuous states: its guesses are points.

A network does not have to learn what is plain: `guess_gain`, `guess_spread` and `state_scale`, a number for each step,
put its work in units of order one,

    guess = gain_k · x_k + spread_k · network(x_k / scale_k)

so that an untrained network, which says 0, makes the best linear guess for data of the stated scale.
Source: the preconditioning of Karras et al., https://arxiv.org/abs/2206.00364.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....envs.errors import InputError
from ....envs.spaces import Continuous
from ..gaussian import check_length
from ..reference import Reference

__all__ = ["ContinuousReference"]


class ContinuousReference(Reference):
    """A destruction of points `[..., dim]`, whose guesses are points `[..., dim]` too.

    Log densities are in the dtype of the states.

    Args:
        space: the space, of dimension dim.
        steps: number of steps T.
        scale: standard deviation of a coordinate of the data, about, in units of the state; the data are centred.

    Attributes:
        guess_gain, guess_spread, state_scale: what a network starts from (module docstring), float64 `[T]`.

    Raises:
        InputError: for a space that is not continuous, and settings out of range.
    """

    space: Continuous

    def __init__(self, space: Continuous, steps: int, scale: float) -> None:
        if type(space) is not Continuous:  # destruction is linear in the state itself
            raise InputError(f"space: expected a Continuous space, got {space!r}")
        super().__init__(space, steps)
        self.scale = check_length("scale", scale)
        self.guess_gain = torch.ones(self.steps, dtype=torch.float64)
        self.guess_spread = torch.full((self.steps,), self.scale, dtype=torch.float64)
        self.state_scale = self.guess_spread

    def guess_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """`[..., dim]`, that of the states."""
        return tuple(shape)

    def guessed_sample(self, guess: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """x̂_T `[..., dim]`, which a guess at x_k = `state` means; here the guess itself."""
        return guess

    def guess_cost(self, guess: Tensor, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """−`mean_log_prob_reverse` `[...]`, or ½ ‖x̂_T − x_T‖² where steps have no density."""
        if self.has_density:
            return super().guess_cost(guess, sample, following, state, k)
        return 0.5 * (self.guessed_sample(guess, state, k) - sample).square().sum(-1)

    def _no_density(self, what: str) -> InputError:
        return InputError(
            f"reference: {type(self).__name__} has no density of {what}, so that there is no likelihood and no "
            "log-ratio; train it by random_level_loss, which then is the squared error of the guess"
        )


def at(table: Tensor, k: Tensor, like: Tensor) -> Tensor:
    """Entries `k` `[...]` of a table `[T]`, as `[..., 1]` in the dtype and on the device of `like`."""
    return table.to(like.device, non_blocking=True).take(k).to(like.dtype).unsqueeze(-1)
