r"""Gaussian channels, y = gain · x + offset + noise: composed, repeated, reversed and accounted for in closed form.

    GaussianShuffle(δ)       gain 1, noise of variance δ: n uses are one GaussianShuffle(n δ)      (variance exploding)
    variance preserving      gain √(1 − β), noise of variance β: a unit variance stays one

A Gaussian of variance v that goes through keeps, coordinate by coordinate,

    I(x; y) = ½ log(1 + gain² v / noise variance)    in nats

Source: Noël, *Destruction is a General Strategy to Learn Generation* (https://arxiv.org/abs/2605.30553), tutorial,
"Shuffling Everything"; the two processes are those of Song et al. (https://arxiv.org/abs/2011.13456).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, whole_number

__all__ = ["GaussianChannel", "gaussian_shuffle", "variance_preserving"]


@dataclass(frozen=True)
class GaussianChannel:
    """y = gain · x + offset + N(0, variance), on each coordinate alike.

    Args:
        gain: factor on the message.
        variance: of the noise, >= 0, in squared units of the output.
        offset: added to the message, in units of the output.

    Raises:
        InputError: for numbers that are not finite, or a negative variance.

    Example:
        >>> channel = GaussianChannel(gain=0.5, variance=0.75)
        >>> channel.output_variance(1.0)
        1.0
        >>> channel.repeated(2)
        GaussianChannel(gain=0.25, variance=0.9375, offset=0.0)
        >>> channel(torch.zeros(4, 2)).shape
        torch.Size([4, 2])
    """

    gain: float
    variance: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        for field in ("gain", "variance", "offset"):
            if not math.isfinite(getattr(self, field)):
                raise InputError(f"{field}: expected a finite number, got {getattr(self, field)!r}")
        if self.variance < 0.0:
            raise InputError(f"variance: expected a number >= 0, got {self.variance!r}")

    def __call__(self, x: Tensor) -> Tensor:
        """Send messages of any shape."""
        return self.gain * x + self.offset + math.sqrt(self.variance) * torch.randn_like(x)

    def output_variance(self, variance: float) -> float:
        """Variance of what comes out, from that of what goes in."""
        return self.gain**2 * variance + self.variance

    def then(self, other: "GaussianChannel") -> "GaussianChannel":
        """The channel that sends through this one, and what comes out through the `other`."""
        return GaussianChannel(
            gain=other.gain * self.gain,
            variance=other.output_variance(self.variance),
            offset=other.gain * self.offset + other.offset,
        )

    def repeated(self, n: int) -> "GaussianChannel":
        """This channel, `n` >= 0 times in a row.

        Raises:
            InputError: if `n` is no such number.
        """
        whole_number("n", n, least=0)
        return GaussianChannel(
            gain=self.gain**n,
            variance=self.variance * math.fsum(self.gain ** (2 * k) for k in range(n)),
            offset=self.offset * math.fsum(self.gain**k for k in range(n)),
        )

    def reversed(self, mean: float, variance: float) -> "GaussianChannel":
        """The guess that is always right in law: x given y, where x ~ N(mean, variance) on each coordinate.

        Raises:
            InputError: if nothing is random, neither x nor the noise.

        Example:
            >>> GaussianChannel(1.0, 1.0).reversed(mean=0.0, variance=1.0)
            GaussianChannel(gain=0.5, variance=0.5, offset=0.0)
        """
        output = self.output_variance(_variances(variance).item())
        if output == 0.0:
            raise InputError("variance: expected a number > 0 where the channel is without noise, got 0")
        gain = self.gain * variance / output
        return GaussianChannel(
            gain=gain,
            variance=variance * self.variance / output,
            offset=mean - gain * (self.gain * mean + self.offset),
        )

    def mutual_information(self, variance: float | Sequence[float] | Tensor) -> float:
        """I(x; y) in nats for a Gaussian x; infinite without noise.

        Args:
            variance: of x, or those of independent coordinates `[dim]`: the eigenvalues of its covariance.

        Raises:
            InputError: for variances that are negative or not finite.

        Example:
            >>> round(gaussian_shuffle(0.01).repeated(100).mutual_information(1.0), 4)  # ½ log 2
            0.3466
        """
        signal = self.gain**2 * _variances(variance)
        if self.variance == 0.0:
            return math.inf if bool((signal > 0.0).any()) else 0.0
        return 0.5 * float((signal / self.variance).log1p().sum())


def gaussian_shuffle(delta: float) -> GaussianChannel:
    """The paper's GaussianShuffle(δ): adds independent noise of variance `delta` >= 0 to each coordinate.

    Example:
        >>> gaussian_shuffle(0.25).repeated(8) == gaussian_shuffle(8 * 0.25)
        True
    """
    return GaussianChannel(gain=1.0, variance=delta)


def variance_preserving(beta: float) -> GaussianChannel:
    """Adds noise of variance β and scales down by √(1 − β), so that a unit variance stays one.

    Raises:
        InputError: if `beta` is not in [0, 1].

    Example:
        >>> variance_preserving(0.19).output_variance(1.0)
        1.0
    """
    if not 0.0 <= beta <= 1.0:
        raise InputError(f"beta: expected a number in [0, 1], got {beta!r}")
    return GaussianChannel(gain=math.sqrt(1.0 - beta), variance=beta)


def _variances(variance: float | Sequence[float] | Tensor) -> Tensor:
    values = torch.as_tensor(variance, dtype=torch.float64)
    if not bool(values.isfinite().all()) or bool((values < 0.0).any()):
        raise InputError(f"variance: expected finite numbers >= 0, got {variance!r}")
    return values
