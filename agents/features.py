r"""Features of the state that the backbone and the tables read, coordinate by coordinate.

    raw       x / scale
    asinh     u = 3 · asinh(x / (3 · scale))      grows like a logarithm in heavy tails
    fourier   sin(ω u), cos(ω u) for each frequency ω
    score     clip(scale · ∇log R(x), ±5)         needs the gradient of the density, one gradient call a state

Few-step quality depends on these more than on depth: a staircase map between many modes is easy in Fourier features
and hard for a smooth network on raw input.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..envs.asinh import asinh
from ..envs.errors import InputError
from .rows_innermost import written

__all__ = ["FEATURES", "StateFeatures"]

SCORE_BOUND = 5.0


def _raw(features: "StateFeatures", x: Tensor, u: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
    return ((x / features.scale).unsqueeze(-2),)


def _asinh(features: "StateFeatures", x: Tensor, u: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
    return (u.unsqueeze(-2),)


def _fourier(features: "StateFeatures", x: Tensor, u: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
    sines: list[Tensor] = []
    cosines: list[Tensor] = []
    # A device asks for each of these operations; a processor computes, and doubles angles for a third of the time.
    blocks = features.octaves if u.device.type == "cpu" else (Octave(0, len(features.frequencies), None),)
    for begin, end, lower in blocks:
        if lower is None:
            angle = u.unsqueeze(-2) * features.frequencies[begin:end].unsqueeze(-1)
            sines.append(angle.sin())
            cosines.append(angle.cos())
        else:  # sin 2a = 2 sin a cos a and cos 2a = 1 − 2 sin² a
            sine, cosine = (known[lower].narrow(-2, 0, end - begin) for known in (sines, cosines))
            sines.append(torch.addcmul(features.zero, sine, cosine, value=2.0))
            cosines.append(torch.addcmul(features.one, sine, sine, value=-2.0))
    return *sines, *cosines


def _score(features: "StateFeatures", x: Tensor, u: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
    if score is None:
        raise InputError("features: 'score' needs the gradient of the log density, and none was given")
    return ((features.scale * score).clamp(-SCORE_BOUND, SCORE_BOUND).unsqueeze(-2),)


Feature = Callable[["StateFeatures", Tensor, Tensor, Tensor | None], tuple[Tensor, ...]]
FEATURES: dict[str, Feature] = {"raw": _raw, "asinh": _asinh, "fourier": _fourier, "score": _score}
"""By name: (features, x, u, score), each `[..., dim, B]` -> columns, each `[..., dim, number of features, B]`."""


class Octave(NamedTuple):
    """Frequencies from number `begin` on and before `end`, each twice one of the block `lower` where there is one."""

    begin: int
    end: int
    lower: int | None


def octaves(frequencies: Sequence[float]) -> tuple[Octave, ...]:
    """Frequencies block by block: what an earlier block has the halves of, in their order, is one.

    Example:
        >>> [tuple(block) for block in octaves([1.0, 1.4, 2.0, 2.8, 4.0])]
        [(0, 2, None), (2, 4, 0), (4, 5, 1)]
    """
    blocks: list[Octave] = []
    for number, frequency in enumerate(frequencies):
        doubled = [2.0 * frequencies[block.begin] for block in blocks]
        lower = doubled.index(frequency) if frequency in doubled else None
        goes_on = False
        if blocks:
            last = blocks[-1]
            goes_on = last.lower is None and lower is None
            if last.lower is not None:
                half = blocks[last.lower].begin + number - last.begin
                goes_on = half < blocks[last.lower].end and frequency == 2.0 * frequencies[half]
        if goes_on:
            blocks[-1] = last._replace(end=number + 1)
        else:
            blocks.append(Octave(number, number + 1, lower))
    return tuple(blocks)


class StateFeatures(nn.Module):
    """Per-coordinate features `[..., dim] -> [..., dim, features]`.

    Args:
        names: which features, out of `FEATURES`.
        scale: length by which the state is measured, in units of the state, > 0.
        frequencies: the ω of the Fourier features, in radians per unit of u; at least one where they are used.

    Attributes:
        count: number of features of one coordinate.

    Raises:
        InputError: for an unknown feature name, a scale that is not positive and finite, or no frequencies; in
            `forward`, when `score` is among the features and not given.

    Example:
        >>> features = StateFeatures(["raw", "asinh", "fourier"], scale=2.0, frequencies=[1.0, 2.0])
        >>> features.count
        6
        >>> features(torch.zeros(5, 3)).shape
        torch.Size([5, 3, 6])
    """

    frequencies: Tensor
    zero: Tensor
    one: Tensor

    def __init__(self, names: Sequence[str], scale: float, frequencies: Sequence[float]) -> None:
        super().__init__()
        unknown = [name for name in names if name not in FEATURES]
        if unknown or not names:
            raise InputError(f"features: expected a choice of {list(FEATURES)}, got {list(names)!r}")
        if not 0.0 < scale < float("inf"):
            raise InputError(f"scale: expected a positive finite length, got {scale!r}")
        if "fourier" in names and not len(frequencies):
            raise InputError(f"frequencies: expected at least one for the 'fourier' features, got {frequencies!r}")
        self.names = tuple(names)
        self.scale = float(scale)
        self._plain = set(names) <= {"raw", "score"}  # which do not read u
        self.octaves = octaves([float(frequency) for frequency in frequencies])
        self.register_buffer("frequencies", torch.as_tensor(list(frequencies)), persistent=False)
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.register_buffer("one", torch.ones(()), persistent=False)
        nowhere = torch.zeros(1)
        self.count = self(nowhere, nowhere).shape[-1]

    def forward(self, x: Tensor, score: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """Features of the states `x` `[..., dim]`; `score` `[..., dim]` is ∇log R at `x` where that feature is used.

        Their columns `[..., dim, features, B]` are written to `place` where that is given.
        """
        if x.ndim == 1:
            return self(x.unsqueeze(0), None if score is None else score.unsqueeze(0)).squeeze(0)
        x, score = x.movedim(0, -1), None if score is None else score.movedim(0, -1)  # rows innermost
        u = x if self._plain else 3.0 * asinh(x / (3.0 * self.scale))
        columns = [column for name in self.names for column in FEATURES[name](self, x, u, score)]
        return written(place, torch.cat, columns, -2).movedim(-1, 0)
