"""Residual losses: limits, slopes, and the centre that goes with them."""

import math

import pytest
import torch

from ebbflow.envs import InputError
from ebbflow.trainers.objectives import Residual
from ebbflow.trainers.objectives.residual import RESIDUALS, weighted_mean

pytestmark = pytest.mark.usefixtures("double_precision")

ROBUST = ("huber", "log_cosh")


def far_and_near():
    return torch.cat([-torch.logspace(3, -6, 40), torch.logspace(-6, 3, 40)])


@pytest.mark.parametrize("kind", RESIDUALS)
def test_small_residuals_and_large_bounds_are_the_square(kind):
    r = far_and_near()
    torch.testing.assert_close(Residual(kind, math.inf)(r), r.square(), rtol=0, atol=0)
    torch.testing.assert_close(Residual(kind, 1e6)(r), r.square(), rtol=1e-5, atol=1e-3)
    small = r[r.abs() < 1e-2]
    torch.testing.assert_close(Residual(kind, 10.0)(small), small.square(), rtol=1e-6, atol=2e-14)


@pytest.mark.parametrize("bound", [0.5, 10.0])
@pytest.mark.parametrize("kind", ROBUST)
def test_large_residuals_count_linearly(kind, bound):
    r = torch.tensor([50.0, 200.0, 1e6, 1e200])
    offset = {"huber": bound**2, "log_cosh": 2 * bound**2 * math.log(2.0)}[kind]
    torch.testing.assert_close(
        Residual(kind, bound)(r), 2 * bound * r - offset, rtol=1e-3 if bound > 1 else 1e-9, atol=0
    )
    torch.testing.assert_close(Residual(kind, bound)(-r), Residual(kind, bound)(r))


def test_log_cosh_is_what_it_says():
    r = torch.linspace(-30, 30, 101)
    torch.testing.assert_close(Residual("log_cosh", 3.0)(r), 2 * 9 * (r / 3).cosh().log())


@pytest.mark.parametrize("kind", RESIDUALS)
def test_the_half_slope_is_half_the_slope(kind):
    r = far_and_near().requires_grad_()
    residual = Residual(kind, 3.0)
    (slope,) = torch.autograd.grad(residual(r).sum(), r)
    torch.testing.assert_close(residual.forms[1](r, 3.0), slope / 2, rtol=1e-9, atol=1e-15)
    assert slope.isfinite().all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", RESIDUALS)
def test_the_centre_is_where_the_loss_is_least(kind, weighted):
    torch.manual_seed(0)
    values = torch.cat([torch.randn(40), 80.0 + torch.randn(5)])
    weight = torch.rand(45) + 0.1 if weighted else None
    residual = Residual(kind, 5.0)
    center = residual.center(values, weight, iterations=200)
    least = weighted_mean(residual(values - center), weight)
    for step in (-0.01, 0.01):
        assert weighted_mean(residual(values - center - step), weight) > least
    assert center.abs() < (12.0 if kind == "squared" else 3.0)  # outliers do not drag a robust one
    short = residual.center(values, weight)
    assert weighted_mean(residual(values - short), weight) <= least * (1 + 1e-3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"residual: expected one of \['squared', 'huber', 'log_cosh'\], got 'l1'"):
        Residual("l1")
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="residual_bound: expected a number > 0"):
            Residual("huber", wrong)
