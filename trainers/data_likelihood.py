r"""How likely samples are under an agent, where no density is known: the numbers by which learning from data is judged.

    log p(x) >= B(x) = E [D(τ)],    τ destroyed from x, with log R = 0

For an agent that learns from levels the same bound is estimated by random levels, at a fraction of the cost (see
`likelihood`). Bits per dimension (of tokens: per token) are −B / (d · log 2). For numbers they are those of a density,
whose unit is that of the states, and may be negative.
Sources: arXiv 2605.30553; arXiv 2506.01541 (D).
"""

import math
from typing import cast

import torch
from torch import Tensor

from ..agents.denoising_agent import DenoisingAgent
from ..agents.policies import Policies
from ..envs.given import GivenTarget
from ..envs.target import Target
from .data_batches import checked
from .likelihood import likelihood_bound

__all__ = ["LIKELIHOODS", "bounds_of_samples", "held_out_rows", "likelihood_numbers"]

LIKELIHOODS = (
    "log_likelihood",
    "log_likelihood_stderr",
    "bits_per_dimension",
    "train_log_likelihood",
    "train_bits_per_dimension",
)
_NUMBERS_PER_CHUNK = 4_000_000
_LEVELS = 4  # drawn for each sample in one estimate


def held_out_rows(target: Target) -> Tensor | None:
    """Samples `[n, *space.shape]` that are not trained on, of a data set that keeps some; else None.

    Of a conditional data set at one context, those of the context.
    """
    if not isinstance(target, GivenTarget):
        return getattr(target, "held_out", None)
    rows: Tensor | None = getattr(target.source, "held_out", None)
    contexts: Tensor | None = getattr(target.source, "held_out_contexts", None)
    if rows is None or contexts is None:
        return None
    return rows[(contexts == target.context.to(contexts)).all(-1)]


@torch.no_grad()
def bounds_of_samples(agent: Policies, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Unbiased estimates of the bound of each sample (nats), `[n, *space.shape] -> [n]`, in parts that fit into memory.

    Samples of a conditional agent come with their contexts `[n, c]`. Where levels are drawn, there are n >= 2 of them.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_token_agent
        >>> from ebbflow.envs import Tokens
        >>> agent = build_token_agent(Tokens(length=3, vocabulary=4), config=AgentConfig(width=8))
        >>> bounds_of_samples(agent, torch.tensor([[0, 1, 2], [3, 3, 3]]))  # untrained: −3 log 4
        tensor([-4.1589, -4.1589], dtype=torch.float64)
    """
    rows = _LEVELS * agent.space.width if agent.trains_levels else (agent.steps + 1) * agent.space.width * 32
    count = max(1, min(len(x) // 2, -(-len(x) * rows // _NUMBERS_PER_CHUNK)))  # parts of nearly equal size
    parts = []
    for index in torch.arange(len(x), device=x.device).tensor_split(count):
        part, at = x[index], agent if context is None else agent.given(context[index])
        if agent.trains_levels:
            parts.append(likelihood_bound(cast(DenoisingAgent, at), part, draws=_LEVELS).per_sample)
        else:
            parts.append(at.log_ratio(at.destroy(part, None, at.log_z.new_zeros(len(part)))).double())
    return torch.cat(parts)


def likelihood_numbers(
    agent: Policies, target: Target, samples: int, *, most: int | None = None
) -> dict[str, float | None]:
    """The numbers `LIKELIHOODS`: of held-out samples, with the error of their mean, and of samples trained on.

    Of held-out samples all are taken, or at random `most` of them, as often as `samples` allow, at least once; without
    any, their numbers are None. Samples of a conditional target are judged each at its own context.
    Of a deterministic destruction, which has no densities, all are, and of an agent that starts from samples.

    Random numbers come from torch's global generator.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_token_agent
        >>> from ebbflow.envs import Target, Tokens
        >>> class Coins(Target):
        ...     def sample(self, n):
        ...         return torch.randint(2, (n, 3))
        >>> coins = Coins(Tokens(length=3, vocabulary=2))
        >>> agent = build_token_agent(coins.space, config=AgentConfig(width=8))
        >>> round(likelihood_numbers(agent, coins, samples=10)["train_bits_per_dimension"], 4)
        1.0
    """
    bits = math.prod(target.space.shape) * math.log(2.0)
    numbers: dict[str, float | None] = dict.fromkeys(LIKELIHOODS)
    if agent.starts_from_samples or (agent.trains_levels and not cast(DenoisingAgent, agent).reference.has_density):
        return numbers

    def bounds(x: Tensor, context: Tensor | None, times: int) -> Tensor:
        x = checked(target, x).to(agent.log_z.device)
        x = x.to(agent.log_z) if x.is_floating_point() else x
        at = None if context is None else context.to(agent.log_z)
        return torch.stack([bounds_of_samples(agent, x, at) for _ in range(times)]).mean(0)

    known, own = target.sample_pairs(samples) if target.is_conditional else (target.sample(samples), None)
    train = bounds(known, own, 1).mean().item()
    numbers |= {"train_log_likelihood": train, "train_bits_per_dimension": -train / bits}
    rows = held_out_rows(target)
    contexts: Tensor | None = getattr(target, "held_out_contexts", None) if target.is_conditional else None
    if target.is_conditional and contexts is None:
        rows = None
    if rows is not None and most is not None and len(rows) > most:
        chosen = torch.randperm(len(rows))[:most].to(rows.device)
        rows, contexts = rows[chosen], None if contexts is None else contexts[chosen]
    if rows is not None and len(rows) >= 2:
        found = bounds(rows, contexts, max(1, samples // len(rows)))
        mean = found.mean().item()
        numbers["log_likelihood"] = mean
        numbers["log_likelihood_stderr"] = found.std().item() / math.sqrt(len(found))
        numbers["bits_per_dimension"] = -mean / bits
    return numbers
