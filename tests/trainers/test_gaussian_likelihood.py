"""Learning points from data without a density: bounds on normal data against closed forms, training, restoring.

Of normal data the best guess is known: the regression of the sample on the destroyed state. Everything that the bound
is made of is then quadratic, and its means are exact sums over a few points.
"""

import math
import re
from pathlib import Path

import pytest
import torch

from ebbflow.agents import DenoisingAgent, Origin, PointNetwork, TimeGrid
from ebbflow.agents.references import Reference, brownian_bridge, geometric_noise, variance_preserving
from ebbflow.agents.references.continuous import GaussianInterpolation, GaussianNoise, pixelate
from ebbflow.envs import Continuous, InputError
from ebbflow.envs.channels import GaussianChannel
from ebbflow.trainers import exact_bound, likelihood_bound
from ebbflow.trainers.objectives import JointLoss, MaximumLikelihood, random_level_loss

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "destructions.md").read_text(encoding="utf-8")
DIM = 2
SPACE = Continuous(DIM)
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.5, 0.6], [0.6, 0.5]], dtype=torch.float64)
DATA = torch.distributions.MultivariateNormal(MEAN, COVARIANCE)
VARIANCES, AXES = torch.linalg.eigh(COVARIANCE)


def preserving(steps):
    return variance_preserving(TimeGrid.shrinking(steps), sigma=1.0, decay=4.0)


def geometric(steps):
    return geometric_noise(steps, smallest=0.1, largest=20.0)


REFERENCES = {
    "preserving": lambda steps: GaussianNoise(SPACE, preserving(steps)),
    "geometric": lambda steps: GaussianNoise(SPACE, geometric(steps)),
    "bridge": lambda steps: GaussianNoise(SPACE, brownian_bridge(TimeGrid.shrinking(steps), sigma=1.5)),
    "noise_guessed": lambda steps: GaussianNoise(SPACE, preserving(steps), guess="noise"),
    "posterior": lambda steps: GaussianNoise(SPACE, preserving(steps), variance="posterior"),
    "interpolation": lambda steps: GaussianInterpolation(SPACE, preserving(steps), eta=0.7),
}
MARKOV = ["preserving", "geometric", "bridge", "noise_guessed"]


def best(reference):
    """An agent whose guess is the mean of x_T given x_k, exactly."""

    def guess(state, k):
        a = reference.level_factor[k].expand(state.shape[:-1]).unsqueeze(-1)
        v = reference.level_variance[k].expand(state.shape[:-1]).unsqueeze(-1)
        seen = (a.square() * VARIANCES + v).clamp_min(1e-300)  # along the axes
        sample = MEAN + (((state - a * MEAN) @ AXES) * a * VARIANCES / seen) @ AXES.T
        return sample if reference.guess == "sample" else (state - a * sample) / v.sqrt()

    return DenoisingAgent(reference, guess).double()


def stated_bound(reference):
    """Mean of the bound over the data, in closed form from what the best guess leaves open."""
    a, v = reference.level_factor, reference.level_variance
    total = reference.mean_log_prob_destroyed(MEAN)
    if not reference.process.is_dirac:
        total = total - 0.5 * a[0] ** 2 * VARIANCES.sum() / reference.process.initial_std**2
    for k in range(reference.steps):
        left = VARIANCES * v[k] / (a[k] ** 2 * VARIANCES + v[k]) if v[k] > 0 else VARIANCES
        u = reference.reverse_variance[k]
        spread = reference.posterior_variance[k] + reference.posterior_sample[k] ** 2 * left
        total = total - 0.5 * (spread / u + (2 * math.pi * u).log()).sum()
        if reference.step_variance[k] > 0:
            total = total + 0.5 * DIM * (1.0 + (2 * math.pi * reference.step_variance[k]).log())
    return total.item()


def divergence(reference):
    """KL of destroyed paths from generated ones, from the reversed channel of each step: another way to the gap."""
    a, v = reference.level_factor, reference.level_variance
    total = 0.0
    if not reference.process.is_dirac:
        ratio = (a[0] ** 2 * VARIANCES + v[0]) / reference.process.initial_std**2
        shift = (a[0] * MEAN).square().sum() / reference.process.initial_std**2
        total = 0.5 * ((ratio - 1.0 - ratio.log()).sum() + shift).item()
    for k in range(reference.steps):
        before = a[k + 1] ** 2 * VARIANCES + v[k + 1]
        channel = GaussianChannel(float(reference.step_state[k]), float(reference.step_variance[k]))
        if channel.gain == channel.variance == 0.0:  # x_0 = 0 says nothing of x_1
            channel = GaussianChannel(0.0, 1.0)
        for variance in before.tolist():
            ratio = channel.reversed(0.0, variance).variance / reference.reverse_variance[k].item()
            total += 0.5 * (ratio - 1.0 - math.log(ratio))
    return total


