"""The annealed search for states of a target, conditional or not, from where a training's settings let it start."""

from typing import Any

import torch

from ..buffers.anchors import Anchors
from ..buffers.annealing import annealed_smc
from ..buffers.conditional_annealing import annealed_smc_by_context
from ..envs.target import Target
from .config import AnchorConfig
from .context_batch import contexts_of_new_rows

__all__ = ["search_for_anchors"]


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
