"""Learning from data without a density, on three variables whose log-likelihood is known: bounds, training, samples.

The exact conditionals of the data are put in place of a network first, so that a bound has nothing to be loose by but
its reference; then a network is trained for a few seconds.
"""

import math

import pytest
import torch
from scipy import stats

from ebbflow.agents import DenoisingAgent, TokenNetwork, decode
from ebbflow.agents.references.tokens import (
    Masking,
    MaskInOrder,
    MaskMixture,
    MaskOneRandom,
    ShuffleEveryToken,
    ShuffleOneToken,
    mask_last,
)
from ebbflow.envs import InputError, Tokens
from ebbflow.trainers import exact_bound, exact_law, likelihood_bound
from ebbflow.trainers.objectives import random_level_loss

SPACE = Tokens(length=3, vocabulary=3)
STATES = SPACE.all_states()
LAW = (1.5 * (7.0 * torch.arange(27, dtype=torch.float64) ** 2).sin()).softmax(0)  # of the data
ENTROPY = -(LAW * LAW.log()).sum().item()
MASKINGS = {
    "mask_one_random": lambda: MaskOneRandom(SPACE),
    "mask_last": lambda: mask_last(SPACE),
    "mask_in_order": lambda: MaskInOrder(SPACE, [2, 0, 1]),
    "mask_mixture": lambda: MaskMixture([MaskOneRandom(SPACE), MaskInOrder(SPACE, [1, 2, 0])], [0.3, 0.7]),
}
SHUFFLES = {
    "shuffle_one": lambda: ShuffleOneToken(SPACE, steps=12),
    "shuffle_one_learned": lambda: ShuffleOneToken(SPACE, steps=6, positions="learned"),
    "shuffle_every": lambda: ShuffleEveryToken(SPACE, 0.2 / 3 * torch.ones(3, 3) + 0.8 * torch.eye(3), steps=12),
}


def number(states):
    """Which of the 27 samples a state is."""
    return (states * torch.tensor([9, 3, 1])).sum(-1)


def masked_conditionals(state, k):
    """log P(token at a position | the tokens that are not masked), of the data."""
    fits = ((state.unsqueeze(-2) == STATES) | (state.unsqueeze(-2) == SPACE.mask)).all(-1)  # [..., 27]
    weights = torch.einsum("...s,sia->...ia", fits * LAW, torch.nn.functional.one_hot(STATES, 3).double())
    return (weights + 1e-300).log()


def shuffled_conditionals(reference):
    """log P(token at position i of x_{k+1} | x_k, and that i is the position that was destroyed), of the data."""
    levels = torch.stack(
        [LAW @ reference.log_prob_level(STATES, STATES.unsqueeze(1), k).exp() for k in range(reference.steps + 1)]
    )
    channel = reference.channel.powers[1]

    def conditionals(state, k):
        k = torch.as_tensor(k).expand(state.shape[:-1])
        weights = state.new_zeros(*state.shape, 3, dtype=torch.float64)
        for i in range(3):
            for token in range(3):
                before = state.clone()
                before[..., i] = token
                weights[..., i, token] = levels[k + 1, number(before)] * channel[token, state[..., i]]
        return weights.log()

    return conditionals


def mean_gap(agent):
    """Mean of log p(x) − bound(x) over the data."""
    return (LAW * (LAW.log() - exact_bound(agent, STATES).double())).sum().item()


def path_divergence(agent):
    """KL of destroyed paths from generated ones, from the marginals of destruction: another way to the mean gap."""
    reference = agent.reference
    law, total = LAW, 0.0
    for k in reversed(range(reference.steps)):
        joint = law.unsqueeze(1) * reference.log_prob_step(STATES, STATES.unsqueeze(1), k).exp()  # [x_{k+1}, x_k]
        law = joint.sum(0)
        guess = agent.guess(STATES, k).unsqueeze(1)
        generation = reference.log_prob_reverse(guess, STATES, STATES.unsqueeze(1), k).T
        total += torch.where(joint > 0, joint * (joint.log() - law.log() - generation), 0.0).sum().item()
    return total + (law * (law.log() - reference.log_prob_destroyed(STATES))).sum().item()


