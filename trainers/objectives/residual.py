r"""Residuals r of an objective, as losses ℓ(r) that are r² near zero: squared, Huber, or log-cosh at a scale b.

    squared     r²
    huber       r² for |r| <= b, b·(2|r| − b) beyond                    slope 2b beyond
    log_cosh    2b²·log cosh(r/b)                                       slope → 2b, smoothly

Huber and log-cosh keep a few samples between narrow modes from drowning all others; both are r² as b → ∞.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...envs.errors import InputError
from .context_centre import group_mean, group_median

__all__ = ["RESIDUALS", "Residual", "weighted_mean"]


def _huber(residual: Tensor, bound: float) -> Tensor:
    size = residual.abs()
    return torch.where(size <= bound, residual.square(), bound * (2.0 * size - bound))


def _log_cosh(residual: Tensor, bound: float) -> Tensor:
    size = (residual / bound).abs()  # log cosh u = |u| + log(1 + exp(−2|u|)) − log 2, which cannot overflow
    return 2.0 * bound**2 * (size + torch.nn.functional.softplus(-2.0 * size) - math.log(2.0))


Form = Callable[[Tensor, float], Tensor]
RESIDUALS: dict[str, tuple[Form, Form]] = {
    "squared": (lambda r, bound: r.square(), lambda r, bound: r),
    "huber": (_huber, lambda r, bound: r.clamp(-bound, bound)),
    "log_cosh": (_log_cosh, lambda r, bound: bound * (r / bound).tanh()),
}
"""By name: (r, b) -> the loss ℓ, and half its slope."""


@dataclass(frozen=True)
class Residual:
    """A loss of residuals (module docstring).

    Args:
        kind: a key of `RESIDUALS`.
        bound: the scale b in nats, > 0; infinite for the plain squares, whatever the kind.

    Raises:
        InputError: for an unknown kind or a bound that is not > 0.

    Example:
        >>> Residual("huber", bound=2.0)(torch.tensor([1.0, 3.0]))
        tensor([1., 8.])
        >>> Residual("log_cosh", bound=2.0)(torch.tensor([0.01, 30.0]))  # about 0.01² and 2·2·30 − 2·2²·log 2
        tensor([1.0014e-04, 1.1445e+02])
    """

    kind: str = "huber"
    bound: float = math.inf

    def __post_init__(self) -> None:
        if self.kind not in RESIDUALS:
            raise InputError(f"residual: expected one of {list(RESIDUALS)}, got {self.kind!r}")
        if not self.bound > 0:
            raise InputError(f"residual_bound: expected a number > 0 (nats), got {self.bound!r}")

    @property
    def forms(self) -> tuple[Form, Form]:
        """Loss and half slope; those of the squares where nothing is bounded."""
        return RESIDUALS["squared" if self.bound == math.inf else self.kind]

    def __call__(self, residual: Tensor) -> Tensor:
        """ℓ of residuals of any shape."""
        return self.forms[0](residual, self.bound)

    def center(
        self, values: Tensor, weight: Tensor | None, group: Tensor | None = None, iterations: int = 10
    ) -> Tensor:
        """Detached centre of `values` `[B]` that minimises the mean of ℓ around it: the mean, or a robust one.

        With groups `[B]`, every row has the centre of its own group, `[B]`.
        """

        def mean(values: Tensor) -> Tensor:
            return weighted_mean(values, weight) if group is None else group_mean(values, weight, group)

        values = values.detach()
        loss, half_slope = self.forms
        if loss is RESIDUALS["squared"][0]:
            return mean(values)
        center = values.median() if group is None else group_median(values, group)
        for _ in range(iterations):
            center = center + mean(half_slope(values - center, self.bound))
        return center


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of `values` `[B]`, with row weights if any (normalised to sum one).

    Example:
        >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))
        tensor(2.)
    """
    return values.mean() if weight is None else (weight * values).sum() / weight.sum()
