r"""What each step of a chain creates and destroys, and how much of the start is still known: exact, in nats.

Along A = X_0 -> X_1 -> ... -> X_n, for every step

    created = H(X_k+1 | X_k),    destroyed = H(X_k | X_k+1),    H(X_k+1) = H(X_k) + created − destroyed

so that along a loop, which ends in the law it began with, as much is created as is destroyed. What is created has
nothing to do with what came before, which the data-processing inequality says in two ways:

    destruction story    I(X_0; X_0) >= I(X_0; X_1) >= ... >= I(X_0; X_n)    what is forgotten stays forgotten
    generation story     I(X_n; X_0) <= I(X_n; X_1) <= ... <= I(X_n; X_n)    what is not yet decided cannot be known

Source: Noël, *Destruction is a General Strategy to Learn Generation* (https://arxiv.org/abs/2605.30553), tutorial,
"Destroying and Generating".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .finite import FiniteChannel, probabilities

__all__ = ["Account", "Step", "account", "entropy"]


def entropy(law: Any) -> float:
    """H = −Σ p log p in nats, of a law of any shape.

    Raises:
        InputError: for probabilities that are negative, not finite, or do not sum to one.

    Example:
        >>> round(entropy([0.5, 0.5]), 4)
        0.6931
        >>> entropy([1.0])
        0.0
    """
    flat = probabilities("law", torch.as_tensor(law, dtype=torch.float64).reshape(-1), dims=1)
    return float(torch.special.entr(flat).sum())


@dataclass(frozen=True)
class Step:
    """The books of one use of a channel, in nats.

    Attributes:
        name: which channel, or which arrow of a diagram.
        entropy_before: H of what went in.
        entropy_after: H of what came out.
        created: H(output | input).
        destroyed: H(input | output).
    """

    name: str
    entropy_before: float
    entropy_after: float
    created: float
    destroyed: float

    @property
    def kept(self) -> float:
        """I(input; output), what came through."""
        return self.entropy_before - self.destroyed


@dataclass(frozen=True)
class Account:
    """The books of a chain, in nats, for n channels.

    Attributes:
        steps: one for each channel.
        destruction_story: I(X_0; X_k) for k = 0..n, `[n+1]`; it never rises.
        generation_story: I(X_n; X_k) for k = 0..n, `[n+1]`; it never falls.
        laws: the law of each X_k, n+1 tensors.
    """

    steps: tuple[Step, ...]
    destruction_story: Tensor
    generation_story: Tensor
    laws: tuple[Tensor, ...]

    @property
    def created(self) -> float:
        """Σ H(X_k+1 | X_k)."""
        return sum(step.created for step in self.steps)

    @property
    def destroyed(self) -> float:
        """Σ H(X_k | X_k+1); equal to `created` where the last law has the entropy of the first."""
        return sum(step.destroyed for step in self.steps)


def account(law: Any, channels: Sequence[FiniteChannel]) -> Account:
    """Keep the books of a message with this `law` that goes through the `channels` one after the other.

    Args:
        law: of the start, `[inputs of the first channel]`.
        channels: at least one; each takes what the one before gives.

    Raises:
        InputError: for a law or channels that do not fit.

    Example:
        Mash two of three messages, then guess which it was: the loop closes, and the books with it.

        >>> from ebbflow.envs.channels import Mash
        >>> law = [0.5, 0.25, 0.25]
        >>> mash = Mash([0, 1, 1])
        >>> loop = account(law, [mash, mash.reversed(law)])
        >>> [(step.name, round(step.created, 4), round(step.destroyed, 4)) for step in loop.steps]
        [('Mash', 0.0, 0.3466), ('Guess', 0.3466, 0.0)]
        >>> loop.destruction_story  # I(A; A), I(A; B), I(A; A')
        tensor([1.0397, 0.6931, 0.6931], dtype=torch.float64)
    """
    if not channels:
        raise InputError("channels: expected at least one, got none")
    laws = [probabilities("law", law, dims=1)]
    steps = []
    so_far, stories = None, [entropy(laws[0])]
    for channel in channels:
        laws.append(channel.output_law(laws[-1]))
        steps.append(_step(laws[-2], channel))
        so_far = channel if so_far is None else so_far.then(channel)
        stories.append(_step(laws[0], so_far).kept)
    to_come, backwards = None, [entropy(laws[-1])]
    for channel, before in zip(reversed(channels), reversed(laws[:-1]), strict=True):
        to_come = channel if to_come is None else channel.then(to_come)
        backwards.append(_step(before, to_come).kept)
    return Account(
        steps=tuple(steps),
        destruction_story=torch.tensor(stories, dtype=torch.float64),
        generation_story=torch.tensor(backwards[::-1], dtype=torch.float64),
        laws=tuple(laws),
    )


def _step(law: Tensor, channel: FiniteChannel) -> Step:
    joint = law.unsqueeze(-1) * channel.matrix  # [inputs, outputs]
    before, after, both = (float(torch.special.entr(table).sum()) for table in (law, joint.sum(0), joint))
    return Step(channel.name, before, after, created=max(both - before, 0.0), destroyed=max(both - after, 0.0))
