"""Masked states drawn under another law of orders: weighted, loss and bound are those of the own law."""

from itertools import permutations

import pytest
import torch

from ebbflow.agents import DenoisingAgent, TokenNetwork
from ebbflow.agents.references.tokens import (
    MaskInOrder,
    MaskLearnedOrder,
    MaskMixture,
    MaskOneRandom,
    ShuffleOneToken,
    mask_last,
)
from ebbflow.envs import Dataset, InputError, Tokens
from ebbflow.trainers import TrainConfig, Trainer, exact_bound, likelihood_bound
from ebbflow.trainers.objectives import order_weights, random_level_loss
from ebbflow.trainers.objectives.proposal import check_proposal, pair_weights
from ebbflow.trainers.objectives.random_level import random_level_losses

SPACE = Tokens(length=3, vocabulary=3)
STATES = SPACE.all_states()
LAW = (1.5 * (7.0 * torch.arange(27, dtype=torch.float64) ** 2).sin()).softmax(0)  # of the data
ORDERS = [list(order) for order in permutations(range(3))]


def of_all_orders():
    """A mixture of all six orders, unevenly, which takes any order although each is a stated one."""
    return MaskMixture([MaskInOrder(SPACE, order) for order in ORDERS], torch.arange(1.0, 7.0) / 21.0)


def raster_biased():
    return MaskMixture([MaskOneRandom(SPACE), mask_last(SPACE)], [0.4, 0.6])


def learned():
    """An order that depends on the tokens: those of a larger number are masked first, or nearly so."""
    return MaskLearnedOrder(SPACE, lambda state, k: 0.7 * state.unsqueeze(-1).double())


PAIRS = {  # whose expectations, and under whom they are taken
    "random_by_raster": (MaskOneRandom, raster_biased),
    "random_by_orders": (MaskOneRandom, of_all_orders),
    "raster_by_random": (lambda space: mask_last(space), lambda: MaskOneRandom(SPACE)),
    "raster_by_itself": (lambda space: mask_last(space), raster_biased),
    "mixture_by_orders": (lambda space: raster_biased(), of_all_orders),
}
WALKED = {
    "random_by_learned": (MaskOneRandom, learned),
    "learned_by_random": (lambda space: learned(), lambda: MaskOneRandom(SPACE)),
    "raster_by_learned": (lambda space: mask_last(space), learned),
}


def agent_of(reference):
    """An agent whose guesses are arbitrary."""
    network = TokenNetwork(SPACE, 3, width=8, outputs=reference.guess_shape(SPACE.shape)[-1])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return DenoisingAgent(reference, network)


def all_paths():
    """Every sample masked in every order, `[27, 6, 4, 3]`."""
    paths = []
    for order in ORDERS:
        one = MaskInOrder(SPACE, order)
        paths.append(torch.stack([one.sample_level(STATES, k) for k in range(4)], 1))
    return torch.stack(paths, 1)


def gradients(agent, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(agent.network.parameters()))])


def loss_over_paths(agent):
    """−E Σ log p→ over the data and the orders of the agent's own reference: an oracle that knows no levels."""
    states = all_paths().flatten(0, 1)
    k = torch.arange(3).expand(len(states), -1)
    mass = LAW.repeat_interleave(6) * agent.reference.log_prob_step(states[:, :-1], states[:, 1:], k).sum(-1).exp()
    terms = agent.path_log_probs({"state": states[mass > 0]})  # without the orders that the reference does not take
    return -(mass[mass > 0].detach() * terms.generation.sum(-1)).sum()


