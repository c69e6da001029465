r"""Importance weights: what log Z they give, and how far they can be trusted.

A path has the weight w = exp(−D) = Z·p/q, with p the (normalised) law of destroyed paths and q that of generated ones.

    log Z        = log E_q[w]
    ESS, reverse = E_q[w]² / E_q[w²]            over generated paths: (Σ w)² / (n Σ w²)
    ESS, forward = 1 / (E_p[w] · E_p[1/w])      over destroyed paths

Both are the same number, the share of q's samples that are worth as much as samples of p, estimated from either side:
E_q[w] = Z and E_q[w²] = Z·E_p[w], so that ESS = Z / E_p[w]; and 1/Z = E_p[1/w]. They part where q misses what p holds:
generated paths do not know of the missed weights, destroyed ones do. Source: arXiv 2406.07423 ("Beyond ELBOs").
"""

import math
import warnings

from torch import Tensor

__all__ = ["ess_forward", "ess_reverse", "importance_log_z", "log_mean_exp", "pareto_khat"]

_EQUAL = 1e-3  # nats
_FEWEST_DRAWS = 25  # below, the Pareto tail has fewer than five draws, and no shape can be fitted


def log_mean_exp(log_weight: Tensor) -> float:
    """log of the mean of exp(`log_weight`), `[n]`, in float64.

    Example:
        >>> import torch
        >>> round(log_mean_exp(torch.tensor([0.0, 1000.0])), 3)
        999.307
    """
    return log_weight.double().logsumexp(0).item() - math.log(len(log_weight))


def importance_log_z(log_weight: Tensor) -> tuple[float, float | None]:
    """Importance-weighted log Z and its standard error (nats), from log-weights of generated paths.

    The estimate is consistent, and below log Z on average. The error is that of the delta method,
    std(w) / (mean(w) √n) = √((1/ESS − 1) / (n − 1)); it is at most 1, and means nothing where the ESS is a few samples.

    Args:
        log_weight: −D, `[n]`; −inf counts as weight zero.

    Returns:
        log Z, −inf if all weights are zero, and its standard error, None if undefined.

    Example:
        >>> import torch
        >>> log_z, stderr = importance_log_z(torch.tensor([1.0, 3.0]).log())
        >>> round(log_z, 4), round(stderr, 4)  # log 2, and (√2 / √2) / 2
        (0.6931, 0.5)
    """
    log_z, ess, n = log_mean_exp(log_weight), ess_reverse(log_weight), len(log_weight)
    return log_z, None if ess is None or n < 2 else math.sqrt(max(0.0, 1.0 / ess - 1.0) / (n - 1))


def ess_reverse(log_weight: Tensor) -> float | None:
    """Effective sample size of generated paths as a share of their number, in [1/n, 1]; None without finite weights.

    Args:
        log_weight: −D of generated paths, `[n]`; −inf counts as weight zero.

    Example:
        >>> import torch
        >>> ess_reverse(torch.tensor([0.0, 0.0, 0.0, -1000.0]))
        0.75
    """
    log_weight = log_weight.double()
    top = log_weight.max()
    if not bool(top.isfinite()):
        return None
    weight = (log_weight - top).exp()
    return min(1.0, (weight.sum().square() / weight.square().sum()).item() / len(weight))


def ess_forward(log_weight: Tensor, log_z: float | None = None) -> float | None:
    """The same share estimated from paths destroyed from exact samples (module docstring), in [0, 1].

    Args:
        log_weight: −D of destroyed paths, `[n]`.
        log_z: true log Z if known (nats). Then ESS = Z / E_p[w], cut at 1; otherwise 1/Z = E_p[1/w] is estimated from
            the same paths, which is biased upwards where generation is wider than destruction.

    Returns:
        None if a weight is not finite and positive.

    Example:
        >>> import torch
        >>> round(ess_forward(torch.tensor([1.0, 3.0]).log()), 4)  # 1 / (2 · 2/3)
        0.75
        >>> round(ess_forward(torch.tensor([1.0, 3.0]).log(), log_z=0.0), 4)  # 1 / 2
        0.5
    """
    if not bool(log_weight.isfinite().all()):
        return None
    inverse_z = log_mean_exp(-log_weight) if log_z is None else -log_z
    return math.exp(min(0.0, -log_mean_exp(log_weight) - inverse_z))


def pareto_khat(log_weight: Tensor) -> float | None:
    """Shape k̂ of a generalised Pareto law fitted to the largest weights by ArviZ (PSIS, arXiv 1507.02646).

    Above 0.7 the weights have too heavy a tail for importance sampling. +inf if one weight outdoes all the others
    beyond floating point. None if all weights are equal to a thousandth (their tail would be one of rounding
    errors), below 25 draws, and without ArviZ.

    Args:
        log_weight: −D of generated paths, `[n]`.

    Example:
        >>> import torch
        >>> pareto_khat(torch.zeros(100)) is None
        True
    """
    log_weight = log_weight.double().cpu()
    top = log_weight.max()
    if len(log_weight) < _FEWEST_DRAWS or not bool(top.isfinite()) or bool((top - log_weight < _EQUAL).all()):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its next version on import
            from arviz import psislw
    except ImportError:
        return None
    khat = float(psislw(log_weight.numpy().copy())[1])
    return None if math.isnan(khat) else khat
