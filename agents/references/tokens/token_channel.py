r"""A channel from tokens to tokens, its powers, and the one law that it drowns every token in.

With M[a, b] = P(b | a) the token sent n times through the channel has the law M^n[a, ·]. All rows of M^n tend to the
same stationary law s = s·M if, and only if, the channel forgets; identities and other bijections never do, so that
they destroy nothing. Source: "Shuffling Everything" of arXiv 2605.30553.
"""

from typing import Any

import torch
from torch import Tensor

from ....envs.channels.finite import FiniteChannel
from ....envs.errors import InputError
from .one_position import draw

__all__ = ["TokenChannel"]

_SAME = 1e-9  # rows of a power that are as close as this have forgotten where they came from
_DOUBLINGS = 40  # after 2^40 uses


class TokenChannel:
    """A stochastic matrix over a vocabulary that forgets, with its powers up to `uses`, in float64.

    Args:
        matrix: P(output | input), `[vocabulary, vocabulary]`, rows sum to one; a `FiniteChannel` (such as `Shuffle`);
            or None for the uniform one, which forgets at once.
        vocabulary: number of tokens.
        uses: how often it is used at most.

    Attributes:
        powers: M^0 … M^uses, `[uses + 1, vocabulary, vocabulary]`.
        stationary: the law that every token ends in, `[vocabulary]`.
        deterministic: whether the matrix holds nothing but zeros and ones.

    Raises:
        InputError: for no stochastic matrix over the vocabulary, and for one that does not forget.

    Example:
        >>> TokenChannel([[0.9, 0.1], [0.3, 0.7]], vocabulary=2, uses=3).stationary
        tensor([0.7500, 0.2500], dtype=torch.float64)
        >>> TokenChannel([[1.0, 0.0], [0.0, 1.0]], vocabulary=2, uses=3)
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: matrix: expected one that destroys, its powers tending to equal rows; those of
        tokens 0 and 1 stay 2 apart
    """

    def __init__(self, matrix: Any, vocabulary: int, uses: int) -> None:
        if matrix is None:
            matrix = torch.full((vocabulary, vocabulary), 1.0 / vocabulary, dtype=torch.float64)
        channel = matrix if isinstance(matrix, FiniteChannel) else FiniteChannel(matrix)
        one = channel.matrix
        if one.shape != (vocabulary, vocabulary):
            raise InputError(f"matrix: expected one over {vocabulary} tokens, got shape {list(one.shape)}")
        many = one
        for _ in range(_DOUBLINGS):
            many = many @ many
            many = many / many.sum(-1, keepdim=True)
        apart = (many.unsqueeze(0) - many.unsqueeze(1)).abs().sum(-1)
        if apart.max() > _SAME:
            a, b = divmod(int(apart.argmax()), vocabulary)
            raise InputError(
                "matrix: expected one that destroys, its powers tending to equal rows; those of tokens "
                f"{a} and {b} stay {apart.max():.3g} apart"
            )
        powers = [torch.eye(vocabulary, dtype=torch.float64)]
        for _ in range(uses):
            powers.append(powers[-1] @ one)
        self.powers = torch.stack(powers)
        self.stationary = many.mean(0)
        self.deterministic = bool(((one == 0.0) | (one == 1.0)).all())

    def sample(self, token: Tensor, uses: Tensor) -> Tensor:
        """Tokens `[...]` sent so many times through the channel, int64 `[...]`."""
        return draw(self._powers(token, uses, token))

    def log_prob(self, output: Tensor, token: Tensor, uses: Tensor) -> Tensor:
        """log M^uses[token, output], `[...]`, in torch's default dtype."""
        return self._powers(token, uses, token, output).log().to(torch.get_default_dtype())

    def _powers(self, like: Tensor, *index: Tensor) -> Tensor:
        """Entries of the powers; each index as a tensor of all, for the host reads one that is a single number."""
        return self.powers.to(like.device, non_blocking=True)[torch.broadcast_tensors(*index)]

    def sample_stationary(self, *shape: int) -> Tensor:
        """Draws of the stationary law, int64 of this shape."""
        total = torch.Size(shape).numel()
        return torch.multinomial(self.stationary, total, replacement=True).reshape(shape)

    def log_prob_stationary(self, token: Tensor) -> Tensor:
        """log s[token], `[...]`, in torch's default dtype."""
        return self.stationary.to(token.device, non_blocking=True)[token].log().to(torch.get_default_dtype())