def chi_square(samples, law=LAW):
    """p-value of samples against the law of the 27 outcomes."""
    counts = torch.bincount(number(samples), minlength=27).double()
    return stats.chisquare(counts.numpy(), (law / law.sum() * len(samples)).numpy()).pvalue


# Exact conditionals ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", MASKINGS)
def test_the_bound_of_masking_is_the_log_likelihood(name):
    agent = DenoisingAgent(MASKINGS[name](), masked_conditionals)
    torch.testing.assert_close(exact_bound(agent, STATES), LAW.log(), rtol=0, atol=1e-10)
    torch.testing.assert_close(exact_law(agent), LAW, rtol=0, atol=1e-10)
    estimates = torch.stack([agent.log_ratio(agent.destroy(STATES)) for _ in range(5)])  # whole paths: no spread at all
    torch.testing.assert_close(estimates, LAW.log().expand(5, -1), rtol=0, atol=1e-10)


@pytest.mark.usefixtures("double_precision")
def test_the_bound_of_shuffling_is_loose_where_positions_are_drawn_uniformly():
    """In expectation over the data: 0.0408 nats, where their entropy is 3.0, and more steps do not close it.

    A trained guess comes to about half of that: a step that changes nothing is shared by all positions, so that the
    conditionals given the position are not the best guess.
    """
    gaps = {}
    for steps in (3, 12, 24):
        reference = ShuffleOneToken(SPACE, steps=steps)
        agent = DenoisingAgent(reference, shuffled_conditionals(reference))
        gaps[steps] = mean_gap(agent)
        assert gaps[steps] == pytest.approx(path_divergence(agent), abs=1e-10)
    assert gaps == pytest.approx({3: 0.04466, 12: 0.04084, 24: 0.04084}, abs=1e-5)
    assert pytest.approx(3.0, abs=1e-3) == ENTROPY


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("steps", "stated"), [(3, 0.005193), (12, 3.4e-6)])
def test_with_positions_to_learn_shuffling_loses_only_what_is_not_destroyed(steps, stated):
    """KL(x_0 ‖ p_0), in nats: the time reversal is exact."""
    reference = ShuffleOneToken(SPACE, steps=steps, positions="learned")
    agent = DenoisingAgent(reference, shuffled_conditionals(reference))
    left = LAW @ reference.log_prob_level(STATES, STATES.unsqueeze(1), 0).exp()
    remainder = (left * (left.log() + math.log(27))).sum().item()
    assert mean_gap(agent) == pytest.approx(remainder, abs=1e-10)
    assert mean_gap(agent) == pytest.approx(path_divergence(agent), abs=1e-10)
    assert remainder == pytest.approx(stated, rel=0.02)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", [*MASKINGS, *SHUFFLES])
def test_the_bound_is_one_for_every_sample_and_every_network(name):
    reference = (MASKINGS | SHUFFLES)[name]()
    network = untrained(reference)
    agent = DenoisingAgent(reference, network)
    law = exact_law(agent)
    assert law.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (exact_bound(agent, STATES) <= law.log() + 1e-12).all()


def untrained(reference, spread=0.3):
    """A network whose guesses differ from state to state."""
    network = TokenNetwork(SPACE, reference.steps, width=16)
    torch.nn.init.normal_(network.logits.weight, std=spread)
    return network


