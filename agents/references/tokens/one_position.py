r"""References whose step touches one position: generation chooses the position, and then guesses the token there.

    p→(x_{k+1} | x_k) = Σ_i  P(i | x_k) · guess_i(x_{k+1, i}) · [x_{k+1} equals x_k at all other positions]

Where the two states differ, the position is known, and the sum has one term; where they are equal, every position may
have got the token that it had. P(i | x_k), the position law, belongs to the reference.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from ....envs.deferred_checks import check_rows
from ....envs.errors import InputError
from .reference import TokenReference

__all__ = ["OnePosition", "log_sum_over_positions"]


class OnePosition(TokenReference):
    """A reference that destroys one position a step (module docstring)."""

    @abstractmethod
    def position_log_prob(self, state: Tensor, k: int | Tensor) -> Tensor:
        """log P(i | x_k) `[..., length]`: which position of x_k = `state` generation step `k` writes."""

    def joint_log_prob(self, logits: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """log of P(i | x_k) · guess_i(token), `[..., length, vocabulary]`, normalised over both together."""
        return self.position_log_prob(state, k).unsqueeze(-1) + logits.log_softmax(-1)

    def sample_reverse(self, guess: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """A position and a token, drawn together."""
        drawn = draw(self.joint_log_prob(guess, state, k).exp().flatten(-2))
        position = drawn.div(self.space.vocabulary, rounding_mode="floor")
        return self.space.transition(state, torch.stack([position, drawn % self.space.vocabulary], dim=-1), 0)

    def log_prob_reverse(self, guess: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """The sum over positions of the module docstring; −inf for states that differ at two positions or more."""
        joint = self.joint_log_prob(guess, state, k)
        written = of_tokens(joint, following.clamp_max(self.space.vocabulary - 1))
        written = written.masked_fill(following == self.space.mask, -torch.inf)  # a mask is never guessed
        return log_sum_over_positions(written, state, following)


def draw(probabilities: Tensor) -> Tensor:
    """One index for each law, `[..., n] -> [...]`: that of the first of exponential clocks, at these rates, to ring.

    So does `torch.multinomial`, which waits for the device to say whether these are probabilities. They need not sum to
    one.

    Raises:
        InputError: for a law with a number that is not finite or negative, or with nothing but zeros; later, where
            checks are deferred.

    Example:
        >>> draw(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        tensor([1, 0])
    """
    total = probabilities.sum(-1)
    bad = ~((total > 0.0) & (total < torch.inf)) | (probabilities < 0.0).any(-1)
    check_rows(bad.flatten(), [total.flatten()], _no_law)
    return (probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1)


def _no_law(failed: int, total: int, found: Tensor) -> InputError:
    return InputError(
        f"probabilities: expected numbers >= 0 with a finite sum > 0, got {failed} of {total} laws without, the first "
        f"with a sum of {found.item():g}"
    )


def of_tokens(guess: Tensor, tokens: Tensor) -> Tensor:
    """What a guess `[..., length, vocabulary]` says of these tokens, `[..., length]`; batches are broadcast."""
    shape = torch.broadcast_shapes(guess.shape[:-1], tokens.shape)
    return guess.expand(*shape, -1).gather(-1, tokens.expand(shape).unsqueeze(-1)).squeeze(-1)


def log_sum_over_positions(per_position: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """log Σ_i exp(`per_position`_i) over the positions at which a step may have led from `before` to `after`, `[...]`.

    That is the one where they differ, or all if they are equal, or none (−inf).

    Example:
        >>> halves = torch.full((2,), 0.5).log()
        >>> before, after = torch.tensor([0, 0]), torch.tensor([[0, 0], [0, 1], [1, 1]])
        >>> log_sum_over_positions(halves, before, after).exp()
        tensor([1.0000, 0.5000, 0.0000])
    """
    changed = before != after
    possible = changed.sum(-1, keepdim=True) == changed.long()  # nothing differs but, perhaps, here
    return torch.where(possible, per_position, -torch.inf).logsumexp(-1)
