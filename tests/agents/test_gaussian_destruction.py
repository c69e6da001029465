"""Destruction of points by noise: steps, levels and posteriors against Bayes' rule, and guesses said in two ways."""

import math

import pytest
import torch

from ebbflow.agents import DenoisingAgent, PointNetwork, TimeGrid
from ebbflow.agents.references import brownian_bridge, geometric_noise, variance_exploding, variance_preserving
from ebbflow.agents.references.continuous import GaussianInterpolation, GaussianNoise
from ebbflow.envs import Compressed, Continuous, InputError, Tokens

pytestmark = pytest.mark.usefixtures("double_precision")

DIM, T = 3, 6
SPACE = Continuous(DIM)
GRID = TimeGrid.shrinking(T)
PROCESSES = {
    "preserving": lambda: variance_preserving(GRID, sigma=1.3),
    "geometric": lambda: geometric_noise(T, smallest=0.1, largest=8.0, scale=1.3),
    "exploding": lambda: variance_exploding(GRID, sigma=2.0),
}
REFERENCES = {
    **{name: lambda make=make: GaussianNoise(SPACE, make(), scale=1.3) for name, make in PROCESSES.items()},
    "bridge": lambda: GaussianNoise(SPACE, brownian_bridge(GRID, sigma=2.0)),
    "posterior": lambda: GaussianNoise(SPACE, PROCESSES["preserving"](), variance="posterior"),
    **{
        f"interpolation_{eta}": lambda eta=eta: GaussianInterpolation(SPACE, PROCESSES["preserving"](), eta=eta)
        for eta in (0.0, 0.4, 1.0)
    },
    "interpolation_geometric": lambda: GaussianInterpolation(SPACE, PROCESSES["geometric"](), eta=0.6),
}
WITH_DENSITY = [name for name in REFERENCES if name != "interpolation_0.0"]


def points(mean, variance):
    """Points whose average is the mean of any quadratic function under N(mean, variance), `[2 dim, ..., dim]`."""
    reach = (DIM * variance) ** 0.5
    offsets = torch.cat([torch.eye(DIM), -torch.eye(DIM)]) * reach
    return mean + offsets.reshape(2 * DIM, *[1] * (mean.ndim - 1), DIM)


@pytest.fixture(params=REFERENCES)
def reference(request):
    return REFERENCES[request.param]()


@pytest.fixture(params=WITH_DENSITY)
def dense(request):
    return REFERENCES[request.param]()


# Steps and levels -----------------------------------------------------------------------------------------------------


def test_steps_compose_to_levels(reference):
    a, v = torch.tensor(1.0), torch.tensor(0.0)
    assert reference.level_factor[T] == 1.0 and reference.level_variance[T] == 0.0
    for k in reversed(range(T)):
        a = reference.step_state[k] * a + reference.step_sample[k]
        v = reference.step_state[k] ** 2 * v + reference.step_variance[k]
        torch.testing.assert_close(a, reference.level_factor[k])
        torch.testing.assert_close(v, reference.level_variance[k])


def test_what_is_sampled_has_the_law_that_is_stated(reference):
    """Whole paths, step by step, and levels at once."""
    n = 20_000
    x = torch.tensor([1.0, -2.0, 0.5]).expand(n, -1)
    state = x
    for k in reversed(range(T)):
        state = reference.sample_step_given(state, x, k)
        for drawn in (state, reference.sample_level(x, k)):
            mean, std = reference.level_factor[k] * x[0], reference.level_variance[k].sqrt()
            assert ((drawn.mean(0) - mean).abs() <= 5 * std / n**0.5).all()
            assert ((drawn.std(0) - std).abs() <= 5 * std / (2 * n) ** 0.5).all()


def test_steps_of_their_own_for_each_state(dense):
    """Steps as a tensor are those as numbers, for every method that takes them."""
    x, following, state = torch.randn(3, T, DIM)
    k = torch.arange(T)
    for method in ("log_prob_reverse", "log_prob_step_given"):
        together = getattr(dense, method)(state, following, x, k)
        one_by_one = [getattr(dense, method)(state[j], following[j], x[j], j) for j in range(T)]
        torch.testing.assert_close(together, torch.stack(one_by_one))
    torch.testing.assert_close(
        dense.log_prob_level(state, x, k), torch.stack([dense.log_prob_level(state[j], x[j], j) for j in range(T)])
    )
    torch.testing.assert_close(dense.known_term(k), torch.stack([dense.known_term(j) for j in range(T)]))


