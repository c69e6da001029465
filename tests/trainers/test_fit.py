"""`fit`: from a density to samples and log Z in one call."""

import math

import numpy
import pytest
import torch

from ebbflow.agents import AgentConfig
from ebbflow.envs import CallableTarget, InputError, get_target
from ebbflow.trainers import TrainConfig, fit

LOG_2PI = math.log(2 * math.pi)


def normal(x):
    return -0.5 * x.square().sum(-1)


@pytest.fixture
def quick(settings):
    """Keyword arguments of a tiny fit."""

    def make(**changes):
        values = settings(**changes)
        del values["target"]
        return values

    return make


@pytest.fixture(scope="module")
def shifted():
    """A fit of a correlated Gaussian that is far from standard, and its moments."""
    mean = torch.tensor([1.0, -2.0])
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.6]])

    def log_prob(x):
        return -0.5 * torch.linalg.solve_triangular(factor, (x - mean).T, upper=False).square().sum(0) + 3.0

    result = fit(
        log_prob,
        dim=2,
        scale=2.0,
        steps=3,
        iterations=200,
        batch_size=128,
        agent={"width": 32},
        exploration={"inverse_temperature": 1.0},
        anchors={"count": 200, "temperatures": 10},
        generation_optimiser={"warmup": 10, "rate": 1e-2, "table_rate": 1e-2},
        destruction_optimiser={"warmup": 10, "rate": 1e-2, "table_rate": 1e-2},
        average_decay=0.9,
        evaluation_samples=2000,
        seed=1,
    )
    return result, mean, factor @ factor.T


def test_log_z_of_a_gaussian(shifted):
    result, _, covariance = shifted
    truth = 3.0 + LOG_2PI + 0.5 * math.log(torch.linalg.det(covariance))
    assert abs(result.log_z - truth) < 0.1
    assert 0 < result.log_z_stderr < 0.05
    assert abs(result.log_z - truth) < 5 * result.log_z_stderr + 0.01
    assert result.evaluation["elbo"] < truth
    assert result.log_z == result.evaluation["log_z"]


def test_samples_of_a_gaussian(shifted):
    result, mean, covariance = shifted
    torch.manual_seed(0)
    x = result.sample(1000)
    assert x.shape == (1000, 2) and not x.requires_grad
    assert torch.allclose(x.mean(0), mean, atol=0.3)
    x, log_weight = result.weighted_sample(20_000)
    assert x.shape == (20_000, 2) and log_weight.shape == (20_000,)
    weight = log_weight.softmax(0)
    centred = x - weight @ x
    assert torch.allclose(weight @ x, mean, atol=0.1)
    assert torch.allclose((weight[:, None] * centred).T @ centred, covariance, atol=0.15)
    assert log_weight.logsumexp(0).item() - math.log(20_000) == pytest.approx(result.log_z, abs=0.1)


def test_the_sampling_follows_torchs_seed(shifted):
    result = shifted[0]
    torch.manual_seed(3)
    one = result.sample(5)
    torch.manual_seed(3)
    assert torch.equal(result.sample(5), one)
    assert not torch.equal(result.sample(5), one)


def test_warnings_say_what_cannot_be_known(shifted):
    (warning,) = shifted[0].warnings
    assert warning.startswith("eubo is unknown")


def test_to_arviz(shifted):
    pytest.importorskip("arviz")
    result = shifted[0]
    data = result.to_arviz(50)
    assert data.posterior["x"].shape == (1, 50, 2)
    assert numpy.isfinite(data.sample_stats["log_weight"].values).all()
    assert data.posterior.attrs["log_z"] == result.log_z


# What can be fitted ---------------------------------------------------------------------------------------------------


def test_a_name_a_target_and_a_function(quick):
    by_name = fit("gmm25", **quick())
    by_target = fit(get_target("gmm25"), **quick())
    for key in ("elbo", "eubo", "log_z", "energy_calls"):
        assert by_name.evaluation[key] == by_target.evaluation[key]
    assert by_name.trainer.config.target == by_target.trainer.config.target == "gmm25"
    mixture = get_target("gmm25")
    by_function = fit(mixture.log_prob, dim=2, scale=mixture.scale, **quick())
    for one, other in zip(by_function.trainer.agent.parameters(), by_name.trainer.agent.parameters(), strict=True):
        assert torch.equal(one, other)
    assert by_function.evaluation["eubo"] is None and by_function.evaluation["mode_coverage"] is None


