"""The bound that learning from data is judged by, where the likelihood is known."""

import math

import pytest
import torch

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.envs import Continuous, Target
from ebbflow.trainers.data_likelihood import bounds_of_samples, likelihood_numbers


class Noise(Target):
    """N(0, 1) in two dimensions, without its density."""

    def __init__(self):
        super().__init__(Continuous(2), scale=1.0)
        self.held_out = torch.randn(2_000, 2)

    def sample(self, n):
        return torch.randn(n, 2)


@pytest.fixture
def agent(double_precision):
    """Untrained: the reference, which keeps N(0, 1) as it is and is its own reversal."""
    plain = AgentConfig(reference="variance_preserving", compression=None, width=8)
    return build_agent(Continuous(2), scale=1.0, steps=4, config=plain)


def test_of_an_exact_reversal_the_bound_is_the_log_density(agent):
    x = torch.randn(20, 2)
    log_density = -0.5 * x.square().sum(-1) - math.log(2.0 * math.pi)
    torch.testing.assert_close(bounds_of_samples(agent, x), log_density, rtol=0, atol=1e-10)


def test_the_numbers_are_those_of_the_entropy(agent):
    numbers = likelihood_numbers(agent, Noise().double(), samples=2_000)
    bits = 0.5 * math.log2(2.0 * math.pi * math.e)  # of each dimension
    assert numbers["bits_per_dimension"] == pytest.approx(bits, abs=0.1)
    assert numbers["train_bits_per_dimension"] == pytest.approx(bits, abs=0.1)
    assert numbers["log_likelihood"] == pytest.approx(-2 * bits * math.log(2.0), abs=0.15)
