"""Log densities of whole trajectories in one pass, against one step at a time."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal

from ebbflow.agents import PathLogProbs
from ebbflow.agents.references import REFERENCES

READS = {"nothing": {}, "langevin": {"langevin": True}, "score": {"features": ("raw", "asinh", "fourier", "score")}}
CASES = list(itertools.product(REFERENCES, [True, False], READS, [True, False], ["uniform", "shrinking"]))


def naive(agent, paths, row_index):
    """Per-step terms from single steps and torch's own normal law; the steps as numbers, or as one per row."""
    states, scores = paths["state"], paths.get("score", None)
    rows = states.shape[0]

    def index(k):
        return torch.full((rows,), k) if row_index else k

    def score(k):
        return None if scores is None else scores[:, k]

    def density(x, mean, log_variance):
        return Normal(mean, log_variance.exp().sqrt()).log_prob(x).sum(-1)

    std = agent.reference.initial_std
    initial = Normal(0.0, std).log_prob(states[:, 0]).sum(-1) if std else torch.zeros(rows)
    generation, destruction = [], []
    for k in range(agent.steps):
        generation.append(density(states[:, k + 1], *agent.generation_step(states[:, k], index(k), score(k))))
        if k == 0 and not std:
            destruction.append(torch.zeros(rows))
        else:
            step = agent.destruction_step(states[:, k + 1], index(k + 1), score(k + 1))
            destruction.append(density(states[:, k], *step))
    return PathLogProbs(initial, torch.stack(generation, -1), torch.stack(destruction, -1))


@pytest.mark.parametrize(("reference", "shared", "reads", "tables", "grid"), CASES)
def test_one_pass_equals_single_steps(random_agent, quartic, reference, shared, reads, tables, grid):
    agent = random_agent(
        reference=reference, shared_backbone=shared, tables=tables, time_grid=grid, steps=4, **READS[reads]
    )
    paths = agent.generate(7, quartic, scale=1.5)
    assert ("score" in paths) == (reads != "nothing")
    weights = torch.randn(2, 7, 4)
    found_and_expected = []
    for terms in (agent.path_log_probs(paths), naive(agent, paths, row_index=tables)):
        total = (weights[0] * terms.generation).sum() + (weights[1] * terms.destruction).sum()
        parameters = [p for p in agent.parameters() if p is not agent.log_z]
        found_and_expected.append((terms, torch.autograd.grad(total, parameters)))
    (found, gradients), (expected, naive_gradients) = found_and_expected
    for name in PathLogProbs._fields:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-11, atol=1e-11)
    for gradient, naive_gradient in zip(gradients, naive_gradients, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, naive_gradient, rtol=1e-9, atol=1e-9)
    log_ratio = expected.initial + (expected.generation - expected.destruction).sum(-1) - paths["log_reward"]
    torch.testing.assert_close(agent.log_ratio(paths), log_ratio, rtol=1e-11, atol=1e-11)


def test_features_computed_before_are_used(random_agent, quartic):
    agent = random_agent(**READS["score"])
    paths = agent.generate(7, quartic)
    features = agent.path_features(paths)
    torch.testing.assert_close(features[:, 2], agent.features(paths["state"][:, 2], paths["score"][:, 2]))
    for found, expected in zip(agent.path_log_probs(paths, features), agent.path_log_probs(paths), strict=True):
        assert torch.equal(found, expected)
    changed = agent.path_log_probs(paths, features + 0.1).generation
    assert (changed - agent.path_log_probs(paths).generation).abs().max() > 1e-3


@pytest.mark.parametrize("shared", [True, False])
def test_coordinates_computed_before_are_used(shared, random_agent, quartic):
    agent = random_agent(compression=1.0, shared_backbone=shared)
    paths = agent.generate(7, quartic)
    u = agent.space.coordinates(paths["state"])
    for found, expected in zip(agent.path_log_probs(paths, coordinates=u), agent.path_log_probs(paths), strict=True):
        assert torch.equal(found, expected)
    changed = agent.path_log_probs(paths, coordinates=u + 0.1).generation
    assert (changed - agent.path_log_probs(paths).generation).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"shared_backbone": False}, {"destruction_mean": "reference"}], ids=str)
