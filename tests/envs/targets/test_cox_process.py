"""The log-Gaussian Cox process: prior and likelihood apart, both parametrisations, quadrature, counts and files."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Poisson

from ebbflow.envs import InputError, get_target
from ebbflow.envs.targets.cox_process import LENGTH, MEAN, VARIANCE, CoxProcess, read_points


def covariance(side):
    """Cell by cell, in units of the unit square."""
    cells = [((i + 0.5) / side, (j + 0.5) / side) for i in range(side) for j in range(side)]
    rows = [[VARIANCE * math.exp(-math.dist(p, q) / LENGTH) for q in cells] for p in cells]
    return torch.tensor(rows, dtype=torch.float64)


def test_density_is_prior_times_likelihood():
    target = CoxProcess(dim=25).double()
    prior = MultivariateNormal(torch.full((25,), MEAN, dtype=torch.float64), covariance(5))
    f = prior.sample((40,))
    counts = target.counts.double()
    likelihood = Poisson(f.exp() / 25).log_prob(counts).sum(-1)
    constant = (torch.lgamma(counts + 1) + counts * math.log(25)).sum()  # left out by convention
    torch.testing.assert_close(target(f), prior.log_prob(f) + likelihood + constant, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("whitened", [False, True])
def test_score_is_the_gradient(whitened):
    target = CoxProcess(dim=36, whitened=whitened).double()
    x = torch.randn(3, 36, dtype=torch.float64) + (0.0 if whitened else MEAN)
    _, score = target.value_and_score(x)
    shifts = 1e-5 * torch.eye(36, dtype=torch.float64)
    rows = x.unsqueeze(1)
    numeric = (target(rows + shifts) - target(rows - shifts)) / 2e-5
    torch.testing.assert_close(score, numeric, rtol=1e-6, atol=1e-6)


def test_whitening_is_a_change_of_variables():
    field, white = CoxProcess(dim=49).double(), CoxProcess(dim=49, whitened=True).double()
    assert torch.equal(field.counts, white.counts)
    z = torch.randn(10, 49, dtype=torch.float64)
    half_log_det = 0.5 * torch.linalg.slogdet(covariance(7)).logabsdet
    torch.testing.assert_close(field(white.field(z)), white(z) - half_log_det, rtol=1e-11, atol=1e-9)
    assert torch.equal(field.field(z), z)


@pytest.mark.parametrize("dim", [1, 4])
def test_both_have_the_same_normaliser(dim):
    """On grids so small that a product rule can integrate them; the Jacobian is that of the map between them."""
    points = torch.tensor([[0.2, 0.9], [0.1, 0.8], [0.7, 0.6]])
    field, white = CoxProcess(dim, points).double(), CoxProcess(dim, points, whitened=True).double()
    axis = torch.linspace(-7, 7, 29 if dim > 1 else 141, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    cell = (axis[1] - axis[0]).item() ** dim
    by_white = white(z).logsumexp(0).item() + math.log(cell)
    # The field's own axes: a box around the prior's mean, wide enough for all of its mass.
    f = MEAN + 1.4 * z
    by_field = field(f).logsumexp(0).item() + math.log(cell * 1.4**dim)
    assert by_field == pytest.approx(by_white, abs=1e-4 if dim > 1 else 1e-7)


def test_simulated_counts_are_one_draw_of_a_seed():
    state = torch.get_rng_state()
    target = CoxProcess()
    assert torch.equal(state, torch.get_rng_state())
    assert (target.space.dim, target.scale, target.log_z) == (1600, math.sqrt(VARIANCE), None)
    assert not target.can_sample and target.mode_masses is None
    assert torch.equal(target.counts, get_target("lgcp").counts)
    assert torch.equal(target.counts, get_target("lgcp-whitened").counts)
    assert not torch.equal(target.counts, CoxProcess(seed=1).counts)
    assert (target.counts == target.counts.round()).all() and target.counts.min() >= 0


def test_simulated_counts_follow_the_model():
    """E[y_i] = 126 / dim, and Var[y_i] is Poisson's plus the lognormal intensity's."""
    dim, n = 16, 600
    counts = torch.stack([CoxProcess(dim, seed=seed).counts for seed in range(n)]).double()
    mean = 126.0 / dim
    variance = mean + mean**2 * math.expm1(VARIANCE)
    cells = counts.mean(0)
    # Cells are all but uncorrelated at this distance, exp(-33/4); five standard errors of the grand mean.
    assert abs(cells.mean().item() - mean) < 5 * math.sqrt(variance / (dim * n))
    assert counts.var(0).mean().item() == pytest.approx(variance, rel=0.5)  # heavy tails


def test_single_precision_on_the_whole_grid():
    target = get_target("lgcp")
    x = MEAN + 1.4 * torch.randn(64, 1600)
    value, score = target.value_and_score(x)
    assert value.isfinite().all() and score.isfinite().all()
    exact = get_target("lgcp").double()(x.double())
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-2)
    assert target.state_dict() == {}


# Points ---------------------------------------------------------------------------------------------------------------


def test_points_are_counted_in_cells(tmp_path):
    x = np.random.default_rng(0).uniform(size=(300, 2))
    x[0], x[1] = (1.0, 1.0), (0.0, 1.0)
    expected, *_ = np.histogram2d(x[:, 0], x[:, 1], bins=4, range=[[0, 1], [0, 1]])
    assert CoxProcess(16, torch.tensor(x)).counts.tolist() == expected.flatten().tolist()
    np.savetxt(tmp_path / "points.csv", x, delimiter=",", header="x,y", comments="")
    assert CoxProcess(16, tmp_path / "points.csv").counts.tolist() == expected.flatten().tolist()
    torch.testing.assert_close(read_points(tmp_path / "points.csv"), torch.tensor(x))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "points: expected at least one line of two numbers in "),
        ("x,y\n", "points: expected at least one line of two numbers in "),
        ("0.1,0.2\n0.3\n", "points: expected two numbers in line 2 of .*, got '0.3'"),
        ("0.1,0.2,0.3\n", "points: expected two numbers in line 1 of .*, got '0.1,0.2,0.3'"),
        ("x,y\n0.1,0.2\n\n0.1,far\n", "points: expected two numbers in line 4 of .*, got '0.1,far'"),
        ("0.1,0.2\n0.5,1.5\n", r"points: expected positions within \[0, 1\] x \[0, 1\], got \[0.5, 1.5\] as point 2"),
        ("0.1,nan\n", r"points: expected positions within \[0, 1\] x \[0, 1\]"),
    ],
)
def test_files_that_do_not_fit(text, message, tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        CoxProcess(16, path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"points: cannot read nowhere\.csv: No such file or directory"):
        CoxProcess(16, "nowhere.csv")
    (tmp_path / "picture.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"points: cannot read .*: not text"):
        CoxProcess(16, tmp_path / "picture.csv")


@pytest.mark.parametrize("points", [torch.zeros(3), torch.zeros(0, 2), torch.zeros(2, 3)])
def test_points_of_a_wrong_shape(points):
    with pytest.raises(InputError, match=r"points: expected positions of shape \[n, 2\]"):
        CoxProcess(16, points)


@pytest.mark.parametrize(
    ("dim", "message"),
    [(1500, "dim: expected a square number of cells, say 1444 or 1521, got 1500"), (0, "dim: expected a whole number")],
)
def test_bad_dimensions_are_reported(dim, message):
    with pytest.raises(InputError, match=message):
        CoxProcess(dim)
