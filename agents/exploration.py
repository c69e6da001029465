"""Exploration: how the behaviour policy leaves its course, how much flatter the target is, and for how long."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..envs.errors import InputError

__all__ = ["NOT_WIDENED", "Exploration", "Widening"]


class Widening(NamedTuple):
    """How generated paths leave the policy's own course, the arguments of `Agent.generate`; by default not at all.

    Attributes:
        scale: factor on every step's standard deviation.
        added: extra standard deviation, as a multiple of the reference step's.
        drift: bounded Langevin push, in standard deviations of the step.

    Example:
        >>> Exploration(scale=1.5, until=0.5).widening_at(0.5) == NOT_WIDENED
        True
    """

    scale: float = 1.0
    added: float = 0.0
    drift: float = 0.0


NOT_WIDENED = Widening()


@dataclass(frozen=True)
class Exploration:
    """Widened generation noise, a Langevin drift, and a tempered target:

        std  → sqrt((scale · std)² + added²)
        mean → mean + drift · std · clip(std · ∇log R(x_k), ±1)
        log R → β · log R in the loss.

    Widening and drift decay linearly to none; the inverse temperature β rises geometrically to 1. A narrow density seen
    at full height at once gives log-ratios so large that nothing but their largest is learned from; flattened, it lets
    modes be told apart first and sharpened then.

    Noise of standard deviation std goes with the drift ½ std²·∇log R in the unadjusted Langevin dynamics (Roberts &
    Tweedie 1996), which is `drift` = ½ where the clip does not bite. The step's own std is its preconditioner, and the
    clip bounds it, since on narrow modes the score is hundreds of times the inverse step. It is the behaviour policy
    alone that is pushed: an off-policy loss re-evaluates the states without the push.

    Args:
        scale: initial factor on the standard deviation of every generation step, >= 1.
        added: initial extra standard deviation, as a multiple of the reference step's standard deviation, >= 0.
        drift: initial size of the bounded Langevin drift, in standard deviations of the step, >= 0 and finite; while it
            is not zero, every new path costs a gradient call (and an energy call) a step.
        inverse_temperature: initial β, in (0, 1]; 1 for no tempering.
        until: fraction of training after which there is no exploration, in (0, 1].

    Raises:
        InputError: for values out of range.

    Example:
        >>> exploration = Exploration(scale=1.5, until=0.5)
        >>> exploration.at(0.0), exploration.at(0.25), exploration.at(0.9)
        ((1.5, 0.0), (1.25, 0.0), (1.0, 0.0))
        >>> Exploration(drift=0.5).drift_at(0.25)
        0.25
        >>> Exploration(inverse_temperature=0.25).inverse_temperature_at(0.25)
        0.5
    """

    scale: float = 1.5
    added: float = 0.0
    drift: float = 0.0
    inverse_temperature: float = 1.0
    until: float = 0.5

    def __post_init__(self) -> None:
        if not self.scale >= 1.0:
            raise InputError(f"exploration.scale: expected a number >= 1, got {self.scale!r}")
        if not self.added >= 0.0:
            raise InputError(f"exploration.added: expected a number >= 0, got {self.added!r}")
        if not 0.0 <= self.drift < math.inf:
            raise InputError(f"exploration.drift: expected a finite number >= 0, got {self.drift!r}")
        if not 0.0 < self.inverse_temperature <= 1.0:
            raise InputError(
                f"exploration.inverse_temperature: expected a number in (0, 1], got {self.inverse_temperature!r}"
            )
        if not 0.0 < self.until <= 1.0:
            raise InputError(f"exploration.until: expected a fraction in (0, 1], got {self.until!r}")

    def at(self, fraction: float) -> tuple[float, float]:
        """(scale, added) after `fraction` of training, 0 <= fraction <= 1."""
        left = self._left(fraction)
        return 1.0 + (self.scale - 1.0) * left, self.added * left

    def drift_at(self, fraction: float) -> float:
        """Size of the Langevin drift after `fraction` of training."""
        return self.drift * self._left(fraction)

    def widening_at(self, fraction: float) -> "Widening":
        """How paths are widened after `fraction` of training; `NOT_WIDENED` where they are the policy's own."""
        scale, added = self.at(fraction)
        return Widening(scale, added, self.drift_at(fraction))

    def inverse_temperature_at(self, fraction: float) -> float:
        """β after `fraction` of training."""
        return self.inverse_temperature ** self._left(fraction)

    def _left(self, fraction: float) -> float:
        return max(0.0, 1.0 - fraction / self.until)
