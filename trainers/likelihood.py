r"""How likely data are under a policy: a lower bound of the log-likelihood, estimated without a density of the data.

    log p(x) >= B(x) = E log p_0(x_0) + Σ_k E [ log p→(x_{k+1} | x_k) − log p←(x_k | x_{k+1}) ]

over the destruction of x. It is estimated by the triple expectation over the sample x, one step k of some law w, whose
term counts 1 / w_k, and the randomness of the destruction. The bound is tight where generation is the exact time
reversal; a deterministic destruction, such as `mask_last`, loses nothing. What a reference knows of the terms
beforehand (`known_term`) is summed and not drawn, and where means over the randomness are closed they are taken: of
Gaussian noise nothing is drawn but the state that the network reads. Bits per token, or per coordinate of continuous
states ("bits per dimension"), are −B / (length · log 2); of densities they depend on the unit of x.
A deterministic transform of continuous states has no densities and no bound, and is refused.
Sources: arXiv 2605.30553; arXiv 2107.03006; arXiv 2006.11239.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..agents.denoising_agent import DenoisingAgent
from ..agents.references.reference import Reference
from ..envs.errors import InputError, whole_number
from .objectives.random_level import destroyed_pair, draw_steps

__all__ = ["LikelihoodBound", "likelihood_bound"]


class LikelihoodBound(NamedTuple):
    """An estimated lower bound of the mean log-likelihood of samples.

    Attributes:
        nats: the bound, in nats per sample.
        stderr: its Monte-Carlo error, one standard deviation: over samples, levels and destruction together.
        bits_per_token: an upper bound of the code length, per token or coordinate; lower is better.
        bits_per_token_stderr: its Monte-Carlo error.
        per_sample: unbiased estimates of the bound of each sample, `[n]`.
    """

    nats: float
    stderr: float
    bits_per_token: float
    bits_per_token_stderr: float
    per_sample: Tensor


@torch.no_grad()
def likelihood_bound(
    agent: DenoisingAgent,
    x: Tensor,
    *,
    draws: int = 16,
    level_law: Sequence[float] | Tensor | None = None,
    proposal: Reference | None = None,
) -> LikelihoodBound:
    """Estimate the bound of samples by random levels (module docstring).

    Args:
        agent: the policy.
        x: samples, `[n, *space]`, n >= 2. For the error of the estimate alone, repeat one sample.
        draws: levels drawn for each sample, >= 1.
        level_law: probabilities of the steps, `[T]`, all > 0; by default those of the reference, `level_law`, or else
            uniform. The estimate is unbiased for any.
        proposal: a masking reference under which states are drawn in place of the agent's own, and weighted for it
            (`objectives.proposal`). The estimate is unbiased for any that is taken.

    Raises:
        InputError: for fewer than two samples, anything but states of the space, settings out of range, a reference
            whose steps have no densities, and a proposal that does not fit the reference.

    Example:
        >>> from ebbflow.agents import TokenNetwork
        >>> from ebbflow.agents.references.tokens import MaskOneRandom
        >>> from ebbflow.envs import Tokens
        >>> space = Tokens(length=3, vocabulary=4)
        >>> agent = DenoisingAgent(MaskOneRandom(space), TokenNetwork(space, steps=3, width=8))
        >>> bound = likelihood_bound(agent, torch.randint(4, (10, 3)))
        >>> round(bound.nats, 4), round(bound.bits_per_token, 4)  # untrained: 3 log 4, and the two bits of 4 tokens
        (-4.1589, 2.0)
    """
    agent.space.check("x", x)
    whole_number("draws", draws, least=1)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"x: expected at least two samples [n, {agent.space.shape[0]}], got {list(x.shape)}")
    reference = agent.reference
    many = x.unsqueeze(1).expand(-1, draws, -1)  # [n, draws, *space]
    k, weight = draw_steps(
        many.shape[:-1], agent.steps, reference.level_law if level_law is None else level_law, x.device
    )
    state, following, ratio = destroyed_pair(agent, many, k, proposal)
    term = agent.mean_step_log_prob(many, following, state, k)
    term = term - reference.mean_log_prob_step(many, following, state, k)
    known = reference.known_term
    drawn = term - known(k)
    drawn = drawn if ratio is None else ratio * drawn
    term = drawn + known(torch.arange(agent.steps, device=k.device)).sum() / weight
    destroyed = reference.mean_log_prob_destroyed(many)
    per_sample = (destroyed + weight * term).double().mean(1)
    nats, stderr = per_sample.mean().item(), per_sample.std().item() / math.sqrt(len(x))
    bits = agent.space.shape[0] * math.log(2.0)
    return LikelihoodBound(nats, stderr, -nats / bits, stderr / bits, per_sample)
