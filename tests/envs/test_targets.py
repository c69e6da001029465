"""What every target of the library must pass, and the facts of each family, against independent computations."""

import copy
import itertools
import math

import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ebbflow.envs import Funnel, GaussianMixture, InputError, ManyWell, get_target

MIXTURES = ("gmm25", "gmm25-narrow", "gmm40", "ring8")
EXPECTED = {  # dim, scale, log Z
    "gmm25": (2, 7.09, 0.0),
    "gmm25-narrow": (2, 7.07, 0.0),
    "gmm40": (2, 20.0, 0.0),
    "funnel": (10, 3.0, 0.0),
    "funnel-2": (2, 3.0, 0.0),
    "funnel-20": (20, 3.0, 0.0),
    "manywell-2": (2, 1.5, 164.69568 / 16),
    "manywell-32": (32, 1.5, 164.69568),
    "manywell-narrow-32": (32, 1.5, 585.40951),
    "manywell-distorted-4": (4, 1.641, 164.69568 / 8),
    "manywell-distorted-32": (32, 1.704, 164.69568),
    "student-t": (2, 4.667, 0.0),
    "student-t-10": (10, 5.677, 0.0),
    "gmm-wishart": (2, 4.939, 0.0),
    "gmm-wishart-5": (5, 5.853, 0.0),
    "ring8": (2, 7.089, 0.0),
    "banana": (2, 7.714, 0.0),
    "banana-5": (5, 7.714, 0.0),
    "rosenbrock": (2, 11.183, math.log(2 * math.pi)),
    "rosenbrock-5": (5, 11.183, 2.5 * math.log(math.pi) + 0.5 * math.log(20) - 2 * math.log(5)),
}


@pytest.fixture(params=EXPECTED)
def target(request):
    return get_target(request.param)


# Every target ---------------------------------------------------------------------------------------------------------


def test_definition(target):
    dim, scale, log_z = EXPECTED[target.name]
    assert target.space.dim == dim
    assert target.scale == pytest.approx(scale, abs=5e-3)
    assert target.log_z == pytest.approx(log_z, abs=1e-5)
    assert target.has_log_prob and target.can_sample


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(target, dtype):
    target.to(dtype)
    samples = target.sample(24)
    assert samples.shape == (24, target.space.dim) and samples.dtype == dtype
    assert target.sample(0).shape == (0, target.space.dim)
    value = target(samples)
    assert value.shape == (24,) and value.dtype == dtype and value.isfinite().all()
    assert torch.equal(target(samples.reshape(2, 3, 4, -1)), value.reshape(2, 3, 4))
    torch.testing.assert_close(target(samples[0]), value[0])


def test_single_precision_agrees_with_double(target):
    x = target.sample(500)
    exact = copy.deepcopy(target).double()(x.double())
    assert torch.allclose(target(x).double(), exact, rtol=2e-5, atol=2e-4)


def test_samples_repeat_with_the_global_seed(target):
    torch.manual_seed(5)
    first, second = target.sample(8), target.sample(8)
    torch.manual_seed(5)
    assert torch.equal(target.sample(8), first)
    assert not torch.equal(first, second)


def test_score_is_the_gradient(target):
    target.double()
    x = target.sample(6)
    _, score = target.value_and_score(x)
    h = 1e-6
    shifts = h * torch.eye(target.space.dim, dtype=torch.float64)  # one row for each coordinate
    rows = x.unsqueeze(1)
    numeric = (target(rows + shifts) - target(rows - shifts)) / (2 * h)
    torch.testing.assert_close(score, numeric, rtol=1e-5, atol=1e-5)


def test_samples_are_of_the_density(target):
    """Stein's identity E[x_i d log p/dx_i] = -1 in every coordinate, within 5 standard errors."""
    x = target.double().sample(40_000)
    _, score = target.value_and_score(x)
    terms = x * score + 1.0
    error = terms.mean(0) / (terms.std(0) / math.sqrt(len(x)))
    assert error.abs().max() < 5.0
    wrong = 1.1 * x * target.value_and_score(1.1 * x)[1] + 1.0
    assert (wrong.mean(0) / (wrong.std(0) / math.sqrt(len(x)))).abs().max() > 5.0  # the test can tell


