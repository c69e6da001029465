r"""The sandwich: log Z between two means of the log-weight −D, from below and from above.

With −D(τ) = log R + Σ log p← − log p_0 − Σ log p→ the log-weight of a path (nats),

    ELBO = E[−D] over generated paths  <=  log Z  <=  EUBO = E[−D] over paths destroyed from exact samples,

for any parameters of either policy. The width EUBO − ELBO is the Jeffreys divergence between the laws of generated and
of destroyed paths; unlike the ELBO alone, it grows when modes are missed. The EUBO's mean is heavy-tailed on some
densities, so that its median stands beside it (which is no bound). Source: arXiv 2506.01541; EUBO: arXiv 2406.07423.
"""

import math

from torch import Tensor

__all__ = ["sandwich"]


def sandwich(generated: Tensor | None, destroyed: Tensor | None) -> dict[str, float | None]:
    """Both bounds of log Z, with standard errors of their means, and the distance between them (all in nats).

    Args:
        generated: log-weights −D of generated paths, `[n]`; −inf where the density is zero. None if there are none.
        destroyed: log-weights −D of paths destroyed from exact samples, `[m]`; None if there are none.

    Returns:
        `elbo`, `elbo_stderr`, `eubo`, `eubo_stderr`, `eubo_median`, `sandwich_width`. None where undefined; an ELBO of
        −inf is kept as it is, for it is one, and then has no standard error.

    Example:
        >>> import torch
        >>> sandwich(torch.tensor([-1.0, -3.0]), torch.tensor([1.0, 1.0, 4.0]))["sandwich_width"]
        4.0
        >>> sandwich(torch.tensor([-1.0, -3.0]), None)
        {'elbo': -2.0, 'elbo_stderr': 1.0, 'eubo': None, 'eubo_stderr': None, 'eubo_median': None,
         'sandwich_width': None}
    """
    elbo, elbo_stderr = _mean_and_stderr(generated)
    eubo, eubo_stderr = _mean_and_stderr(destroyed)
    median = None if destroyed is None else destroyed.double().quantile(0.5).item()
    return {
        "elbo": elbo,
        "elbo_stderr": elbo_stderr,
        "eubo": eubo,
        "eubo_stderr": eubo_stderr,
        "eubo_median": _unless_nan(median),
        "sandwich_width": None if elbo is None or eubo is None else _unless_nan(eubo - elbo),
    }


def _mean_and_stderr(values: Tensor | None) -> tuple[float | None, float | None]:
    if values is None or not len(values):
        return None, None
    values = values.double()
    stderr = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return _unless_nan(values.mean().item()), _unless_nan(stderr)


def _unless_nan(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
