r"""ELBO <= log Z <= EUBO, whatever the parameters, on every built-in target; and unbiased estimates of Z.

Weights w = exp(-D)/Z have mean at most one over generated paths, and so has 1/w over paths destroyed from exact
samples. By Markov's inequality for the product of n independent weights, the mean of -D over n generated paths exceeds
log Z by c with probability at most exp(-n c), and that over n destroyed paths falls short of it by c with the same; no
moments of -D, heavy-tailed for the EUBO, are needed. With n c = 30 a failure is a bug.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.agents.actors import DESTRUCTION_MEANS, DESTRUCTION_VARIANCES
from ebbflow.agents.references import REFERENCES
from ebbflow.envs import CallableTarget, get_target

NAMES = ("gmm25", "gmm25-narrow", "gmm40", "funnel", "manywell-4", "manywell-32", "student-t", "rosenbrock")
PATHS = 1000
MARGIN = 30.0 / PATHS


@st.composite
def configurations(draw):
    return AgentConfig(
        reference=draw(st.sampled_from(sorted(REFERENCES))),
        time_grid=draw(st.sampled_from(["uniform", "shrinking"])),
        compression=draw(st.sampled_from([None, 1.0, 3.0])),
        width=4,
        frequencies=(1.0,),
        shared_backbone=draw(st.booleans()),
        langevin=draw(st.booleans()),
        log_variance_bound=draw(st.sampled_from([1.0, 8.0])),
        destruction_mean=draw(st.sampled_from(sorted(DESTRUCTION_MEANS))),
        # Not "free" with large parameters: an unbounded exponential of the state overflows.
        destruction_variance=draw(st.sampled_from(sorted(set(DESTRUCTION_VARIANCES) - {"free"}))),
    )


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(
    config=configurations(),
    steps=st.integers(1, 5),
    size=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 10**6),
)
def test_sandwich(name, config, steps, size, seed):
    target = get_target(name).double()
    torch.manual_seed(seed)
    agent = build_agent(target.space, scale=target.scale, steps=steps, config=config)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    elbo = -agent.log_ratio(agent.generate(PATHS, target)).mean()
    eubo = -agent.log_ratio(agent.destroy(target.sample(PATHS), target)).mean()
    assert elbo <= target.log_z + MARGIN
    assert eubo >= target.log_z - MARGIN


@pytest.mark.parametrize("reference", REFERENCES)
def test_weights_estimate_the_normalising_constant_without_bias(random_agent, reference):
    """Mild weights over generated paths; the inverse ones over destroyed paths."""
    target = CallableTarget(lambda x: -0.5 * (x**2).sum(-1) - 0.1 * (x**4).sum(-1), dim=1)
    grid = torch.linspace(-8, 8, 20_001).unsqueeze(-1)
    density = target(grid).exp()
    z = torch.trapezoid(density, grid[:, 0])
    agent = random_agent(dim=1, scale=1.0, reference=reference, size=0.05, features=("raw",))
    n = 40_000
    weights = (-agent.log_ratio(agent.generate(n, target))).exp()
    stderr = weights.std() / math.sqrt(n)
    assert stderr < 0.02 * z and (weights.mean() - z).abs() < 5 * stderr

    samples = grid[torch.multinomial(density, n, replacement=True)]
    inverse = agent.log_ratio(agent.destroy(samples, target)).exp()
    stderr = inverse.std() / math.sqrt(n)
    assert stderr < 0.02 / z and (inverse.mean() - 1 / z).abs() < 5 * stderr
