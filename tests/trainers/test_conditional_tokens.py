"""Generating at a condition: policies for tokens that read a context, trained on pairs, against exact rejection."""

import pytest
import torch
from scipy import stats

from ebbflow.agents import AgentConfig, DenoisingAgent, TokenNetwork, build_token_agent, decode
from ebbflow.agents.references.tokens import MaskOneRandom
from ebbflow.envs import Annotated, Continuous, InputError, Target, Tokens
from ebbflow.envs.data import LabelledDataset
from ebbflow.envs.targets import PottsChain
from ebbflow.trainers import TrainConfig, Trainer, exact_bound, exact_law, likelihood_bound
from ebbflow.trainers.evaluation import live_numbers
from ebbflow.trainers.train import evaluate_run

CHAIN = PottsChain(4, 3)
STATES = CHAIN.space.all_states()
LAW = CHAIN(STATES).double().softmax(0)
SHORT = {
    "iterations": 400,
    "average_decay": 0.95,
    "agent": {"width": 64, "depth": 2},
    "generation_optimiser": {"rate": 1e-2, "warmup": 5},
}


def ends_meet(x):
    return x[:, 0] == x[:, -1]


def trained(target, **changes):
    trainer = Trainer(target, TrainConfig.from_dict(SHORT | changes))
    trainer.train()
    return trainer.evaluated_agent


@pytest.fixture
def agent():
    """With guesses that depend on everything, the context too."""
    agent = build_token_agent(Tokens(3, 2), config=AgentConfig(width=8), context_space=Continuous(2))
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return agent


def test_one_context_for_all_is_the_same_one_for_each(agent):
    context = torch.tensor([0.5, -1.0])
    x = agent.space.all_states()
    paths = agent.destroy(x, context=context.expand(8, -1))
    assert torch.equal(paths["context"], context.expand(8, -1))
    terms = agent.path_log_probs(paths)
    torch.testing.assert_close(agent.given(context).path_log_probs(paths), terms)
    k = torch.arange(3)
    for i in range(8):  # every row at its own context is that row alone
        alone = agent.given(context).step_log_prob(paths["state"][i, 1:], paths["state"][i, :-1], k)
        torch.testing.assert_close(alone, terms.generation[i])
    other = agent.path_log_probs(paths.set("context", paths["context"] + 1.0)).generation
    assert (other - terms.generation).abs().max() > 0.01
    torch.manual_seed(0)
    first = agent.generate(6, context=context)["state"]
    torch.manual_seed(0)
    assert torch.equal(agent.given(context).generate(6)["state"], first)


def test_everything_of_an_agent_works_at_a_given_context(agent):
    one = agent.given(torch.tensor([0.5, -1.0]))
    law = exact_law(one)
    assert law.sum().item() == pytest.approx(1.0, abs=1e-5)
    x = agent.space.all_states()
    assert (exact_bound(one, x) <= law.log() + 1e-5).all()
    bound = likelihood_bound(one, x.repeat(500, 1))
    assert bound.nats == pytest.approx(exact_bound(one, x).mean().item(), abs=4.5 * bound.stderr)
    assert decode(one, 5, order="left_to_right").shape == (5, 3)
    assert one.free_context_space is None and agent.log_z_given(torch.zeros(2)).shape == ()
    assert agent.log_z_given(torch.zeros(4, 2)).shape == (4,)


def test_contexts_that_do_not_fit_are_reported(agent):
    x = agent.space.all_states()
    with pytest.raises(InputError, match=r"conditional and expects contexts \[n, 2\], got none"):
        agent.generate(3)
    with pytest.raises(InputError, match=r"conditional and expects contexts \[n, 2\], got none"):
        agent.guess(x, 0)
    with pytest.raises(InputError, match=r"one for each of 8 trajectories, got \[3, 2\]"):
        agent.destroy(x, context=torch.zeros(3, 2))
    plain = DenoisingAgent(MaskOneRandom(agent.space), TokenNetwork(agent.space, 3, width=8))
    with pytest.raises(InputError, match="this agent is not conditional, and takes none"):
        plain.generate(3, context=torch.zeros(2))


