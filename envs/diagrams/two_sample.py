r"""Do two samples come from the same law? The energy distance, with its null law from random relabelling.

    2 E|X − Y| − E|X − X'| − E|Y − Y'| >= 0,    zero exactly where the laws are the same

Coordinates are first divided by their standard deviation over both samples together, which relabelling leaves alone: so
the p-value is valid at any sample size, P(p <= level) <= level where the laws agree and the samples are independent.
Source: Székely & Rizzo, *Energy statistics* (Journal of Statistical Planning and Inference, 2013), sections 4 and 6.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, whole_number

__all__ = ["TwoSample", "energy_test"]

_CHUNK = 500  # relabellings at a time, to bound the memory


@dataclass(frozen=True)
class TwoSample:
    """Outcome of a two-sample test.

    Attributes:
        statistic: the energy distance of the samples, in standard deviations.
        p_value: share of relabellings, the actual labels among them, at least as far apart.
    """

    statistic: float
    p_value: float


def energy_test(x: Tensor, y: Tensor, relabellings: int = 999, seed: int = 0) -> TwoSample:
    """Test whether two independent samples come from the same law.

    Args:
        x: first sample, `[n, dim]`, finite.
        y: second sample, `[m, dim]`.
        relabellings: how many random ones, >= 1; the smallest p-value is 1 / (relabellings + 1).
        seed: of the relabellings.

    Raises:
        InputError: for samples of other shapes, fewer than two rows, or values that are not finite.

    Example:
        >>> x, y = torch.randn(200, 2), torch.randn(200, 2)
        >>> energy_test(x, y).p_value > 0.05, energy_test(x, y + 0.5).p_value
        (True, 0.001)
    """
    whole_number("relabellings", relabellings, least=1)
    for field, sample in (("x", x), ("y", y)):
        if sample.ndim != 2 or len(sample) < 2 or sample.shape[1] != x.shape[1] or not bool(sample.isfinite().all()):
            raise InputError(f"{field}: expected finite samples [n >= 2, dim], alike, got shape {list(sample.shape)}")
    pooled = torch.cat([x, y]).detach().double().cpu()
    spread = pooled.std(0)
    pooled = (pooled - pooled.mean(0)) / torch.where(spread > 0.0, spread, 1.0)
    distances = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")
    labels = torch.cat([pooled.new_full((len(x),), 1.0 / len(x)), pooled.new_full((len(y),), -1.0 / len(y))])
    statistic = float(-(labels @ distances @ labels))
    generator = torch.Generator().manual_seed(seed)
    at_least = 1
    slack = 1e-12 * float(distances.max())  # of equal distances, some come out larger by rounding
    for first in range(0, relabellings, _CHUNK):
        shuffles = torch.rand(min(_CHUNK, relabellings - first), len(pooled), generator=generator).argsort(-1)
        relabelled = labels[shuffles]
        distance = -((relabelled @ distances) * relabelled).sum(-1)
        at_least += int((distance >= statistic - slack).sum())
    return TwoSample(max(statistic, 0.0), at_least / (relabellings + 1))
