"""The agent for tokens: its network, its trajectories, and decoding in orders of one's own."""

import math

import pytest
import torch

from ebbflow.agents import DenoisingAgent, TokenNetwork, decode
from ebbflow.agents.references.tokens import MaskInOrder, MaskOneRandom, ShuffleEveryToken, ShuffleOneToken, mask_last
from ebbflow.envs import Continuous, InputError, Tokens

SPACE = Tokens(length=4, vocabulary=3)
NOISY = 0.5 * torch.eye(3) + 0.5 / 3
REFERENCES = {
    "mask_one_random": lambda: MaskOneRandom(SPACE),
    "mask_last": lambda: mask_last(SPACE),
    "shuffle_one": lambda: ShuffleOneToken(SPACE, steps=6),
    "shuffle_learned": lambda: ShuffleOneToken(SPACE, steps=6, positions="learned"),
    "shuffle_every": lambda: ShuffleEveryToken(SPACE, NOISY, steps=6),
}


def agent_of(reference, spread=0.3):
    """An agent whose guesses differ from state to state, as those of a trained one do."""
    network = TokenNetwork(SPACE, reference.steps, width=16)
    torch.nn.init.normal_(network.logits.weight, std=spread)
    return DenoisingAgent(reference, network)


@pytest.fixture(params=REFERENCES)
def agent(request):
    return agent_of(REFERENCES[request.param]())


# Trajectories ---------------------------------------------------------------------------------------------------------


def test_trajectories_run_from_destroyed_states_to_samples(agent):
    generated = agent.generate(50)
    destroyed = agent.destroy(torch.randint(3, (50, 4)))
    for paths in (generated, destroyed):
        assert paths["state"].shape == (50, agent.steps + 1, 4)
        assert paths["state"].dtype == torch.int64
        assert agent.reference.log_prob_destroyed(paths["state"][:, 0]).isfinite().all()
        SPACE.check("samples", paths["state"][:, -1])
        terms = agent.path_log_probs(paths)
        assert terms.generation.shape == terms.destruction.shape == (50, agent.steps)
        assert all(term.isfinite().all() for term in terms)
        assert (paths["log_reward"] == 0.0).all()


def test_path_log_probs_are_those_of_single_steps(agent):
    paths = agent.destroy(torch.randint(3, (20, 4)))
    states, terms = paths["state"], agent.path_log_probs(paths)
    for k in range(agent.steps):
        single = agent.step_log_prob(states[:, k + 1], states[:, k], k)
        torch.testing.assert_close(terms.generation[:, k], single)
        single = agent.reference.log_prob_step(states[:, k], states[:, k + 1], k)
        torch.testing.assert_close(terms.destruction[:, k], single)
    expected = terms.initial + terms.generation.sum(-1) - terms.destruction.sum(-1)
    torch.testing.assert_close(agent.log_ratio(paths), expected)


def test_gradients_of_paths_reach_all_parameters_of_the_network(agent):
    agent.log_ratio(agent.destroy(torch.randint(3, (200, 4)))).mean().backward()
    for name, parameter in agent.network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", REFERENCES)
def test_an_untrained_network_guesses_all_tokens_alike(name):
    reference = REFERENCES[name]()
    agent = DenoisingAgent(reference, TokenNetwork(SPACE, reference.steps, width=8))
    guess = agent.guess(reference.sample_destroyed(5), 0)
    assert guess.equal(torch.zeros(5, 4, 3))


def test_masking_keeps_what_is_written():
    for reference in (MaskOneRandom(SPACE), MaskInOrder(SPACE, [3, 1, 0, 2])):
        states = agent_of(reference).generate(30)["state"]
        before, after = states[:, :-1], states[:, 1:]
        known = before != SPACE.mask
        assert (after[known] == before[known]).all()
        assert ((after != SPACE.mask).sum(-1) == torch.arange(1, 5)).all()
    assert (states[:, 1] != SPACE.mask).float().mean(0).tolist() == [0.0, 0.0, 0.0, 1.0]


# Decoding -------------------------------------------------------------------------------------------------------------


def test_decoding_in_order_is_generation_with_that_order():
    agent = agent_of(MaskOneRandom(SPACE), spread=1.0)
    ordered = DenoisingAgent(MaskInOrder(SPACE, [2, 0, 3, 1]), agent.network)
    n = 20_000
    samples = decode(agent, n, order=[2, 0, 3, 1]), ordered.generate(n)["state"][:, -1]
    powers = torch.tensor([27, 9, 3, 1])
    one, other = (torch.bincount((s * powers).sum(-1), minlength=81).double() for s in samples)
    seen = one + other > 0
    assert ((one - other).square() / (one + other))[seen].sum() < 81 + 4 * math.sqrt(2 * 81)


@pytest.mark.parametrize("block", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("order", ["random", "left_to_right", torch.tensor([3, 1, 2, 0])])
def test_every_position_is_decoded_once(order, block):
    seen = []
    agent = agent_of(MaskOneRandom(SPACE))
    network = agent.network
    agent = DenoisingAgent(agent.reference, lambda state, k: (seen.append((state, k)), network(state, k))[1])
    SPACE.check("samples", decode(agent, 7, order=order, block=block))
    assert [k for _, k in seen] == list(range(0, 4, block))
    for state, k in seen:
        assert ((state != SPACE.mask).sum(-1) == k).all()


# Errors ---------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_decoded():
    agent = agent_of(MaskOneRandom(SPACE))
    for changes, message in [
        ({"order": "backwards"}, "order: expected 'random', 'left_to_right' or all positions, got 'backwards'"),
        ({"order": [0, 1]}, "order: expected each position from 0 to 3 once, got"),
        ({"block": 0}, "block: expected a whole number >= 1, got 0"),
        ({"n": 0}, "n: expected a whole number >= 1, got 0"),
    ]:
        with pytest.raises(InputError, match=message):
            decode(agent, **{"n": 2, **changes})
    with pytest.raises(InputError, match="agent: expected the reference MaskOneRandom, got ShuffleOneToken"):
        decode(agent_of(ShuffleOneToken(SPACE, steps=4)), 2)


def test_parts_that_do_not_fit():
    with pytest.raises(InputError, match="space: expected a space of Tokens, got Continuous"):
        TokenNetwork(Continuous(2), steps=3)
    with pytest.raises(InputError, match="width: expected a whole number >= 1, got 0"):
        TokenNetwork(SPACE, steps=3, width=0)
    with pytest.raises(InputError, match="reference: expected one such as MaskOneRandom, got 'mask_last'"):
        DenoisingAgent("mask_last", TokenNetwork(SPACE, steps=4))
    with pytest.raises(InputError, match="network: expected a module or function of states and steps, got None"):
        DenoisingAgent(mask_last(SPACE), None)
    with pytest.raises(InputError, match=r"network: expected a guess \[5, 4, 3\], got \[5, 4, 2\]"):
        DenoisingAgent(mask_last(SPACE), lambda state, k: torch.zeros(*state.shape, 2)).generate(5)
    with pytest.raises(InputError, match=r"x: expected tokens from 0 to 2, got 3 \(the mask"):
        agent_of(mask_last(SPACE)).destroy(SPACE.fully_masked(2))
