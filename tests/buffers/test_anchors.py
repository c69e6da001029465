"""Anchors: what the annealed explorer finds, what it costs, and the user's own samples."""

import math

import pytest
import torch

from ebbflow.buffers import Anchors, annealed_smc
from ebbflow.buffers.annealing import _block, _drifts, _Population, _systematic
from ebbflow.buffers.langevin import Chains, Tempered, langevin_move
from ebbflow.envs import Compressed, Continuous, InputError, Target, get_target


class Grid(Target):
    """Mixture of nine Gaussians on a grid."""

    def __init__(self, std=0.5):
        super().__init__(Continuous(2), scale=4.0, log_z=0.0)
        line = torch.tensor([-5.0, 0.0, 5.0])
        self.means, self.std = torch.cartesian_prod(line, line), std

    def log_prob(self, x):
        square = (x.unsqueeze(-2) - self.means.to(x)).square().sum(-1)
        return (-0.5 * square / self.std**2).logsumexp(-1) - math.log(9 * 2 * math.pi * self.std**2)


class Wells(Target):
    """Four double wells with a Gaussian each; the right well holds 0.84431 of each."""

    def __init__(self):
        super().__init__(Continuous(8), scale=1.5, log_z=164.69568 / 4)

    def log_prob(self, x):
        a, b = x[..., 0::2], x[..., 1::2]
        return (-(a**4) + 6 * a**2 + 0.5 * a - 0.5 * b**2).sum(-1)


class HalfDisc(Target):
    """Uniform on the right half of a disc of radius 2, flat, with log density −inf elsewhere."""

    def __init__(self):
        super().__init__(Continuous(2), log_z=math.log(2 * math.pi))

    def log_prob(self, x):
        inside = (x.norm(dim=-1) < 2.0) & (x[..., 0] > 0)
        return torch.where(inside, 0.0 * x.sum(-1), -torch.inf)


class Correlated(Target):
    """Gaussian with correlation 0.8 and unequal scales, to test the moves themselves."""

    def __init__(self):
        super().__init__(Continuous(2))
        self.covariance = torch.tensor([[4.0, 0.8], [0.8, 0.25]], dtype=torch.float64)

    def log_prob(self, x):
        return -0.5 * torch.einsum("...i,ij,...j->...", x, torch.linalg.inv(self.covariance).to(x), x)


@pytest.mark.parametrize("std", [0.5, 0.1])
def test_grid_modes_masses_and_log_z(std):
    torch.manual_seed(0)
    target = Grid(std)
    anchors = annealed_smc(target, 2000, initial_std=7.0, temperatures=40)
    masses = torch.cdist(anchors.states, target.means).argmin(-1).bincount(minlength=9) / 2000
    assert ((masses - 1 / 9).abs() < 0.04).all()
    assert abs(anchors.log_z) < 0.1
    assert 0.0 < anchors.log_z_stderr < 0.1
    residual = anchors.states - target.means[torch.cdist(anchors.states, target.means).argmin(-1)]
    assert float(residual.std()) == pytest.approx(std, rel=0.1)
    torch.testing.assert_close(anchors.log_reward, target.log_prob(anchors.states))


def test_wells_are_crossed():
    torch.manual_seed(0)
    anchors = annealed_smc(Wells(), 3000, initial_std=2.25, temperatures=40)
    right = (anchors.states[:, 0::2] > 0).float().mean(0)
    assert ((right - 0.84431).abs() < 0.04).all()
    assert abs(anchors.log_z - 164.69568 / 4) < 0.15


