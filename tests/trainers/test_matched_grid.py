import dataclasses
import math

import pytest
import torch

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.buffers import Anchors, local_length
from ebbflow.envs import InputError, get_target
from ebbflow.envs.targets import CallableTarget, GaussianMixture
from ebbflow.trainers import TrainConfig, Trainer
from ebbflow.trainers.matched_grid import matched_power, with_matched_grid
from ebbflow.trainers.train import load_run, train

OPEN = {"iterations": 4, "batch_size": 8, "anchors": {"count": 50, "temperatures": 5}, "evaluation_samples": 20}
OPEN["contexts_per_batch"] = 2
OPEN["agent"] = {"width": 8, "time_grid_power": None}


@pytest.mark.parametrize("std", [0.05, 0.5, 2.0])
def test_local_length_is_the_width_of_modes_however_far_apart(std):
    target = GaussianMixture([[-9.0, 0.0, 3.0], [9.0, 1.0, 0.0]], std=std).double()
    torch.manual_seed(0)
    # sqrt(3) / |z|, z normal in three dimensions: a tenth of |z| is above 2.500.
    assert local_length(target, target.sample(20_000)) == pytest.approx(std * math.sqrt(3) / 2.500, rel=0.02)


def test_local_length_of_nothing_and_of_a_flat_density():
    with pytest.raises(InputError, match="states: expected at least one"):
        local_length(get_target("gmm25"), torch.zeros(0, 2))
    flat = CallableTarget(lambda x: 0.0 * x.sum(-1), dim=2, name="flat")
    with pytest.raises(InputError, match="target 'flat': its local length is inf"):
        local_length(flat, torch.randn(5, 2))
    plateau = CallableTarget(lambda x: -0.5 * x.square().sum(-1) * (x[:, 0] > 0), dim=2, name="plateau")
    states = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
    states[2:, 0] = -1.0  # flat at eight of ten
    assert local_length(plateau, states) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("length", [0.9, 0.3, 0.1])
def test_the_last_step_is_as_long_as_the_density_is_narrow(steps, length):
    power = matched_power(steps, 1.0, length)
    if 1.0 < power < 8.0:
        assert steps ** (-power / 2) == pytest.approx(length, rel=0.02)
    assert matched_power(steps, 1.0, 5.0) == 1.0
    assert matched_power(steps, 1.0, 1e-9) == 8.0


def test_narrow_modes_get_shorter_last_steps():
    config = TrainConfig.from_dict(OPEN)
    powers = []
    for name in ("gmm25", "gmm25-narrow"):
        torch.manual_seed(0)
        target = get_target(name)
        powers.append(with_matched_grid(config, target, target.scale).agent.time_grid_power)
    assert 3.5 < powers[0] < 4.0 < 5.0 < powers[1] < 5.6


@pytest.mark.parametrize("contexts", [None, torch.tensor([[0.5]])])
def test_anchors_that_are_given_are_used_instead_of_a_search(contexts):
    """Their local length is that of their own place, which is not that of the density as a whole."""

    def log_prob(x, context=None):
        width = torch.where(x[:, 0] > 0, 0.1, 2.0)
        return -0.5 * ((x.square().sum(-1) if context is None else (x - context).square().sum(-1)) / width**2)

    space = None if contexts is None else torch.zeros(3, 1)
    target = CallableTarget(log_prob, dim=2, scale=2.0, name="two widths", contexts=space)
    config = TrainConfig.from_dict(OPEN)
    powers = []
    for side in (1.0, -1.0):
        rows = None if contexts is None else contexts.expand(40, 1)
        states = torch.randn(40, 2).abs() * side * (0.1 if side > 0 else 2.0)
        anchors = Anchors.from_samples(target, states, rows)
        calls = target.energy_calls, target.gradient_calls
        found = with_matched_grid(config, target, 2.0, anchors)
        assert (target.energy_calls - calls[0], target.gradient_calls - calls[1]) == (40, 40)
        powers.append(found.agent.time_grid_power)
        assert powers[-1] == matched_power(5, 2.0, local_length(target, states, rows))
    assert powers[0] > powers[1] + 1.0


def test_a_training_with_anchors_or_an_agent_of_its_own_does_not_search():
    target, config = get_target("gmm25"), TrainConfig.from_dict(OPEN)
    anchors = Anchors.from_samples(target, target.sample(30))
    trainer = Trainer(target, config, anchors=anchors)
    assert trainer.config.agent.time_grid_power > 2.5
    assert (trainer.energy_calls, trainer.gradient_calls) == (30 + 30, 30)
    trainer.train()
    assert trainer.gradient_calls == 30 and trainer.anchors is anchors

    agent = build_agent(target.space, scale=target.scale, steps=5)
    given = Trainer(target, config, agent=agent)
    assert given.agent is agent and given.energy_calls == 0


def test_a_single_step_has_nothing_to_match():
    target = get_target("gmm25")
    config = with_matched_grid(TrainConfig.from_dict({**OPEN, "steps": 1}), target, target.scale)
    assert config.agent.time_grid_power == 1.0 and target.energy_calls == 0


def test_what_is_given_stays_and_costs_nothing():
    target = get_target("gmm25")
    for agent in ({"time_grid_power": 1.5}, {"time_grid": "uniform", "time_grid_power": None}):
        config = TrainConfig.from_dict({"agent": agent})
        assert with_matched_grid(config, target, target.scale) is config
    assert target.energy_calls == 0


@pytest.mark.parametrize("name", ["gmm25", "conditional-gmm"])
def test_the_trainer_chooses_counts_the_search_and_keeps_its_choice(name):
    config = TrainConfig.from_dict(OPEN)
    one, two = Trainer(get_target(name), config), Trainer(get_target(name), config)
    power = one.config.agent.time_grid_power
    assert 1.0 <= power <= 8.0 and two.config.agent.time_grid_power == power
    assert one.agent.reference.times[1] == pytest.approx(1 - (1 - 1 / 5) ** power)
    assert one.energy_calls == one.gradient_calls == 500 * (1 + 30 * (2 + 1)) + 500  # the search; its states' lengths


def test_matching_is_the_default_of_a_training_and_not_of_an_agent():
    assert TrainConfig().agent == dataclasses.replace(AgentConfig(), time_grid_power=None)
    assert TrainConfig.from_dict({"agent": {"width": 8}}).agent.time_grid_power is None


def test_a_run_remembers_the_choice(tmp_path):
    config = TrainConfig.from_dict({**OPEN, "target": "gmm25"})
    train(config, tmp_path / "run")
    again = load_run(tmp_path / "run")
    target = get_target("gmm25")
    assert again.config.agent.time_grid_power == Trainer(target, config).config.agent.time_grid_power
    assert again.target.energy_calls - again.energy_calls <= 0  # nothing searched again


def test_a_density_without_gradient_says_what_to_give():
    target = CallableTarget(lambda x: torch.from_numpy(-(x.detach().numpy() ** 2).sum(-1)), dim=2, name="numbers")
    config = TrainConfig.from_dict(OPEN | {"anchors": {"share": 0.0}})
    with pytest.raises(InputError, match=r"not differentiable.*a given agent.time_grid_power needs nothing"):
        Trainer(target, config)
    agent = OPEN["agent"] | {"time_grid_power": 2.0}
    trainer = Trainer(target, TrainConfig.from_dict(OPEN | {"anchors": {"share": 0.0}, "agent": agent}))
    trainer.train()
    assert trainer.iteration == 4