def test_log_densities_of_one_policy(settings, random_agent, quartic):
    agent = random_agent(**settings)
    paths = agent.generate(5, quartic)
    both = agent.path_log_probs(paths)
    generation = agent.path_log_probs(paths, policies="generation")
    destruction = agent.path_log_probs(paths, policies="destruction")
    assert torch.equal(generation.initial, both.initial) and torch.equal(destruction.initial, both.initial)
    assert torch.equal(generation.generation, both.generation) and not generation.destruction.any()
    assert torch.equal(destruction.destruction, both.destruction) and not destruction.generation.any()
    assert generation.destruction.shape == destruction.generation.shape == both.generation.shape


def test_unlearned_destruction(random_agent, quartic):
    agent = random_agent(destruction_mean="reference", destruction_variance="reference", shared_backbone=False)
    assert agent.destruction_backbone is None and not list(agent.destruction.parameters())
    paths = agent.generate(5, quartic)
    torch.testing.assert_close(agent.path_log_probs(paths).destruction, naive(agent, paths, False).destruction)


def test_half_learned_destruction(random_agent, quartic):
    """A form that is not learned stays at the reference whatever the parameters."""
    y = torch.randn(6, 2)
    mean, log_variance = random_agent(destruction_mean="reference").destruction_step(y, 2)
    torch.testing.assert_close(mean, y / 2)
    assert log_variance.std() > 0
    agent = random_agent(destruction_variance="reference")
    mean, log_variance = agent.destruction_step(y, 2)
    torch.testing.assert_close(log_variance.exp(), torch.full_like(log_variance, 1.5**2 / 3 / 2))
    assert (mean - y / 2).abs().min() > 0


def test_heads_follow_their_formulas(random_agent):
    """Bounds, clipping and units of the learned corrections, from the raw outputs."""
    agent = random_agent(log_variance_bound=0.5, langevin=True, size=1.0)
    y, score = 3 * torch.randn(500, 2), 10 * torch.randn(500, 2)
    features = agent.features(y)
    v = 1.5**2 / 3
    mean, log_variance = agent.generation_step(y, 1, score)
    a, b, c = (raw.T for raw in agent.generation.readout(agent.backbone(features, 1), features, 1).unbind(-2))
    drift = agent.generation.langevin[1] * (math.sqrt(v) * score).clamp(-1, 1)
    gain, limit = y * (c / math.sqrt(3)).tanh(), 10 * math.sqrt(v)  # of three equal steps
    torch.testing.assert_close(mean, y + gain.clamp(-limit, limit) + math.sqrt(v) * (a + drift))
    assert (gain.abs() > limit).any()
    torch.testing.assert_close(log_variance, math.log(v) + 0.5 * (b / 0.5).tanh())
    assert (log_variance - math.log(v)).abs().max() > 0.49
    assert ((math.sqrt(v) * score).abs() > 1).any()

    mean, log_variance = agent.destruction_step(y, 2)
    a, b, c = (raw.T for raw in agent.destruction.readout(agent.backbone(features, 2), features, 1).unbind(-2))
    s2 = agent.reference.destruction_variance
    gain, limit = y / 2 * (math.sqrt(s2[1] / sum(s2)) * c).tanh(), 10 * math.sqrt(v / 2)
    torch.testing.assert_close(mean, y / 2 + gain.clamp(-limit, limit) + math.sqrt(v / 2) * 3 * a.tanh())
    torch.testing.assert_close(log_variance.exp(), v / 2 * (1 + 0.9 * b.tanh()))


def test_readout_reads_each_coordinates_own_features(random_agent):
    agent = random_agent(steps=2, dim=3)
    readout = agent.generation.readout
    with torch.no_grad():
        readout.linear.weight.zero_()
    features = torch.randn(4, 3, agent.features.count)
    raw = readout(torch.randn(4, 8), features, 1)
    for i, output in itertools.product(range(3), range(3)):
        expected = readout.linear.bias[3 * i + output] + features[:, i] @ readout.table[1, i, :, output]
        torch.testing.assert_close(raw[i, output], expected)


def test_no_rows(random_agent):
    for reference in REFERENCES:
        paths = random_agent(reference=reference).generate(0, lambda x: x.sum(-1))
        assert random_agent(reference=reference).log_ratio(paths).shape == (0,)
