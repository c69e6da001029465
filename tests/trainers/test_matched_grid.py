import math

import pytest
import torch

from ebbflow.buffers import local_length
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
    # sqrt(3) / |z|, z normal in three dimensions: the median of |z| is 1.538.
    assert local_length(target, target.sample(20_000)) == pytest.approx(std * math.sqrt(3) / 1.538, rel=0.02)


def test_local_length_of_nothing_and_of_a_flat_density():
    with pytest.raises(InputError, match="states: expected at least one"):
        local_length(get_target("gmm25"), torch.zeros(0, 2))
    flat = CallableTarget(lambda x: 0.0 * x.sum(-1), dim=2, name="flat")
    with pytest.raises(InputError, match="target 'flat': its local length is inf"):
        local_length(flat, torch.randn(5, 2))


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
    assert 2.7 < powers[0] < 3.5 < 4.2 < powers[1] < 5.0


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
    assert one.energy_calls >= 500 and one.gradient_calls >= 500


def test_a_run_remembers_the_choice(tmp_path):
    config = TrainConfig.from_dict({**OPEN, "target": "gmm25"})
    train(config, tmp_path / "run")
    again = load_run(tmp_path / "run")
    target = get_target("gmm25")
    assert again.config.agent.time_grid_power == Trainer(target, config).config.agent.time_grid_power
    assert again.target.energy_calls - again.energy_calls <= 0  # nothing searched again