@pytest.mark.parametrize("kind", ["langevin", "compressed", "block"])
@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_moves_leave_the_density_alone(kind, beta):
    """Exact samples of the tempered density stay exact; large steps and a strong clip make mistakes visible."""
    torch.manual_seed(0)
    target, initial_std, n = Correlated(), 3.0, 40_000
    precision = beta * torch.linalg.inv(target.covariance) + (1 - beta) * torch.eye(2).double() / initial_std**2
    covariance = torch.linalg.inv(precision)
    x = torch.randn(n, 2, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    energy, score = target.value_and_score(x)
    population = _Population(x, energy, score, torch.zeros_like(energy), torch.arange(n))
    path = Tempered(target, initial_std, beta)
    std = covariance.diagonal().sqrt()
    space = Compressed(2, 0.5) if kind == "compressed" else Continuous(2)
    for _ in range(15):
        if kind == "block":
            move = _block(path, population, std, 0.7)
        else:
            move = langevin_move(path, population, space.coordinates(x).std(0), 0.3, space)
        assert 0.05 < float(move.mean()) < 0.95
    got = population.x.T.cov()
    torch.testing.assert_close(got / covariance, torch.ones_like(got), atol=0.04, rtol=0)
    assert (population.x.mean(0).abs() < 0.03 * std).all()
    kurtosis = (population.x / std).pow(4).mean(0)
    assert ((kurtosis - 3.0).abs() < 0.2).all()
    torch.testing.assert_close(population.energy, target.log_prob(population.x))


def test_langevin_reaches_the_density_from_elsewhere():
    torch.manual_seed(0)
    target, n = Correlated(), 5000
    x = 6.0 + torch.randn(n, 2, dtype=torch.float64)
    energy, score = target.value_and_score(x)
    population = Chains(x, energy, score)
    for _ in range(150):
        langevin_move(Tempered(target), population, torch.tensor([2.0, 0.5]).double(), -0.3)
    assert (population.x.mean(0).abs() < torch.tensor([0.2, 0.05])).all()
    torch.testing.assert_close(population.x.T.cov(), target.covariance, atol=0.0, rtol=0.15)


def test_compressed_moves_reach_further_into_a_funnels_neck():
    lows = []
    for compression in (None, 1 / 15):
        torch.manual_seed(0)
        anchors = annealed_smc(
            get_target("funnel"), 2000, initial_std=4.5, temperatures=60, moves=24, compression=compression
        )
        lows.append(float(anchors.states[:, 0].quantile(0.05)))  # the truth: -4.93
    assert lows[1] < lows[0] - 0.5
    with pytest.raises(InputError, match="compression: expected a finite number > 0"):
        annealed_smc(get_target("funnel"), 10, initial_std=1.0, compression=0.0)


def test_final_moves_find_the_neck_and_go_on_from_where_the_ladder_ended():
    found = []
    for final_moves in (0, 50, 400):
        torch.manual_seed(0)
        anchors = annealed_smc(
            get_target("funnel"), 1000, initial_std=4.5, temperatures=20, compression=0.07, final_moves=final_moves
        )
        assert anchors.energy_calls == 1000 * (1 + 20 * 3 + final_moves)
        found.append((anchors.log_z, float(anchors.states[:, 0].quantile(0.05))))  # the truth: -4.93
    assert found[0][0] == found[1][0] == found[2][0]
    assert found[2][1] < found[1][1] - 0.5 < found[0][1] - 1.0


@pytest.mark.parametrize(("name", "compression"), [("gmm25", None), ("funnel", 0.07)])
def test_final_moves_end_where_the_population_stays(name, compression):
    n, calls = 4000, []
    for final_moves in (0, 500):
        torch.manual_seed(0)
        target = get_target(name)
        settings = {"initial_std": 1.5 * target.scale, "temperatures": 20, "compression": compression}
        calls.append(annealed_smc(target, n, **settings, final_moves=final_moves).energy_calls)
    assert (calls[1] - calls[0]) / n == (500 if name == "funnel" else 200)


def test_drifts_are_noticed():
    """At the level of 1 % for all coordinates together; small ones by pairs, and in spread as well as in place."""
    torch.manual_seed(0)
    assert sum(_drifts(torch.randn(500, 20), torch.randn(500, 20)) for _ in range(300)) <= 10
    x = torch.randn(5000, 20)
    assert not _drifts(x, x)
    still = 0.95 * x + math.sqrt(1.0 - 0.95**2) * torch.randn(5000, 20)
    assert not _drifts(x, still)
    for moved in (still[:, 7] + 0.05, 1.05 * still[:, 7]):
        other = still.clone()
        other[:, 7] = moved
        assert _drifts(x, other)


def test_final_moves_leave_the_density_alone():
    torch.manual_seed(0)
    anchors = annealed_smc(Correlated(), 4000, initial_std=4.0, temperatures=20, final_moves=45, compression=0.1)
    torch.testing.assert_close(anchors.states.T.cov().double(), Correlated().covariance, atol=0.06, rtol=0.1)
    value, _ = Correlated().value_and_score(anchors.states.double())
    torch.testing.assert_close(anchors.log_reward.double(), value, atol=1e-4, rtol=1e-4)


def test_outside_the_support_is_never_kept():
    torch.manual_seed(0)
    target = HalfDisc()
    anchors = annealed_smc(target, 2000, initial_std=2.0, temperatures=15)
    assert (anchors.log_reward == 0.0).all()
    assert (anchors.states[:, 0] > 0).all()
    assert (anchors.states.norm(dim=-1) < 2.0).all()
    assert anchors.log_z == pytest.approx(target.log_z, abs=0.15)
    assert float(anchors.states[:, 0].mean()) == pytest.approx(8 / (3 * math.pi), abs=0.06)


def test_no_particle_inside_the_support():
    class Nowhere(HalfDisc):
        def log_prob(self, x):
            return torch.where(x[..., 0] > 1e6, x[..., 0], -torch.inf)

    with pytest.raises(InputError, match="initial_std: expected a Gaussian that meets the support"):
        annealed_smc(Nowhere(), 50, initial_std=1.0)


def test_steep_densities_do_not_explode():
    class Steep(Target):
        def __init__(self):
            super().__init__(Continuous(3))

        def log_prob(self, x):
            return -1e4 * x.pow(4).sum(-1)

    torch.manual_seed(0)
    anchors = annealed_smc(Steep(), 1000, initial_std=50.0, temperatures=40)
    # ∫ exp(−k x⁴) dx = 2 Γ(5/4) k^(−1/4), per coordinate.
    assert anchors.log_z == pytest.approx(3 * math.log(2 * math.gamma(1.25) * 0.1), abs=0.4)
    assert anchors.states.abs().max() < 0.5
    assert len(anchors.ess_history) > 40  # steps of the ladder were halved


def test_calls_are_counted_and_diagnostics_have_their_shapes():
    target = Grid()
    target(torch.zeros(5, 2))
    anchors = annealed_smc(target, 100, initial_std=7.0, temperatures=12, moves=3, dtype=torch.float64)
    assert anchors.energy_calls == anchors.gradient_calls == 100 * (1 + 12 * 4)
    assert target.energy_calls == 5 + anchors.energy_calls
    assert anchors.states.dtype == anchors.log_reward.dtype == torch.float64
    assert anchors.states.shape == (100, 2)
    assert anchors.ess_history.shape == anchors.acceptance.shape == (12,)
    assert ((anchors.ess_history > 0) & (anchors.ess_history <= 1 + 1e-6)).all()
    assert not anchors.states.requires_grad


def test_acceptance_follows_the_target():
    torch.manual_seed(0)
    anchors = annealed_smc(Wells(), 1000, initial_std=2.25, temperatures=40, target_acceptance=0.8)
    assert float(anchors.acceptance[10:].mean()) == pytest.approx(0.8, abs=0.03)


def test_same_seed_same_anchors():
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(annealed_smc(Grid(), 200, initial_std=7.0, temperatures=8))
    assert torch.equal(runs[0].states, runs[1].states)
    assert runs[0].log_z == runs[1].log_z


def test_systematic_resampling_gives_each_its_share():
    torch.manual_seed(0)
    weight = torch.rand(50).softmax(0)
    for _ in range(20):
        counts = _systematic(weight, 50).bincount(minlength=50)
        assert ((counts - 50 * weight).abs() < 1 + 1e-4).all()
        assert counts.sum() == 50


@pytest.mark.parametrize(
    "options, field",
    [
        ({"n": 1}, "n"),
        ({"temperatures": 0}, "temperatures"),
        ({"moves": 0}, "moves"),
        ({"final_moves": -1}, "final_moves"),
        ({"initial_std": -1.0}, "initial_std"),
        ({"initial_std": math.inf}, "initial_std"),
        ({"ess_threshold": 1.5}, "ess_threshold"),
        ({"target_acceptance": 0.0}, "target_acceptance"),
        ({"dtype": torch.int64}, "dtype"),
    ],
)
def test_bad_options(options, field):
    with pytest.raises(InputError, match=f"^{field}: expected"):
        annealed_smc(Grid(), **{"initial_std": 5.0} | options)


def test_target_without_density():
    class Data(Target):
        def sample(self, n):
            return torch.zeros(n, 2)

    with pytest.raises(InputError, match="annealed_smc needs a log density"):
        annealed_smc(Data(Continuous(2)), initial_std=1.0)
    with pytest.raises(InputError, match="anchors needs a log density"):
        Anchors.from_samples(Data(Continuous(2)), torch.zeros(3, 2))


def test_own_samples():
    states = torch.randn(20, 2)
    target = Grid()
    anchors = Anchors.from_samples(target, states)
    torch.testing.assert_close(anchors.log_reward, target.log_prob(states))
    assert (len(anchors), anchors.energy_calls, anchors.gradient_calls) == (20, 20, 0)
    assert math.isnan(anchors.log_z)
    states.zero_()
    assert anchors.states.abs().sum() > 0


@pytest.mark.parametrize(
    "states, message",
    [
        (torch.zeros(3, 4), r"states: expected a tensor \[n >= 1, 2\], got \[3, 4\]"),
        (torch.zeros(0, 2), r"states: expected a tensor \[n >= 1, 2\], got \[0, 2\]"),
        (torch.zeros(2), "states: expected a tensor"),
        ([[0.0, 1.0]], "states: expected a tensor .* got list"),
        (torch.zeros(3, 2, dtype=torch.int64), "states: expected floating point"),
        (torch.tensor([[0.5, 0.5], [math.nan, 0.0]]), "states: expected finite values, got NaN or infinity in 1 of 2"),
        (torch.tensor([[0.5, 0.5], [-1.0, 0.0]]), "inside the support, got log density -inf for 1 rows"),
    ],
)
def test_bad_own_samples(states, message):
    with pytest.raises(InputError, match=message):
        Anchors.from_samples(HalfDisc(), states)


def test_draw_is_uniform_with_replacement():
    torch.manual_seed(0)
    states = torch.arange(20.0).view(10, 2)
    anchors = Anchors.from_samples(Grid(), states)
    drawn = anchors.draw(20_000)
    assert set(drawn.keys()) == {"state", "log_reward"}
    which = (drawn["state"][:, 0] / 2).long()
    assert torch.equal(drawn["state"], states[which])
    assert torch.equal(drawn["log_reward"], anchors.log_reward[which])
    assert ((which.bincount(minlength=10) - 2000).abs() < 200).all()
    with pytest.raises(InputError, match="n: expected"):
        anchors.draw(0)


def test_state_round_trip():
    torch.manual_seed(0)
    anchors = annealed_smc(Grid(), 100, initial_std=7.0, temperatures=5)
    restored = Anchors.from_state_dict(anchors.state_dict())
    other = Anchors.from_samples(Grid(), torch.zeros(3, 2))
    other.load_state_dict(anchors.state_dict())
    for copy in (restored, other):
        assert (copy.log_z, copy.log_z_stderr) == (anchors.log_z, anchors.log_z_stderr)
        assert (copy.energy_calls, copy.gradient_calls) == (anchors.energy_calls, anchors.gradient_calls)
        assert torch.equal(copy.acceptance, anchors.acceptance)
        assert torch.equal(copy.ess_history, anchors.ess_history)
        draws = []
        for one in (anchors, copy):
            torch.manual_seed(1)
            draws.append(one.draw(50))
        assert torch.equal(draws[0]["state"], draws[1]["state"])
        assert torch.equal(draws[0]["log_reward"], draws[1]["log_reward"])


def test_bad_states():
    state = Anchors.from_samples(Grid(), torch.zeros(3, 2)).state_dict()
    for key in state:
        with pytest.raises(InputError, match=f"{key}: missing"):
            Anchors.from_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(InputError, match="states: expected"):
        Anchors.from_state_dict(state | {"log_reward": torch.zeros(2)})
    with pytest.raises(InputError, match="states: expected dimension 8, got 2"):
        Anchors.from_samples(Wells(), torch.zeros(1, 8)).load_state_dict(state)
