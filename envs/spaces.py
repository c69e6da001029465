r"""State spaces: what a state is, and the one pure function that moves it.

A space owns the physics of a trajectory. Environments and the lean rollout call the same `transition`, so a new
state space is plugged in by overriding it. A Gaussian step is taken in the `coordinates` of the space:

    Continuous    u = x
    Compressed    u = L · asinh(x / L),   x = L · sinh(u / L),   log |dx/du| = ½ log(1 + (x/L)²) for each coordinate

Compressed coordinates count lengths beyond L logarithmically, so that a Gaussian step reaches the heavy tails of a
density and comes back from them. States stay states, and densities stay densities of x.

A sequence of tokens has no coordinates: a step writes one token at one position.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .asinh import asinh
from .deferred_checks import check_rows
from .errors import InputError, whole_number

__all__ = ["Compressed", "Continuous", "Tokens"]

_MOST_STATES = 1_000_000
_FARTHEST = 40.0  # in units of L: sinh of it is 1e17, which single precision still squares


@dataclass(frozen=True)
class Continuous:
    """Euclidean space R^dim; an action is the increment itself.

    Args:
        dim: number of coordinates, >= 1.

    Raises:
        InputError: if `dim` is not a whole number >= 1.

    Example:
        >>> import torch
        >>> space = Continuous(dim=2)
        >>> space.shape
        (2,)
        >>> space.transition(torch.zeros(3, 2), torch.ones(3, 2), step=0).shape
        torch.Size([3, 2])
    """

    dim: int

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, least=1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state, `(dim,)`."""
        return (self.dim,)

    def transition(self, state: Tensor, action: Tensor, step: int | Tensor) -> Tensor:
        """State whose coordinates are those of `state` plus `action`, `[..., dim]`; here `step` does not matter."""
        return self.from_coordinates(self.coordinates(state) + action)

    def moved_to(self, u: Tensor, state: Tensor, known: Tensor, step: int | Tensor) -> tuple[Tensor, Tensor]:
        """`transition` of a `state` with `known` coordinates by the action that leads to the coordinates `u`.

        Returns:
            The state and its coordinates.
        """
        if type(self).transition is Continuous.transition:
            u = self.held(u)
            return self.from_coordinates(u), u
        moved = self.transition(state, u - known, step)
        return moved, self.coordinates(moved)

    def held(self, u: Tensor) -> Tensor:
        """The coordinates, where there is a state that has them, or those of the one next to it; here all are."""
        return u

    def coordinates(self, state: Tensor) -> Tensor:
        """The coordinates u in which an action is an increment, `[..., dim]`; here the state itself."""
        return state

    def from_coordinates(self, u: Tensor) -> Tensor:
        """The state with these coordinates, `[..., dim]`."""
        return u

    def log_volume(self, state: Tensor) -> Tensor:
        """log |dx/du| at the states `[..., dim] -> [...]`: what a density of u has more than one of x; here 0."""
        return state.new_zeros(state.shape[:-1])

    def score(self, state: Tensor, score: Tensor) -> Tensor:
        """Gradient of a log density of u by u, `[..., dim]`, from the gradient by x of the log density of x."""
        return score

    @property
    def width(self) -> int:
        """Numbers that a policy's network reads and writes for one state: `dim`."""
        return self.dim

    def embedding(self, state: Tensor) -> Tensor:
        """States as points `[..., width]` whose Euclidean distance says how far they are apart: themselves."""
        return state

    def check(self, name: str, state: object) -> Tensor:
        """Return `state` if it holds states: finite floating-point numbers `[..., dim]`.

        Raises:
            InputError: otherwise; it names the field, `name`.
        """
        if not isinstance(state, Tensor):
            raise InputError(f"{name}: expected a tensor of states [..., {self.dim}], got {type(state).__name__}")
        if not state.is_floating_point() or state.shape[-1:] != self.shape:
            raise InputError(
                f"{name}: expected floating-point states [..., {self.dim}], got {list(state.shape)} of {state.dtype}"
            )
        if not bool(state.isfinite().all()):
            raise InputError(f"{name}: expected finite numbers, got {float(state[~state.isfinite()][0])}")
        return state


@dataclass(frozen=True)
class Compressed(Continuous):
    """Euclidean space R^dim whose actions are increments of u = L · asinh(x / L), coordinate by coordinate.

    Args:
        dim: number of coordinates, >= 1.
        length: L, in units of the state, > 0: far below it, u is x; far beyond it, u grows as a logarithm.

    Raises:
        InputError: if `dim` is not a whole number >= 1, or `length` not a positive finite number.

    Example:
        >>> space = Compressed(dim=1, length=2.0)
        >>> far = torch.tensor([[200.0]])
        >>> round(float(space.coordinates(far)), 3)
        10.597
        >>> space.transition(far, -space.coordinates(far), step=0).abs().item() < 1e-4
        True
    """

    length: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.length < math.inf:
            raise InputError(f"length: expected a positive finite number, got {self.length!r}")

    def coordinates(self, state: Tensor) -> Tensor:
        """u = L · asinh(x / L), `[..., dim]`."""
        return self.length * asinh(state / self.length)

    def from_coordinates(self, u: Tensor) -> Tensor:
        """x = L · sinh(u / L), `[..., dim]`; held where sinh would overflow."""
        return self.length * torch.sinh(self.held(u) / self.length)

    def held(self, u: Tensor) -> Tensor:
        """The coordinates, no farther out than where sinh would overflow, `[..., dim]`."""
        return u.clamp(-_FARTHEST * self.length, _FARTHEST * self.length)

    def log_volume(self, state: Tensor) -> Tensor:
        """Σ ½ log(1 + (x/L)²), `[..., dim] -> [...]`."""
        return 0.5 * (state / self.length).square().log1p().sum(-1)

    def score(self, state: Tensor, score: Tensor) -> Tensor:
        """(∂_x log p(x)) · dx/du + ∂_u log |dx/du|, `[..., dim]`."""
        ratio = state / self.length
        root = (1.0 + ratio.square()).sqrt()
        return score * root + ratio / root / self.length


