"""Contexts as a person writes them on the command line: numbers with commas, or a .npy file."""

from zipfile import BadZipFile

import numpy
import torch
from torch import Tensor

from ..envs.errors import InputError
from ..envs.target import Target

__all__ = ["read_contexts"]


def read_contexts(text: str | None, target: Target) -> Tensor | None:
    """Contexts `[m, c]` for a conditional target; None for None and an unconditional one.

    Args:
        text: numbers with commas between them, or the path of a .npy file that holds `[c]` or `[m, c]`.
        target: what they are for.

    Raises:
        InputError: for contexts that cannot be read, do not fit, are missing, or not asked for.

    Example:
        >>> from ebbflow.envs import get_target
        >>> read_contexts("0.5, -1", get_target("conditional-gmm"))
        tensor([[ 0.5000, -1.0000]])
    """
    if text is None:
        if target.context_space is None:
            return None
        raise InputError(
            f"context: target {target.name!r} is conditional: expected {target.context_space.dim} numbers with commas "
            "between them, or a .npy file, got none"
        )
    try:
        if text.endswith(".npy"):
            with open(text, "rb") as file:
                values = torch.from_numpy(numpy.load(file, allow_pickle=False)).to(torch.get_default_dtype())
        else:
            values = torch.tensor([float(number) for number in text.split(",")])
    except (OSError, EOFError, TypeError, ValueError, BadZipFile) as error:
        raise InputError(
            f"context: expected numbers with commas between them, or a .npy file, got {text!r} ({error})"
        ) from error
    rows = values.unsqueeze(0) if values.ndim == 1 else values
    if rows.ndim != 2 or not len(rows) or not bool(rows.isfinite().all()):
        raise InputError(f"context: expected finite numbers [c] or [m, c], got shape {list(values.shape)}")
    return target.check_context(rows)
