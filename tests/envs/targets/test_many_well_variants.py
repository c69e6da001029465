"""Narrow and distorted many-wells: quadrature, and what must not depend on the distortion."""

import itertools
import math

import pytest
import torch
from scipy import integrate, stats

from ebbflow.envs import InputError, ManyWell
from ebbflow.envs.targets.distorted_many_well import DistortedManyWell
from ebbflow.envs.targets.many_well import narrow_many_well


def well(a, sharpness, top=0.0):
    return math.exp(sharpness * (-(a**4) + 6 * a**2) + 0.5 * a - top)


@pytest.mark.parametrize("sharpness", [1.0, 2.5, 4.0, 50.0])
def test_normaliser_and_masses(sharpness):
    target = ManyWell(2, sharpness).double()
    top = 9.0 * sharpness
    edges = (-3.0, -math.sqrt(3), 0.0, math.sqrt(3), 3.0)
    parts = [
        integrate.quad(well, *ends, args=(sharpness, top), epsabs=1e-14, epsrel=1e-13, limit=200)[0]
        for ends in itertools.pairwise(edges)
    ]
    left, right = parts[0] + parts[1], parts[2] + parts[3]
    assert target.log_z == pytest.approx(top + math.log(left + right) + 0.5 * math.log(2 * math.pi), abs=1e-10)
    assert target.mode_masses.tolist() == pytest.approx([left / (left + right), right / (left + right)], abs=1e-7)


def test_narrow_samples():
    target = narrow_many_well(4).double()
    x = target.sample(20_000)
    edges = torch.linspace(-2.2, 2.2, 111).tolist()
    masses = [integrate.quad(well, low, high, args=(4.0, 36.0))[0] for low, high in itertools.pairwise(edges)]
    a = x[:, 0::2].flatten()
    expected = torch.tensor(masses) / sum(masses) * len(a)
    counts = torch.histc(a, 110, -2.2, 2.2)
    full = expected >= 10  # the rest is taken together
    observed = torch.cat([counts[full], len(a) - counts[full].sum()[None]])
    expected = torch.cat([expected[full], len(a) - expected[full].sum()[None]])
    assert stats.chisquare(observed.numpy(), expected.numpy(), sum_check=False).pvalue > 1e-3
    assert a.abs().min() > 0.5  # nothing between the wells


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_distortion_is_linear_and_keeps_volumes(sharpness):
    target, straight = DistortedManyWell(6, sharpness).double(), ManyWell(6, sharpness).double()
    assert target.log_z == straight.log_z and torch.equal(target.masses, straight.masses)
    torch.manual_seed(3)
    x = target.sample(50)
    torch.manual_seed(3)
    y = straight.sample(50)
    torch.testing.assert_close(target(x), straight(y), rtol=1e-10, atol=1e-9)
    assert torch.equal(target.mode_membership(x), straight.mode_membership(y))
    torch.testing.assert_close(target.right_masses(x), straight.right_masses(y))
    forth = torch.linalg.lstsq(y, x).solution.mT
    torch.testing.assert_close(y @ forth.mT, x)
    assert torch.linalg.det(forth).abs().item() == pytest.approx(1.0)
    lengths = torch.linalg.svdvals(forth)
    assert lengths.min() > 0.25 and lengths.max() < 4.0 and lengths.max() / lengths.min() > 1.2
    assert (forth.abs() > 0.05).float().mean() > 0.7  # every coordinate knows of every other


def test_distortion_is_one_draw_of_a_seed():
    state = torch.get_rng_state()
    first = DistortedManyWell(8)
    assert torch.equal(state, torch.get_rng_state())
    x = first.sample(3)
    assert torch.equal(first(x), DistortedManyWell(8)(x))
    assert not torch.equal(first(x), DistortedManyWell(8, seed=1)(x))
    assert DistortedManyWell(8, seed=1).name == "manywell-distorted-8-seed1"
    assert DistortedManyWell(8, sharpness=4.0).name == "manywell-distorted-narrow-8"


def test_distorted_scale_is_that_of_its_coordinates():
    """As for the many-well itself: a little less than the root mean square coordinate, in the same ratio."""
    straight, distorted = ManyWell(32), DistortedManyWell(32)
    sizes = [target.sample(20_000).square().mean().sqrt().item() for target in (straight, distorted)]
    assert distorted.scale / straight.scale == pytest.approx(sizes[1] / sizes[0], rel=0.1)


@pytest.mark.parametrize("kind", [ManyWell, DistortedManyWell])
@pytest.mark.parametrize("sharpness", [0.5, 51.0, math.nan])
def test_bad_sharpness_is_reported(kind, sharpness):
    with pytest.raises(InputError, match="sharpness: expected a number from 1 to 50"):
        kind(4, sharpness)


@pytest.mark.parametrize("make", [narrow_many_well, DistortedManyWell])
def test_odd_dimensions_are_reported(make):
    with pytest.raises(InputError, match="dim: many-well needs an even number of coordinates >= 2, got 31"):
        make(31)
