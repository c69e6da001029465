r"""Mask one token a step under a mixture of orders: some stated ones, some at random, each with a share.

With reference j of share π_j, level law p_j(x_k | x_T) and step p_j(x_k | x_{k+1}), none of which looks at the tokens,

    level        p←(x_k | x_T)     = Σ_j π_j p_j(x_k | x_T)
    step         p←(x_k | x_{k+1}) = Σ_j r_j(x_{k+1}) p_j(x_k | x_{k+1}),      r_j ∝ π_j p_j(x_{k+1} | x_T)
    generation   P(i | x_k)        = Σ_j r_j(x_k) P_j(i | x_k),                the time reversal, whatever the data

It is the Markov chain whose levels, and pairs of neighbouring levels, are those of an order drawn once and kept: which
order it was is forgotten but for what the masked set tells. A share of `MaskOneRandom` keeps every order possible, and
the ratio of the random level law to that of the mixture below 1 / π: a proposal with bounded weights (defensive
importance sampling). Sources: arXiv 2605.30553 (orders); Hesterberg, Technometrics 37 (1995), 185–194.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....envs.channels.finite import probabilities
from ....envs.errors import InputError
from .masking import Masking
from .one_position import draw, of_tokens

__all__ = ["MaskMixture"]


class MaskMixture(Masking):
    """Masks in an order that is drawn from a mixture (module docstring).

    Args:
        references: masking references of one space, whose level laws are closed: not `MaskLearnedOrder`.
        shares: their probabilities π, all > 0.

    Raises:
        InputError: for other references, spaces that differ, and shares that are no probabilities > 0, one for each.

    Example:
        >>> from ebbflow.agents.references.tokens import MaskOneRandom, mask_last
        >>> from ebbflow.envs import Tokens
        >>> space = Tokens(length=3, vocabulary=5)
        >>> reference = MaskMixture([MaskOneRandom(space), mask_last(space)], [0.5, 0.5])
        >>> sample = torch.tensor([[4, 0, 1]])
        >>> reference.log_prob_level(torch.tensor([[4, 0, 5], [4, 5, 1], [5, 0, 1]]), sample, 2).exp()
        tensor([0.6667, 0.1667, 0.1667])
    """

    def __init__(self, references: Sequence[Masking], shares: Sequence[float] | Tensor) -> None:
        if not references or not all(isinstance(one, Masking) and one.closed_levels for one in references):
            names = [type(one).__name__ for one in references]
            raise InputError(f"references: expected masking references with closed level laws, got {names}")
        for one in references:
            if one.space != references[0].space:
                raise InputError(f"references: expected one space, got {references[0].space} and {one.space}")
        super().__init__(references[0].space)
        self.references = list(references)
        self.shares = probabilities("shares", shares, dims=1)
        if len(self.shares) != len(self.references) or not bool((self.shares > 0.0).all()):
            raise InputError(f"shares: expected {len(references)} probabilities > 0, got {self.shares.tolist()}")

    @property
    def orders(self) -> Tensor | None:
        """Those of all references, `[m, length]`; None where one of them takes any."""
        orders = [one.orders for one in self.references]
        return None if any(one is None for one in orders) else torch.cat([one for one in orders if one is not None])

    def kept(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """What one of the references keeps, bool `[..., length]`."""
        which = draw(self.shares.to(sample.device, non_blocking=True).expand(*sample.shape[:-1], -1))
        return _of(which, [one.kept(sample, k).expand(sample.shape) for one in self.references])

    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """x_k, `[..., length]`: a step of one of the references, drawn by what `following` tells of them."""
        which = draw(self._responsibility(following, self._step(k, following) + 1).exp())
        return _of(which, [one.sample_step(following, k) for one in self.references])

    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """The sum of the module docstring, `[...]`."""
        steps = torch.stack([one.log_prob_step(state, following, k) for one in self.references], -1)
        return (self._responsibility(following, self._step(k, following) + 1) + steps).logsumexp(-1)

    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """The sum of the module docstring, `[...]`."""
        return self._log_prob_levels(state, sample, self._level(k, state)).logsumexp(-1)

    def position_log_prob(self, state: Tensor, k: int | Tensor) -> Tensor:
        """log P(i | x_k) of the module docstring, `[..., length]`."""
        positions = torch.stack([one.position_log_prob(state, k) for one in self.references], -1)
        return (self._responsibility(state, self._step(k, state)).unsqueeze(-2) + positions).logsumexp(-1)

    def mean_log_prob_reverse(
        self, guess: Tensor, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor
    ) -> Tensor:
        """Σ_i P(i | x_k) (log P(i | x_k) + log guess_i(x_{T, i})), `[...]`: over all positions that may be written."""
        position = self.position_log_prob(state, k)
        of_position = position + of_tokens(guess.log_softmax(-1), sample)
        return torch.where(position > -torch.inf, position.exp() * of_position, 0.0).sum(-1)

    def _log_prob_levels(self, state: Tensor, sample: Tensor, k: Tensor) -> Tensor:
        """log π_j + log p_j(x_k | x_T), `[..., references]`."""
        levels = torch.stack([one.log_prob_level(state, sample, k) for one in self.references], -1)
        return self.shares.log().to(levels, non_blocking=True) + levels

    def _responsibility(self, state: Tensor, k: Tensor) -> Tensor:
        """log r_j(x_k), `[..., references]`; the shares where no reference leads to the state."""
        levels = self._log_prob_levels(state, state, k)  # which tokens are kept does not depend on what they are
        reached = (levels > -torch.inf).any(-1, keepdim=True)
        return torch.where(reached, levels, self.shares.log().to(levels, non_blocking=True)).log_softmax(-1)


def _of(which: Tensor, candidates: Sequence[Tensor]) -> Tensor:
    """Rows of the candidate that is drawn for each, `[..., length]`."""
    index = which.unsqueeze(-1).unsqueeze(0).expand(1, *candidates[0].shape)
    return torch.stack(list(candidates)).gather(0, index).squeeze(0)
