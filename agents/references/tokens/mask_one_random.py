r"""Mask one random token a step: masked diffusion, and a mixture of all orders of autoregression.

    p←(x_k | x_{k+1}) = 1 / (k + 1)      for each of the k + 1 tokens that are left
    p←(x_k | x_T)     = 1 / C(T, k)      for each set of k tokens that are kept,          T = length
    P(i | x_k)        = 1 / (T − k)      for each position that is masked: the time reversal, whatever the data

Source: "MashOneRandomUnmaskedToken" of arXiv 2605.30553; as absorbing-state diffusion, arXiv 2107.03006; as the
order-agnostic autoregression that it is, arXiv 2110.02037.
"""

import torch
from torch import Tensor

from .masking import Masking
from .one_position import of_tokens

__all__ = ["MaskOneRandom"]


class MaskOneRandom(Masking):
    """Masks a uniformly random token out of those that are left (module docstring).

    Args:
        space: the token space.

    Raises:
        InputError: for a space that is not of tokens, and for steps and levels out of range.

    Example:
        >>> from ebbflow.envs import Tokens
        >>> reference = MaskOneRandom(Tokens(length=3, vocabulary=5))
        >>> sample = torch.tensor([[4, 0, 1]])
        >>> (reference.sample_level(sample, 1) == 5).sum()  # one token is left
        tensor(2)
        >>> reference.log_prob_level(torch.tensor([4, 5, 5]), sample, 1).exp()
        tensor([0.3333])
    """

    def kept(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """A random set of k positions for each sample, bool `[..., length]`."""
        rank = torch.rand(sample.shape, device=sample.device).argsort(-1).argsort(-1)
        return rank < self._level(k, sample).unsqueeze(-1)

    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """x_k, `[..., length]`: one of the tokens that are left is masked."""
        self._step(k, following)
        noise = torch.rand(following.shape, device=following.device)
        position = noise.masked_fill(following == self.space.mask, -1.0).argmax(-1, keepdim=True)
        return following.scatter(-1, position, self.space.mask)

    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """−log(k + 1) `[...]`, for x_{k+1} with k + 1 tokens left."""
        left = self._step(k, state) + 1
        one_less = (self.tokens_left(following) == left) & (self.tokens_left(state) == left - 1)
        log_prob = -left.to(torch.get_default_dtype()).log()
        return torch.where(self.consistent(state, following) & one_less, log_prob, -torch.inf)

    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """−log C(T, k) `[...]`."""
        left = self._level(k, state)
        n, m = torch.tensor(float(self.steps)), left.to(torch.get_default_dtype())
        log_prob = (m + 1).lgamma() + (n - m + 1).lgamma() - (n + 1).lgamma()
        possible = self.consistent(state, sample) & (self.tokens_left(state) == left)
        return torch.where(possible, log_prob, -torch.inf)

    def mean_log_prob_reverse(
        self, guess: Tensor, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor
    ) -> Tensor:
        """The mean over all masked positions of log guess_i(x_{T, i}), minus log(T − k), `[...]`."""
        masked = state == self.space.mask
        guessed = torch.where(masked, of_tokens(guess.log_softmax(-1), sample), 0.0).sum(-1) / masked.sum(-1)
        return guessed - (self.steps - self._step(k, state)).to(guessed.dtype).log()

    def known_term(self, k: int | Tensor) -> Tensor:
        """log(k + 1) − log(T − k), `[...]`, whose sum over all steps is zero."""
        done = torch.as_tensor(k).to(torch.get_default_dtype())
        return (done + 1).log() - (self.steps - done).log()

    def position_log_prob(self, state: Tensor, k: int | Tensor) -> Tensor:
        """−log(T − k) at masked positions, −inf elsewhere, `[..., length]`."""
        self._step(k, state)
        masked = state == self.space.mask
        share = -masked.sum(-1, keepdim=True).clamp_min(1).to(torch.get_default_dtype()).log()
        return torch.where(masked, share, -torch.inf)