def test_posteriors_obey_bayes_rule(dense):
    """q(x_k | x_{k+1}, x_T) q(x_{k+1} | x_T) = q(x_{k+1} | x_k, x_T) q(x_k | x_T), wherever all four have densities."""
    x, following, state = torch.randn(3, 20, DIM)
    for k in range(1 if dense.process.is_dirac else 0, T - 1):
        left = dense.log_prob_step_given(state, following, x, k) + dense.log_prob_level(following, x, k + 1)
        mean, variance = dense.reverse_mean(x, state, k), dense.posterior_variance[k]
        posterior = torch.distributions.Normal(mean, variance.sqrt()).log_prob(following).sum(-1)
        torch.testing.assert_close(left, posterior + dense.log_prob_level(state, x, k))


def test_the_last_step_of_generation_is_around_the_guess(reference):
    guess, state = torch.randn(2, 5, DIM)
    torch.testing.assert_close(reference.reverse_mean(guess, state, T - 1), guess)
    assert reference.posterior_variance[T - 1] == 0.0
    assert (reference.reverse_variance[T - 1] > 0.0) == reference.has_density


def test_of_a_markov_chain_the_sample_does_not_matter():
    chain, interpolation = REFERENCES["posterior"](), REFERENCES["interpolation_1.0"]()
    x, guess, following, state = torch.randn(4, T, DIM)
    k = torch.arange(T)
    torch.testing.assert_close(
        chain.log_prob_step(state, following, k)[:-1],
        interpolation.log_prob_step_given(state, following, x, k)[:-1],
    )  # at k = T − 1, x_{k+1} is x_T
    torch.testing.assert_close(
        chain.log_prob_step(state, x, k)[-1], interpolation.log_prob_step_given(state, x, x, k)[-1]
    )
    torch.testing.assert_close(
        chain.log_prob_reverse(guess, following, state, k), interpolation.log_prob_reverse(guess, following, state, k)
    )
    assert chain.markov and not interpolation.markov


def test_levels_are_the_same_for_every_eta():
    references = [REFERENCES[f"interpolation_{eta}"]() for eta in (0.0, 0.4, 1.0)]
    for other in references[1:]:
        torch.testing.assert_close(other.level_factor, references[0].level_factor)
        torch.testing.assert_close(other.level_variance, references[0].level_variance)
    step = [one.step_variance[2].item() for one in references]
    assert step[0] == 0.0 < step[1] < step[2]


def test_without_noise_generation_undoes_destruction_by_the_right_guess():
    reference = REFERENCES["interpolation_0.0"]()
    x = torch.randn(10, DIM)
    path = [reference.sample_level(x, T - 1)]
    for k in reversed(range(T - 1)):
        path.append(reference.sample_step_given(path[-1], x, k))
    state = path[-1]
    for k in range(T):
        torch.testing.assert_close(state, path[T - 1 - k])
        state = reference.sample_reverse(x, state, k)
    torch.testing.assert_close(state, x)


# What is averaged -----------------------------------------------------------------------------------------------------


def test_means_are_closed(dense):
    x, guess, state = torch.randn(3, 4, DIM)
    for k in range(T):
        between = points(dense.reverse_mean(x, state, k), dense.posterior_variance[k])
        torch.testing.assert_close(
            dense.mean_log_prob_reverse(guess, x, state, state, k),
            dense.log_prob_reverse(guess, between, state, k).mean(0),
        )
        mean = dense.step_state[k] * guess + dense.step_sample[k] * x
        torch.testing.assert_close(
            dense.mean_log_prob_step(x, guess, state, k),
            dense.log_prob_step_given(points(mean, dense.step_variance[k]), guess, x, k).mean(0),
        )
        right = x if dense.guess == "sample" else dense.guessed_noise(x, state, k)
        known = dense.mean_log_prob_reverse(right, x, state, state, k) - dense.mean_log_prob_step(x, x, state, k)
        torch.testing.assert_close(dense.known_term(k).expand(4), known)
    destroyed = points(dense.level_factor[0] * x, dense.level_variance[0])
    torch.testing.assert_close(dense.mean_log_prob_destroyed(x), dense.log_prob_destroyed(destroyed).mean(0))