def test_modes_hold_their_masses(target):
    masses = target.mode_masses
    if masses is None:
        with pytest.raises(InputError, match="no known modes"):
            target.mode_membership(target.sample(3))
        return
    n = 40_000
    member = target.mode_membership(target.sample(n))
    assert member.shape == (n, len(masses)) and member.dtype == torch.bool
    standard_error = (masses * (1 - masses) / n).sqrt()
    assert ((member.float().mean(0) - masses).abs() < 4.5 * standard_error).all()


def test_is_copied_and_saved_whole(target):
    twin = copy.deepcopy(target)
    x = target.sample(4)
    assert torch.equal(twin(x), target(x))
    assert target.state_dict() == {}  # nothing of a benchmark belongs in a checkpoint


# Mixtures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_integrates_to_one(name):
    target = get_target(name).double()
    edge = target.means.abs().max().item() + 8.0 * target.stds[0]
    step = 0.35 * target.stds[0]
    axis = torch.arange(-edge, edge, step, dtype=torch.float64)
    total = sum(target(torch.cartesian_prod(rows, axis)).exp().sum() for rows in axis.split(64)) * step**2
    assert total.item() == pytest.approx(1.0, abs=1e-8)


def test_mixture_agrees_with_torch():
    means = torch.randn(5, 3, dtype=torch.float64)
    stds, weights = [0.3, 0.5, 1.0, 2.0, 0.1], [1.0, 2.0, 3.0, 4.0, 5.0]
    target = GaussianMixture(means, stds, weights)
    reference = MixtureSameFamily(
        Categorical(torch.tensor(weights, dtype=torch.float64)),
        Independent(Normal(means, torch.tensor(stds, dtype=torch.float64)[:, None].expand(5, 3)), 1),
    )
    x = torch.randn(50, 3, dtype=torch.float64) * 2
    torch.testing.assert_close(target(x), reference.log_prob(x), rtol=1e-12, atol=1e-12)
    assert target.mode_masses.tolist() == pytest.approx([w / 15 for w in weights])
    assert target.scale == pytest.approx(reference.variance.mean().sqrt().item())
    x = target.sample(100_000)
    torch.testing.assert_close(x.mean(0), reference.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(x.var(0), reference.variance, atol=0.05, rtol=0)


def test_double_precision_is_exact():
    value = get_target("gmm25").double()(torch.tensor([[10.0, -5.0]], dtype=torch.float64)).item()
    assert value == pytest.approx(-math.log(25 * 2 * math.pi * 0.3), abs=1e-14)


def test_components_are_drawn_at_random_with_the_right_width():
    target = get_target("gmm25").double()
    x = target.sample(20_000)
    member = target.mode_membership(x)
    assert (member.sum(-1) == 1).all()
    counts = member.sum(0).numpy()
    assert counts.min() < counts.max()  # not equal counts per mode
    assert stats.chisquare(counts).pvalue > 1e-3
    nearest = target.means[member.int().argmax(-1)]
    radius = ((x - nearest) ** 2).sum(-1) / 0.3
    assert stats.kstest(radius.numpy(), stats.chi2(2).cdf).pvalue > 1e-3


def test_gmm40_is_one_draw_of_a_seed():
    first = get_target("gmm40")
    assert torch.equal(first.means, get_target("gmm40").means)
    assert first.means.shape == (40, 2) and first.means.abs().max() <= 40.0
    assert stats.kstest(first.means.flatten().numpy() / 80 + 0.5, "uniform").pvalue > 1e-3
    state = torch.get_rng_state()
    get_target("gmm40")
    assert torch.equal(state, torch.get_rng_state())  # the means come from a generator of their own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": [1.0, 2.0], "std": 1.0}, r"means: expected finite values of shape \[M, dim\], got shape \[2\]"),
        ({"means": torch.zeros(0, 2), "std": 1.0}, "means: expected finite values"),
        ({"means": [[float("nan")]], "std": 1.0}, "means: expected finite values"),
        ({"means": [[0.0]], "std": 0.0}, "std: expected positive finite values, got 0.0"),
        ({"means": [[0.0]], "std": [1.0, 2.0]}, "std: expected 1 values, one for each mean, got 2"),
        ({"means": [[0.0]], "std": "wide"}, "std: expected a number > 0"),
        ({"means": [[0.0], [1.0]], "std": 1.0, "weights": [1.0, -1.0]}, "weights: expected positive finite values"),
    ],
)
def test_bad_mixtures_are_reported(arguments, message):
    with pytest.raises(InputError, match=message):
        GaussianMixture(**arguments)


# Funnel ---------------------------------------------------------------------------------------------------------------