def spread_points(mean, variance):
    """Points whose average is the mean of any quadratic function under N(mean, variance), `[2 dim, ..., dim]`."""
    offsets = torch.cat([torch.eye(DIM), -torch.eye(DIM)]).double() * (DIM * variance) ** 0.5
    return mean + offsets.reshape(2 * DIM, *[1] * (mean.ndim - 1), DIM)


def exact(agent, x):
    """The bound of each sample `[n, dim] -> [n]`, its means taken over a few points."""
    reference = agent.reference
    bound = reference.mean_log_prob_destroyed(x)
    for k in range(agent.steps):
        state = spread_points(reference.level_factor[k] * x, reference.level_variance[k])
        sample = x.expand_as(state)
        term = agent.mean_step_log_prob(sample, state, state, k)
        bound = bound + (term - reference.mean_log_prob_step(sample, state, state, k)).mean(0)
    return bound


# The best guess of normal data ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", REFERENCES)
def test_the_bound_is_what_is_stated(name):
    reference = REFERENCES[name](12)
    data = MEAN + torch.cat([torch.eye(DIM), -torch.eye(DIM)]) @ (AXES * (DIM * VARIANCES).sqrt()).T
    mean = exact(best(reference), data).mean().item()
    assert mean == pytest.approx(stated_bound(reference), abs=1e-10)
    if name in MARKOV:
        assert mean == pytest.approx(-DATA.entropy().item() - divergence(reference), abs=1e-10)


@pytest.mark.parametrize("name", ["preserving", "bridge"])
def test_the_bound_tends_to_the_log_likelihood(name):
    """As one over the number of steps, but for what is left undestroyed."""
    gaps = {steps: divergence(REFERENCES[name](steps)) for steps in (8, 32, 128, 512)}
    assert gaps[512] < 0.01
    assert all(3.0 < gaps[steps] / gaps[4 * steps] < 5.0 for steps in (32, 128))


@pytest.mark.parametrize("steps", [20, 80, 320])
def test_the_gaps_are_those_of_the_page(steps):
    """Of docs/destructions.md, in nats.

    The variance of the posterior is that of a single point, and the bound of an interpolation is one of destruction
    that knows x_T: neither is the time reversal, and more steps do not close what they lose.
    """
    (line,) = re.findall(rf"^\| {steps} \| 0\..*$", PAGE, flags=re.MULTILINE)
    names = ("preserving", "geometric", "bridge", "posterior", "interpolation")
    gaps = [-DATA.entropy().item() - stated_bound(REFERENCES[name](steps)) for name in names]
    assert [float(cell) for cell in line.split("|")[2:-1]] == pytest.approx(gaps, abs=0.0051)
    assert [float(cell) for cell in line.split("|")[2:5]] == pytest.approx(gaps[:3], abs=0.00051)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("leaning", [False, True])
def test_the_estimate_is_unbiased_whatever_the_law_of_levels(name, leaning):
    reference = REFERENCES[name](6)
    agent = best(reference)
    law = torch.linspace(1.0, 3.0, 6)
    for x in torch.tensor([[1.0, -0.5], [-1.0, -2.0]]):
        bound = likelihood_bound(agent, x.expand(3_000, -1), draws=4, level_law=law / law.sum() if leaning else None)
        truth = exact(agent, x.unsqueeze(0)).item()
        assert abs(bound.nats - truth) < 4 * bound.stderr
        assert bound.bits_per_token == pytest.approx(-bound.nats / (DIM * math.log(2)))


