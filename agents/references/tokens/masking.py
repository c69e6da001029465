"""References that replace one token a step by the mask: T is the length, and what is fully destroyed is all mask."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ....envs.spaces import Tokens
from .one_position import OnePosition

__all__ = ["Masking"]


class Masking(OnePosition):
    """What masking references share; at level k, k tokens are left.

    Class attributes:
        closed_levels: whether the law of a level, `log_prob_level`, is closed, and does not look at the tokens.
    """

    masks: ClassVar[bool] = True
    closed_levels: ClassVar[bool] = True

    def __init__(self, space: Tokens) -> None:
        super().__init__(space)  # one step for each token

    @property
    def orders(self) -> Tensor | None:
        """The orders of generation that it may take, `[m, length]`; None, as here, where it may take any."""
        return None

    @abstractmethod
    def kept(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """Which positions are left at level `k`, bool `[..., length]`, drawn where that is random."""

    def sample_level(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """x_T where it is kept, and the mask elsewhere."""
        return torch.where(self.kept(sample, k), sample, self.space.mask)

    def sample_destroyed(self, n: int) -> Tensor:
        """All masked, `[n, length]`."""
        return self.space.fully_masked(n)

    def log_prob_destroyed(self, state: Tensor) -> Tensor:
        """0 where all is masked, −inf elsewhere, `[...]`."""
        return possible((state == self.space.mask).all(-1))

    def consistent(self, state: Tensor, sample: Tensor) -> Tensor:
        """Whether `state` is `sample` with some tokens masked (or none), bool `[...]`."""
        return ((state == sample) | (state == self.space.mask)).all(-1)

    def tokens_left(self, state: Tensor) -> Tensor:
        """Number of tokens that are not masked, `[...]`."""
        return (state != self.space.mask).sum(-1)


def possible(condition: Tensor) -> Tensor:
    """Log probability of what is certain where the condition holds and impossible elsewhere: 0 or −inf."""
    zeros = torch.zeros(condition.shape, device=condition.device)
    return zeros.masked_fill(~condition, -torch.inf)
