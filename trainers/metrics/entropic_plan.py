r"""Entropic optimal transport plans, exact: what the ends of a Schrödinger bridge must be.

    argmin_π  E_π ½|x − y|² + σ² KL(π ‖ a × b)                (a, b the laws of x and y)

Between normal laws with covariances A and B the plan is normal, with the cross-covariance E (x − EX)(y − EY)ᵀ

    C = ½ A^{1/2} (4 A^{1/2} B A^{1/2} + σ⁴ I)^{1/2} A^{−1/2} − ½ σ² I,

whatever the means. Janati et al. 2020, *Entropic optimal transport between unbalanced Gaussian measures has a closed
form*, arXiv 2006.02572, theorem 1, where the cost is |x − y|² with 2σ² before the KL: the same plan. Between points it
is found by Sinkhorn's iterations (POT, https://pythonot.github.io).
"""

import math

import torch
from torch import Tensor

from ...envs.errors import InputError

__all__ = ["gaussian_cross_covariance", "sinkhorn_plan"]


def gaussian_cross_covariance(source: Tensor, target: Tensor, sigma: float) -> Tensor:
    """Cross-covariance of the entropic plan between normal laws (module docstring), `[dim, dim]`.

    Args:
        source, target: covariances A and B, `[dim, dim]`, symmetric positive definite; units of the state, squared.
        sigma: σ, units of the state, > 0.

    Raises:
        InputError: for covariances that are none, of different sizes, or a σ that is not positive and finite.

    Example:
        >>> one = torch.eye(1)
        >>> gaussian_cross_covariance(one, one, sigma=1.0).item()  # c with c σ² = 1 − c², the golden ratio's
        0.6180339...
        >>> gaussian_cross_covariance(one, one, sigma=1e-3).item() > 0.999  # σ → 0: optimal transport
        True
    """
    _check_sigma(sigma)
    a, b = source.double(), target.double()
    for field, matrix in (("source", a), ("target", b)):
        if matrix.shape != a.shape or matrix.ndim != 2 or not torch.allclose(matrix, matrix.mT):
            raise InputError(f"{field}: expected a symmetric covariance [dim, dim], both alike, got {matrix.tolist()}")
        if not float(torch.linalg.eigvalsh(matrix)[0]) > 0.0:
            raise InputError(f"{field}: expected a positive definite covariance, got {matrix.tolist()}")
    eye = torch.eye(len(a), dtype=a.dtype, device=a.device)
    root = _root(a)
    inner = _root(4.0 * root @ b @ root + sigma**4 * eye)
    return 0.5 * root @ inner @ torch.linalg.inv(root) - 0.5 * sigma**2 * eye


def sinkhorn_plan(x: Tensor, y: Tensor, sigma: float, *, iterations: int = 5000) -> Tensor:
    """The entropic plan between points of equal weight, `[n, dim]`, `[m, dim] -> [n, m]`; its entries sum to 1.

    Raises:
        InputError: for points of different dimension or a σ that is not positive and finite.

    Example:
        >>> plan = sinkhorn_plan(torch.zeros(2, 1), torch.tensor([[1.0], [-1.0]]), sigma=1.0)
        >>> plan
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]], dtype=torch.float64)
    """
    import ot  # takes seconds to import

    _check_sigma(sigma)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError(f"points: expected [n, dim] and [m, dim], got {list(x.shape)} and {list(y.shape)}")
    x, y = x.double(), y.double()
    cost = 0.5 * torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    a, b = x.new_full((len(x),), 1.0 / len(x)), y.new_full((len(y),), 1.0 / len(y))
    plan: Tensor = ot.sinkhorn(a, b, cost, sigma**2, method="sinkhorn_log", numItermax=iterations, stopThr=1e-7)
    return plan


def _check_sigma(sigma: float) -> None:
    if not 0.0 < sigma < math.inf:
        raise InputError(f"sigma: expected a positive finite number, got {sigma!r}")


def _root(matrix: Tensor) -> Tensor:
    """Symmetric square root."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0.0).sqrt()) @ vectors.mT