# Exactly, by enumeration ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", PAIRS)
def test_weighted_levels_have_the_mean_and_the_gradient_of_the_own_law(name):
    make, other = PAIRS[name]
    agent, proposal = agent_of(make(SPACE)), other()
    reference = agent.reference
    check_proposal(reference, proposal)
    masked = reference.all_states()
    weighted, bound, total = torch.zeros(()), torch.zeros(27), 0.0
    for k in range(3):
        following = masked[(masked != SPACE.mask).sum(-1) == k + 1]
        state = masked[(masked != SPACE.mask).sum(-1) == k]
        sample, after, before = STATES[:, None, None], following[None, :, None], state[None, None, :]
        level = proposal.log_prob_level(after, sample, k + 1)
        drawn = (level + proposal.log_prob_step(before, after, k)).exp()  # q of the pair, [27, x_{k+1}, x_k]
        rows, i, j = (drawn > 0).nonzero(as_tuple=True)
        x, after, before, q = STATES[rows], following[i], state[j], drawn[rows, i, j]
        w = pair_weights(reference, proposal, before, after, x, torch.full((len(x),), k))
        total += (LAW[rows] * q * w).sum().item()
        counts = w > 0
        x, after, before, rows, mass = x[counts], after[counts], before[counts], rows[counts], (q * w)[counts]
        weighted = weighted + (LAW[rows] * mass * agent.step_cost(x, after, before, k)).sum()
        term = agent.mean_step_log_prob(x, after, before, k) - reference.mean_log_prob_step(x, after, before, k)
        bound = bound.index_add(0, rows, mass * term)
    assert total == pytest.approx(3.0, abs=1e-12)  # the weights of each level sum to one
    expected = loss_over_paths(agent)
    torch.testing.assert_close(weighted, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients(agent, weighted), gradients(agent, expected), rtol=0, atol=1e-10)
    torch.testing.assert_close(bound.detach(), exact_bound(agent, STATES), rtol=0, atol=1e-10)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", [*PAIRS, *WALKED])
def test_weighted_paths_have_the_mean_and_the_gradient_of_the_own_law(name):
    make, other = (PAIRS | WALKED)[name]
    agent, proposal = agent_of(make(SPACE)), other()
    states = all_paths().flatten(0, 1)
    k = torch.arange(3).expand(len(states), -1)
    q = proposal.log_prob_step(states[:, :-1], states[:, 1:], k).sum(-1).exp().detach()
    w = order_weights(agent.reference, proposal, states)
    mass = LAW.repeat_interleave(6) * q * w
    terms = agent.path_log_probs({"state": states[mass > 0]})
    weighted = -(mass[mass > 0] * terms.generation.sum(-1)).sum()
    expected = loss_over_paths(agent)
    torch.testing.assert_close(weighted, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients(agent, weighted), gradients(agent, expected), rtol=0, atol=1e-10)
    bound = (mass[mass > 0] * terms.log_ratio(torch.zeros(()))).sum().item()
    assert bound == pytest.approx((LAW * exact_bound(agent, STATES)).sum().item(), abs=1e-10)


# As it is drawn -------------------------------------------------------------------------------------------------------


def test_without_weights_it_is_another_loss(double_precision):
    """Of the order that the proposal prefers: so the tests here can fail."""
    agent = agent_of(MaskOneRandom(SPACE))
    x = STATES[5].expand(20_000, -1)
    raster = likelihood_bound(DenoisingAgent(raster_biased(), agent.network), x, draws=1)
    assert abs(raster.nats - exact_bound(agent, STATES[5:6]).item()) > 10.0 * raster.stderr


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", [*PAIRS, *WALKED])
def test_what_is_drawn_is_unbiased(name):
    """Loss, gradient and bound of some ten thousand draws of one sample, within four standard errors of the truth."""
    make, other = (PAIRS | WALKED)[name]
    agent, proposal = agent_of(make(SPACE)), other()
    x = STATES[5].expand(20_000, -1)
    found = likelihood_bound(agent, x, draws=1, proposal=proposal)
    assert abs(found.nats - exact_bound(agent, STATES[5:6]).item()) < 4.0 * found.stderr
    plain = random_level_losses(agent, x).detach()
    drawn = random_level_losses(agent, x, proposal=proposal).detach()
    error = ((plain.var() + drawn.var()) / len(x)).sqrt()
    assert abs(plain.mean() - drawn.mean()) < 4.0 * error
    spread = torch.stack([gradients(agent, random_level_loss(agent, x[:500], proposal=proposal)) for _ in range(20)])
    own = torch.stack([gradients(agent, random_level_loss(agent, x[:500])) for _ in range(20)])
    away = (spread.mean(0) - own.mean(0)).abs()
    assert bool((away <= 5.0 * ((spread.var(0) + own.var(0)) / 20).sqrt() + 1e-9).all())


