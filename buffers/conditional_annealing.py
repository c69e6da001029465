"""Anchors of a conditional target: annealed search at each of some contexts, one after the other."""

from typing import Any

import torch
from torch import Tensor

from ..envs.target import Target
from .anchors import Anchors
from .annealing import annealed_smc

__all__ = ["annealed_smc_by_context"]


def annealed_smc_by_context(target: Target, contexts: Tensor, n: int, **settings: Any) -> Anchors:
    """`annealed_smc` on `target.given(c)` for each context c, with `n` particles in all.

    Populations of different contexts have different temperatures and resampling times, so they are not one batch.

    Args:
        target: conditional, with a differentiable log density.
        contexts: where to search, `[m, c]`.
        n: number of particles in all; at least two a context.
        settings: of `annealed_smc`, for example `initial_std`.

    Returns:
        Anchors with contexts; `ess_history` and `acceptance` hold the contexts one after the other.

    Raises:
        InputError: as `annealed_smc`, and for contexts that do not fit.

    Example:
        >>> from ebbflow.envs import get_target
        >>> target = get_target("conditional-gmm")
        >>> contexts = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> anchors = annealed_smc_by_context(target, contexts, 200, initial_std=4.0, temperatures=5)
        >>> anchors.states.shape, anchors.contexts[[0, -1]]
        (torch.Size([200, 2]), tensor([[0., 0.],
                [1., 0.]]))
    """
    each = max(2, n // max(1, len(contexts)))
    parts = [annealed_smc(target.given(context), each, **settings) for context in target.check_context(contexts)]
    return Anchors(
        states=torch.cat([part.states for part in parts]),
        log_reward=torch.cat([part.log_reward for part in parts]),
        ess_history=torch.cat([part.ess_history for part in parts]),
        acceptance=torch.cat([part.acceptance for part in parts]),
        energy_calls=sum(part.energy_calls for part in parts),
        gradient_calls=sum(part.gradient_calls for part in parts),
        contexts=contexts.to(parts[0].states).repeat_interleave(each, dim=0),
    )