# Estimates ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", [*MASKINGS, *SHUFFLES])
@pytest.mark.parametrize("leaning", [False, True])
def test_the_estimate_is_unbiased_whatever_the_law_of_levels(name, leaning):
    reference = (MASKINGS | SHUFFLES)[name]()
    agent = DenoisingAgent(reference, untrained(reference))
    law = torch.linspace(1.0, 2.0, reference.steps) if leaning else None
    for sample in STATES[[3, 19]]:
        bound = likelihood_bound(
            agent, sample.expand(4_000, -1), draws=4, level_law=None if law is None else law / law.sum()
        )
        exact = exact_bound(agent, sample.unsqueeze(0)).item()
        assert abs(bound.nats - exact) < 4 * bound.stderr
        assert 0 < bound.stderr < 0.02 * abs(exact)
        assert bound.bits_per_token == pytest.approx(-bound.nats / (3 * math.log(2)))
        assert bound.bits_per_token_stderr == pytest.approx(bound.stderr / (3 * math.log(2)))


@pytest.mark.usefixtures("double_precision")
def test_the_error_of_the_estimate_is_its_spread():
    reference = MaskOneRandom(SPACE)
    agent = DenoisingAgent(reference, untrained(reference))
    samples = STATES[torch.multinomial(LAW, 200, replacement=True)]
    bounds = [likelihood_bound(agent, samples[torch.randint(200, (200,))], draws=2) for _ in range(100)]
    spread = torch.tensor([bound.nats for bound in bounds]).std().item()
    assert spread == pytest.approx(sum(bound.stderr for bound in bounds) / 100, rel=0.3)
    assert bounds[0].per_sample.mean().item() == pytest.approx(bounds[0].nats)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", [*MASKINGS, *SHUFFLES])
def test_the_loss_has_the_mean_of_whole_paths_and_its_gradient(name):
    """For any law of levels; compared with the sum over all steps of destroyed paths."""
    reference = (MASKINGS | SHUFFLES)[name]()
    agent = DenoisingAgent(reference, untrained(reference))
    samples = STATES[[3, 19]].repeat(20_000, 1)
    leaning = torch.linspace(2.0, 1.0, reference.steps)
    whole = -agent.path_log_probs(agent.destroy(samples)).generation.sum(-1).mean()
    losses = [whole, *(random_level_loss(agent, samples, level_law=law) for law in (None, leaning / leaning.sum()))]
    gradients = [torch.autograd.grad(loss, agent.network.logits.bias)[0] for loss in losses]
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert loss.item() == pytest.approx(losses[0].item(), rel=0.02)
        assert (gradient - gradients[0]).norm() < 0.05 * gradients[0].norm() + 0.02


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", [*MASKINGS, *SHUFFLES])
def test_what_is_averaged_has_the_mean_of_what_is_drawn(name):
    """Over the states x_{k+1} that lie between one sample and one x_k, by Bayes' rule."""
    reference = (MASKINGS | SHUFFLES)[name]()
    agent = DenoisingAgent(reference, untrained(reference))
    states, sample = reference.all_states(), STATES[19]
    for k in range(reference.steps):
        levels = reference.log_prob_level(states, sample, k + 1).exp()
        for state in states[reference.log_prob_level(states, sample, k).exp() > 0][::5]:
            weight = levels * reference.log_prob_step(state, states, k).exp()
            between, weight = states[weight > 0], weight[weight > 0] / weight.sum()
            here, whole = state.expand(len(between), -1), sample.expand(len(between), -1)
            drawn = (weight * agent.step_log_prob(between, here, k)).sum()
            torch.testing.assert_close((weight * agent.mean_step_log_prob(whole, between, here, k)).sum(), drawn)


# Training -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["mask_one_random", "mask_last", "shuffle_one_learned"])
def trained(request):
    """An agent trained on random levels of samples of the data, for a few seconds."""
    torch.manual_seed(0)
    reference = (MASKINGS | SHUFFLES)[request.param]()
    agent = DenoisingAgent(reference, TokenNetwork(SPACE, reference.steps, width=64))
    optimiser = torch.optim.Adam(agent.network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1000)
    for _ in range(1000):
        samples = STATES[torch.multinomial(LAW, 1024, replacement=True)]
        optimiser.zero_grad()
        random_level_loss(agent, samples).backward()
        optimiser.step()
        schedule.step()
    return agent


