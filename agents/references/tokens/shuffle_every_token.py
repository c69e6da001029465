r"""Send every token through a channel each step: level k has gone T − k times through it.

    p←(x_k | x_{k+1}) = Π_i M[x_{k+1, i}, x_{k, i}]           p←(x_k | x_T) = Π_i M^{T−k}[x_{T, i}, x_{k, i}]
    p→(x_{k+1} | x_k) = Π_i guess_i(x_{k+1, i})               p_0 = Π_i s,  with s = s·M the channel's stationary law

Generation guesses all positions of a step at once, each for itself; what that misses vanishes as a step changes fewer
tokens. After T steps, x_0 has p_0 only as far as the channel has forgotten by then, which the likelihood bound counts.

Source: "Shuffling Everything" of arXiv 2605.30553; discrete diffusion with any transition matrix, arXiv 2107.03006.
"""

from typing import Any

from torch import Tensor

from ....envs.spaces import Tokens
from .one_position import draw, of_tokens
from .reference import TokenReference
from .token_channel import TokenChannel

__all__ = ["ShuffleEveryToken"]


class ShuffleEveryToken(TokenReference):
    """Destroys all tokens a little in each step, through the same channel (module docstring).

    Args:
        space: the token space.
        matrix: P(output | input) of one token in one step, `[vocabulary, vocabulary]`, or a `FiniteChannel`.
        steps: number of steps T, >= 1.

    Raises:
        InputError: for a matrix that is no channel over the vocabulary or that destroys nothing, such as the identity,
            and for steps and levels out of range.

    Example:
        >>> import torch
        >>> from ebbflow.envs import Tokens
        >>> from ebbflow.envs.channels import Shuffle
        >>> shuffle = Shuffle([[0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
        >>> reference = ShuffleEveryToken(Tokens(length=1, vocabulary=3), shuffle, steps=25)
        >>> outcomes, start = torch.tensor([[0], [1], [2]]), torch.tensor([[0]])
        >>> reference.log_prob_level(outcomes, start, 0).double().exp().sub(1 / 3).abs().max() < 1e-7
        tensor(True)
    """

    def __init__(self, space: Tokens, matrix: Any, steps: int) -> None:
        super().__init__(space, steps)
        self.channel = TokenChannel(matrix, space.vocabulary, self.steps)
        self.deterministic = self.channel.deterministic

    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """x_k, `[..., length]`: each token of `following` sent through the channel."""
        self._step(k, following)
        return self.channel.sample(following, following.new_ones(()))

    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """Σ_i log M `[...]`."""
        self._step(k, following)
        return self.channel.log_prob(state, following, following.new_ones(())).sum(-1)

    def sample_level(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """x_k, `[..., length]`: each token of `sample` sent T − k times through the channel."""
        return self.channel.sample(sample, self.steps - self._level(k, sample).unsqueeze(-1))

    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """Σ_i log M^{T−k} `[...]`."""
        return self.channel.log_prob(state, sample, self.steps - self._level(k, sample).unsqueeze(-1)).sum(-1)

    def sample_destroyed(self, n: int) -> Tensor:
        """Tokens of the stationary law, `[n, length]`."""
        return self.channel.sample_stationary(n, self.space.length)

    def log_prob_destroyed(self, state: Tensor) -> Tensor:
        """Σ_i log s `[...]`."""
        return self.channel.log_prob_stationary(state).sum(-1)

    def sample_reverse(self, guess: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """Tokens of the guess at all positions, `[..., length]`."""
        self._step(k, state)
        return draw(guess.softmax(-1))

    def log_prob_reverse(self, guess: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """Σ_i log guess_i(x_{k+1, i}) `[...]`."""
        self._step(k, state)
        return of_tokens(guess.log_softmax(-1), following).sum(-1)
