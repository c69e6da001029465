"""Entropic plans: the closed form between normal laws and Sinkhorn's between points are each other's oracle."""

import pytest
import torch

from ebbflow.envs import InputError
from ebbflow.trainers.metrics import gaussian_cross_covariance, sinkhorn_plan

A = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
B = torch.tensor([[0.5, -0.3], [-0.3, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_the_closed_form_is_the_plan(sigma):
    """A normal law is the plan if and only if its log density is x·y / σ² plus functions of x and of y alone."""
    cross = gaussian_cross_covariance(A, B, sigma)
    joint = torch.cat([torch.cat([A, cross], 1), torch.cat([cross.mT, B], 1)])
    assert (-torch.linalg.inv(joint)[:2, 2:] - torch.eye(2, dtype=A.dtype) / sigma**2).abs().max() < 1e-9
    assert torch.linalg.eigvalsh(joint)[0] > 0.0


def test_the_plan_between_quantiles_is_the_closed_form():
    # Points of equal weight: quantiles of both normal laws.
    quantiles = torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400)
    x, y = quantiles.unsqueeze(1), 0.5 * quantiles.unsqueeze(1)
    plan = sinkhorn_plan(x, y, sigma=1.0)
    exact = gaussian_cross_covariance(torch.ones(1, 1), 0.25 * torch.ones(1, 1), 1.0).item()
    assert float((plan * (x @ y.mT)).sum()) == pytest.approx(exact, abs=2e-3)
    assert (plan.sum(1) * 400 - 1.0).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, torch.eye(3), 1.0), "target: expected a symmetric covariance"),
        ((A, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 1.0), "target: expected a symmetric covariance"),
        ((-A, B, 1.0), "source: expected a positive definite covariance"),
        ((A, B, 0.0), "sigma: expected a positive finite number, got 0.0"),
    ],
)
def test_what_is_no_normal_law_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        gaussian_cross_covariance(*arguments)


def test_points_of_different_dimension_are_refused():
    with pytest.raises(InputError, match=r"points: expected \[n, dim\] and \[m, dim\], got \[3, 2\] and \[3, 1\]"):
        sinkhorn_plan(torch.zeros(3, 2), torch.zeros(3, 1), 1.0)
    with pytest.raises(InputError, match="sigma"):
        sinkhorn_plan(torch.zeros(3, 2), torch.zeros(3, 2), float("inf"))
