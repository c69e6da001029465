"""Every metric against values known in closed form, mostly of two Gaussians, and on inputs that break estimators."""

import builtins
import math

import pytest
import torch

from ebbflow.envs.targets.funnel import Funnel
from ebbflow.envs.targets.many_well import ManyWell
from ebbflow.envs.targets.mixtures import GaussianMixture, gmm25
from ebbflow.trainers.metrics.coverage import mode_coverage, mode_mass_error, mode_shares
from ebbflow.trainers.metrics.diversity import mean_pairwise_distance
from ebbflow.trainers.metrics.sandwich import sandwich
from ebbflow.trainers.metrics.transport import sinkhorn_divergence
from ebbflow.trainers.metrics.weights import ess_forward, ess_reverse, importance_log_z, log_mean_exp, pareto_khat

INF = math.inf


def gaussian_log_weights(variance: float, n: int, *, of_target: bool, log_z: float = 0.0) -> torch.Tensor:
    """log Z + log N(x; 0, 1) − log N(x; 0, variance), x from the target N(0, 1) or the proposal N(0, variance)."""
    x = torch.randn(n, dtype=torch.float64) * (1.0 if of_target else math.sqrt(variance))
    return log_z - 0.5 * x**2 * (1.0 - 1.0 / variance) + 0.5 * math.log(variance)


def gaussian_ess(variance: float) -> float:
    return math.sqrt(2 * variance - 1) / variance


# Sandwich -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.5, 2.0])
def test_the_sandwich_is_log_z_minus_and_plus_the_divergences(variance):
    below = 0.5 * (variance - 1 - math.log(variance))  # KL(N(0, variance) || N(0, 1))
    above = 0.5 * (1 / variance - 1 + math.log(variance))  # and the other way round
    found = sandwich(
        gaussian_log_weights(variance, 50_000, of_target=False, log_z=3.0),
        gaussian_log_weights(variance, 50_000, of_target=True, log_z=3.0),
    )
    assert abs(found["elbo"] - (3.0 - below)) < 4 * found["elbo_stderr"] < 0.02
    assert abs(found["eubo"] - (3.0 + above)) < 4 * found["eubo_stderr"] < 0.02
    assert found["sandwich_width"] == pytest.approx(found["eubo"] - found["elbo"])
    median = 3.0 - 0.5 * 0.454936 * (1 - 1 / variance) + 0.5 * math.log(variance)  # the median of χ² is 0.454936
    assert found["eubo_median"] == pytest.approx(median, abs=0.02)


def test_standard_errors_are_those_of_the_mean():
    found = sandwich(torch.tensor([0.0, 2.0, 4.0]), torch.tensor([5.0]))
    assert found["elbo_stderr"] == pytest.approx(2.0 / math.sqrt(3))
    assert found["eubo"] == found["eubo_median"] == 5.0
    assert found["eubo_stderr"] is None  # of one path


def test_a_zero_density_makes_the_elbo_minus_infinity_and_nothing_nan():
    found = sandwich(torch.tensor([0.0, -INF]), torch.tensor([1.0, 2.0]))
    assert found["elbo"] == -INF
    assert found["elbo_stderr"] is None
    assert found["sandwich_width"] == INF
    assert sandwich(torch.tensor([-INF]), torch.tensor([-INF]))["sandwich_width"] is None


def test_the_sandwich_is_computed_in_float64():
    generated = torch.full((100_000,), 164.69568, dtype=torch.float32)
    assert sandwich(generated, None)["elbo"] == pytest.approx(generated[0].item(), abs=1e-9)


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.8, 2.0])
def test_effective_sample_size_from_both_sides_of_a_gaussian(variance):
    truth = gaussian_ess(variance)
    generated = gaussian_log_weights(variance, 100_000, of_target=False, log_z=7.0)
    exact = gaussian_log_weights(variance, 100_000, of_target=True, log_z=7.0)
    assert ess_reverse(generated) == pytest.approx(truth, abs=0.01)
    assert ess_forward(exact, log_z=7.0) == pytest.approx(truth, abs=0.01)
    assert ess_forward(exact) == pytest.approx(truth, abs=0.02)


