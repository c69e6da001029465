"""The agent between two sample sets: where it starts, what it learns from, and what it refuses."""

import math
from dataclasses import replace

import pytest
import torch

from ebbflow.agents import BRIDGE, TimeGrid, build_agent, build_bridge_agent
from ebbflow.agents.references import brownian_motion, variance_exploding
from ebbflow.envs import Continuous, InputError, Target, Tokens, get_target
from ebbflow.envs.data import Dataset, two_moons
from ebbflow.envs.spaces import Compressed

SMALL = replace(BRIDGE, width=8, depth=1, features=("raw",))


def bridge(source=None, steps=4, sigma=0.5, **settings):
    return build_bridge_agent(Continuous(2), source=source or two_moons(50), sigma=sigma, steps=steps, **settings)


def test_brownian_motion_is_the_limit_of_wide_initial_laws():
    grid = TimeGrid.shrinking(5)
    free, wide = brownian_motion(grid, 0.7), variance_exploding(grid, 0.7, initial_std=1e8)
    for name in ("destruction_factor", "destruction_variance", "generation_factor", "generation_variance"):
        assert getattr(free, name) == pytest.approx(getattr(wide, name), rel=1e-12)
    assert free.level(0) == pytest.approx((1.0, 0.49))


def test_untrained_it_is_the_reference_from_the_source_and_back(double_precision):
    moons = two_moons(50)
    agent = bridge(moons, sigma=0.3).double()
    x_0, x_t = agent.coupling(20_000)
    assert (torch.cdist(x_0[:100], moons.train_rows).min(1).values < 1e-6).all()
    assert (x_t - x_0).mean(0).abs().max() < 0.01 and (x_t - x_0).std(0) == pytest.approx([0.3, 0.3], rel=0.02)
    back = agent.destroy(x_t)["state"][:, 0] - x_t
    assert back.std(0) == pytest.approx([0.3, 0.3], rel=0.02)
    # Both policies are the same walk, read in either direction, and log p_0 is counted as 0.
    paths = agent.generate(10)
    paths["log_reward"] = torch.zeros(10)
    assert agent.log_ratio(paths).abs().max() < 1e-12


def test_redrawn_paths_are_brownian_bridges_between_the_same_ends(double_precision):
    agent = bridge(sigma=2.0, config=replace(SMALL, time_grid="shrinking")).double()
    state = torch.randn(1, 5, 2).expand(200_000, -1, -1)
    paths = agent.generate(1).expand(200_000).clone().set("state", state.clone())
    drawn = agent.redrawn(paths)["state"]
    assert torch.equal(drawn[:, [0, -1]], state[:, [0, -1]])
    t = torch.tensor(agent.times)[1:-1]
    mean = state[0, 0] + t[:, None] * (state[0, -1] - state[0, 0])
    assert (drawn.mean(0)[1:-1] - mean).abs().max() < 0.02
    exact = 4.0 * torch.minimum(t[:, None], t) * (1.0 - torch.maximum(t[:, None], t))
    assert (drawn[:, 1:-1, 0].T.cov() - exact).abs().max() < 0.02


def test_paths_are_learned_from_as_they_are_where_that_is_asked_for():
    agent = bridge(redraw=False)
    paths = agent.generate(3)
    assert agent.redrawn(paths) is paths


def test_of_another_agent_nothing_is_redrawn():
    agent = build_agent(Continuous(2), scale=1.0, steps=2, config=replace(SMALL, reference="bridge"))
    paths = agent.generate(3)
    assert agent.redrawn(paths) is paths and not agent.starts_from_samples


def test_a_density_that_can_sample_is_a_source():
    target = get_target("gmm25")
    agent = bridge(target)
    assert agent.coupling(5)[0].shape == (5, 2) and agent.features.scale == target.scale


class Bits(Target):
    def sample(self, n):
        return torch.zeros(n, 2, dtype=torch.int64)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_sigma_out_of_range(sigma):
    with pytest.raises(InputError, match=rf"^sigma: expected a positive finite number, got {sigma}$"):
        bridge(sigma=sigma)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": Dataset.split(torch.randn(10, 3))}, r"source: expected samples of Continuous\(dim=2\), got one of"),
        ({"source": Bits(Tokens(2, 2))}, r"source: expected samples of Continuous\(dim=2\), got one of Tokens"),
        ({"source": get_target("conditional-gmm")}, "source: expected one without contexts"),
        ({"source": Target(Continuous(2))}, r"source: expected one that can sample, got target 'Target'"),
        ({"steps": 0}, "steps: expected a whole number >= 1, got 0"),
        ({"scale": 0.0}, "scale: expected a positive finite length, got 0.0"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(InputError, match=message) as error:
        bridge(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("space", [Tokens(3, 2), Compressed(2, 1.0)])
def test_only_plain_spaces_are_bridged(space):
    with pytest.raises(InputError, match="space: expected a plain Continuous space for a bridge, got"):
        build_bridge_agent(space, source=two_moons(50), sigma=1.0, steps=2)


def test_a_reference_of_ones_own_has_the_steps():
    with pytest.raises(InputError, match="reference: expected one of 3 steps, got one of 2"):
        build_agent(Continuous(1), scale=1.0, steps=3, reference=brownian_motion(TimeGrid.uniform(2), 1.0))