def test_funnel_factorises():
    target = Funnel(10).double()
    x = target.sample(200)
    expected = Normal(0.0, 3.0).log_prob(x[:, 0]) + Normal(0.0, (x[:, :1] / 2).exp()).log_prob(x[:, 1:]).sum(-1)
    torch.testing.assert_close(target(x), expected, rtol=1e-6, atol=1e-5)  # torch keeps the 3.0 in single precision


def test_funnel_integrates_to_one():
    target = Funnel(2).double()
    first, z = torch.linspace(-30, 30, 601, dtype=torch.float64), torch.linspace(-8, 8, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(first, z)
    x = torch.stack([grid[:, 0], grid[:, 1] * (grid[:, 0] / 2).exp()], dim=-1)
    total = (target(x) + grid[:, 0] / 2).exp().sum() * 0.1 * 0.1
    assert total.item() == pytest.approx(1.0, abs=1e-8)


def test_funnel_samples():
    x = Funnel(10).double().sample(10_000)
    assert stats.kstest(x[:, 0].numpy() / 3, "norm").pvalue > 1e-3
    z = x[:, 1:] * (-x[:, :1] / 2).exp()
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("dim", [1, 0, 2.0, True, "3"])
def test_bad_funnels_are_reported(dim):
    with pytest.raises(InputError, match="dim: a funnel needs a whole number of coordinates >= 2"):
        Funnel(dim)


# Many-well ------------------------------------------------------------------------------------------------------------


def well(a):
    return math.exp(-(a**4) + 6 * a**2 + 0.5 * a)


@pytest.mark.parametrize(("dim", "log_z"), [(32, 164.69568), (64, 329.3914), (128, 658.7827)])
def test_many_well_normaliser(dim, log_z):
    target = ManyWell(dim)
    assert target.log_z == pytest.approx(log_z, abs=6e-5)
    left, right = (integrate.quad(well, *ends, epsabs=1e-10)[0] for ends in ((-5, 0), (0, 5)))
    assert target.log_z == pytest.approx(dim / 2 * (math.log(left + right) + 0.5 * math.log(2 * math.pi)), abs=1e-8)
    assert target.mode_masses.tolist() == pytest.approx([left / (left + right), right / (left + right)] * (dim // 2))
    assert target.mode_masses[1].item() == pytest.approx(0.84431, abs=5e-6)


def test_many_well_reads_pairs():
    x = torch.tensor([[1.0, 2.0, -1.5, 0.5]])
    expected = (-1.0 + 6.0 + 0.5 - 2.0) + (-5.0625 + 13.5 - 0.75 - 0.125)
    target = ManyWell(4)
    assert target(x).item() == pytest.approx(expected)
    assert target.mode_membership(x).tolist() == [[False, True, True, False]]
    assert target.right_masses(torch.cat([x, x.abs()])).tolist() == [1.0, 0.5]


def test_many_well_samples():
    target = ManyWell(4).double()
    x = target.sample(20_000)
    edges = torch.linspace(-3, 3, 61).tolist()
    masses = [integrate.quad(well, low, high)[0] for low, high in itertools.pairwise(edges)]
    total = integrate.quad(well, -5, 5, epsabs=1e-10)[0]
    a = x[:, 0::2].flatten()
    # Few samples fall near the saddle and beyond the wells; bins with fewer than ten expected are taken together.
    expected = torch.tensor(masses) / total * len(a)
    counts = torch.histc(a, 60, -3, 3)
    full = expected >= 10
    observed = torch.cat([counts[full], len(a) - counts[full].sum()[None]])
    expected = torch.cat([expected[full], len(a) - expected[full].sum()[None]])
    assert stats.chisquare(observed.numpy(), expected.numpy(), sum_check=False).pvalue > 1e-3
    assert stats.kstest(x[:, 1::2].flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(torch.corrcoef(x.T).fill_diagonal_(0)).max() < 5 / math.sqrt(len(x))


def test_many_well_samples_keep_their_precision():
    """The table of the sampler stays in double precision whatever the target's dtype."""
    target = ManyWell(2)
    table = target._cumulative.clone()
    target.float().double()
    assert target._cumulative.dtype == torch.float64 and torch.equal(target._cumulative, table)


@pytest.mark.parametrize("dim", [31, 0, -2, 4.0, True])
def test_bad_many_wells_are_reported(dim):
    with pytest.raises(InputError, match="dim: many-well needs an even number of coordinates >= 2"):
        ManyWell(dim)