def test_a_trained_network_comes_close_to_the_log_likelihood(trained):
    assert 0.0 < mean_gap(trained) < (0.002 if isinstance(trained.reference, Masking) else 0.01)
    samples = STATES[torch.multinomial(LAW, 4_000, replacement=True)]
    bound = likelihood_bound(trained, samples)
    assert abs(bound.nats + ENTROPY) < 4 * bound.stderr


def test_its_samples_have_the_law_of_the_data(trained):
    assert chi_square(trained.generate(2_000)["state"][:, -1]) > 1e-3
    if isinstance(trained.reference, MaskOneRandom):
        for order in ("random", "left_to_right", [2, 0, 1]):
            assert chi_square(decode(trained, 2_000, order=order)) > 1e-3, order


def test_trained_at_random_it_may_be_judged_in_order(trained):
    if isinstance(trained.reference, MaskOneRandom):
        for order in ([0, 1, 2], [2, 0, 1]):
            assert mean_gap(DenoisingAgent(MaskInOrder(SPACE, order), trained.network)) < 0.002


# Decoding -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("order", ["random", "left_to_right", [1, 2, 0]])
def test_one_token_at_a_time_is_exact(order):
    agent = DenoisingAgent(MaskOneRandom(SPACE), masked_conditionals)
    assert chi_square(decode(agent, 4_000, order=order)) > 1e-3


@pytest.mark.usefixtures("double_precision")
def test_a_block_draws_its_tokens_as_if_they_were_independent():
    agent = DenoisingAgent(MaskOneRandom(SPACE), masked_conditionals)
    one_hot = torch.nn.functional.one_hot(STATES, 3).double()  # [27, 3, 3]
    marginals = torch.einsum("s,sia->ia", LAW, one_hot)
    product = torch.einsum("sia,ia->si", one_hot, marginals).prod(-1)
    at_once = decode(agent, 4_000, block=3)
    assert chi_square(at_once, product) > 1e-3
    assert chi_square(at_once) < 1e-9
    pairs = LAW.reshape(3, 3, 3).sum(-1)  # positions 0 and 1 at once, then 2 given both
    two_then_one = (LAW.reshape(3, 3, 3) / pairs.unsqueeze(-1)) * torch.outer(pairs.sum(1), pairs.sum(0)).unsqueeze(-1)
    assert chi_square(decode(agent, 4_000, order="left_to_right", block=2), two_then_one.flatten()) > 1e-3


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": STATES[:1]}, r"x: expected at least two samples \[n, 3\], got \[1, 3\]"),
        ({"x": STATES.float()}, "x: expected tokens .* of int64, got .*float32"),
        ({"x": SPACE.fully_masked(2)}, "x: expected tokens from 0 to 2, got 3 .the mask"),
        ({"draws": 0}, "draws: expected a whole number >= 1, got 0"),
        ({"level_law": [0.5, 0.5]}, r"level_law: expected 3 probabilities > 0, got \[0.5, 0.5\]"),
        ({"level_law": [0.5, 0.5, 0.0]}, "level_law: expected 3 probabilities > 0"),
        ({"level_law": [0.5, 0.4, 0.0]}, "level_law: expected probabilities that sum to 1"),
    ],
)
def test_estimates_of_what_does_not_fit(change, message):
    agent = DenoisingAgent(mask_last(SPACE), TokenNetwork(SPACE, 3, width=8))
    with pytest.raises(InputError, match=message):
        likelihood_bound(agent, **{"x": STATES, **change})
    if "draws" not in change and len(change.get("x", STATES)) > 1:
        with pytest.raises(InputError, match=message):
            random_level_loss(agent, **{"x": STATES, **change})
