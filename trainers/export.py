"""Samples for other software: NumPy .npz and ArviZ InferenceData (.nc)."""

from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from ..envs.errors import InputError

__all__ = ["to_arviz", "write_samples"]


def to_arviz(x: Tensor, log_weight: Tensor | None, evaluation: dict[str, Any] | None = None) -> Any:
    """InferenceData with `posterior.x` `[1, n, dim]`, `sample_stats.log_weight` `[1, n]`, and numbers as attributes.

    Without log weights, as samples of data are, there are no `sample_stats`.

    Raises:
        InputError: when ArviZ is not installed.

    Example:
        >>> import torch
        >>> to_arviz(torch.zeros(4, 2), torch.zeros(4)).posterior["x"].shape
        (1, 4, 2)
    """
    try:
        import arviz
    except ImportError as error:
        raise InputError("ArviZ is not installed; it comes with: pip install 'ebbflow[arviz]'") from error
    groups: dict[str, Any] = {"posterior": {"x": x.cpu().numpy()[None]}}
    if log_weight is not None:
        groups["sample_stats"] = {"log_weight": log_weight.cpu().numpy()[None]}
    data = arviz.from_dict(**groups)
    for name, value in (evaluation or {}).items():
        if value is not None and not isinstance(value, list):
            data.posterior.attrs[name] = value
    return data


def write_samples(
    path: Path,
    x: Tensor,
    log_weight: Tensor | None,
    evaluation: dict[str, Any] | None = None,
    context: Tensor | None = None,
) -> None:
    """Write samples `[n, dim]` and log weights `[n]` as .npz (`x`, `log_weight`) or .nc (ArviZ), by the file's ending.

    Samples of data have no log weights. Contexts `[n, c]`, one for each sample, go into .npz as `context`; a .nc file
    holds samples of one context.

    Raises:
        InputError: for another ending, for several contexts in a .nc file, or when ArviZ is needed and not installed.
    """
    check_ending(path)
    if path.suffix == ".nc" and context is not None and len(context.unique(dim=0)) > 1:
        raise InputError("out: expected a file name ending in .npz for samples of several contexts")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        if path.suffix == ".npz":
            columns: dict[str, Any] = {"x": x.cpu().numpy()}
            if log_weight is not None:
                columns["log_weight"] = log_weight.cpu().numpy()
            if context is not None:
                columns["context"] = context.cpu().numpy()
            numpy.savez_compressed(temporary, **columns)
        else:
            to_arviz(x, log_weight, evaluation).to_netcdf(str(temporary))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_ending(path: Path) -> None:
    """Raise an InputError unless the file name ends in .npz or .nc."""
    if path.suffix not in (".npz", ".nc"):
        raise InputError(f"out: expected a file name ending in .npz or .nc, got {str(path)!r}")
