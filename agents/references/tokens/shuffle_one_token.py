r"""Send one random token through a channel each step; through the uniform one, it is replaced by noise.

With n = T − k steps behind it, the token at position i has gone c_i times through the channel, (c_1, …) multinomial:

    p←(x_k | x_{k+1}) = (1/L) Σ_i M[x_{k+1, i}, x_{k, i}] · [the states are equal elsewhere],       L = length
    p←(x_k | x_T)     = Σ_c n! / (Π_i c_i! · L^n) · Π_i M^{c_i}[x_{T, i}, x_{k, i}]
    p_0 = Π_i s,  with s = s·M the channel's stationary law (uniform for the uniform channel)

The sum over c is exact: hits are handed out position by position, each getting Binomial(those left, 1 / positions
left) of them, which takes L·n² operations. Generation's position law P(i | x_k) is uniform, or learned together with
the guess, as the softmax over all positions and tokens at once. That of the exact time reversal depends on the data:
with a uniform one, the likelihood bound stays loose; with a learned one and the exact guess, it is tight up to what T
steps leave undestroyed.

Source: "ShuffleOneRandomToken" of arXiv 2605.30553; arXiv 2310.16834 (SEDD, uniform).
"""

import math
from typing import Any

import torch
from torch import Tensor

from ....envs.errors import InputError
from ....envs.spaces import Tokens
from .one_position import OnePosition, log_sum_over_positions
from .token_channel import TokenChannel

__all__ = ["ShuffleOneToken"]


class ShuffleOneToken(OnePosition):
    """Destroys one token a step, at a uniformly random position, through a channel (module docstring).

    Args:
        space: the token space.
        steps: number of steps T, >= 1. Of L tokens, a share of about exp(−T/L) has not been touched after them.
        matrix: P(output | input) of the channel, `[vocabulary, vocabulary]`, or a `FiniteChannel`; uniform by default.
        positions: the position law of generation, "uniform" or "learned".

    Raises:
        InputError: for a matrix that is no channel over the vocabulary or that destroys nothing, such as the identity,
            for another `positions`, and for steps and levels out of range.

    Example:
        >>> from ebbflow.envs import Tokens
        >>> reference = ShuffleOneToken(Tokens(length=2, vocabulary=2), steps=20)
        >>> sample = torch.tensor([[0, 1]])
        >>> reference.log_prob_step(torch.tensor([[0, 1], [0, 0], [1, 0]]), sample, 19).exp()
        tensor([0.5000, 0.2500, 0.0000])
        >>> reference.log_prob_level(reference.space.all_states(), sample, 0).exp()  # all but forgotten
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def __init__(self, space: Tokens, steps: int, matrix: Any = None, *, positions: str = "uniform") -> None:
        super().__init__(space, steps)
        if positions not in ("uniform", "learned"):
            raise InputError(f"positions: expected 'uniform' or 'learned', got {positions!r}")
        self.positions = positions
        self.channel = TokenChannel(matrix, space.vocabulary, self.steps)

    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """x_k, `[..., length]`: one token of `following` sent through the channel."""
        self._step(k, following)
        position = torch.randint(self.space.length, (*following.shape[:-1], 1), device=following.device)
        token = self.channel.sample(following.gather(-1, position), following.new_ones(()))
        return following.scatter(-1, position, token)

    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """The sum over positions of the module docstring, `[...]`."""
        self._step(k, following)
        sent = self.channel.log_prob(state, following, following.new_ones(()))  # [..., length]
        return log_sum_over_positions(sent - math.log(self.space.length), following, state)

    def sample_level(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """x_k, `[..., length]`: every token sent through the channel as often as it was hit."""
        hits = (self.steps - self._level(k, sample)).expand(sample.shape[:-1]).unsqueeze(-1)
        where = torch.randint(self.space.length, (*sample.shape[:-1], self.steps), device=sample.device)
        counts = torch.arange(self.steps, device=sample.device) < hits  # the first T − k of T throws count
        return self.channel.sample(sample, torch.zeros_like(sample).scatter_add_(-1, where, counts.long()))

    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """log of the sum over counts of the module docstring, `[...]`, exact."""
        state, sample = torch.broadcast_tensors(state, sample)
        hits = (self.steps - self._level(k, sample)).expand(sample.shape[:-1])
        left = torch.nn.functional.one_hot(hits, self.steps + 1).double()  # law of the hits left to hand out
        powers = self.channel.powers.to(sample.device, non_blocking=True)
        counts = torch.arange(self.steps + 1, device=sample.device)
        used = (counts.unsqueeze(-1) - counts).clamp_min(0)  # [left before, left after]; shares are 0 below
        for i in range(self.space.length):
            sent = powers[:, sample[..., i], state[..., i]].movedim(0, -1)  # [..., T+1]: M^c of this position
            shares = _hit_shares(self.space.length - i, self.steps).to(sample.device, non_blocking=True)
            left = torch.einsum("...r,rs,...rs->...s", left, shares, sent[..., used])
        return left[..., 0].log().to(torch.get_default_dtype())

    def sample_destroyed(self, n: int) -> Tensor:
        """Tokens of the stationary law, `[n, length]`."""
        return self.channel.sample_stationary(n, self.space.length)

    def log_prob_destroyed(self, state: Tensor) -> Tensor:
        """Σ_i log s `[...]`."""
        return self.channel.log_prob_stationary(state).sum(-1)

    def position_log_prob(self, state: Tensor, k: int | Tensor) -> Tensor:
        """−log L everywhere, `[..., length]`; of learned positions, where they start from."""
        self._step(k, state)
        return torch.full(state.shape, -math.log(self.space.length), device=state.device)

    def joint_log_prob(self, logits: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """log P of position and token, `[..., length, vocabulary]`: of learned positions, one softmax over both."""
        if self.positions == "uniform":
            return super().joint_log_prob(logits, state, k)
        self._step(k, state)
        return logits.flatten(-2).log_softmax(-1).reshape(logits.shape)


def _hit_shares(positions: int, steps: int) -> Tensor:
    """P(s hits are left | r before) when one of so many positions takes its hits, `[steps + 1 (r), steps + 1 (s)]`."""
    hits = torch.arange(steps + 1, dtype=torch.float64)
    before, after = torch.meshgrid(hits, hits, indexing="ij")
    used = (before - after).clamp_min(0.0)
    choices = (before + 1).lgamma() - (used + 1).lgamma() - (after + 1).lgamma()
    share = torch.tensor(1.0 / positions, dtype=torch.float64)
    log_share = choices + torch.xlogy(used, share) + torch.xlogy(after, 1.0 - share)
    return torch.where(after <= before, log_share.exp(), 0.0)