def test_what_is_fully_destroyed_is_normal(reference):
    drawn = reference.sample_destroyed(20_000)
    std = reference.process.initial_std
    assert drawn.mean().abs() <= 5 * std / 60_000**0.5
    assert abs(drawn.std().item() - std) <= 5 * std / 120_000**0.5
    if std:
        torch.testing.assert_close(
            reference.log_prob_destroyed(drawn), torch.distributions.Normal(0.0, std).log_prob(drawn).sum(-1)
        )


# Guesses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", ["chain", 0.0, 0.5])
def test_guessing_the_noise_is_guessing_the_sample(process, kind):
    """One guess, said both ways, makes the same generation: densities, means and draws."""

    def make(guess):
        if kind == "chain":
            return GaussianNoise(SPACE, PROCESSES[process](), scale=1.3, guess=guess)
        return GaussianInterpolation(SPACE, PROCESSES[process](), eta=kind, scale=1.3, guess=guess)

    of_sample, of_noise = make("sample"), make("noise")
    sample, state, following = torch.randn(3, T, DIM)
    k = torch.arange(T)
    noise = of_sample.guessed_noise(sample, state, k)
    torch.testing.assert_close(of_noise.guessed_sample(noise, state, k), sample)
    assert of_noise.guessed_noise(noise, state, k) is noise
    if of_sample.has_density:
        torch.testing.assert_close(
            of_sample.log_prob_reverse(sample, following, state, k),
            of_noise.log_prob_reverse(noise, following, state, k),
        )
    drawn = []
    for reference, guess in ((of_sample, sample), (of_noise, noise)):
        torch.manual_seed(1)
        drawn.append(reference.sample_reverse(guess, state, k))
    torch.testing.assert_close(*drawn)


@pytest.mark.parametrize("guess", ["sample", "noise"])
@pytest.mark.parametrize("process", PROCESSES)
def test_an_untrained_network_guesses_best_for_normal_data(process, guess):
    """The guess of the sample is the regression of x_T on x_k; the spread is what it leaves open."""
    reference = GaussianNoise(SPACE, PROCESSES[process](), scale=1.3, guess=guess)
    network = PointNetwork(reference, width=8)
    a, v = reference.level_factor[:-1], reference.level_variance[:-1]
    gain = a * 1.3**2 / (a.square() * 1.3**2 + v)
    state, k = torch.randn(T, DIM), torch.arange(T)
    sample = reference.guessed_sample(network(state, k), state, k)
    torch.testing.assert_close(sample, gain.unsqueeze(-1) * state)
    left = (1.3**2 * (1.0 - a * gain)).sqrt()
    one = reference.guessed_sample(network(state, k) + reference.guess_spread.unsqueeze(-1), state, k)
    torch.testing.assert_close((one - sample).abs(), left.unsqueeze(-1).expand(-1, DIM))
    torch.testing.assert_close(reference.state_scale, (a.square() * 1.3**2 + v).sqrt())


def test_steps_are_drawn_by_what_the_best_guess_costs(dense):
    """Of data N(0, scale²): the mean of the cost over the data, less what is known beforehand, by draws."""
    law = dense.level_law
    assert law.sum().item() == pytest.approx(1.0) and (law > 0.0).all()
    n = 20_000
    x = dense.scale * torch.randn(n, DIM)
    network = PointNetwork(dense, width=8)
    costs = []
    for k in range(T):
        state = dense.sample_level(x, k)
        cost = dense.guess_cost(network(state, k), x, x, state, k)
        costs.append((cost - dense.guess_cost(x, x, x, state, k)).mean().detach())
    costs = torch.stack(costs)
    torch.testing.assert_close(law, 0.9 * costs / costs.sum() + 0.1 / T, rtol=0.05, atol=0.002)


