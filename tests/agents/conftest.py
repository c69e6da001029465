"""Agents are tested in double precision, with parameters far from their special starting values."""

import pytest
import torch

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.envs import CallableTarget, Continuous


@pytest.fixture(autouse=True)
def in_double_precision(double_precision):
    """All tests of agents compute in double precision."""


@pytest.fixture
def randomise():
    """Moves every parameter of a module by normal noise, so that nothing is zero or shared by accident."""

    def move(module, size=0.3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(size * noise.to(parameter))
        return module

    return move


@pytest.fixture
def random_agent(randomise):
    """An agent with random parameters, in two dimensions unless told otherwise."""

    def make(steps=3, dim=2, scale=1.5, seed=0, size=0.3, **settings):
        config = AgentConfig(
            **{"width": 8, "frequencies": (1.0, 2.0), "time_grid": "uniform", "compression": None, **settings}
        )
        return randomise(build_agent(Continuous(dim), scale=scale, steps=steps, config=config), size, seed)

    return make


@pytest.fixture
def quartic():
    """A smooth target in two dimensions that is not Gaussian."""
    return CallableTarget(lambda x: -(x**4).sum(-1) / 8 + x[:, 0] * x[:, 1] + 0.5 * x[:, 0], dim=2, name="quartic")
