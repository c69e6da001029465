r"""Optimal transport between generated and exact samples: how far, in squared length, samples would have to move.

The debiased Sinkhorn divergence with the squared Euclidean cost,

    S(x, y) = OT_ε(x, y) − ½ OT_ε(x, x) − ½ OT_ε(y, y),    ε = 0.05 × median squared distance between exact samples,

so that it scales with the density and is 0 for identical samples; two clouds of the same shape, a shift apart, are the
squared shift apart. Units: state units squared, summed over coordinates. Finite samples of one law are not at
distance 0: compare with the divergence between two exact samples. Source: arXiv 1810.08278; POT, https://pythonot.github.io.
"""

import torch
from torch import Tensor

__all__ = ["sinkhorn_divergence"]

_RELATIVE_REGULARISATION = 0.05
_ITERATIONS = 200
_TOLERANCE = 1e-3  # on the marginals


def sinkhorn_divergence(x: Tensor, y: Tensor, *, points: int = 1000) -> float | None:
    """Debiased Sinkhorn divergence between samples (module docstring), in state units squared.

    Log-domain throughout, so that no distance underflows. The value is the dual one, in which an error of the marginals
    enters only squared: 200 iterations at most do, which take about a second on one core. The error left is some
    thousandths of the squared spread of the samples. Rows are taken as independent: beyond
    `points`, the first ones are used.

    Args:
        x: samples, `[n, dim]`.
        y: exact samples, `[m, dim]`, which also set ε.
        points: largest number of samples used of each.

    Returns:
        The divergence, None if a state is not finite or there are fewer than two samples of either.

    Example:
        >>> x = torch.randn(200, 2)
        >>> abs(round(sinkhorn_divergence(x, x), 6)), round(sinkhorn_divergence(x + 10.0, x), 1)
        (0.0, 200.0)
    """
    n = min(len(x), len(y), points)  # as many of both, so that the entropies of the three terms cancel
    x, y = x[:n].detach().double().cpu(), y[:n].detach().double().cpu()
    if n < 2 or not bool(x.isfinite().all() and y.isfinite().all()):
        return None
    among = torch.nn.functional.pdist(y).square()
    epsilon = _RELATIVE_REGULARISATION * among.median().item()
    if epsilon == 0.0:  # most exact samples coincide
        epsilon = _RELATIVE_REGULARISATION * (among.mean().item() or 1.0)
    return _dual(x, y, epsilon) - 0.5 * (_dual(x, x, epsilon) + _dual(y, y, epsilon))


def _dual(x: Tensor, y: Tensor, epsilon: float) -> float:
    """Dual value of entropic optimal transport, up to the constant 2ε log n."""
    from ot.bregman import sinkhorn_log  # takes seconds to import

    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()  # [n, n]
    weights = torch.full_like(cost[0], 1.0 / len(cost))
    plan, log = sinkhorn_log(
        weights, weights, cost, epsilon, numItermax=_ITERATIONS, stopThr=_TOLERANCE, log=True, warn=False
    )
    return epsilon * (log["log_u"].mean() + log["log_v"].mean() - plan.sum() + 1.0).item()
