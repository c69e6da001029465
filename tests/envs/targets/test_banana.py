"""The twisted Gaussian against its factors, and straightened."""

import math

import pytest
import torch
from scipy import stats
from torch.distributions import Normal

from ebbflow.envs import InputError
from ebbflow.envs.targets.banana import Banana


@pytest.mark.parametrize(("dim", "bend", "length"), [(2, 0.03, 10.0), (2, 0.1, 10.0), (5, -0.4, 2.0), (3, 0.0, 1.0)])
def test_factorises(dim, bend, length):
    target = Banana(dim, bend, length).double()
    x = target.sample(200)
    middle = torch.zeros(200, dim - 1, dtype=torch.float64)
    middle[:, 0] = bend * (x[:, 0] ** 2 - length**2)
    zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
    first = Normal(zero, torch.tensor(length, dtype=torch.float64)).log_prob(x[:, 0])
    expected = first + Normal(zero, one).log_prob(x[:, 1:] - middle).sum(-1)
    torch.testing.assert_close(target(x), expected, rtol=1e-12, atol=1e-12)


def test_integrates_to_one():
    target = Banana(2, 0.1, 2.0).double()
    first, second = torch.arange(-16, 16, 0.1).double(), torch.arange(-9, 32, 0.1).double()
    total = target(torch.cartesian_prod(first, second)).exp().sum() * 0.1 * 0.1
    assert total.item() == pytest.approx(1.0, abs=1e-8)


def test_samples_are_gaussian_when_straightened():
    target = Banana(4).double()
    x = target.sample(10_000)
    assert stats.kstest(x[:, 0].numpy() / 10, "norm").pvalue > 1e-3
    rest = x[:, 1:].clone()
    rest[:, 0] -= 0.03 * (x[:, 0] ** 2 - 100.0)
    assert stats.kstest(rest.flatten().numpy(), "norm").pvalue > 1e-3
    assert x[:, 1].mean().abs() < 0.2  # the bend is centred
    assert x[:, :2].var(0).mean().sqrt().item() == pytest.approx(target.scale, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 1}, "dim: expected a whole number >= 2, got 1"),
        ({"bend": math.nan}, "bend: expected a finite number, got nan"),
        ({"length": 0.0}, "length: expected a positive finite length, got 0.0"),
    ],
)
def test_bad_bananas_are_reported(arguments, message):
    with pytest.raises(InputError, match=message):
        Banana(**arguments)
