"""Priorities against hand-computed values, and the effective sample size they promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbflow.buffers import PRIORITIES, get_priority
from ebbflow.envs import InputError

ALL = torch.ones(4, dtype=torch.bool)


def ess(weight):
    return float(weight.double().sum() ** 2 / weight.double().square().sum())


def test_uniform():
    assert get_priority("uniform")(torch.tensor([1.0, -5.0]), torch.zeros(2), ALL[:2]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("alpha, expected", [(1.0, [4.0, 2.0, 0.0, 3.0]), (2.0, [16.0, 4.0, 0.0, 9.0])])
def test_loss_with_given_log_z(alpha, expected):
    priority = get_priority("loss", alpha=alpha, log_z=1.0)
    got = priority(torch.zeros(4), torch.tensor([3.0, 1.0, -1.0, -4.0]), ALL)
    torch.testing.assert_close(got, torch.tensor(expected), atol=1e-4, rtol=0)
    assert (got > 0).all()


def test_loss_centres_on_the_median_and_ignores_unknown_rows():
    log_ratio = torch.tensor([-165.0, -163.0, -160.0, 0.0])
    known = torch.tensor([True, True, True, False])
    got = get_priority("loss")(torch.zeros(4), log_ratio, known)
    torch.testing.assert_close(got, torch.tensor([2.0, 0.0, 3.0, 3.0]), atol=1e-4, rtol=0)


def test_reward_is_a_softmax_robust_to_range():
    log_reward = torch.tensor([0.0, 3.0, -1e30, 1.0])
    got = get_priority("reward", temperature=2.0)(log_reward, torch.zeros(4), ALL)
    torch.testing.assert_close(got, torch.tensor([math.exp(-1.5), 1.0, 0.0, math.exp(-1.0)]))
    assert get_priority("reward")(log_reward * 1e8, torch.zeros(4), ALL).isfinite().all()


def test_rank():
    got = get_priority("rank", fraction=0.5)(torch.tensor([0.0, 9.0, -3.0, 4.0]), torch.zeros(4), ALL)
    torch.testing.assert_close(got, torch.tensor([1 / 4, 1 / 2, 1 / 5, 1 / 3]))


def test_rank_default_favours_the_best_hundredth():
    got = get_priority("rank")(torch.arange(1000.0), torch.zeros(1000), torch.ones(1000) > 0)
    assert float(got[-1] / got[-11]) == pytest.approx(2.0)


def test_importance_weight_is_plain_where_the_ess_allows():
    log_ratio = torch.tensor([0.0, 0.1, -0.1, 0.2])
    got = get_priority("importance_weight", ess_fraction=0.5, bisections=40)(torch.zeros(4), log_ratio, ALL)
    torch.testing.assert_close(got / got.sum(), (-log_ratio).softmax(0).double())


def test_importance_weight_two_values():
    """One row far above three: ESS 2 of 4 with relative weight v of the others means (1 + 3v)² = 2 (1 + 3v²)."""
    log_ratio = torch.tensor([-100.0, 0.0, 0.0, 0.0])
    got = get_priority("importance_weight", ess_fraction=0.5, bisections=40)(torch.zeros(4), log_ratio, ALL)
    v = (-6 + math.sqrt(36 + 12)) / 6
    torch.testing.assert_close(got, torch.tensor([1.0, v, v, v], dtype=torch.float64), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**16),
    st.floats(0.05, 1.0),
    st.sampled_from([0.1, 3.0, 100.0, 1e4]),
    st.integers(2, 300),
)
def test_importance_weight_reaches_the_target_ess(seed, fraction, spread, n):
    log_ratio = spread * torch.randn(n, generator=torch.Generator().manual_seed(seed))
    priority = get_priority("importance_weight", ess_fraction=fraction, bisections=40)
    weight = priority(torch.zeros(n), log_ratio, torch.ones(n) > 0)
    plain = ess((-(log_ratio - log_ratio.min()).double()).exp())
    reached = ess(weight)
    assert reached >= fraction * n * (1 - 1e-9)
    # Not tempered more than needed: equal to the goal, or to the plain weights' ESS where that is larger.
    assert reached <= max(fraction * n, plain) * (1 + 1e-3) + 1e-6


def test_importance_weight_counts_known_rows_only():
    log_ratio = torch.cat([50 * torch.randn(100, generator=torch.Generator().manual_seed(0)), torch.zeros(100)])
    known = torch.arange(200) < 100
    weight = get_priority("importance_weight", ess_fraction=0.3)(torch.zeros(200), log_ratio, known)
    assert ess(weight[:100]) == pytest.approx(30.0, rel=1e-3)
    assert (weight[100:] == weight[:100].max()).all()


@pytest.mark.parametrize("name", sorted(PRIORITIES))
def test_every_priority_is_finite_even_if_nothing_is_known(name):
    log_reward = torch.tensor([-1e30, 0.0, 5.0, 1e30])
    got = get_priority(name)(log_reward, torch.zeros(4), ~ALL)
    assert got.shape == (4,)
    assert got.isfinite().all()
    assert (got >= 0).all()
    assert got.sum() > 0


@pytest.mark.parametrize("name", sorted(PRIORITIES))
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_every_priority_follows_a_permutation(name, seed):
    generator = torch.Generator().manual_seed(seed)
    log_reward, log_ratio = torch.randn(2, 31, generator=generator) * 10
    known = torch.rand(31, generator=generator) < 0.7
    order = torch.randperm(31, generator=generator)
    priority = get_priority(name)
    direct = priority(log_reward, log_ratio, known)[order]
    torch.testing.assert_close(
        priority(log_reward[order], log_ratio[order], known[order]), direct, rtol=1e-4, atol=1e-9
    )


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"priority: expected one of importance_weight, loss, rank, .*got 'luck'"):
        get_priority("luck")


@pytest.mark.parametrize(
    "name, options, field",
    [
        ("loss", {"alpha": 0.0}, "alpha"),
        ("loss", {"floor": -1.0}, "floor"),
        ("loss", {"log_z": math.inf}, "log_z"),
        ("reward", {"temperature": -1}, "temperature"),
        ("rank", {"fraction": math.nan}, "fraction"),
        ("importance_weight", {"ess_fraction": 1.5}, "ess_fraction"),
        ("importance_weight", {"bisections": 0}, "bisections"),
        ("uniform", {"alpha": 1.0}, "alpha"),
    ],
)
def test_bad_options(name, options, field):
    with pytest.raises(InputError, match=field):
        get_priority(name, **options)