def test_effective_sample_size_does_not_depend_on_log_z():
    log_weight = torch.randn(1000, dtype=torch.float64)
    for shift in (-1e4, 1e4):
        assert ess_reverse(log_weight + shift) == pytest.approx(ess_reverse(log_weight))
        assert ess_forward(log_weight + shift) == pytest.approx(ess_forward(log_weight))
        assert ess_forward(log_weight + shift, log_z=shift + 1.0) == pytest.approx(ess_forward(log_weight, log_z=1.0))


def test_effective_sample_size_at_its_ends():
    assert ess_reverse(torch.full((50,), -900.0)) == ess_forward(torch.full((50,), -900.0)) == 1.0
    assert ess_reverse(torch.tensor([0.0] + [-1e5] * 49)) == pytest.approx(1 / 50)
    assert ess_reverse(torch.full((5,), -INF)) is None
    assert ess_forward(torch.tensor([0.0, 1e6]), log_z=0.0) == 0.0
    assert ess_forward(torch.tensor([0.0, -INF])) is None
    assert ess_forward(torch.tensor([-1.0, -1.0]), log_z=0.0) == 1.0  # above one by chance is cut


def test_only_the_forward_one_sees_a_missed_mode():
    # Half of the target's mass lies where the proposal has e^-50 of its density.
    exact = torch.tensor([math.log(0.5)] * 500 + [49.0] * 500, dtype=torch.float64)
    generated = torch.full((1000,), math.log(0.5), dtype=torch.float64)
    assert ess_reverse(generated) == 1.0
    assert ess_forward(exact) < 1e-20
    assert ess_forward(exact, log_z=0.0) < 1e-20


def test_importance_weighted_log_z_and_the_calibration_of_its_error():
    z_scores = []
    for _ in range(200):
        log_z, stderr = importance_log_z(gaussian_log_weights(2.0, 1000, of_target=False, log_z=-5.0))
        assert log_z == pytest.approx(-5.0, abs=0.1)
        z_scores.append((log_z + 5.0) / stderr)
    assert torch.tensor(z_scores).std().item() == pytest.approx(1.0, abs=0.2)


def test_log_z_of_zero_weights():
    log_z, stderr = importance_log_z(torch.tensor([0.0, -INF]))
    assert log_z == pytest.approx(-math.log(2))
    assert stderr == pytest.approx(1.0)  # √((2 − 1) / 1)
    assert importance_log_z(torch.tensor([-INF, -INF])) == (-INF, None)
    assert importance_log_z(torch.tensor([2.0])) == (2.0, None)
    assert log_mean_exp(torch.tensor([1000.0, 1000.0])) == pytest.approx(1000.0)


@pytest.mark.parametrize("variance", [0.2, 0.4])
def test_khat_of_a_proposal_that_is_too_narrow(variance):
    pytest.importorskip("arviz")
    # The weight exp((1 − variance) · χ²/2) has the tail of a Pareto law with k = 1 − variance.
    found = pareto_khat(gaussian_log_weights(variance, 100_000, of_target=False))
    assert found == pytest.approx(1 - variance, abs=0.12)


def test_khat_of_bounded_weights_is_not_positive():
    pytest.importorskip("arviz")
    assert pareto_khat(gaussian_log_weights(2.0, 10_000, of_target=False)) < 0.1


def test_khat_where_there_is_no_tail_to_fit():
    pytest.importorskip("arviz")
    assert pareto_khat(164.7 + 1e-5 * torch.randn(1000)) is None  # rounding errors
    assert pareto_khat(torch.randn(24)) is None
    assert pareto_khat(torch.full((100,), -INF)) is None
    assert pareto_khat(torch.tensor([0.0] + [-1e6 + i for i in range(999)])) == INF
    some = torch.randn(1000)
    assert math.isfinite(pareto_khat(torch.cat([some, torch.full((500,), -INF)])))


def test_khat_is_none_without_arviz(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "arviz":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert pareto_khat(torch.randn(1000)) is None


# Transport ------------------------------------------------------------------------------------------------------------


def test_identical_samples_are_at_distance_zero():
    for x in (torch.randn(300, 3), gmm25().sample(300), Funnel().sample(300)):
        assert sinkhorn_divergence(x, x) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("dim", "scale", "shift"), [(1, 1.0, 3.0), (2, 1.0, 1.0), (10, 100.0, 50.0), (2, 1e-3, 1.0)])