def test_a_condition_is_fulfilled_and_its_law_is_that_of_exact_rejection():
    target = Annotated(CHAIN, ends_meet)
    agent = trained(target).given(torch.ones(1))
    possible = ends_meet(STATES)
    law = torch.where(possible, LAW, 0.0) / LAW[possible].sum()
    found = exact_law(agent).double()
    fulfilled = found[possible].sum().item()
    assert LAW[possible].sum() < 0.6 and fulfilled > 0.98
    assert 0.5 * (found - law).abs().sum() < 0.05
    n = 400
    x = agent.generate(3 * n)["state"][:, -1]
    index = (x[ends_meet(x)][:n] * 3 ** torch.arange(3, -1, -1)).sum(-1)
    rejected = (target.at(torch.ones(1)).sample(n) * 3 ** torch.arange(3, -1, -1)).sum(-1)
    expected = n * law[possible]
    for samples in (rejected, index):
        assert stats.chisquare(samples.bincount(minlength=81)[possible], expected).pvalue > 1e-3
    anything = LAW[possible] ** 0.5 / (LAW[possible] ** 0.5).sum()  # another law of the same support is told apart
    assert stats.chisquare(n * anything, expected).pvalue < 1e-3


@pytest.mark.parametrize("bins", [None, 3])
def test_asking_for_a_high_reward_gives_one(bins):
    target = Annotated(CHAIN, CHAIN, bins=bins)
    agent = trained(target)
    low, high = (target.bin(0), target.bin(-1)) if bins else (torch.tensor([0.5]), torch.tensor([5.0]))
    reward = {
        name: float((exact_law(agent.given(c)).double() * CHAIN(STATES)).sum()) for name, c in (("l", low), ("h", high))
    }
    usual = float((LAW * CHAIN(STATES)).sum())
    assert reward["l"] < usual - 1.0 and reward["h"] > usual + 1.0
    if bins is None:
        assert reward["h"] == pytest.approx(5.0, abs=0.3)  # three equal pairs and four zeros, the best there is
    else:
        truth = CHAIN(target.given(high).sample(2_000)).mean().item()
        assert reward["h"] == pytest.approx(truth, abs=0.15)


def test_labelled_data_train_and_are_judged_context_by_context():
    rows = CHAIN.sample(400)
    data = LabelledDataset.split(rows, labels=ends_meet(rows).long(), name="ends")
    trainer = Trainer(data, TrainConfig.from_dict(SHORT | {"iterations": 30, "batch_size": 64, "agent": {"width": 8}}))
    trainer.train()
    found = evaluate_run(trainer, samples=160)
    assert found["bits_per_dimension"] is not None and found["train_bits_per_dimension"] < 1.6
    assert {tuple(one["context"]) for one in found["contexts"]} == {(1.0, 0.0), (0.0, 1.0)}
    assert set(live_numbers(trainer.agent, data, 64)) == {"bits_per_dimension", "train_bits_per_dimension"}


def test_points_with_labels_train_too():
    rows = torch.randn(200, 2)
    data = LabelledDataset.split(rows, labels=(rows[:, 0] > 0).long(), name="halves")
    settings = {"iterations": 3, "batch_size": 64, "steps": 3, "agent": {"width": 8}}
    trainer = Trainer(data, TrainConfig.from_dict(settings))
    trainer.train()
    assert evaluate_run(trainer, samples=64)["train_log_likelihood"] is not None


def test_a_density_of_tokens_with_contexts_trains_by_vargrad():
    class Tilted(Target):
        """Zeros are liked by as much as the context says; log Z(c) = 3 log(1 + e^c)."""

        def __init__(self):
            super().__init__(Tokens(3, 2), name="tilted", context_space=Continuous(1))

        def log_prob(self, x, context):
            return (x == 0).sum(-1) * context.squeeze(-1)

        def sample_context(self, n):
            return 2.0 * torch.rand(n, 1) - 1.0

    settings = SHORT | {"iterations": 150, "batch_size": 128, "log_z_optimiser": {"rate": 1e-2, "warmup": 5}}
    trainer = Trainer(Tilted(), TrainConfig.from_dict(settings))
    trainer.train()
    for c in (-1.0, 1.0):
        context = torch.tensor([c])
        one = torch.tensor([c, 0.0]).softmax(0)
        law = torch.stack([one[row].prod() for row in Tokens(3, 2).all_states()])
        assert 0.5 * (exact_law(trainer.evaluated_agent.given(context)) - law).abs().sum() < 0.05
        log_z = 3.0 * torch.tensor([c, 0.0]).logsumexp(0).item()
        assert trainer.agent.log_z_given(context).item() == pytest.approx(log_z, abs=0.3)


def test_the_command_line_asks_for_a_condition(ebbflow, densities):
    densities.ends = lambda: Annotated(CHAIN, ends_meet)
    quick = ("--iterations", 3, "--batch-size", 64, "--evaluation-samples", 64, "--agent.width", 8)
    run = ebbflow("train", "densities:ends", *quick, "--out", "run")
    assert run.code == 0, run.err
    run = ebbflow("sample", "run", "-n", 5, "--context", "1", "--out", "samples.npz")
    assert run.code == 0, run.err
    assert "context" in ebbflow("sample", "run", "-n", 5, "--out", "more.npz").message
