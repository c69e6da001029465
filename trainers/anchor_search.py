"""Anchors as a training's settings want them: searched for, drawn from exact samples, or read from a file."""

from typing import Any
from zipfile import BadZipFile

import numpy
import torch

from ..buffers.anchors import Anchors
from ..buffers.annealing import annealed_smc
from ..buffers.conditional_annealing import annealed_smc_by_context
from ..envs.errors import InputError
from ..envs.spaces import Tokens
from ..envs.target import Target
from .config import AnchorConfig
from .context_batch import contexts_of_new_rows

__all__ = ["find_anchors", "placed", "search_for_anchors"]


def find_anchors(
    target: Target, config: AnchorConfig, sigma: float, *, device: torch.device, dtype: torch.dtype
) -> Anchors:
    """Anchors from where `config.samples` says, by default from the search (see `search_for_anchors`, arguments too).

    Raises:
        InputError: for a file that cannot be read, does not fit, or of a conditional target; where exact samples are
            wanted of a target that has none; and whatever the search and the density raise.

    Example:
        >>> from ebbflow.envs import get_target
        >>> where = {"device": torch.device("cpu"), "dtype": torch.float32}
        >>> find_anchors(get_target("gmm25"), AnchorConfig(count=50, samples="exact"), 7.0, **where).energy_calls
        50
    """
    if config.samples is None:
        return search_for_anchors(target, config, sigma, device=device, dtype=dtype)
    if config.samples == "exact":
        target.require_sample("anchors.samples: exact")
        contexts = contexts_of_new_rows(target, config.count, config.contexts) if target.is_conditional else None
        samples = target.sample(config.count, *(() if contexts is None else (contexts,)))
        return Anchors.from_samples(target, placed(target, samples, device, dtype), contexts)
    if target.is_conditional:
        raise InputError(
            "anchors.samples: a file has no contexts; of a conditional target give anchors in Python, "
            "Trainer(anchors=Anchors.from_samples(target, states, contexts)), or write exact"
        )
    return Anchors.from_samples(target, placed(target, _load_samples(config.samples), device, dtype))


def placed(target: Target, samples: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Samples on a device and in a floating point type; tokens stay whole numbers.

    Example:
        >>> from ebbflow.envs import get_target
        >>> placed(get_target("potts"), torch.zeros(2, 6).long(), torch.device("cpu"), torch.float32).dtype
        torch.int64
    """
    return samples.to(device) if isinstance(target.space, Tokens) else samples.to(device, dtype)


def _load_samples(path: str) -> torch.Tensor:
    try:
        with open(path, "rb") as file:
            return torch.from_numpy(numpy.load(file, allow_pickle=False))
    except (OSError, EOFError, TypeError, ValueError, BadZipFile) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"anchors.samples: expected a .npy file of numbers [n, dim], got {path!r} ({reason})"
        ) from error


def search_for_anchors(
    target: Target, config: AnchorConfig, sigma: float, *, device: torch.device, dtype: torch.dtype
) -> Anchors:
    """Anchors by annealed sequential Monte Carlo; of a conditional target at `config.contexts` contexts of its law.

    Args:
        target: has a differentiable log density; on the device and in the dtype of the search.
        config: how many particles, temperatures, moves and contexts, and how wide it starts.
        sigma: diffusion rate, the unit of `config.initial_scale`.
        device: where the particles live.
        dtype: their floating point type.

    Raises:
        InputError: whatever the search and the density raise.

    Example:
        >>> from ebbflow.envs import get_target
        >>> config = AnchorConfig(count=50, temperatures=5)
        >>> where = {"device": torch.device("cpu"), "dtype": torch.float32}
        >>> search_for_anchors(get_target("gmm25"), config, sigma=7.0, **where).states.shape
        torch.Size([50, 2])
    """
    settings: dict[str, Any] = {
        "initial_std": config.initial_scale * sigma,
        "temperatures": config.temperatures,
        "moves": config.moves,
        "final_moves": config.final_moves,
        "compression": config.compression,
        "dtype": dtype,
        "device": device,
    }
    if not target.is_conditional:
        return annealed_smc(target, config.count, **settings)
    contexts = contexts_of_new_rows(target, config.contexts, config.contexts).to(device, dtype)
    return annealed_smc_by_context(target, contexts, config.count, **settings)
