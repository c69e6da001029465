"""Gaussians with full covariances against torch's distributions and quadrature."""

import math

import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ebbflow.envs import InputError
from ebbflow.envs.targets.covariance_mixture import CovarianceMixture, gmm_wishart

STEP = 0.1  # of quadratures, a third of the narrowest direction's standard deviation


def random_mixture(m=4, dim=3):
    root = torch.randn(m, dim, dim, dtype=torch.float64)
    return 3 * torch.randn(m, dim, dtype=torch.float64), root @ root.mT + 0.1 * torch.eye(dim)


def test_density_and_samples_agree_with_torch():
    means, covariances = random_mixture()
    target = CovarianceMixture(means, covariances)
    reference = MixtureSameFamily(Categorical(torch.ones(4).double()), MultivariateNormal(means, covariances))
    x = 3 * torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(target(x), reference.log_prob(x), rtol=1e-11, atol=1e-11)
    assert target.scale == pytest.approx(reference.variance.mean().sqrt().item())
    x = target.sample(100_000)
    centred = means - means.mean(0)
    covariance = covariances.mean(0) + centred.mT @ centred / 4
    torch.testing.assert_close(x.mean(0), means.mean(0), atol=0.06, rtol=0)
    torch.testing.assert_close(torch.cov(x.mT), covariance, atol=0.03 * covariance.diagonal().max().item(), rtol=0)


def test_samples_are_whitened_by_their_own_component():
    target = CovarianceMixture(
        torch.tensor([[-500.0, 0.0], [500.0, 0.0]]), torch.tensor([[[4.0, 1.9], [1.9, 1.0]]] * 2)
    )
    x = target.double().sample(20_000)
    member = target.mode_membership(x)
    assert abs(member[:, 0].double().mean().item() - 0.5) < 0.016
    centred = x - target.means[member.int().argmax(-1)]
    white = torch.linalg.solve(torch.linalg.cholesky(torch.tensor([[4.0, 1.9], [1.9, 1.0]]).double()), centred.mT)
    assert stats.kstest(white.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(torch.corrcoef(white)[0, 1]) < 0.035


def test_masses_of_regions_by_quadrature():
    target = gmm_wishart().double()
    axis = torch.arange(-24.0, 24.0, STEP, dtype=torch.float64)
    masses = torch.zeros(10, dtype=torch.float64)
    for rows in axis.split(64):
        x = torch.cartesian_prod(rows, axis)
        masses += target(x).exp() @ target.mode_membership(x).double() * STEP**2
    assert masses.sum().item() == pytest.approx(1.0, abs=1e-8)
    torch.testing.assert_close(target.mode_masses, masses, atol=0.004, rtol=0)
    assert (masses - 0.1).abs().max() > 0.02  # components overlap: weights would be wrong


def test_covariances_are_one_draw_of_a_seed():
    state = torch.get_rng_state()
    first, second = gmm_wishart(40), gmm_wishart(40)
    assert torch.equal(state, torch.get_rng_state())
    x = first.sample(3)
    assert torch.equal(first(x), second(x)) and not torch.equal(first(x), gmm_wishart(40, seed=1)(x))
    assert stats.kstest(first.means.flatten().numpy() / 20 + 0.5, "uniform").pvalue > 1e-3
    assert gmm_wishart(3, seed=1).name == "gmm-wishart-3-seed1"


def test_covariances_are_wishart():
    """The squared diagonal of a Wishart matrix's factor is chi-square, nu - i degrees of freedom in row i."""
    squares = [gmm_wishart(3, seed)._constants.like(torch.zeros(1).double())["factor"] for seed in range(100)]
    squares = torch.stack(squares).flatten(0, 1).diagonal(dim1=-2, dim2=-1) ** 2  # [1000, 3]
    for i in range(3):
        assert stats.kstest(squares[:, i].numpy(), stats.chi2(5 - i).cdf).pvalue > 1e-3


def test_double_precision_is_exact():
    target = CovarianceMixture(torch.zeros(1, 1), torch.full((1, 1, 1), 0.3, dtype=torch.float64)).float().double()
    value = target(torch.zeros(1, 1, dtype=torch.float64)).item()
    assert value == pytest.approx(-0.5 * math.log(2 * math.pi * 0.3), abs=1e-14)


@pytest.mark.parametrize(
    ("means", "covariances", "message"),
    [
        (torch.zeros(2), torch.eye(2)[None], r"means: expected finite values of shape \[M, dim\], got shape \[2\]"),
        (torch.full((1, 2), math.inf), torch.eye(2)[None], "means: expected finite values"),
        (torch.zeros(1, 2), torch.eye(2), r"covariances: expected shape \[1, 2, 2\], got \[2, 2\]"),
        (torch.zeros(1, 2), -torch.eye(2)[None], "covariances: expected symmetric positive definite"),
        (torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.0, 1.0]]]), "covariances: expected symmetric positive"),
        (torch.zeros(1, 2), torch.full((1, 2, 2), math.nan), "covariances: expected symmetric positive definite"),
    ],
)
def test_bad_mixtures_are_reported(means, covariances, message):
    with pytest.raises(InputError, match=message):
        CovarianceMixture(means, covariances)


@pytest.mark.parametrize("dim", [0, 2.0, True])
def test_bad_dimensions_are_reported(dim):
    with pytest.raises(InputError, match="dim: expected a whole number >= 1"):
        gmm_wishart(dim)
