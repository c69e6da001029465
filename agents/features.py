r"""Features of the state that the backbone and the tables read, coordinate by coordinate.

    raw       x / scale
    asinh     u = 3 · asinh(x / (3 · scale))      grows like a logarithm in heavy tails
    fourier   sin(ω u), cos(ω u) for each frequency ω
    score     clip(scale · ∇log R(x), ±5)         needs the gradient of the density, one gradient call a state

Few-step quality depends on these more than on depth: a staircase map between many modes is easy in Fourier features
and hard for a smooth network on raw input.
"""

from collections.abc import Callable, Sequence

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
    angle = u.unsqueeze(-2) * features.frequencies.unsqueeze(-1)
    return angle.sin(), angle.cos()


def _score(features: "StateFeatures", x: Tensor, u: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
    if score is None:
        raise InputError("features: 'score' needs the gradient of the log density, and none was given")
    return ((features.scale * score).clamp(-SCORE_BOUND, SCORE_BOUND).unsqueeze(-2),)


Feature = Callable[["StateFeatures", Tensor, Tensor, Tensor | None], tuple[Tensor, ...]]
FEATURES: dict[str, Feature] = {"raw": _raw, "asinh": _asinh, "fourier": _fourier, "score": _score}
"""By name: (features, x, u, score), each `[..., dim, B]` -> columns, each `[..., dim, number of features, B]`."""


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
        self.register_buffer("frequencies", torch.as_tensor(list(frequencies)), persistent=False)
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