def test_paths_hold_what_the_agent_says_of_them(dense):
    agent = DenoisingAgent(dense, PointNetwork(dense, width=8))
    torch.nn.init.normal_(agent.network.out.weight, std=0.3)
    x = torch.randn(7, DIM)
    for paths in (agent.destroy(x), agent.generate(7)):
        states, terms = paths["state"], agent.path_log_probs(paths)
        assert states.shape == (7, T + 1, DIM) and states.dtype == torch.float64
        for k in range(T):
            torch.testing.assert_close(terms.generation[:, k], agent.step_log_prob(states[:, k + 1], states[:, k], k))
            single = dense.log_prob_step_given(states[:, k], states[:, k + 1], states[:, -1], k)
            torch.testing.assert_close(terms.destruction[:, k], single)
        expected = terms.initial + terms.generation.sum(-1) - terms.destruction.sum(-1)
        torch.testing.assert_close(agent.log_ratio(paths), expected)
    agent.log_ratio(agent.destroy(x)).mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in agent.network.parameters())


# Errors ---------------------------------------------------------------------------------------------------------------


def test_settings_out_of_range():
    process = PROCESSES["preserving"]()
    for make, message in [
        (lambda: GaussianNoise(Tokens(3, 2), process), r"space: expected a Continuous space, got Tokens"),
        (lambda: GaussianNoise(Compressed(3), process), r"space: expected a Continuous space, got Compressed"),
        (lambda: GaussianNoise(SPACE, process, scale=0.0), "scale: expected a positive finite number, got 0.0"),
        (lambda: GaussianNoise(SPACE, process, guess="score"), "guess: expected 'sample' or 'noise', got 'score'"),
        (lambda: GaussianNoise(SPACE, process, variance="none"), "variance: expected 'process' or 'posterior'"),
        (
            lambda: GaussianNoise(SPACE, brownian_bridge(GRID, 1.0), guess="noise"),
            "guess: expected 'sample' for a process that ends in a single point, got 'noise'",
        ),
        (lambda: GaussianInterpolation(SPACE, process, eta=1.1), "eta: expected a number from 0 to 1, got 1.1"),
        (
            lambda: GaussianInterpolation(SPACE, brownian_bridge(GRID, 1.0)),
            "process: expected one that ends in noise, got one that ends in the Dirac at 0",
        ),
        (lambda: geometric_noise(0), "steps: expected a whole number >= 1, got 0"),
        (lambda: geometric_noise(3, smallest=2.0, largest=1.0), "largest: expected a number > smallest = 2.0, got 1.0"),
        (lambda: geometric_noise(3, scale=math.inf), "scale: expected a positive finite number, got inf"),
        (lambda: PointNetwork("noise"), "reference: expected one of continuous states, got 'noise'"),
    ]:
        with pytest.raises(InputError, match=message):
            make()


def test_densities_that_do_not_exist():
    reference = REFERENCES["interpolation_0.0"]()
    x = torch.randn(2, DIM)
    none = "reference: GaussianInterpolation has no density of a step at eta = 0, which is deterministic"
    for ask in (
        lambda: reference.log_prob_step_given(x, x, x, 0),
        lambda: reference.mean_log_prob_step(x, x, x, 0),
        lambda: reference.log_prob_reverse(x, x, x, 0),
        lambda: reference.mean_log_prob_reverse(x, x, x, x, 0),
    ):
        with pytest.raises(InputError, match=none):
            ask()
    for ask in (lambda: reference.sample_step(x, 0), lambda: reference.log_prob_step(x, x, 0)):
        with pytest.raises(InputError, match="sample: expected x_T, for this destruction is no Markov chain"):
            ask()
    with pytest.raises(InputError, match="step: expected whole numbers from 0 to 5, got 6"):
        reference.sample_step_given(x, x, T)


def test_states_that_do_not_fit():
    reference = REFERENCES["preserving"]()
    agent = DenoisingAgent(reference, PointNetwork(reference, width=8))
    for x, message in [
        (torch.zeros(2, DIM + 1), r"x: expected floating-point states \[..., 3\], got \[2, 4\]"),
        (torch.zeros(2, DIM, dtype=torch.int64), r"x: expected floating-point states .* of torch.int64"),
        (torch.full((2, DIM), math.nan), "x: expected finite numbers, got nan"),
        ([[0.0] * DIM], "x: expected a tensor of states .* got list"),
    ]:
        with pytest.raises(InputError, match=message):
            agent.destroy(x)
    with pytest.raises(InputError, match=r"network: expected a guess \[5, 3\], got \[5, 2\]"):
        DenoisingAgent(reference, lambda state, k: state[..., :2]).generate(5)