def test_a_training_under_another_law_learns_the_same():
    rows = STATES[torch.multinomial(LAW, 4000, replacement=True)]
    settings = {"iterations": 400, "batch_size": 128, "evaluation_samples": 400, "agent": {"width": 32}}
    found = {}
    for proposal in (None, "mask_last_or_random"):
        trainer = Trainer(Dataset.split(rows), TrainConfig.from_dict(settings | {"proposal": proposal}))
        trainer.train()
        found[proposal] = exact_bound(trainer.evaluated_agent, STATES).double()
    means = {proposal: (LAW * bound).sum().item() for proposal, bound in found.items()}
    entropy = -(LAW * LAW.log()).sum().item()
    assert all(-entropy - 0.1 < mean <= -entropy for mean in means.values()), means


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "proposal", "message"),
    [
        (MaskOneRandom(SPACE), mask_last(SPACE), "got MaskInOrder of 1 order: weights would be infinite"),
        (mask_last(SPACE), MaskInOrder(SPACE, [2, 1, 0]), "weights would be infinite"),
        (MaskOneRandom(SPACE), MaskMixture([mask_last(SPACE), MaskInOrder(SPACE, [2, 1, 0])], [0.5, 0.5]), "2 orders"),
        (MaskOneRandom(SPACE), ShuffleOneToken(SPACE, steps=3), "can be computed, got ShuffleOneToken"),
        (ShuffleOneToken(SPACE, steps=3), MaskOneRandom(SPACE), "expected none for ShuffleOneToken"),
        (MaskOneRandom(SPACE), MaskOneRandom(Tokens(4, 3)), "length=4"),
    ],
)
def test_a_proposal_that_does_not_do_is_refused(reference, proposal, message):
    agent = agent_of(reference)
    with pytest.raises(InputError, match=message) as caught:
        random_level_loss(agent, STATES, proposal=proposal)
    assert str(caught.value).startswith("proposal: ") and "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        likelihood_bound(agent, STATES, proposal=proposal)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"proposal": "mask_last"}, "weights would be infinite"),
        ({"proposal": "mask_first"}, "^proposal: expected one of .*got 'mask_first'"),
        ({"proposal": "mask_learned_order"}, "has learned nothing"),
        ({"proposal": "mask_one_random", "objective": "maximum_likelihood"}, "expected none"),
        ({"proposal": "mask_one_random", "agent": {"reference": "shuffle_one_token"}}, "ShuffleOneToken"),
    ],
)
def test_settings_that_do_not_fit_a_proposal_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Trainer(Dataset.split(STATES), TrainConfig.from_dict(settings))


def test_a_mixture_names_what_it_cannot_mix():
    with pytest.raises(InputError, match=r"closed level laws, got \['MaskOneRandom', 'MaskLearnedOrder'\]"):
        MaskMixture([MaskOneRandom(SPACE), MaskLearnedOrder(SPACE, width=8)], [0.5, 0.5])
    with pytest.raises(InputError, match="one space"):
        MaskMixture([MaskOneRandom(SPACE), MaskOneRandom(Tokens(4, 3))], [0.5, 0.5])
    with pytest.raises(InputError, match="2 probabilities > 0"):
        MaskMixture([MaskOneRandom(SPACE), mask_last(SPACE)], [1.0, 0.0])