def test_a_shift_costs_its_square(dim, scale, shift):
    y = scale * torch.randn(500, dim)
    direction = torch.zeros(dim)
    direction[0] = shift
    assert sinkhorn_divergence(y + direction, y) == pytest.approx(shift**2, rel=0.01, abs=1e-3 * dim * scale**2)


def test_it_scales_with_the_square_of_lengths():
    x, y = torch.randn(300, 2), 1.5 * torch.randn(300, 2)
    assert sinkhorn_divergence(1e4 * x, 1e4 * y) == pytest.approx(1e8 * sinkhorn_divergence(x, y), rel=1e-4)


def test_a_collapsed_sampler_is_farther_than_chance():
    target = gmm25()
    x, y = target.sample(1000), target.sample(1000)
    collapsed = x * torch.tensor([0.0, 1.0])  # the middle column of five
    assert sinkhorn_divergence(x, y) < 3.0
    assert sinkhorn_divergence(collapsed, y) == pytest.approx(50.0, abs=7.0)  # the variance of the lost coordinate


def test_transport_of_few_large_and_broken_samples():
    x = torch.randn(50, 2)
    assert sinkhorn_divergence(x[:1], x) is None
    assert sinkhorn_divergence(torch.full((50, 2), math.nan), x) is None
    assert sinkhorn_divergence(torch.full((50, 2), INF), x) is None
    assert math.isfinite(sinkhorn_divergence(1e6 * x, x))
    assert sinkhorn_divergence(torch.ones(20, 2), torch.zeros(20, 2)) == pytest.approx(2.0)  # no scale of their own
    assert sinkhorn_divergence(torch.cat([x, 1e3 + x]), x, points=50) == pytest.approx(0.0, abs=1e-9)


# Coverage -------------------------------------------------------------------------------------------------------------


def test_exact_samples_cover_and_collapsed_ones_do_not():
    target = gmm25()
    x = target.sample(10_000)
    shares = mode_shares(target, x)
    assert mode_coverage(shares, target.mode_masses) == 1.0
    assert mode_mass_error(shares, target.mode_masses) < 0.01
    collapsed = mode_shares(target, x * torch.tensor([0.0, 1.0]))
    assert mode_coverage(collapsed, target.mode_masses) == pytest.approx(0.2)
    assert mode_mass_error(collapsed, target.mode_masses) == pytest.approx(0.2 - 0.04, abs=0.02)


def test_coverage_starts_at_a_quarter_of_a_modes_mass():
    masses = torch.tensor([0.8, 0.2])
    assert mode_coverage(torch.tensor([0.949, 0.051]), masses) == 1.0
    assert mode_coverage(torch.tensor([0.951, 0.049]), masses) == 0.5


def test_regions_that_overlap():
    target = ManyWell(4)
    exact = mode_shares(target, target.sample(20_000))
    assert exact.sum().item() == pytest.approx(2.0)
    assert mode_mass_error(exact, target.mode_masses) < 0.02
    right_only = mode_shares(target, target.sample(1000).abs())
    assert mode_coverage(right_only, target.mode_masses) == 0.5


def test_shares_do_not_depend_on_the_chunk():
    target = GaussianMixture([[-1.0], [2.0], [4.0]], std=1.0)
    x = target.sample(103)
    assert torch.equal(mode_shares(target, x, chunk=10), mode_shares(target, x))


def test_unknown_modes():
    target = Funnel(2)
    assert mode_shares(target, target.sample(3)) is None
    assert mode_coverage(None, None) is None
    assert mode_mass_error(None, None) is None


# Diversity ------------------------------------------------------------------------------------------------------------


def test_pairwise_distances_of_a_gaussian_have_their_closed_form():
    """In one dimension the difference of two draws of N(0, s²) is N(0, 2s²): its mean absolute value is 2s / √π."""
    distance = mean_pairwise_distance(3.0 * torch.randn(2_000, 1))
    assert distance == pytest.approx(6.0 / math.sqrt(math.pi), rel=0.05)


def test_collapse_shows_in_the_diversity():
    x = torch.randn(50, 4, 4)
    assert mean_pairwise_distance(x.repeat_interleave(2, 0)) < mean_pairwise_distance(x)
    assert mean_pairwise_distance(x[:1].expand(5, 4, 4)) == 0.0
    assert mean_pairwise_distance(x[:1]) is None and mean_pairwise_distance(x[:0]) is None
