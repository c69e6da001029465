r"""Mask one token a step in a stated order; from the last to the first it is autoregression.

Generation writes position order[k] in step k, and destruction, which is deterministic, masks it there:

    x_k = x_{k+1} with order[k] masked = x_T with order[k], …, order[T−1] masked,          T = length

Source: "MashLastToken" of arXiv 2605.30553.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....envs.errors import InputError
from ....envs.spaces import Tokens
from .masking import Masking, possible

__all__ = ["MaskInOrder", "check_order", "mask_last"]


class MaskInOrder(Masking):
    """Masks positions in the reverse of the order in which generation writes them (module docstring).

    Args:
        space: the token space.
        order: the positions in the order of generation, each once.

    Raises:
        InputError: for an order that is no permutation of the positions, and for steps and levels out of range.

    Example:
        >>> from ebbflow.envs import Tokens
        >>> reference = MaskInOrder(Tokens(length=3, vocabulary=5), order=[2, 0, 1])
        >>> reference.sample_level(torch.tensor([[4, 0, 1]]), 2)  # position 1 is written last, so it is masked first
        tensor([[4, 5, 1]])
    """

    deterministic = True

    def __init__(self, space: Tokens, order: Sequence[int] | Tensor) -> None:
        super().__init__(space)
        self.order = check_order(order, space.length)
        self._rank = self.order.argsort()  # at which step generation writes each position

    @property
    def orders(self) -> Tensor:
        """The one that was stated, `[1, length]`."""
        return self.order.unsqueeze(0)

    def kept(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """The first k positions of the order, bool `[..., length]`."""
        return self._rank.to(sample.device, non_blocking=True) < self._level(k, sample).unsqueeze(-1)

    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """x_k, `[..., length]`: `following` with position order[k] masked."""
        here = self._rank.to(following.device, non_blocking=True) == self._step(k, following).unsqueeze(-1)
        return following.masked_fill(here, self.space.mask)

    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """0 `[...]` for the one x_k that comes of x_{k+1} with the first k + 1 positions left, −inf for others."""
        index = self._step(k, state)
        right = (following != self.space.mask) == self.kept(following, index + 1)
        return possible(right.all(-1) & (state == self.sample_step(following, index)).all(-1))

    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """0 `[...]` for the one x_k that comes of x_T, −inf for others."""
        return possible((state == self.sample_level(sample, k)).all(-1))

    def position_log_prob(self, state: Tensor, k: int | Tensor) -> Tensor:
        """0 at position order[k], −inf elsewhere, `[..., length]`."""
        here = self._rank.to(state.device, non_blocking=True) == self._step(k, state).unsqueeze(-1)
        return possible(here).expand(state.shape)


def mask_last(space: Tokens) -> MaskInOrder:
    """Masks the last token that is left: generation writes from left to right, as autoregression does.

    Example:
        >>> from ebbflow.envs import Tokens
        >>> mask_last(Tokens(length=3, vocabulary=5)).sample_step(torch.tensor([[4, 0, 1]]), 2)
        tensor([[4, 0, 5]])
    """
    return MaskInOrder(space, range(space.length))


def check_order(order: Sequence[int] | Tensor, length: int) -> Tensor:
    """An order of all positions as int64 `[length]`.

    Raises:
        InputError: if it is no permutation of 0 … length − 1.
    """
    try:
        positions = torch.as_tensor(list(order))
    except (TypeError, ValueError, RuntimeError):
        positions = torch.empty(0)
    if positions.dtype != torch.int64 or not positions.sort().values.equal(torch.arange(length)):
        raise InputError(f"order: expected each position from 0 to {length - 1} once, got {order!r}")
    return positions
