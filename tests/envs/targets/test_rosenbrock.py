"""The hybrid Rosenbrock density against its formula, its factors and quadrature."""

import math

import pytest
import torch
from scipy import stats

from ebbflow.envs import InputError
from ebbflow.envs.targets.rosenbrock import Rosenbrock


def formula(x, block, mu, a, b):
    """The log density of one state as the paper writes it, term by term."""
    value = -a * (x[0] - mu) ** 2
    for j in range((len(x) - 1) // block):
        before = x[0]
        for i in range(block):
            now = x[1 + j * block + i]
            value -= b * (now - before**2) ** 2
            before = now
    return value


@pytest.mark.parametrize(("dim", "block"), [(2, 1), (4, 1), (5, 2), (7, 3), (4, 3)])
def test_reads_blocks(dim, block):
    target = Rosenbrock(dim, block, mu=0.5, a=0.7, b=1.3).double()
    x = torch.randn(20, dim, dtype=torch.float64)
    expected = [formula(row, block, 0.5, 0.7, 1.3) for row in x.tolist()]
    torch.testing.assert_close(target(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dim", "block"), [(2, 1), (3, 2), (3, 1)])
def test_normaliser_by_quadrature(dim, block):
    """Each coordinate integrated along the ridge, in steps of a fifth of its width."""
    target = Rosenbrock(dim, block, mu=0.5, a=2.0, b=3.0).double()
    grid = torch.arange(-3.2, 3.2, 0.1, dtype=torch.float64)
    offsets = torch.cartesian_prod(*[grid] * dim)
    x = [offsets[:, 0] + 0.5]
    for i in range(1, dim):
        x.append(offsets[:, i] + x[0 if block == 1 else -1] ** 2)  # a shift of the integration variable
    total = target(torch.stack(x, dim=-1)).exp().sum() * 0.1**dim
    assert math.log(total.item()) == pytest.approx(target.log_z, abs=1e-8)


def test_samples_are_gaussian_along_the_chain():
    target = Rosenbrock(5, 2, mu=1.0, a=0.5, b=2.0).double()
    x = target.sample(10_000)
    noise = [(x[:, 0] - 1.0) * math.sqrt(2 * 0.5)]
    for now, before in ((1, 0), (2, 1), (3, 0), (4, 3)):
        noise.append((x[:, now] - x[:, before] ** 2) * math.sqrt(2 * 2.0))
    for column in noise:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    assert torch.corrcoef(torch.stack(noise)).fill_diagonal_(0).abs().max() < 5 / math.sqrt(len(x))
    assert Rosenbrock(5, 2).name == "rosenbrock-5-block2"


def test_scale_is_that_of_the_first_pair():
    target = Rosenbrock(4).double()
    assert target.sample(100_000)[:, :2].var(0).mean().sqrt().item() == pytest.approx(target.scale, rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 1}, "dim: expected a whole number >= 2, got 1"),
        ({"dim": 4, "block": 2}, "dim: expected 1 plus a multiple of block = 2, got 4"),
        ({"block": 0}, "block: expected a whole number >= 1, got 0"),
        ({"mu": math.inf}, "mu: expected a finite number, got inf"),
        ({"a": 0.0}, "a: expected a positive finite number, got 0.0"),
        ({"b": -1.0}, "b: expected a positive finite number, got -1.0"),
    ],
)
def test_bad_ridges_are_reported(arguments, message):
    with pytest.raises(InputError, match=message):
        Rosenbrock(**arguments)