def test_a_function_needs_a_dimension_and_a_target_its_own():
    with pytest.raises(InputError, match="dim: needed for a plain log density"):
        fit(normal)
    with pytest.raises(InputError, match="dim: target 'gmm25' has 2 coordinates, got 3"):
        fit(get_target("gmm25"), dim=3)
    with pytest.raises(InputError, match="dim: target 'gmm25' has 2 coordinates, got 3"):
        fit("gmm25", dim=3)


def test_one_target_can_be_fitted_twice(quick):
    target = get_target("gmm25")
    first, second = fit(target, **quick()), fit(target, **quick())
    assert first.evaluation["energy_calls"] == second.evaluation["energy_calls"]
    assert first.evaluation["elbo"] == second.evaluation["elbo"]


# Settings -------------------------------------------------------------------------------------------------------------


def test_settings_by_name_go_over_a_configuration(quick):
    config = TrainConfig(steps=2, seed=4, agent=AgentConfig(width=9, depth=1))
    values = quick()
    for name in ("steps", "agent"):
        del values[name]
    result = fit(normal, dim=2, config=config, **values, agent={"tables": False})
    used = result.trainer.config
    assert (used.steps, used.seed, used.iterations) == (2, 4, 12)
    assert used.agent == AgentConfig(reference="bridge", width=9, depth=1, tables=False)
    assert fit(normal, dim=2, **{**quick(), "agent": AgentConfig(width=7)}).trainer.config.agent.width == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 3}, "fit: unknown setting 'step'"),
        ({"steps": -1}, r"steps: expected a whole number >= 1, got -1"),
        ({"agent": {"widht": 3}}, "fit: unknown setting 'agent.widht'"),
        ({"agent": 3}, "fit: agent must hold a table of settings, got int"),
        ({"iterations": "many"}, "fit: iterations: expected int, got 'many'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        fit(normal, dim=2, **settings)


def test_samples_of_ones_own_are_the_anchors(quick):
    x = numpy.random.default_rng(0).normal(size=(30, 2))
    for samples in (x, torch.from_numpy(x), x.tolist()):
        result = fit(normal, dim=2, samples=samples, **quick())
        assert torch.equal(result.trainer.anchors.states, torch.from_numpy(x).float())
        assert result.evaluation["gradient_calls"] == 0  # nothing was searched
        assert result.evaluation["energy_calls"] == 30 + 16 + 12 + 11 * 8


def test_samples_of_ones_own_are_what_the_grid_is_matched_to(quick):
    wide, narrow = (
        fit(normal, dim=2, samples=samples, **quick(agent={"time_grid_power": None}))
        for samples in (0.2 * torch.randn(30, 2), 9.0 * torch.randn(30, 2))
    )
    assert wide.evaluation["gradient_calls"] == narrow.evaluation["gradient_calls"] == 30
    assert wide.trainer.config.agent.time_grid_power == 1.0 < narrow.trainer.config.agent.time_grid_power - 1.0


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(5, 3), r"states: expected a tensor \[n >= 1, 2\], got \[5, 3\]"),
        (torch.zeros(0, 2), "states: expected a tensor"),
        (torch.full((3, 2), math.nan), "states: expected finite values"),
        ([["a", "b"]], r"samples: expected numbers \[n, dim\], got list"),
    ],
)
def test_unusable_samples_are_named(samples, message, quick):
    with pytest.raises(InputError, match=message):
        fit(normal, dim=2, samples=samples, **quick())


def test_metrics_are_the_rows_along_training(quick):
    result = fit(normal, dim=2, **quick())
    assert [row["iteration"] for row in result.metrics] == [2, 4, 6, 8, 10, 12]
    assert all(math.isfinite(row["elbo"]) and row["eubo"] is None for row in result.metrics)


@pytest.mark.parametrize("progress", [False, True])
def test_nothing_is_printed_outside_a_terminal(progress, quick, capfd):
    fit(CallableTarget(normal, 2), progress=progress, **quick())
    assert capfd.readouterr() == ("", "")


def test_double_precision(quick):
    result = fit(normal, dim=2, dtype="float64", **quick())
    assert result.sample(3).dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32