class Drawn(GaussianNoise):
    """Noise of which nothing is closed."""

    mean_log_prob_reverse = Reference.mean_log_prob_reverse
    mean_log_prob_step = Reference.mean_log_prob_step
    mean_log_prob_destroyed = Reference.mean_log_prob_destroyed
    known_term = Reference.known_term


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("process", [preserving, geometric])
def test_closed_means_vary_less_than_draws(process):
    x = torch.tensor([1.0, -0.5]).expand(4_000, -1)
    closed, drawn = (likelihood_bound(best(kind(SPACE, process(6))), x, draws=2) for kind in (GaussianNoise, Drawn))
    assert abs(closed.nats - drawn.nats) < 4 * (closed.stderr + drawn.stderr)
    assert closed.stderr < 0.7 * drawn.stderr


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("process", [preserving, geometric])
def test_the_law_of_levels_of_the_reference_varies_less_than_a_uniform_one(process):
    agent = best(GaussianNoise(SPACE, process(20)))
    x = DATA.sample((4_000,))
    own, uniform = (likelihood_bound(agent, x, draws=2, level_law=law) for law in (None, torch.full((20,), 1 / 20)))
    assert abs(own.nats - uniform.nats) < 4 * (own.stderr + uniform.stderr)
    assert own.stderr < 0.8 * uniform.stderr


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", REFERENCES)
def test_whole_paths_have_the_bound_as_their_mean(name):
    agent = best(REFERENCES[name](6))
    x = torch.tensor([1.0, -0.5]).expand(4_000, -1)
    paths = agent.log_ratio(agent.destroy(x))
    assert abs(paths.mean().item() - exact(agent, x[:1]).item()) < 4 * paths.std().item() / 4_000**0.5


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["preserving", "geometric", "interpolation"])
def test_samples_have_the_mean_and_the_covariance_of_the_data(name):
    """Those of generation's law, which is normal and pushed on exactly, within noise; and that is close to the data."""
    reference = REFERENCES[name](40)
    agent = best(reference)
    mean, variances = torch.zeros(DIM), torch.full((DIM,), reference.process.initial_std**2)
    for k in range(40):
        steep = reference.level_factor[k] * VARIANCES
        steep = steep / (reference.level_factor[k] * steep + reference.level_variance[k])  # of the guess
        offset = MEAN @ AXES - steep * reference.level_factor[k] * (MEAN @ AXES)
        slope = reference.posterior_state[k] + reference.posterior_sample[k] * steep
        mean = slope * mean + reference.posterior_sample[k] * offset
        variances = slope**2 * variances + reference.reverse_variance[k]
    torch.testing.assert_close(AXES @ mean, MEAN, rtol=0, atol=0.05)
    torch.testing.assert_close(variances, VARIANCES, rtol=0.2, atol=0)
    samples = agent.generate(40_000)["state"][:, -1] @ AXES
    assert ((samples.mean(0) - mean).abs() < 4 * (variances / 40_000).sqrt()).all()
    torch.testing.assert_close(samples.T.cov().diag(), variances, rtol=0.03, atol=0)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", REFERENCES)
def test_the_loss_has_the_mean_of_whole_paths_and_its_gradient(name):
    reference = REFERENCES[name](5)
    agent = DenoisingAgent(reference, PointNetwork(reference, width=8))
    torch.nn.init.normal_(agent.network.out.weight, std=0.3)
    x = torch.tensor([[1.0, -0.5], [-1.0, -2.0]]).repeat(15_000, 1)
    leaning = torch.linspace(2.0, 1.0, 5)
    whole = -agent.path_log_probs(agent.destroy(x)).generation.sum(-1).mean()
    losses = [whole, *(random_level_loss(agent, x, level_law=law) for law in (None, leaning / leaning.sum()))]
    gradients = [torch.autograd.grad(loss, agent.network.out.bias)[0] for loss in losses]
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert loss.item() == pytest.approx(losses[0].item(), rel=0.03, abs=0.05)
        assert (gradient - gradients[0]).norm() < 0.05 * gradients[0].norm() + 0.05


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", REFERENCES)
def test_no_other_guess_has_a_smaller_loss(name):
    """The gradient by an offset of the best guess vanishes, and the curvature is positive."""
    reference = REFERENCES[name](5)
    offset = torch.zeros(5, DIM, requires_grad=True)
    right = best(reference)
    agent = DenoisingAgent(reference, lambda state, k: right.guess(state, k) + offset[k])
    data = MEAN + torch.cat([torch.eye(DIM), -torch.eye(DIM)]) @ (AXES * (DIM * VARIANCES).sqrt()).T
    mean = exact(agent, data).mean()
    (gradient,) = torch.autograd.grad(mean, offset)
    assert gradient.abs().max() < 1e-9
    for shift in torch.randn(3, 5, DIM):
        with torch.no_grad():
            offset.copy_(0.1 * shift)
        assert exact(agent, data).mean() < mean - 1e-4


# Training -------------------------------------------------------------------------------------------------------------


