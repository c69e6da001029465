"""Means are held within a box, and nothing else of a step changes."""

import pytest
import torch
from torch.distributions import Normal

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.envs import Continuous, InputError

BOUND = torch.tensor([0.3, 1.0], dtype=torch.float64)


def held(agent):
    agent.hold_means(BOUND)
    return agent


def steps_of(agent, state):
    """Means and log variances of all steps of both policies."""
    found = [agent.generation_step(state, k) for k in range(3)] + [agent.destruction_step(state, k) for k in (2, 3)]
    return [torch.stack(values) for values in zip(*found, strict=True)]


@pytest.mark.parametrize("compression", [None, 2.0])
def test_means_are_held_and_variances_are_not_touched(random_agent, compression):
    agent = random_agent(compression=compression)
    state = 2.0 * torch.randn(200, 2)
    free, log_variances = steps_of(agent, state)
    means, same = steps_of(held(agent), state)
    assert torch.equal(means, free.clamp(-BOUND, BOUND)) and torch.equal(same, log_variances)
    assert (free.abs() > BOUND).any(1).all()


def test_log_densities_are_those_of_the_steps_that_were_taken(random_agent, quartic):
    agent = random_agent()
    paths = agent.generate(50, quartic)
    free = agent.path_log_probs(paths).generation
    found = held(agent).path_log_probs(paths).generation
    for k in range(3):
        mean, log_variance = agent.generation_step(paths["state"][:, k], k)
        expected = Normal(mean, (0.5 * log_variance).exp()).log_prob(paths["state"][:, k + 1]).sum(-1)
        torch.testing.assert_close(found[:, k], expected)
    assert not torch.allclose(found, free)


def test_a_wild_network_throws_no_path_far_out(random_agent):
    agent = held(random_agent(steps=5, compression=2.0, generation_variance="fixed"))
    with torch.no_grad():
        agent.generation.readout.linear.bias.fill_(1e6)
    u = agent.space.coordinates(agent.generate(1000)["state"][:, 1:])
    assert (u.abs() < BOUND + 6 * 1.5 / 5**0.5).all() and (u.mean(0) > 0.8 * BOUND).all()


@pytest.mark.parametrize("reference", ["variance_exploding", "variance_preserving"])
def test_only_bridges_have_one(random_agent, reference):
    assert held(random_agent(reference=reference)).generation.reach is None


def test_a_fixed_destruction_has_none(random_agent):
    agent = held(random_agent(destruction_mean="reference"))
    assert agent.destruction.reach is None and agent.generation.reach is not None


def test_agents_saved_before_there_was_one_are_loaded(random_agent):
    saved = random_agent(reach=None)
    agent = held(random_agent())
    agent.load_state_dict(saved.state_dict())
    state = 100.0 * torch.randn(50, 2)
    for one, other in zip(steps_of(agent, state), steps_of(saved, state), strict=True):
        assert torch.equal(one, other)
    again = random_agent()
    again.load_state_dict(held(agent).state_dict())
    assert torch.equal(again.generation.reach.bound, BOUND.unsqueeze(-1))


@pytest.mark.parametrize("reach", [0.0, -1.0, float("inf"), float("nan")])
def test_factors_that_bound_nothing(reach):
    with pytest.raises(InputError, match="reach: expected a positive finite factor, or None"):
        build_agent(Continuous(1), scale=1.0, steps=2, config=AgentConfig(reach=reach, time_grid="uniform"))
