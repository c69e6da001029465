"""The latent target: a closed form to compare with, exact samples by rejection, contexts, counters and bad parts."""

import math

import pytest
import torch
from torch import nn

from ebbflow.envs import GaussianMixture, InputError, LatentTarget
from ebbflow.envs.targets import ClassReward
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.evaluation import live_numbers
from ebbflow.trainers.trainer import Trainer

A = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]], dtype=torch.float64)
B = torch.tensor([0.3, -0.2], dtype=torch.float64)


class Affine(nn.Module):
    """x = A z + b."""

    def __init__(self):
        super().__init__()
        self.register_buffer("a", A)
        self.register_buffer("b", B)

    def forward(self, z):
        return z @ self.a.T + self.b


class Distance(nn.Module):
    """r(x, c) = −½ |x − c|², with c = 0 where there is none; at most 0."""

    def forward(self, x, context=None):
        return -0.5 * (x if context is None else x - context).square().sum(-1)


def closed_form(beta, c):
    """Mean and covariance of π(z | c), and log Z(c): linear regression with noise variance 1/β and a prior N(0, I)."""
    precision = torch.eye(3, dtype=torch.float64) + beta * A.T @ A
    mean = torch.linalg.solve(precision, beta * A.T @ (c - B))
    evidence = torch.distributions.MultivariateNormal(B, A @ A.T + torch.eye(2, dtype=torch.float64) / beta)
    log_z = evidence.log_prob(c) + math.log(2.0 * math.pi / beta)  # the reward lacks its normalising constant
    return mean, torch.linalg.inv(precision), log_z


def affine_target(beta=1.5, **arguments):
    return LatentTarget(3, Affine(), Distance(), beta, **arguments).double()


def conditional_target(beta=1.5):
    return affine_target(beta, contexts=torch.tensor([[0.0, 0.0], [1.0, -1.0]]), reward_bound=0.0)


