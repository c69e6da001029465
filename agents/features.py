r"""Features of the state that the backbone and the tables read, coordinate by coordinate.

    raw       x / scale
    asinh     u = 3 · asinh(x / (3 · scale))      grows like a logarithm in heavy tails
    fourier   sin(ω u), cos(ω u) for each frequency ω
    score     clip(scale · ∇log R(x), ±5)         needs the gradient of the density, one gradient call a state

Few-step quality depends on these more than on depth: a staircase map between many modes is easy in Fourier features
and hard for a smooth network on raw input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..envs.errors import InputError

__all__ = ["FEATURES", "StateFeatures"]

FEATURES = ("raw", "asinh", "fourier", "score")
SCORE_BOUND = 5.0


class StateFeatures(nn.Module):
    """Per-coordinate features `[..., dim] -> [..., dim, features]`.

    Args:
        names: which features, out of `FEATURES`.
        scale: length by which the state is measured, in units of the state, > 0.
        frequencies: the ω of the Fourier features, in radians per unit of u; at least one where they are used.

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
        self.register_buffer("frequencies", torch.as_tensor(list(frequencies)), persistent=False)

    @property
    def count(self) -> int:
        """Number of features of one coordinate."""
        fourier = 2 * self.frequencies.shape[0]
        return sum(fourier if name == "fourier" else 1 for name in self.names)

    def forward(self, x: Tensor, score: Tensor | None = None) -> Tensor:
        """Features of the states `x` `[..., dim]`; `score` `[..., dim]` is ∇log R at `x` where that feature is used."""
        columns: list[Tensor] = []
        u = 3.0 * torch.asinh(x / (3.0 * self.scale))
        for name in self.names:
            if name == "raw":
                columns.append((x / self.scale).unsqueeze(-1))
            elif name == "asinh":
                columns.append(u.unsqueeze(-1))
            elif name == "fourier":
                angle = u.unsqueeze(-1) * self.frequencies
                columns += [angle.sin(), angle.cos()]
            elif score is None:
                raise InputError("features: 'score' needs the gradient of the log density, and none was given")
            else:
                columns.append((self.scale * score).clamp(-SCORE_BOUND, SCORE_BOUND).unsqueeze(-1))
        return torch.cat(columns, dim=-1)