@dataclass(frozen=True)
class _NoTokens:
    """What is wrong with tokens that are not from 0 to `last`."""

    name: str
    length: int
    last: int
    mask: int

    def among(self, state: Tensor) -> Tensor:
        return (state < 0) | (state > self.last)

    def __call__(self, failed: int, total: int, state: Tensor) -> InputError:
        wrong = int(state[self.among(state)][0])
        hint = " (the mask: expected samples without it)" if wrong == self.mask else ""
        return InputError(f"{self.name}: expected tokens from 0 to {self.last}, got {wrong}{hint}")


@dataclass(frozen=True)
class Tokens:
    """Sequences of `length` tokens out of `vocabulary`, int64 `[..., length]`; an action is a position and a token.

    Tokens are the whole numbers from 0 to `vocabulary` - 1. One more symbol, `mask`, stands for a token that is not
    known (yet); a state that holds it is partly destroyed, and no sample.

    Args:
        length: number of positions, >= 1.
        vocabulary: number of tokens, >= 2.

    Raises:
        InputError: if `length` or `vocabulary` is no such whole number.

    Example:
        >>> space = Tokens(length=3, vocabulary=2)
        >>> space.shape, space.mask, space.fully_masked(1)
        ((3,), 2, tensor([[2, 2, 2]]))
        >>> space.transition(space.fully_masked(1), torch.tensor([[1, 0]]), step=0)  # at position 1, token 0
        tensor([[2, 0, 2]])
        >>> space.all_states().shape, space.all_states(masked=True).shape
        (torch.Size([8, 3]), torch.Size([27, 3]))
    """

    length: int
    vocabulary: int

    def __post_init__(self) -> None:
        whole_number("length", self.length, least=1)
        whole_number("vocabulary", self.vocabulary, least=2)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state, `(length,)`."""
        return (self.length,)

    @property
    def mask(self) -> int:
        """The symbol of a token that is not known, one beyond the last token."""
        return self.vocabulary

    def transition(self, state: Tensor, action: Tensor, step: int | Tensor) -> Tensor:
        """State with the token written, `[..., length]`; actions `[..., 2]` are a position and a symbol, int64."""
        return state.scatter(-1, action[..., :1], action[..., 1:])

    def coordinates(self, state: Tensor) -> Tensor:
        """What a policy reads of a state, `[..., length]`: the tokens themselves."""
        return state

    @property
    def width(self) -> int:
        """Numbers that a policy's network reads and writes for one state: one for each position and token."""
        return self.length * self.vocabulary

    def embedding(self, state: Tensor) -> Tensor:
        """Samples as points `[..., width]`, whose squared Euclidean distance is the number of tokens that differ."""
        return torch.nn.functional.one_hot(state, self.vocabulary).flatten(-2).double() / math.sqrt(2.0)

    def fully_masked(self, n: int) -> Tensor:
        """`n` states of which nothing is known, `[n, length]`."""
        return torch.full((n, self.length), self.mask)

    def all_states(self, *, masked: bool = False) -> Tensor:
        """Every state, `[vocabulary ** length, length]`, in lexicographic order; with `masked`, mask symbols too.

        Raises:
            InputError: if there are more than a million of them.
        """
        symbols = self.vocabulary + masked
        if symbols**self.length > _MOST_STATES:
            raise InputError(
                f"all_states: expected a space of at most {_MOST_STATES} states, got {symbols}^{self.length}"
            )
        return torch.cartesian_prod(*[torch.arange(symbols)] * self.length).reshape(-1, self.length)

    def check(self, name: str, state: object, *, masked: bool = False) -> Tensor:
        """Return `state` if it holds states, int64 `[..., length]`; with `masked`, mask symbols may be among them.

        Raises:
            InputError: otherwise; it names the field, `name`. Where checks are deferred (`envs/deferred_checks.py`),
                numbers that are no tokens are told later, and the next ones that are tokens are returned.
        """
        if not isinstance(state, Tensor):
            raise InputError(f"{name}: expected a tensor of tokens [..., {self.length}], got {type(state).__name__}")
        if state.dtype != torch.int64 or state.shape[-1:] != self.shape:
            raise InputError(
                f"{name}: expected tokens [..., {self.length}] of int64, got {list(state.shape)} of {state.dtype}"
            )
        wrong = _NoTokens(name, self.length, self.vocabulary - 1 + masked, self.mask)
        later = check_rows(wrong.among(state).any(-1).flatten(), [state.reshape(-1, self.length)], wrong)
        return state.clamp(0, wrong.last) if later else state  # they are looked up