# The density ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [[0.0, 0.0], [1.0, -1.0]])
def test_density_and_normalising_constant_are_the_closed_form(c):
    c = torch.tensor(c, dtype=torch.float64)
    mean, covariance, log_z = closed_form(1.5, c)
    posterior = torch.distributions.MultivariateNormal(mean, covariance)
    z = torch.randn(4, 5, 3, dtype=torch.float64)
    expected = posterior.log_prob(z) + log_z
    target = conditional_target()
    torch.testing.assert_close(target(z, c), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(target.given(c)(z), expected, rtol=0, atol=1e-12)
    value, score = target.given(c).value_and_score(z)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    slope = -torch.linalg.solve(covariance, (z - mean).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(score, slope, rtol=0, atol=1e-12)


def test_without_contexts_the_reward_reads_the_image_alone():
    z = torch.randn(5, 3, dtype=torch.float64)
    target = affine_target()
    assert not target.is_conditional
    assert torch.equal(target(z), conditional_target()(z, torch.zeros(2, dtype=torch.float64)))


def test_without_a_reward_the_prior_is_left():
    prior = GaussianMixture([[-1.0, 0.0, 2.0], [1.0, 1.0, 1.0]], std=0.5)
    target = LatentTarget(prior, Affine(), Distance(), 0.0).double()
    z = torch.randn(6, 3, dtype=torch.float64)
    assert torch.equal(target(z), prior.log_prob(z))
    assert target.scale == prior.scale


def test_a_class_reward_is_the_log_probability():
    classifier = nn.Linear(2, 3).double()
    x = torch.randn(3, 2, dtype=torch.float64)
    reward = ClassReward(classifier)(x, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(reward, classifier(x).softmax(-1).diagonal().log())
    assert bool((reward < 0).all())


# Exact samples --------------------------------------------------------------------------------------------------------


def test_rejection_samples_have_the_moments_of_the_closed_form():
    target = conditional_target()
    n = 20_000
    contexts = target.contexts.repeat_interleave(n, 0)
    for c, z in zip(target.contexts, target.sample(2 * n, contexts).split(n), strict=True):
        mean, covariance, _ = closed_form(1.5, c)
        error = covariance.diagonal().sqrt() / math.sqrt(n)
        assert bool(((z.mean(0) - mean).abs() < 5.0 * error).all())
        spread = covariance.diagonal()
        assert bool(((z.T.cov() - covariance).abs() < 5.0 * math.sqrt(2.0 / n) * spread.max()).all())


def test_rejection_counts_its_proposals():
    target = affine_target(reward_bound=0.0)
    n = 4_000
    target.sample(n)
    acceptance = math.exp(closed_form(1.5, torch.zeros(2, dtype=torch.float64))[2])
    share = n / target.energy_calls
    assert abs(share - acceptance) < 5.0 * math.sqrt(acceptance * (1.0 - acceptance) / target.energy_calls)
    before = target.energy_calls
    target(torch.zeros(7, 3, dtype=torch.float64))
    target.value_and_score(torch.zeros(2, 3, dtype=torch.float64))
    assert (target.energy_calls - before, target.gradient_calls) == (9, 2)


def test_what_is_given_counts_with_the_family():
    target = conditional_target()
    member = target.given(torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert member.can_sample and not member.is_conditional
    member(member.sample(5))
    assert target.energy_calls == member.energy_calls >= 10


def test_without_a_bound_there_are_no_exact_samples():
    target = affine_target()
    assert not target.can_sample and target.has_log_prob
    with pytest.raises(InputError, match="no exact samples"):
        target.sample(3)


def test_a_bound_that_is_too_low_is_reported():
    with pytest.raises(InputError, match=r"reward_bound: expected -1 or less from every reward, got -0\.\d+"):
        affine_target(reward_bound=-1.0).sample(1_000)


def test_a_bound_that_is_far_too_high_is_reported(monkeypatch):
    monkeypatch.setattr("ebbflow.envs.targets.latent._MOST_ROUNDS", 20)
    with pytest.raises(InputError, match=r"none of 20 proposals was accepted for 3 of 3 samples; try a reward_b"):
        affine_target(reward_bound=1000.0).sample(3)


# Contexts, modes, bad parts -------------------------------------------------------------------------------------------


def test_contexts_are_drawn_from_those_given():
    target = conditional_target()
    drawn = target.sample_context(500)
    assert target.context_space.dim == 2 and drawn.shape == (500, 2)
    first = (drawn == target.contexts[0]).all(-1)
    assert bool((first | (drawn == target.contexts[1]).all(-1)).all()) and 150 < int(first.sum()) < 350
    with pytest.raises(InputError, match="is conditional: its density needs a context"):
        target(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(InputError, match=r"context: expected a tensor \[\.\.\., 2\]"):
        target(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(InputError, match="no law of contexts"):
        affine_target().sample_context(2)


def test_parts_are_frozen_and_stay_in_evaluation_mode():
    generator = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    target = LatentTarget(3, generator, Distance())
    target.train()
    assert not any(module.training for module in target.modules())
    assert not any(parameter.requires_grad for parameter in target.parameters())
    z = torch.randn(4, 3)
    assert torch.allclose(target(z)[:1], target(z[:1]))  # one latent's density does not depend on the others


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": 0}, "dim: expected a whole number >= 1, got 0"),
        ({"generator": 3}, "generator: expected a torch module or a function, got int"),
        ({"reward": None}, "reward: expected a torch module or a function, got NoneType"),
        ({"beta": -1.0}, "beta: expected a finite number >= 0, got -1.0"),
        ({"beta": math.nan}, "beta: expected a finite number >= 0, got nan"),
        ({"reward_bound": math.inf}, "reward_bound: expected a finite number or None, got inf"),
        ({"contexts": torch.zeros(3)}, r"contexts: expected finite values of shape \[m, c\], got shape \[3\]"),
        ({"contexts": torch.zeros(0, 3)}, r"contexts: expected finite values .*, got shape \[0, 3\]"),
    ],
)
def test_bad_arguments_are_reported(arguments, message):
    with pytest.raises(InputError, match=message):
        LatentTarget(**{"prior": 3, "generator": Affine(), "reward": Distance()} | arguments)


@pytest.mark.parametrize(
    ("generator", "reward", "message"),
    [
        (lambda z: z[:2], Distance(), r"generator: expected a tensor \[4, \.\.\.\] of 4 latents, got \[2, 3\]"),
        (lambda z: None, Distance(), r"generator: expected a tensor \[4, \.\.\.\] of 4 latents, got NoneType"),
        (Affine(), lambda x: x, r"reward: expected a tensor \[4\] for 4 latents, got \[4, 2\]"),
        (Affine(), lambda x: 1.0, r"reward: expected a tensor \[4\] for 4 latents, got float"),
        (nn.Linear(5, 2).double(), Distance(), "log_prob raised RuntimeError: mat1 and mat2"),
    ],
)
def test_parts_that_do_not_fit_are_reported(generator, reward, message):
    with pytest.raises(InputError, match=message):
        LatentTarget(3, generator, reward).double()(torch.zeros(2, 2, 3, dtype=torch.float64))


# Training -------------------------------------------------------------------------------------------------------------


def test_training_narrows_the_sandwich_around_the_closed_form():
    target = conditional_target().given(torch.tensor([1.0, -1.0], dtype=torch.float64))
    true_log_z = float(closed_form(1.5, target.context)[2])
    settings = {"steps": 3, "iterations": 120, "batch_size": 64, "dtype": "float64", "average_decay": 0.0}
    settings |= {"agent": {"features": ["raw"], "width": 32}, "anchors": {"count": 100, "temperatures": 5}}
    settings |= {f"{name}_optimiser": {"warmup": 0} for name in ("generation", "destruction")}
    trainer = Trainer(target, TrainConfig.from_dict(settings))
    widths = []
    for until in (0, 120):
        trainer.train(until)
        bounds = live_numbers(trainer.evaluated_agent, target, 2_000)
        widths.append(bounds["eubo"] - bounds["elbo"])
        assert bounds["elbo"] - 0.1 < true_log_z < bounds["eubo"] + 0.1
    assert widths[1] < widths[0] / 3.0
