"""References of tokens by name, as a run's settings have them."""

from collections.abc import Callable

from ....envs.channels.elementary import Shuffle
from ....envs.errors import InputError
from ....envs.spaces import Tokens
from .mask_in_order import mask_last
from .mask_learned_order import MaskLearnedOrder
from .mask_mixture import MaskMixture
from .mask_one_random import MaskOneRandom
from .reference import TokenReference
from .shuffle_every_token import ShuffleEveryToken
from .shuffle_one_token import ShuffleOneToken

__all__ = ["TOKEN_REFERENCES", "get_token_reference"]

_TOUCHES = 4  # steps for each token: exp(−4) = 2 % of the tokens are then as they were
_LEFT = 0.01  # share of a token that is still its own after all steps


def _shuffle_one_token(space: Tokens, steps: int | None, **_: int) -> TokenReference:
    return ShuffleOneToken(space, _TOUCHES * space.length if steps is None else steps, positions="learned")


def _shuffle_every_token(space: Tokens, steps: int | None, **_: int) -> TokenReference:
    count = space.length if steps is None else steps
    kept = _LEFT ** (1.0 / max(count, 1))
    off = (1.0 - kept) / space.vocabulary
    rows = [[off + kept * (i == j) for j in range(space.vocabulary)] for i in range(space.vocabulary)]
    return ShuffleEveryToken(space, Shuffle(rows), count)


TOKEN_REFERENCES: dict[str, Callable[..., TokenReference]] = {
    "mask_one_random": lambda space, steps, **_: MaskOneRandom(space),
    "mask_last": lambda space, steps, **_: mask_last(space),
    "mask_last_or_random": lambda space, steps, **_: MaskMixture([mask_last(space), MaskOneRandom(space)], [0.5, 0.5]),
    "mask_learned_order": lambda space, steps, **network: MaskLearnedOrder(space, **network),
    "shuffle_one_token": _shuffle_one_token,
    "shuffle_every_token": _shuffle_every_token,
}


def get_token_reference(name: str, space: Tokens, steps: int | None = None, **network: int) -> TokenReference:
    """Reference by name.

    Args:
        name: a key of `TOKEN_REFERENCES`.
        space: the token space.
        steps: number of steps T; by default the length, and four times the length where one token at random is
            shuffled. Masking takes one step for each token and no other number.
        network: `width` and `depth` of the network of a destruction that is learned; others have none.

    Raises:
        InputError: for an unknown name, or a number of steps that the reference cannot take.

    Example:
        >>> get_token_reference("mask_last", Tokens(length=3, vocabulary=5)).steps
        3
        >>> get_token_reference("shuffle_one_token", Tokens(length=3, vocabulary=5)).steps
        12
    """
    if name not in TOKEN_REFERENCES:
        raise InputError(f"reference: expected one of {sorted(TOKEN_REFERENCES)} for tokens, got {name!r}")
    reference = TOKEN_REFERENCES[name](space, steps, **network)
    if steps not in (None, reference.steps):
        raise InputError(f"steps: {name} masks one token a step, so expected {reference.steps}, got {steps!r}")
    return reference
