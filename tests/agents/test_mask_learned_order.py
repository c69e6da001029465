"""A learned order: what of it does not depend on what was learned, and where it starts from."""

import itertools

import pytest
import torch

from ebbflow.agents import AgentConfig, DenoisingAgent, TokenNetwork, build_token_agent
from ebbflow.agents.references.tokens import MaskInOrder, MaskLearnedOrder, MaskOneRandom
from ebbflow.envs import InputError, Tokens
from ebbflow.trainers import exact_bound

SPACE = Tokens(length=3, vocabulary=3)
STATES = SPACE.all_states()


def scattered(network, spread=1.0):
    """A network whose numbers differ from state to state."""
    torch.nn.init.normal_(network.logits.weight, std=spread)
    return network


@pytest.fixture
def reference(double_precision):
    reference = MaskLearnedOrder(SPACE, width=16).double()
    scattered(reference.scores)
    return reference


def log_prob_of_order(reference, sample, order):
    """log probability that positions are masked in this order, step by step."""
    state, total = sample.clone(), 0.0
    for k, i in zip(reversed(range(3)), order, strict=True):
        after = state.clone()
        after[i] = SPACE.mask
        total = total + reference.log_prob_step(after, state, k)
        state = after
    return total


def test_the_orders_of_a_sample_are_a_law(reference):
    for sample in STATES[::5]:
        total = sum(log_prob_of_order(reference, sample, order).exp() for order in itertools.permutations(range(3)))
        torch.testing.assert_close(total, torch.ones(()), rtol=0, atol=1e-12)


def test_levels_are_the_sums_over_orders(reference):
    states, sample = reference.all_states(), STATES[11]
    for k in range(4):
        found = reference.log_prob_level(states, sample, k).exp()
        assert found.sum().item() == pytest.approx(1.0, abs=1e-12)
        expected = torch.zeros_like(found)
        for order in itertools.permutations(range(3)):
            state = sample.clone()
            state[list(order[: 3 - k])] = SPACE.mask
            expected[(states == state).all(-1)] += log_prob_of_order(reference, sample, order).exp()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    many = STATES[[0, 11]].unsqueeze(1)
    both = reference.log_prob_level(states, many, 1)
    torch.testing.assert_close(both[1], reference.log_prob_level(states, sample, 1), rtol=0, atol=1e-12)


def test_what_is_drawn_has_these_laws(reference):
    n, states = 20_000, reference.all_states()
    samples = STATES[11].expand(n, -1)
    steps = reference.sample_step(samples, 2)
    levels = reference.sample_level(samples, torch.tensor([1, 0]).repeat(n // 2))
    assert (levels[1::2] == SPACE.mask).all()
    for drawn, law in (
        (steps, reference.log_prob_step(states, STATES[11], 2).exp()),
        (levels[::2], reference.log_prob_level(states, STATES[11], 1).exp()),
    ):
        shares = (drawn.unsqueeze(1) == states).all(-1).double().mean(0)
        assert (shares - law).abs().max() < 4 * 0.5 / len(drawn) ** 0.5


def test_generation_is_a_law_over_positions_and_tokens(reference):
    agent = DenoisingAgent(reference, scattered(TokenNetwork(SPACE, 3, width=16, outputs=4)))
    states = reference.all_states()
    for k in range(3):
        state = states[(states == SPACE.mask).sum(-1) == 3 - k][0]
        log_prob = agent.step_log_prob(states, state.expand_as(states), k)
        assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    paths = agent.generate(200)["state"]
    assert ((paths != SPACE.mask).sum(-1) == torch.arange(4)).all()


@pytest.mark.usefixtures("double_precision")
def test_with_scores_of_zero_it_is_random_masking():
    """Also where the guess has been learned: the same log probabilities of all steps, and the same draws."""
    network = scattered(TokenNetwork(SPACE, 3, width=16))
    with_scores = TokenNetwork(SPACE, 3, width=16, outputs=4)
    state = network.state_dict()
    padded = torch.zeros(3, 4, 16)
    padded[:, :3] = state["logits.weight"].unflatten(0, (3, 3))
    with_scores.load_state_dict(state | {"logits.weight": padded.flatten(0, 1), "logits.bias": torch.zeros(12)})
    random = DenoisingAgent(MaskOneRandom(SPACE), network)
    learned = DenoisingAgent(MaskLearnedOrder(SPACE, width=8), with_scores)
    torch.manual_seed(1)
    paths = random.destroy(STATES)
    torch.manual_seed(1)
    assert learned.destroy(STATES)["state"].equal(paths["state"])
    for found, expected in zip(learned.path_log_probs(paths), random.path_log_probs(paths), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_a_firm_start_is_the_stated_order():
    """With the same guess: the same bound of every sample, and in each step the same position."""
    padded = torch.cat([torch.randn(3, 3), torch.zeros(3, 1)], dim=-1)
    firm = DenoisingAgent(
        MaskLearnedOrder(SPACE, start=[2, 0, 1], sharpness=50.0, width=4),
        lambda state, k: padded.expand(*state.shape, 4),
    )
    stated = DenoisingAgent(MaskInOrder(SPACE, [2, 0, 1]), lambda state, k: padded[:, :3].expand(*state.shape, 3))
    torch.testing.assert_close(exact_bound(firm, STATES), exact_bound(stated, STATES), rtol=0, atol=1e-10)
    assert firm.destroy(STATES)["state"].equal(stated.destroy(STATES)["state"])
    assert (firm.generate(20)["state"][:, 1, 2] != SPACE.mask).all()


def test_parameters_belong_to_the_policy_that_they_are_of():
    agent = build_token_agent(SPACE, config=AgentConfig(reference="mask_learned_order", width=16, depth=1))
    groups = agent.parameter_groups()
    assert agent.destruction.learned and not agent.trains_levels
    assert sum(len(group) for group in groups.values()) == len([*agent.parameters()])
    paths = agent.destroy(STATES)
    log_probs = agent.path_log_probs(paths)
    for policy, other in (("generation", "destruction"), ("destruction", "generation")):
        agent.zero_grad()
        getattr(log_probs, policy).sum().backward(retain_graph=True)
        assert groups[policy][-1].grad is not None
        assert all(p.grad is None for p in groups[other])


def test_what_does_not_fit_is_told(reference):
    with pytest.raises(InputError, match=r"scores: expected a module or function"):
        MaskLearnedOrder(SPACE, 3)
    with pytest.raises(InputError, match=r"order: expected each position from 0 to 2 once"):
        MaskLearnedOrder(SPACE, start=[0, 0, 1])
    with pytest.raises(InputError, match=r"sharpness: expected a finite number > 0 \(nats\), got 0"):
        MaskLearnedOrder(SPACE, start=[0, 2, 1], sharpness=0)
    with pytest.raises(InputError, match=r"scores: expected \[27, 3, 1\], got \[27, 3\]"):
        MaskLearnedOrder(SPACE, lambda state, k: torch.zeros(state.shape)).sample_step(STATES, 2)
    with pytest.raises(InputError, match=r"network: expected a guess \[27, 3, 4\], got \[27, 3, 3\]"):
        DenoisingAgent(reference, TokenNetwork(SPACE, 3, width=8)).guess(STATES, 0)
    wide = MaskLearnedOrder(Tokens(13, 2), width=8)
    with pytest.raises(InputError, match=r"expected at most 12 positions, got 13"):
        wide.log_prob_level(torch.zeros(1, 13, dtype=torch.int64), torch.zeros(1, 13, dtype=torch.int64), 13)
