"""Tokens go through the same loss as everything else: destroyed data, marked as such, and maximum likelihood."""

import pytest
import torch

from ebbflow.agents import DenoisingAgent, Origin, TokenNetwork
from ebbflow.agents.references.tokens import MaskOneRandom, ShuffleOneToken, mask_last
from ebbflow.envs import InputError, Tokens
from ebbflow.trainers import exact_bound
from ebbflow.trainers.objectives import JointLoss, MaximumLikelihood, VarGrad

SPACE = Tokens(length=3, vocabulary=3)
STATES = SPACE.all_states()
LAW = torch.linspace(-2.0, 2.0, 27).softmax(0)
REFERENCES = [MaskOneRandom(SPACE), mask_last(SPACE), ShuffleOneToken(SPACE, steps=8)]


def batch(agent, n):
    samples = STATES[torch.multinomial(LAW, n, replacement=True)]
    return Origin.DATA.mark(agent.destroy(samples))


def loss_of(reference, objective=None):
    agent = DenoisingAgent(reference, TokenNetwork(SPACE, reference.steps, width=32))
    return JointLoss(agent, objective or MaximumLikelihood()), agent


def optimiser_of(agent):
    """Log Z at a rate of its own, as the trainer has it."""
    groups = [{"params": agent.network.parameters(), "lr": 5e-3}, {"params": [agent.log_z], "lr": 1e-1}]
    return torch.optim.Adam(groups)


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: type(reference).__name__)
def test_maximum_likelihood_on_destroyed_data_raises_the_bound(reference):
    objective, agent = loss_of(reference)
    optimiser = optimiser_of(agent)
    before = (LAW * exact_bound(agent, STATES)).sum()
    for _ in range(150):
        losses = objective(batch(agent, 512))
        assert losses["loss_destruction"] == 0.0  # a reference has nothing to learn
        optimiser.zero_grad()
        (losses["loss_generation"] + losses["loss_log_z"]).backward()
        optimiser.step()
    after = (LAW * exact_bound(agent, STATES)).sum()
    entropy = -(LAW * LAW.log()).sum()
    assert before < after - 0.3
    assert after < -entropy + 1e-4
    assert after > -entropy - (0.15 if isinstance(reference, ShuffleOneToken) else 0.01)
    assert abs(agent.log_z.item() + after.item()) < 0.05  # of data, log Z is the code length


def test_log_ratios_are_those_of_the_agent():
    objective, agent = loss_of(REFERENCES[0])
    paths = batch(agent, 16)
    losses = objective(paths)
    torch.testing.assert_close(losses["log_ratio"], agent.log_ratio(paths).detach())
    expected = -agent.path_log_probs(paths).generation.sum(-1).mean()
    torch.testing.assert_close(losses["loss_generation"], expected)


def test_generated_paths_teach_nothing_by_maximum_likelihood():
    objective, agent = loss_of(REFERENCES[0])
    assert objective(Origin.ON_POLICY.mark(agent.generate(8)))["loss_generation"] == 0.0
    with pytest.raises(InputError, match=r"MaximumLikelihood: learns from destroyed rows, and .* no `origin`"):
        objective(agent.generate(8))


def test_a_density_over_tokens_is_learned_by_a_divergence():
    """With log R in place of data, VarGrad over all samples finds the law and its normalising constant."""
    objective, agent = loss_of(REFERENCES[0], VarGrad())
    optimiser = optimiser_of(agent)
    for _ in range(200):
        with torch.no_grad():
            samples = torch.cat([agent.generate(100)["state"][:, -1], STATES])
        log_reward = LAW.log()[(samples * torch.tensor([9, 3, 1])).sum(-1)] + 5.0
        losses = objective(Origin.DATA.mark(agent.destroy(samples, log_reward=log_reward)))
        optimiser.zero_grad()
        (losses["loss_generation"] + losses["loss_log_z"]).backward()
        optimiser.step()
    assert (LAW * (LAW.log() - exact_bound(agent, STATES))).sum() < 1e-3
    assert abs(agent.log_z.item() - 5.0) < 0.01
