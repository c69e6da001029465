"""Coverage: whether a target's known modes hold their mass among generated samples, and by how much they do not."""

from torch import Tensor

from ...envs.target import Target

__all__ = ["mode_coverage", "mode_mass_error", "mode_shares"]

_COVERED = 0.25  # of the true mass


def mode_shares(target: Target, x: Tensor, *, chunk: int = 10_000) -> Tensor | None:
    """Share of samples in each known mode's region, `[M]` in float64; None where modes are not known.

    Args:
        target: what was to be sampled.
        x: samples, `[n, dim]`, n >= 1.
        chunk: how many samples are assigned at a time.

    Example:
        >>> import torch
        >>> from ebbflow.envs.targets.mixtures import GaussianMixture
        >>> target = GaussianMixture([[-5.0], [5.0]], std=1.0)
        >>> mode_shares(target, torch.tensor([[-4.0], [5.0], [6.0], [4.0]]))
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if target.mode_masses is None:
        return None
    counts = sum(target.mode_membership(part).sum(0) for part in x.split(chunk))
    return (counts / len(x)).double().cpu() if isinstance(counts, Tensor) else None


def mode_coverage(shares: Tensor | None, masses: Tensor | None) -> float | None:
    """Share of the known modes that hold at least a quarter of their true mass, in [0, 1]; None where not known.

    Args:
        shares: share of the samples in each mode, `[M]`.
        masses: true masses, `[M]`.

    Example:
        >>> import torch
        >>> mode_coverage(torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5]))
        0.5
    """
    if shares is None or masses is None:
        return None
    return (shares >= _COVERED * masses.to(shares)).double().mean().item()


def mode_mass_error(shares: Tensor | None, masses: Tensor | None) -> float | None:
    """Largest absolute error of a known mode's mass, in [0, 1]; None where modes are not known.

    Args:
        shares: share of the samples in each mode, `[M]`.
        masses: true masses, `[M]`.

    Example:
        >>> import torch
        >>> round(mode_mass_error(torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])), 4)
        0.4
    """
    if shares is None or masses is None:
        return None
    return (shares - masses.to(shares)).abs().max().item()
