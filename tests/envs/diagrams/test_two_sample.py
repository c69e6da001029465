"""The level that the test promises, the power that it has, and what it refuses."""

import pytest
import torch
from scipy.stats import binom, energy_distance

from ebbflow.envs.diagrams import energy_test
from ebbflow.envs.errors import InputError

RUNS = 400


def p_values(make, runs=RUNS, n=40):
    """p-values of independent pairs of samples, the k-th pair drawn from seed k."""
    found = []
    for seed in range(runs):
        torch.manual_seed(seed)
        found.append(energy_test(*make(n), relabellings=99, seed=seed).p_value)
    return torch.tensor(found)


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: torch.randn(n, 2),
        lambda n: torch.randn(n, 1) / torch.randn(n, 1),  # Cauchy
        lambda n: torch.nn.functional.one_hot(torch.randint(0, 3, (n,)), 3).double(),  # many ties
    ],
    ids=["Gaussian", "Cauchy", "messages"],
)
def test_false_alarms_come_at_the_nominal_rate(draw):
    found = p_values(lambda n: (draw(n), draw(n)))
    for level in (0.05, 0.2):
        alarms = int((found <= level).sum())
        low, high = binom.interval(0.999, RUNS, level)
        assert alarms <= high
        if draw(100).unique().numel() > 50:  # ties can only make it rarer
            assert alarms >= low


def test_samples_of_unequal_size_keep_the_level():
    found = p_values(lambda n: (torch.randn(n, 2), torch.randn(3 * n, 2)))
    assert binom.ppf(0.0005, RUNS, 0.1) <= int((found <= 0.1).sum()) <= binom.ppf(0.9995, RUNS, 0.1)


def correlated(n):
    z = torch.randn(n, 1)
    return torch.cat([z, 0.9 * z + 0.19**0.5 * torch.randn(n, 1)], -1)


@pytest.mark.parametrize(
    ("make", "power"),
    [
        (lambda n: (torch.randn(n, 2), torch.randn(n, 2) + 0.3), 0.9),
        (lambda n: (torch.randn(n, 1), 1.6 * torch.randn(n, 1)), 0.9),
        (lambda n: (torch.randn(n, 2), correlated(n)), 0.9),
        (lambda n: (torch.randn(n, 1), 2.0 * torch.randint(0, 2, (n, 1)) - 1.0), 0.99),
    ],
    ids=["shifted", "wider", "correlated, equal marginals", "two points, equal mean and variance"],
)
def test_planted_differences_are_found(make, power):
    found = p_values(make, runs=60, n=200)
    assert (found <= 0.05).double().mean() >= power


def test_the_statistic_is_the_energy_distance():
    x, y = torch.randn(50, 1).double(), torch.randn(70, 1).double() + 1.0
    spread = torch.cat([x, y]).std()
    expected = energy_distance((x / spread).ravel().numpy(), (y / spread).ravel().numpy()) ** 2
    assert energy_test(x, y, 1).statistic == pytest.approx(expected, rel=1e-9)


def test_units_do_not_matter_and_a_seed_repeats_it():
    x, y = torch.randn(100, 2).double(), torch.randn(100, 2).double()
    units = torch.tensor([1e-6, 1e6]).double()
    assert energy_test(x * units + 3.0, y * units + 3.0).p_value == energy_test(x, y).p_value
    assert energy_test(x, y, seed=1) == energy_test(x, y, seed=1)


def test_constants_are_alike_or_apart():
    ones = torch.ones(50, 1)
    assert energy_test(ones, ones).p_value == 1.0
    assert energy_test(ones, 1.5 * ones).p_value == 0.001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(5), torch.zeros(5)), r"x: expected finite samples .* got shape \[5\]"),
        ((torch.zeros(5, 2), torch.zeros(5, 3)), r"y: expected finite samples .* got shape \[5, 3\]"),
        ((torch.zeros(1, 2), torch.zeros(5, 2)), "x: expected finite samples"),
        ((torch.zeros(5, 1), torch.full((5, 1), torch.nan)), "y: expected finite samples"),
        ((torch.zeros(5, 1), torch.zeros(5, 1), 0), "relabellings: expected a whole number >= 1, got 0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        energy_test(*arguments)
