"""Reference processes: closed forms, and untrained agents that reproduce them bit for bit."""

import itertools
import math

import pytest
import torch

from ebbflow.agents import AgentConfig, TimeGrid, build_agent
from ebbflow.agents.actors import DESTRUCTION_MEANS, DESTRUCTION_VARIANCES
from ebbflow.agents.references import (
    REFERENCES,
    GaussianReference,
    brownian_bridge,
    get_reference,
    variance_exploding,
    variance_preserving,
)
from ebbflow.envs import Continuous, InputError

SIGMA = 1.7
GRIDS = [TimeGrid.uniform(1), TimeGrid.uniform(4), TimeGrid.shrinking(5), TimeGrid((0.0, 0.1, 0.7, 1.0))]
FORMS = list(itertools.product(DESTRUCTION_MEANS, DESTRUCTION_VARIANCES))


def closed_form(name, t):
    """Factor and variance of x at time `t` given x at time 1."""
    if name == "bridge":
        return t, SIGMA**2 * t * (1 - t)
    if name == "variance_exploding":  # Brownian motion from N(0, σ²), pinned at time 1
        v, last = SIGMA**2 * (1 + t), SIGMA**2 * 2
        return v / last, v - v**2 / last
    a = math.exp(-3.0 * (1 - t))
    return a, (1 - a**2) * SIGMA**2


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", REFERENCES)
def test_levels_have_their_closed_form(name, grid):
    reference = get_reference(name, grid, SIGMA)
    for k, t in enumerate(grid.times):
        assert reference.level(k) == pytest.approx(closed_form(name, t), abs=1e-14), k
    assert reference.level(grid.steps) == (1.0, 0.0)


@pytest.mark.parametrize("name", REFERENCES)
def test_destroyed_samples_follow_the_closed_form(name):
    n, x = 40_000, torch.tensor([1.5, -0.7])
    config = AgentConfig(reference=name, sigma=SIGMA, time_grid="shrinking", width=2, compression=None)
    agent = build_agent(Continuous(2), scale=1.0, steps=4, config=config)
    paths = agent.destroy(x.expand(n, 2))["state"]
    for k, t in enumerate(TimeGrid.shrinking(4).times):
        factor, variance = closed_form(name, t)
        noise = 5 * math.sqrt(max(variance, 0.0) / n)
        assert (paths[:, k].mean(0) - factor * x).abs().max() <= noise + 1e-12, k
        assert (paths[:, k].var(0) - variance).abs().max() <= 5 * variance * math.sqrt(2 / n) + 1e-12, k


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    ("name", "std"), [("bridge", 1.0), ("variance_exploding", math.sqrt(2)), ("variance_preserving", 1.0)]
)
def test_an_untrained_agent_is_exact_on_the_gaussian_of_its_reference(name, std, steps):
    """Generation is the time reversal of destruction when the target is what the reference itself generates."""
    agent = build_agent(
        Continuous(3), scale=SIGMA, steps=steps, config=AgentConfig(reference=name, width=4, compression=None)
    )
    target = torch.distributions.Normal(0.0, std * SIGMA)
    paths = agent.generate(50, lambda x: target.log_prob(x).sum(-1), scale=2.0)
    assert agent.log_ratio(paths).abs().max() < 1e-10


# Zero initialisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize(("mean", "variance"), FORMS)
@pytest.mark.parametrize("name", REFERENCES)
def test_untrained_destruction_is_the_reference_bit_for_bit(name, mean, variance, tables, shared):
    def build(mean, variance):
        torch.manual_seed(1)
        config = AgentConfig(
            reference=name,
            width=4,
            compression=None,
            destruction_mean=mean,
            destruction_variance=variance,
            tables=tables,
            shared_backbone=shared,
        )
        return build_agent(Continuous(2), scale=SIGMA, steps=3, config=config)

    agent, plain = build(mean, variance), build("reference", "reference")
    assert agent.destruction.learned == ((mean, variance) != ("reference", "reference"))
    state = 3 * torch.randn(6, 2)
    for k in (1, 2, 3):
        found_mean, found = agent.destruction_step(state, k)
        assert torch.equal(found_mean, agent.reference.destruction_factor[k - 1] * state)
        expected = torch.tensor(agent.reference.destruction_variance[k - 1]).log()
        assert torch.equal(found, expected.expand_as(found))
    torch.manual_seed(2)
    paths = agent.destroy(state)
    torch.manual_seed(2)
    assert torch.equal(paths["state"], plain.destroy(state)["state"])
    assert torch.equal(agent.path_log_probs(paths).destruction, plain.path_log_probs(paths).destruction)


