"""The Student-t mixture against torch's distributions, quadrature and its own tails."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, StudentT

from ebbflow.envs import InputError
from ebbflow.envs.targets.student_t import StudentTMixture, student_t


def reference(target):
    means = target.means.double()
    nu = torch.full_like(means, target.degrees_of_freedom)
    return MixtureSameFamily(Categorical(torch.ones(len(means)).double()), Independent(StudentT(nu, means), 1))


@pytest.mark.parametrize("nu", [1.0, 2.0, 7.5])
def test_density_agrees_with_torch(nu):
    target = StudentTMixture(10 * torch.randn(4, 3, dtype=torch.float64), nu)
    x = torch.cat([target.sample(50), 1e6 * torch.randn(5, 3, dtype=torch.float64)])
    torch.testing.assert_close(target(x), reference(target).log_prob(x), rtol=1e-12, atol=1e-12)


def test_integrates_to_one():
    target = student_t(1).double()

    def density(x):
        return target(torch.tensor([[x]], dtype=torch.float64)).exp().item()

    total = integrate.quad(density, -12, 12, limit=400, epsabs=1e-11)[0]
    total += sum(integrate.quad(density, *ends, epsabs=1e-11)[0] for ends in ((-math.inf, -12), (12, math.inf)))
    assert total == pytest.approx(1.0, abs=1e-9)


def test_samples_follow_the_distribution_function():
    target = student_t(1).double()
    x = target.sample(20_000)[:, 0].numpy()
    cdf = lambda values: sum(stats.t.cdf(values - m, 2) for m in target.means[:, 0].numpy()) / 10  # noqa: E731
    assert stats.kstest(x, cdf).pvalue > 1e-3


def test_tails_are_heavy_and_exact():
    """Beyond r in a coordinate lie as many samples as two degrees of freedom put there, about 1/r^2."""
    target = student_t().double()
    n, r = 100_000, 100.0
    x = target.sample(n)
    means = target.means.numpy()
    expected = (stats.t.sf(r - means, 2) + stats.t.cdf(-r - means, 2)).mean()
    count = (x.abs() > r).sum().item()
    assert abs(count - 2 * n * expected) < 4.5 * math.sqrt(2 * n * expected)
    assert expected > 5e-5  # a Gaussian has none


def test_means_are_one_draw_of_a_seed():
    state = torch.get_rng_state()
    first = student_t(40)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.means, student_t(40).means) and not torch.equal(first.means, student_t(40, seed=1).means)
    assert first.means.shape == (10, 40)
    assert stats.kstest(first.means.flatten().numpy() / 20 + 0.5, "uniform").pvalue > 1e-3
    assert student_t(3, seed=1).name == "student-t-3-seed1"


def test_masses_of_overlapping_modes():
    """Two modes of one coordinate meet half way: the mass beyond is no weight, but a value of the t distribution."""
    target = StudentTMixture(torch.tensor([[-1.0], [1.0], [30.0]]))
    border = 15.5  # between the last two
    beyond = (stats.t.sf(border - torch.tensor([-1.0, 1.0, 30.0]).numpy(), 2)).mean()
    left = stats.t.cdf(torch.tensor([1.0, -1.0, -30.0]).numpy(), 2).mean()
    state = torch.get_rng_state()
    masses = target.mode_masses
    assert torch.equal(state, torch.get_rng_state())  # counting leaves the global generator alone
    assert masses.tolist() == pytest.approx([left, 1 - left - beyond, beyond], abs=0.004)
    assert masses.dtype == torch.float32 and target.double().mode_masses.sum().item() == pytest.approx(1.0)
    again = StudentTMixture(torch.tensor([[-1.0], [1.0], [30.0]])).mode_masses
    assert torch.equal(masses, again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": torch.zeros(3)}, r"means: expected finite values of shape \[M, dim\], got shape \[3\]"),
        ({"means": torch.full((1, 2), math.nan)}, "means: expected finite values"),
        ({"means": torch.zeros(1, 2), "degrees_of_freedom": 0.0}, "degrees_of_freedom: expected a positive finite"),
    ],
)
def test_bad_mixtures_are_reported(arguments, message):
    with pytest.raises(InputError, match=message):
        StudentTMixture(**arguments)


@pytest.mark.parametrize("dim", [0, 2.0, True])
def test_bad_dimensions_are_reported(dim):
    with pytest.raises(InputError, match="dim: expected a whole number >= 1"):
        student_t(dim)
