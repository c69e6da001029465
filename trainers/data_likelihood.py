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
def bounds_of_samples(agent: Policies, x: Tensor) -> Tensor:
    """Unbiased estimates of the bound of each sample (nats), `[n, *space.shape] -> [n]`.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_token_agent
        >>> from ebbflow.envs import Tokens
        >>> agent = build_token_agent(Tokens(length=3, vocabulary=4), config=AgentConfig(width=8))
        >>> bounds_of_samples(agent, torch.tensor([[0, 1, 2], [3, 3, 3]]))  # untrained: −3 log 4
        tensor([-4.1589, -4.1589], dtype=torch.float64)
    """
    if agent.trains_levels:
        return likelihood_bound(cast(DenoisingAgent, agent), x, draws=_LEVELS).per_sample
    size = max(1, _NUMBERS_PER_CHUNK // ((agent.steps + 1) * math.prod(agent.space.shape) * 32))
    zeros = agent.log_z.new_zeros(len(x))
    parts = [
        agent.log_ratio(agent.destroy(part, None, zero))
        for part, zero in zip(x.split(size), zeros.split(size), strict=True)
    ]
    return torch.cat(parts).double()


def likelihood_numbers(agent: Policies, target: Target, samples: int) -> dict[str, float | None]:
    """The numbers `LIKELIHOODS`: of held-out samples, with the error of their mean, and of samples trained on.

    Of held-out samples all are taken, as often as `samples` allow, at least once; without any, their numbers are None.
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

    def bounds(x: Tensor, times: int) -> Tensor:
        x = checked(target, x).to(agent.log_z.device)
        x = x.to(agent.log_z) if x.is_floating_point() else x
        return torch.stack([bounds_of_samples(agent, x) for _ in range(times)]).mean(0)

    train = bounds(target.sample(samples), 1).mean().item()
    numbers |= {"train_log_likelihood": train, "train_bits_per_dimension": -train / bits}
    rows = held_out_rows(target)
    if rows is not None and len(rows) >= 2:
        found = bounds(rows, max(1, samples // len(rows)))
        mean = found.mean().item()
        numbers["log_likelihood"] = mean
        numbers["log_likelihood_stderr"] = found.std().item() / math.sqrt(len(found))
        numbers["bits_per_dimension"] = -mean / bits
    return numbers
