"""Settings: time grids, exploration, features, architectures, and what is said about bad ones."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebbflow.agents import AgentConfig, Backbone, Exploration, StateFeatures, TimeGrid, build_agent
from ebbflow.agents.time_grid import TIME_GRIDS, get_time_grid
from ebbflow.envs import Continuous, InputError

BAD_COUNTS = [0, -3, 2.0, True, None, "5"]

# Time grids -----------------------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 200))
def test_uniform_grid(steps):
    grid = TimeGrid.uniform(steps)
    assert grid.steps == steps and grid.times[0] == 0.0 and grid.times[-1] == 1.0
    assert grid.increments == pytest.approx([1 / steps] * steps)


@given(steps=st.integers(2, 100), power=st.floats(1.1, 3.0))
def test_shrinking_grid(steps, power):
    grid = TimeGrid.shrinking(steps, power)
    assert grid.steps == steps and grid.times[0] == 0.0 and grid.times[-1] == 1.0
    assert sum(grid.increments) == pytest.approx(1.0)
    assert all(later < earlier for earlier, later in zip(grid.increments, grid.increments[1:], strict=False))
    assert grid.times[1] == pytest.approx(1 - (1 - 1 / steps) ** power)


def test_grids_by_name():
    assert get_time_grid("uniform", 4) == TimeGrid((0.0, 0.25, 0.5, 0.75, 1.0))
    assert get_time_grid("shrinking", 3) == TimeGrid.shrinking(3, 2.0)
    with pytest.raises(InputError, match=r"time_grid: expected one of \['shrinking', 'uniform'\], got 'cosine'"):
        get_time_grid("cosine", 3)


@pytest.mark.parametrize("steps", BAD_COUNTS)
@pytest.mark.parametrize("make", TIME_GRIDS.values())
def test_bad_steps_are_reported(make, steps):
    with pytest.raises(InputError, match=f"steps: expected a whole number >= 1, got {steps!r}"):
        make(steps, 2.0)


def test_an_open_power_is_the_trainers_to_choose():
    with pytest.raises(InputError, match="time_grid_power: expected a number"):
        build_agent(Continuous(2), scale=1.0, steps=2, config=AgentConfig(time_grid_power=None))


@pytest.mark.parametrize("power", [0.0, -1.0, math.nan, math.inf])
def test_bad_powers_are_reported(power):
    with pytest.raises(InputError, match=f"power: expected a finite number > 0, got {power}"):
        TimeGrid.shrinking(3, power)


@pytest.mark.parametrize(
    "times",
    [(), (0.0,), (1.0,), (0.0, 0.5), (0.1, 1.0), (0.0, 0.5, 0.5, 1.0), (0.0, 0.6, 0.4, 1.0), (0.0, math.nan, 1.0)],
)
def test_bad_times_are_reported(times):
    with pytest.raises(InputError, match=r"times: expected increasing times from 0\.0 to 1\.0, got "):
        TimeGrid(times)


# Exploration ----------------------------------------------------------------------------------------------------------


@given(
    scale=st.floats(1.0, 5.0),
    added=st.floats(0.0, 5.0),
    until=st.floats(0.05, 1.0),
    fraction=st.floats(0.0, 1.0),
)
def test_exploration_decays_linearly_to_nothing(scale, added, until, fraction):
    exploration = Exploration(scale=scale, added=added, drift=added, until=until)
    assert exploration.drift_at(fraction) == exploration.at(fraction)[1]
    assert exploration.at(0.0) == pytest.approx((scale, added))
    assert exploration.at(until / 2) == pytest.approx(((scale + 1) / 2, added / 2))
    assert exploration.at(until) == (1.0, 0.0)
    found = exploration.at(fraction)
    if fraction >= until:
        assert found == (1.0, 0.0)
    else:
        left = 1 - fraction / until
        assert found == pytest.approx((1 + (scale - 1) * left, added * left))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.9}, "exploration.scale: expected a number >= 1, got 0.9"),
        ({"scale": math.nan}, "exploration.scale: expected a number >= 1, got nan"),
        ({"added": -0.1}, "exploration.added: expected a number >= 0, got -0.1"),
        ({"drift": -0.1}, "exploration.drift: expected a finite number >= 0, got -0.1"),
        ({"drift": math.inf}, "exploration.drift: expected a finite number >= 0, got inf"),
        ({"until": 0.0}, "exploration.until: expected a fraction in .0, 1., got 0.0"),
        ({"until": 1.5}, "exploration.until: expected a fraction in .0, 1., got 1.5"),
    ],
)
def test_bad_exploration_is_reported(change, message):
    with pytest.raises(InputError, match=message):
        Exploration(**change)


# Features and backbone ------------------------------------------------------------------------------------------------


def test_features_are_what_they_say():
    features = StateFeatures(["score", "fourier", "raw", "asinh"], scale=2.0, frequencies=[0.5, 3.0])
    x, score = 5 * torch.randn(4, 3, 2), 5 * torch.randn(4, 3, 2)
    found = features(x, score)
    u = 3 * torch.asinh(x / 6)
    columns = [(2 * score).clamp(-5, 5), (u / 2).sin(), (3 * u).sin(), (u / 2).cos(), (3 * u).cos(), x / 2, u]
    assert features.count == 7
    torch.testing.assert_close(found, torch.stack(columns, -1))
    assert found[..., 0].abs().max() == 5


def test_scores_are_needed_where_they_are_read():
    with pytest.raises(InputError, match="features: 'score' needs the gradient of the log density, and none was given"):
        StateFeatures(["raw", "score"], 1.0, [])(torch.zeros(2, 2))
    assert StateFeatures(["raw"], 1.0, []).count == 1


def test_backbone_places_states_on_the_grid():
    """One row each, one number for all, and a slice of the grid agree; the time matters."""
    backbone = Backbone(inputs=6, times=[0.0, 0.3, 1.0], width=8, depth=3)
    assert len(backbone.layers) == 2
    features = torch.randn(5, 3, 2, 3)
    paths = backbone(features, slice(None))
    for k in range(3):
        torch.testing.assert_close(backbone(features[:, k], k), paths[:, k])
        torch.testing.assert_close(backbone(features[:, k], torch.full((5,), k)), paths[:, k])
        torch.testing.assert_close(backbone(features[:, k], k, backbone.time_embedding()), paths[:, k])
    assert (backbone(features[:, 0], 1) - paths[:, 0]).abs().max() > 1e-3
    assert backbone.time_embedding().shape == (3, 8)
    assert (backbone(features[:, 0], 0, torch.zeros(3, 8)) - paths[:, 0]).abs().max() > 1e-3


# Architecture ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "ou"}, "reference: expected one of .*'variance_preserving'.*, got 'ou'"),
        ({"time_grid": "log"}, "time_grid: expected one of .*, got 'log'"),
        ({"sigma": 0.0}, "sigma: expected a positive finite number, got 0.0"),
        ({"sigma": -2.0}, "sigma: expected a positive finite number, got -2.0"),
        ({"width": 0}, "width: expected a whole number >= 1, got 0"),
        ({"width": 2.5}, "width: expected a whole number >= 1, got 2.5"),
        ({"depth": -1}, "depth: expected a whole number >= 1, got -1"),
        ({"features": ("raw", "sine")}, r"features: expected a choice of .*'asinh'.*, got \['raw', 'sine'\]"),
        ({"features": ()}, r"features: expected a choice of .*, got \[\]"),
        ({"frequencies": ()}, r"frequencies: expected at least one for the 'fourier' features, got \(\)"),
        ({"generation_variance": "free"}, "generation_variance: expected 'learned' or 'fixed', got 'free'"),
        ({"log_variance_bound": 0.0}, "log_variance_bound: expected a finite number > 0, got 0.0"),
        ({"log_variance_bound": math.inf}, "log_variance_bound: expected a finite number > 0, got inf"),
        ({"destruction_mean": "none"}, "destruction_mean: expected one of .*'offset'.*, got 'none'"),
        ({"destruction_variance": "fixed"}, "destruction_variance: expected one of .*'free'.*, got 'fixed'"),
        ({"destruction_mean_bound": -1.0}, "mean_bound: expected a finite number > 0, got -1.0"),
        ({"destruction_mean_bound": math.inf}, "mean_bound: expected a finite number > 0, got inf"),
        ({"destruction_variance_bound": 0.0}, "variance_bound: expected a finite number > 0 .*, got 0.0"),
        ({"destruction_variance_bound": 1.0}, "variance_bound: .*< 1 for the multiplicative form.*, got 1.0"),
        (
            {"destruction_variance": "log_bounded", "destruction_variance_bound": math.nan},
            "variance_bound: expected a finite number > 0 .*, got nan",
        ),
    ],
    ids=str,
)
def test_bad_settings_are_reported(change, message):
    with pytest.raises(InputError, match=message):
        build_agent(Continuous(2), scale=1.0, steps=2, config=AgentConfig(**change))


def test_large_bounds_are_fine_where_nothing_is_multiplied():
    config = AgentConfig(destruction_variance="log_bounded", destruction_variance_bound=4.0)
    assert build_agent(Continuous(2), scale=1.0, steps=2, config=config).destruction.variance_bound == 4.0


@pytest.mark.parametrize("sigma", [None, 1.0])
@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_bad_scales_are_reported(scale, sigma):
    with pytest.raises(InputError, match=f"scale: expected a positive finite length, got {scale}"):
        build_agent(Continuous(2), scale=scale, steps=2, config=AgentConfig(sigma=sigma))


@pytest.mark.parametrize("steps", BAD_COUNTS)
def test_agents_need_steps(steps):
    with pytest.raises(InputError, match=f"steps: expected a whole number >= 1, got {steps!r}"):
        build_agent(Continuous(2), scale=1.0, steps=steps)


def test_variants():
    config = AgentConfig(width=7, destruction_mean="offset", langevin=True)
    assert config.variant("adaptive") == config
    fixed, generation = config.variant("fixed"), config.variant("generation")
    reference_destruction = {"destruction_mean": "reference", "destruction_variance": "reference"}
    assert fixed == dataclasses.replace(config, generation_variance="fixed", **reference_destruction)
    assert generation == dataclasses.replace(config, generation_variance="learned", **reference_destruction)
    with pytest.raises(InputError, match="variant: expected 'fixed', 'generation' or 'adaptive', got 'both'"):
        config.variant("both")


def test_the_scale_of_the_target_sets_the_diffusion_rate():
    agent = build_agent(Continuous(2), scale=3.0, steps=2, config=AgentConfig(time_grid="uniform"))
    assert agent.reference.generation_variance == pytest.approx((4.5, 4.5))
    assert agent.features.scale == 3.0
    agent = build_agent(Continuous(2), scale=3.0, steps=2, config=AgentConfig(sigma=1.0, time_grid="uniform"))
    assert agent.reference.generation_variance == pytest.approx((0.5, 0.5))
    assert agent.features.scale == 3.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agents_are_built_in_the_default_precision(dtype):
    torch.set_default_dtype(dtype)
    agent = build_agent(Continuous(2), scale=3.0, steps=2, config=AgentConfig(langevin=True))
    assert {tensor.dtype for tensor in [*agent.parameters(), *agent.buffers()]} == {dtype}
