import itertools
import math

import pytest
import torch

from ebbflow.envs.channels import GaussianChannel, gaussian_shuffle, variance_preserving
from ebbflow.envs.errors import InputError


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_n_gaussian_shuffles_are_one(n):
    assert gaussian_shuffle(0.125).repeated(n) == gaussian_shuffle(0.125 * n)
    rounded = gaussian_shuffle(0.1).repeated(n)
    assert rounded.gain == 1.0 and rounded.variance == pytest.approx(0.1 * n, rel=1e-14)


def test_samples_through_n_uses_are_as_through_one():
    x = torch.full((200_000,), 3.0).double()
    channel, many = variance_preserving(0.2), x
    for _ in range(5):
        many = channel(many)
    once = channel.repeated(5)(x)
    assert many.mean().item() == pytest.approx(once.mean().item(), abs=0.02)
    assert many.var().item() == pytest.approx(once.var().item(), abs=0.02)


@pytest.mark.parametrize("channel", [gaussian_shuffle(0.3), variance_preserving(0.3), GaussianChannel(0.5, 0.2, 1.0)])
def test_repetition_is_composition(channel):
    composed = GaussianChannel(1.0, 0.0)
    for n in range(5):
        repeated = channel.repeated(n)
        for field in ("gain", "variance", "offset"):
            assert getattr(repeated, field) == pytest.approx(getattr(composed, field), abs=1e-14)
        composed = composed.then(channel)


@pytest.mark.parametrize("n", [1, 10, 500])
def test_information_left_after_n_uses(n):
    exploding = gaussian_shuffle(0.01).repeated(n)
    assert exploding.mutual_information(2.0) == pytest.approx(0.5 * math.log1p(2.0 / (0.01 * n)), abs=1e-12)
    preserving = variance_preserving(0.05).repeated(n)  # a unit Gaussian: the correlation is 0.95^(n/2)
    assert preserving.output_variance(1.0) == pytest.approx(1.0, abs=1e-12)
    assert preserving.mutual_information(1.0) == pytest.approx(-0.5 * math.log1p(-(0.95**n)), abs=1e-12)


def test_information_is_that_of_the_joint_covariance():
    """I = ½ log(det Σ_x det Σ_y / det Σ_xy) for correlated coordinates, by the eigenvalues alone."""
    root = torch.randn(3, 3, dtype=torch.float64)
    covariance, channel = root @ root.T, GaussianChannel(0.7, 0.4)
    output = 0.49 * covariance + 0.4 * torch.eye(3, dtype=torch.float64)
    joint = torch.cat([torch.cat([covariance, 0.7 * covariance]), torch.cat([0.7 * covariance, output])], 1)
    expected = 0.5 * (covariance.logdet() + output.logdet() - joint.logdet())
    assert channel.mutual_information(torch.linalg.eigvalsh(covariance)) == pytest.approx(expected.item(), abs=1e-9)


def test_information_only_falls_along_a_chain():
    story = [variance_preserving(0.1).repeated(n).mutual_information([1.0, 4.0]) for n in range(20)]
    assert story[0] == math.inf and all(a > b for a, b in itertools.pairwise(story))
    assert GaussianChannel(0.0, 0.0).mutual_information(1.0) == 0.0


def test_the_reversal_gives_the_law_back_and_undoes_itself():
    channel = GaussianChannel(0.8, 0.5, offset=-1.0)
    mean, variance = 2.0, 0.3
    output_mean, output_variance = 0.8 * mean - 1.0, channel.output_variance(variance)
    guess = channel.reversed(mean, variance)
    assert guess.gain * output_mean + guess.offset == pytest.approx(mean, abs=1e-14)
    assert guess.output_variance(output_variance) == pytest.approx(variance, abs=1e-14)
    again = guess.reversed(output_mean, output_variance)
    for field in ("gain", "variance", "offset"):
        assert getattr(again, field) == pytest.approx(getattr(channel, field), abs=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gaussian_shuffle(-0.1), "variance: expected a number >= 0, got -0.1"),
        (lambda: GaussianChannel(math.nan, 1.0), "gain: expected a finite number, got nan"),
        (lambda: GaussianChannel(1.0, math.inf), "variance: expected a finite number, got inf"),
        (lambda: variance_preserving(1.5), r"beta: expected a number in \[0, 1\], got 1.5"),
        (lambda: gaussian_shuffle(0.1).repeated(-1), "n: expected a whole number >= 0, got -1"),
        (lambda: gaussian_shuffle(0.1).mutual_information([1.0, -1.0]), "variance: expected finite numbers >= 0"),
        (lambda: gaussian_shuffle(0.1).reversed(0.0, -1.0), "variance: expected finite numbers >= 0, got -1.0"),
        (lambda: gaussian_shuffle(0.0).reversed(0.0, 0.0), "variance: expected a number > 0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
