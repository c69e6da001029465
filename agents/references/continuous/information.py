r"""What each level of a destruction still knows of Gaussian data, in closed form.

    noise        I(x_T; x_k) = ½ Σ_i log(1 + a_k² S_i / v_k)   nats, S_i the eigenvalues of the data's covariance
    transforms   rank of D_k S D_kᵀ                            directions, each known exactly: infinitely many nats

The two cannot be traded for each other: an infinite number of nats is lost with each direction that is dropped, and
any noise at all turns infinitely many into finitely many. What step k destroys is the difference of levels k + 1 and k.
Source: "Destroying and Generating" of Noël, https://arxiv.org/abs/2605.30553; `ebbflow.envs.channels` for the finite.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ....envs.channels.gaussian import GaussianChannel
from ....envs.errors import InputError
from .gaussian_noise import GaussianNoise
from .linear_transform import LinearTransform

__all__ = ["Kept", "information_kept"]


class Kept(NamedTuple):
    """What a level knows of the sample.

    Attributes:
        nats: I(x_T; x_k), infinite where a direction is known exactly.
        directions: how many directions of the data are known exactly, which is to say in double precision.
    """

    nats: float
    directions: int


def information_kept(reference: GaussianNoise | LinearTransform, covariance: Tensor) -> list[Kept]:
    """What is left at each level of Gaussian data, T + 1 of them, from level 0 to level T.

    Args:
        reference: a `GaussianNoise`, an interpolation included, or a `LinearTransform`.
        covariance: of the data, `[dim, dim]`, symmetric and positive semi-definite.

    Raises:
        InputError: for another reference, or a matrix that is no covariance of its space.

    Example:
        >>> from ebbflow.agents.references import geometric_noise
        >>> from ebbflow.envs import Continuous
        >>> reference = GaussianNoise(Continuous(2), geometric_noise(3, smallest=0.1, largest=10.0))
        >>> [round(level.nats, 3) for level in information_kept(reference, torch.eye(2))]
        [0.01, 0.693, 4.615, inf]
    """
    if not isinstance(reference, GaussianNoise | LinearTransform):
        raise InputError(f"reference: expected GaussianNoise or a LinearTransform, got {reference!r}")
    dim = reference.space.dim
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    if covariance.shape != (dim, dim) or not torch.allclose(covariance, covariance.mT):
        raise InputError(f"covariance: expected a symmetric matrix [{dim}, {dim}], got {list(covariance.shape)}")
    variances, axes = torch.linalg.eigh(covariance)
    least = float(variances.abs().max()) * dim * torch.finfo(torch.float64).eps
    if bool((variances < -least).any()):
        raise InputError(f"covariance: expected eigenvalues >= 0, got {float(variances.min())}")
    varies = variances > least
    if isinstance(reference, GaussianNoise):
        return [
            _through(GaussianChannel(float(a), float(v)), variances[varies])
            for a, v in zip(reference.level_factor, reference.level_variance, strict=True)
        ]
    ranks = torch.linalg.matrix_rank(reference.levels @ (axes[:, varies] * variances[varies].sqrt())).tolist()
    return [Kept(math.inf if rank else 0.0, rank) for rank in ranks]


def _through(channel: GaussianChannel, variances: Tensor) -> Kept:
    nats = channel.mutual_information(variances)
    return Kept(nats, len(variances) if math.isinf(nats) else 0)