def four_points(n):
    """Four narrow normal modes, three of them in a row."""
    centres = torch.tensor([[-1.2, -1.0], [0.0, -1.0], [1.2, -1.0], [0.0, 1.2]])
    return centres[torch.randint(4, (n,))] + 0.15 * torch.randn(n, 2)


def train(agent, sample, iterations, batch=512):
    optimiser = torch.optim.Adam(agent.network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for _ in range(iterations):
        optimiser.zero_grad()
        random_level_loss(agent, sample(batch)).backward()
        torch.nn.utils.clip_grad_norm_(agent.network.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    return agent


def test_a_trained_network_comes_close_to_the_log_likelihood():
    reference = GaussianNoise(SPACE, preserving(50))
    agent = train(DenoisingAgent(reference, PointNetwork(reference, width=64)), four_points, 600)
    entropy = math.log(4) + math.log(2 * math.pi * math.e * 0.15**2)
    bound = likelihood_bound(agent, four_points(4_000))
    assert -0.5 < bound.nats + entropy < 4 * bound.stderr
    samples = agent.generate(2_000)["state"][:, -1]
    upper = samples[:, 1] > 0.1
    assert upper.float().mean().item() == pytest.approx(0.25, abs=0.05)
    left = samples[:, 0] < -0.6
    assert left.float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_whole_paths_through_the_joint_loss_raise_the_same_bound():
    reference = GaussianNoise(SPACE, preserving(10))
    agent = DenoisingAgent(reference, PointNetwork(reference, width=32))
    objective = JointLoss(agent, MaximumLikelihood())
    optimiser = torch.optim.Adam(agent.network.parameters(), lr=5e-3)
    before = likelihood_bound(agent, four_points(2_000)).nats
    for _ in range(100):
        losses = objective(Origin.DATA.mark(agent.destroy(four_points(256))))
        optimiser.zero_grad()
        losses["loss_generation"].backward()
        optimiser.step()
    assert likelihood_bound(agent, four_points(2_000)).nats > before + 0.5


def bars(n):
    """Images 8 × 8 of one vertical bar; the further to the right it stands, the brighter: its mean tells its place."""
    place = torch.randint(8, (n,))
    image = torch.zeros(n, 8, 8)
    image[torch.arange(n), :, place] = 0.5 + 0.25 * place.float().unsqueeze(-1)
    return (image - 0.2).flatten(1)


def test_cold_generation_restores_what_is_known_and_draws_what_is_given():
    reference = pixelate(8, 8, scale=0.5)
    x = bars(400)
    reference.law_of(reference.sample_level(x, 0))
    agent = train(DenoisingAgent(reference, PointNetwork(reference, width=64)), bars, 400, batch=128)
    samples = agent.generate(200)["state"][:, -1]
    nearest = torch.cdist(samples, x).min(-1).values.square().mean()
    spread = (x - x.mean(0)).square().sum(-1).mean()
    left = (x - reference.sample_level(x, 0)).square().sum(-1).mean()
    assert nearest < 0.05 * spread and nearest < 0.05 * left
    places = samples.reshape(200, 8, 8).sum(1).argmax(-1)
    assert places.unique().numel() == 8


def test_the_loss_of_a_deterministic_destruction_is_the_error_of_the_guess():
    reference = pixelate(8, 8)
    x = bars(2_000)
    agent = DenoisingAgent(reference, lambda state, k: torch.zeros_like(state))
    assert random_level_loss(agent, x).item() == pytest.approx(3 * 0.5 * x.square().sum(-1).mean().item(), rel=1e-4)


# Errors ---------------------------------------------------------------------------------------------------------------


def test_what_needs_densities_is_refused():
    reference = pixelate(8, 8)
    agent = DenoisingAgent(reference, PointNetwork(reference, width=8))
    for ask in (
        lambda: likelihood_bound(agent, bars(4)),
        lambda: JointLoss(agent, MaximumLikelihood())(Origin.DATA.mark(agent.destroy(bars(4)))),
    ):
        with pytest.raises(
            InputError, match=r"ColdTransform has no density of a step, .* train it by random_level_loss"
        ):
            ask()


def test_oracles_of_tokens_are_refused():
    with pytest.raises(InputError, match="agent: expected a reference of tokens, got GaussianNoise"):
        exact_bound(best(REFERENCES["preserving"](3)), torch.zeros(2, DIM))
    with pytest.raises(InputError, match=r"x: expected at least two samples \[n, 2\], got \[1, 2\]"):
        likelihood_bound(best(REFERENCES["preserving"](3)), torch.zeros(1, DIM))