@pytest.mark.parametrize("langevin", [True, False])
@pytest.mark.parametrize("variance", ["fixed", "learned"])
@pytest.mark.parametrize("name", REFERENCES)
def test_untrained_generation_is_the_reference_bit_for_bit(name, variance, langevin):
    config = AgentConfig(reference=name, width=4, generation_variance=variance, langevin=langevin, compression=None)
    agent = build_agent(Continuous(2), scale=SIGMA, steps=3, config=config)
    state, score = 3 * torch.randn(6, 2), torch.randn(6, 2)
    for k in range(3):
        mean, log_variance = agent.generation_step(state, k, score)
        assert torch.equal(mean, agent.reference.generation_factor[k] * state)
        expected = torch.tensor(agent.reference.generation_variance[k]).log()
        assert torch.equal(log_variance, expected.expand_as(log_variance))


@pytest.mark.parametrize(("mean", "variance"), FORMS)
def test_the_last_step_to_a_dirac_lands_on_it_whatever_the_parameters(random_agent, mean, variance):
    agent = random_agent(destruction_mean=mean, destruction_variance=variance, size=0.2)
    paths = agent.destroy(5 * torch.randn(50, 2))
    assert (paths["state"][:, 0] == 0).all()
    assert paths["state"][:, 1].abs().min() > 0
    assert (agent.path_log_probs(paths).destruction[:, 0] == 0).all()


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("make", REFERENCES.values())
def test_bad_diffusion_rates_are_reported(make, value):
    with pytest.raises(InputError, match=rf"sigma: expected a positive finite number, got {value}"):
        make(TimeGrid.uniform(2), value)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_bad_initial_laws_are_reported(value):
    with pytest.raises(InputError, match=rf"initial_std: expected a finite number >= 0, got {value}"):
        variance_exploding(TimeGrid.uniform(2), 1.0, initial_std=value)
    with pytest.raises(InputError, match=rf"decay: expected a positive finite number, got {value}"):
        variance_preserving(TimeGrid.uniform(2), 1.0, decay=value)


def test_unknown_references_and_levels_are_reported():
    with pytest.raises(InputError, match=r"reference: expected one of \['bridge', .*\], got 'brigde'"):
        get_reference("brigde", TimeGrid.uniform(2), 1.0)
    for k in (-1, 3):
        with pytest.raises(InputError, match=f"level: expected 0 <= k <= 2, got {k}"):
            brownian_bridge(TimeGrid.uniform(2), 1.0).level(k)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"destruction_factor": (0.5,)}, r"expected tables of 2 steps, got \[1, 2, 2, 2\]"),
        ({"generation_variance": (1.0, 0.0)}, "generation_variance: expected numbers > 0"),
        ({"destruction_variance": (0.0, 0.0)}, "destruction_variance: expected numbers > 0"),
        ({"initial_std": 1.0}, "destruction_variance: expected numbers > 0"),  # only a Dirac may be hit exactly
    ],
)
def test_inconsistent_tables_are_reported(change, message):
    tables = {
        "times": (0.0, 0.5, 1.0),
        "destruction_factor": (0.0, 0.5),
        "destruction_variance": (0.0, 0.25),
        "generation_factor": (1.0, 1.0),
        "generation_variance": (0.5, 0.5),
        "initial_std": 0.0,
    }
    assert GaussianReference(**tables) == brownian_bridge(TimeGrid.uniform(2), 1.0)
    with pytest.raises(InputError, match=message):
        GaussianReference(**{**tables, **change})
