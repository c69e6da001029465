r"""Variance exploding on data: noise is added and nothing is shrunk, x_k = x_T + σ_k z, with σ_k geometric in k.

    destruction   x_k     | y ~ N(y, σ_k² − σ_{k+1}²),        σ_T = 0,  σ_{T−1} = smallest, …, σ_0 = largest
    generation    the exact reverse of it for data N(0, scale²)
    initial law   N(0, scale² + σ_0²), which is x_0's for such data

`variance_exploding` is the other way round: there generation is Brownian motion, and destruction its time reversal.
Source: Song & Ermon, https://arxiv.org/abs/1907.05600; "GaussianShuffle" of https://arxiv.org/abs/2605.30553.
"""

import math

from ...envs.channels.gaussian import gaussian_shuffle
from ...envs.errors import InputError, whole_number
from .gaussian import GaussianReference, check_length

__all__ = ["geometric_noise"]


def geometric_noise(
    steps: int, *, smallest: float = 0.05, largest: float = 20.0, scale: float = 1.0
) -> GaussianReference:
    """Tables of the process (module docstring) in `steps` steps.

    Args:
        steps: number of steps T, >= 1; a single one adds all the noise.
        smallest: σ_{T−1}, the noise of the first step of destruction, in units of the state, > 0.
        largest: σ_0, that of what is fully destroyed, > `smallest`; much larger than `scale`, so that little is left.
        scale: standard deviation of a coordinate of the data, > 0.

    Raises:
        InputError: for settings out of range.

    Example:
        >>> reference = geometric_noise(3, smallest=0.1, largest=10.0)
        >>> [round(reference.level(k)[1], 6) for k in range(4)]
        [100.0, 1.0, 0.01, 0.0]
        >>> reference.destruction_factor
        (1.0, 1.0, 1.0)
    """
    whole_number("steps", steps, least=1)
    for name, value in (("smallest", smallest), ("largest", largest), ("scale", scale)):
        check_length(name, value)
    if steps > 1 and smallest >= largest:
        raise InputError(f"largest: expected a number > smallest = {smallest!r}, got {largest!r}")
    ratio = smallest / largest
    levels = [(largest * ratio ** (k / max(steps - 1, 1))) ** 2 for k in range(steps)] + [0.0]  # σ_k²
    channels = [gaussian_shuffle(levels[k] - levels[k + 1]) for k in range(steps)]
    reverse = [channel.reversed(0.0, scale**2 + levels[k + 1]) for k, channel in enumerate(channels)]
    return GaussianReference(
        times=tuple(k / steps for k in range(steps + 1)),
        destruction_factor=(1.0,) * steps,
        destruction_variance=tuple(channel.variance for channel in channels),
        generation_factor=tuple(channel.gain for channel in reverse),
        generation_variance=tuple(channel.variance for channel in reverse),
        initial_std=math.sqrt(scale**2 + levels[0]),
    )
