"""Ebb-and-flow moves: their ratio is the formula's, and they leave the target's law alone, whatever the policies."""

import math

import pytest
import torch
from scipy.stats import chi2

from ebbflow.agents import ebb_and_flow
from ebbflow.envs import CallableTarget, InputError
from ebbflow.envs.targets.mixtures import GaussianMixture

WEIGHTS, MEANS, STD = (0.3, 0.7), (-1.5, 1.0), 0.7
BINS = 20


def normal_log_prob(x, mean, log_variance):
    return torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(x).sum(-1)


@pytest.mark.parametrize("reference", ["bridge", "variance_exploding"])
@pytest.mark.parametrize("settings", [{}, {"langevin": True, "shared_backbone": False}], ids=["", "langevin"])
@pytest.mark.parametrize("steps_back", [1, 2, 4])
def test_the_ratio_is_that_of_the_formula(random_agent, quartic, steps_back, settings, reference):
    """Step by step, with the same random numbers, from the policies' single steps."""
    agent = random_agent(steps=4, reference=reference, **settings)
    x = torch.randn(6, 2)
    torch.manual_seed(3)
    proposal = ebb_and_flow(agent, x, quartic(x), quartic, steps_back=steps_back)

    torch.manual_seed(3)
    first = agent.steps - steps_back
    old = agent.destroy(x, quartic, first=first)["state"].unbind(1)
    new = agent.generate(6, quartic, start=old[0], first=first)["state"].unbind(1)
    assert torch.equal(new[0], old[0]) and torch.equal(new[-1], proposal.state)
    log_density = {}
    for name, states in (("old", old), ("new", new)):
        ebb, flow = torch.zeros(6), torch.zeros(6)
        for k in range(first, agent.steps):
            low, high = states[k - first], states[k + 1 - first]
            score = quartic.value_and_score(low)[1], quartic.value_and_score(high)[1]
            flow += normal_log_prob(high, *agent.generation_step(low, k, score[0]))
            if k > 0 or reference != "bridge":  # the step to the Dirac is certain
                ebb += normal_log_prob(low, *agent.destruction_step(high, k + 1, score[1]))
        log_density[name] = quartic(states[-1]) + ebb, flow
    expected = log_density["new"][0] + log_density["old"][1] - log_density["old"][0] - log_density["new"][1]
    torch.testing.assert_close(proposal.log_acceptance, expected, rtol=1e-9, atol=1e-9)
    assert expected.abs().min() > 1e-3  # inexact policies: something to compute


@pytest.fixture
def mixture():
    return GaussianMixture(torch.tensor(MEANS)[:, None], std=STD, weights=WEIGHTS)


def cumulative(x):
    """Distribution function of the mixture."""
    return sum(w * torch.special.ndtr((x - m) / STD) for w, m in zip(WEIGHTS, MEANS, strict=True))


def chi_square(x):
    """Pearson's statistic of independent `x [n, 1]` in bins of equal true mass."""
    counts = (cumulative(x[:, 0]) * BINS).long().clamp(max=BINS - 1).bincount(minlength=BINS)
    expected = len(x) / BINS
    return float((counts - expected).square().sum() / expected)


def moved(agent, target, x, moves, steps_back, test=True):
    """States after moves, accepted by the ratio (or all of them), and the mean acceptance."""
    log_reward, acceptance = target(x), 0.0
    for _ in range(moves):
        proposal = ebb_and_flow(agent, x, log_reward, target, steps_back=steps_back)
        probability = proposal.log_acceptance.clamp(max=0).exp() if test else torch.ones(len(x))
        accepted = torch.rand(len(x)) < probability
        x = torch.where(accepted[:, None], proposal.state, x)
        log_reward = torch.where(accepted, proposal.log_reward, log_reward)
        acceptance += float(probability.mean()) / moves
    return x, acceptance


@pytest.mark.parametrize("reference", ["bridge", "variance_exploding"])
@pytest.mark.parametrize("steps_back", [1, 2, 3])
def test_exact_samples_stay_exact(random_agent, mixture, steps_back, reference):
    """Chi-square, mode mass and moments of independent chains, with policies that are not even near each other."""
    torch.manual_seed(0)
    n = 20_000
    agent = random_agent(steps=3, dim=1, reference=reference, size=0.12)
    x, acceptance = moved(agent, mixture, mixture.sample(n), 8, steps_back)
    assert 0.05 < acceptance < 0.95
    assert chi_square(x) < chi2.ppf(0.999, BINS - 1)
    middle = 0.5 * sum(MEANS)
    mass = float(cumulative(torch.tensor(middle)))
    assert float((x < middle).double().mean()) == pytest.approx(mass, abs=4 * math.sqrt(mass * (1 - mass) / n))
    mean = sum(w * m for w, m in zip(WEIGHTS, MEANS, strict=True))
    second = sum(w * (m * m + STD * STD) for w, m in zip(WEIGHTS, MEANS, strict=True))
    assert float(x.mean()) == pytest.approx(mean, abs=4 * float(x.std()) / math.sqrt(n))
    assert float(x.square().mean()) == pytest.approx(second, abs=4 * float(x.square().std()) / math.sqrt(n))


@pytest.mark.parametrize("steps_back", [1, 3])
def test_without_the_ratio_they_would_not(random_agent, mixture, steps_back):
    """The statistic above can fail."""
    torch.manual_seed(0)
    agent = random_agent(steps=3, dim=1, size=0.12)
    x, _ = moved(agent, mixture, mixture.sample(20_000), 8, steps_back, test=False)
    assert chi_square(x) > 2 * chi2.ppf(0.999, BINS - 1)


def test_they_reach_the_law_from_one_mode(random_agent, mixture):
    torch.manual_seed(0)
    agent = random_agent(steps=3, dim=1, size=0.2, gain=False)
    x = MEANS[0] + STD * torch.randn(10_000, 1)
    assert chi_square(x) > 1000
    x, _ = moved(agent, mixture, x, 40, 3)
    assert chi_square(x) < chi2.ppf(0.999, BINS - 1)


def test_outside_the_support_is_never_accepted(random_agent):
    half = CallableTarget(lambda x: torch.where(x[:, 0] > 0, -0.5 * x.square().sum(-1), -math.inf), dim=2)
    x = torch.randn(200, 2).abs()
    proposal = ebb_and_flow(random_agent(), x, half(x), half, steps_back=3)
    outside = proposal.state[:, 0] <= 0
    assert outside.any()
    assert (proposal.log_acceptance[outside] == -math.inf).all() and proposal.log_acceptance[~outside].isfinite().all()


def test_what_a_move_costs(random_agent, quartic):
    """One value a state; an agent that reads scores pays for each state of both segments."""
    x = torch.randn(5, 2)
    log_reward = quartic(x)
    for settings, expected in (({}, (5, 0)), ({"langevin": True}, (30, 30))):
        before = quartic.energy_calls, quartic.gradient_calls
        ebb_and_flow(random_agent(**settings), x, log_reward, quartic, steps_back=2)
        assert (quartic.energy_calls - before[0], quartic.gradient_calls - before[1]) == expected


@pytest.mark.parametrize("steps_back", [0, 4])
def test_bad_steps_back(random_agent, quartic, steps_back):
    x = torch.zeros(1, 2)
    with pytest.raises(InputError, match=f"steps_back: expected a whole number from 1 to 3, got {steps_back}"):
        ebb_and_flow(random_agent(steps=3), x, quartic(x), quartic, steps_back=steps_back)
