"""A masking order learned with its generation policy, on three variables whose likelihood is known.

The guess is made too weak on purpose: it reads a position's predecessors alone, so that it can be exact from left to
right and in no other order. Bounds and gradients are held to sums over all states and orders.
"""

import itertools

import pytest
import torch
from scipy import stats
from tensordict import TensorDict
from torch import nn

from ebbflow.agents import DenoisingAgent, Origin, TokenNetwork
from ebbflow.agents.references.tokens import MaskLearnedOrder, MaskOneRandom
from ebbflow.envs import InputError, Target, Tokens
from ebbflow.trainers import TrainConfig, Trainer, exact_bound, exact_law
from ebbflow.trainers.objectives import JointLoss, MaximumLikelihood, VarGrad

SPACE = Tokens(length=3, vocabulary=3)
STATES = SPACE.all_states()
LAW = (1.5 * (7.0 * torch.arange(27, dtype=torch.float64) ** 2).sin()).softmax(0)  # of the data
ENTROPY = -(LAW * LAW.log()).sum().item()


class Data(Target):
    """Samples of the law, and no density."""

    def __init__(self):
        super().__init__(SPACE, name="three-variables")

    def sample(self, n):
        return STATES[torch.multinomial(LAW, n, replacement=True)]


class Predecessors(nn.Module):
    """A table of guesses for each position, by the symbols before it; and one of position scores, by what is masked."""

    def __init__(self, scores=True):
        super().__init__()
        self.guesses = nn.Parameter(torch.zeros(3, 64, 3))
        self.scores = nn.Parameter(torch.zeros(8, 3)) if scores else None

    def forward(self, state, k):
        before = torch.stack([0 * state[..., 0], state[..., 0] + 1, 4 * state[..., 1] + state[..., 0] + 5], dim=-1)
        guess = self.guesses[torch.arange(3), before]
        if self.scores is None:
            return guess
        masked = ((state == SPACE.mask) * torch.tensor([1, 2, 4])).sum(-1)
        return torch.cat([guess, self.scores[masked].unsqueeze(-1)], dim=-1)


def scattered(module, spread=0.5):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=spread)
    return module


def small_agent():
    """With parameters all over the place."""
    torch.manual_seed(3)
    scores = scattered(TokenNetwork(SPACE, 3, width=6, depth=1, outputs=1))
    return DenoisingAgent(MaskLearnedOrder(SPACE, scores), scattered(Predecessors()))


def all_paths(sample):
    """Every order in which a sample can be masked, as trajectories of batch 6."""
    paths = []
    for order in itertools.permutations(range(3)):
        states = [sample]
        for i in order:
            states.append(states[-1].index_fill(0, torch.tensor([i]), SPACE.mask))
        paths.append(torch.stack(states[::-1]))
    trajectory = TensorDict({"state": torch.stack(paths), "log_reward": torch.zeros(6)}, batch_size=[6])
    return Origin.DATA.mark(trajectory).set("sample", torch.zeros(6, dtype=torch.int64))


def divergence(agent, paths):
    """KL(p←(τ | x) ‖ p→(τ)) + E [log R], of all paths of one sample."""
    terms = agent.path_log_probs(paths)
    law = terms.destruction.sum(-1)
    return -(law.exp() * terms.log_ratio(paths["log_reward"])).sum()


# Oracles --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double_precision")
def test_the_bound_lies_below_the_log_likelihood_by_the_divergence_of_orders():
    agent = small_agent()
    law = exact_law(agent)
    assert law.sum().item() == pytest.approx(1.0, abs=1e-12)
    for sample in STATES[::6]:
        paths = all_paths(sample)
        bound = exact_bound(agent, sample.unsqueeze(0)).item()
        assert bound == pytest.approx(-divergence(agent, paths).item(), abs=1e-12)
        terms = agent.path_log_probs(paths)
        generation, destruction = terms.generation.sum(-1), terms.destruction.sum(-1)
        log_likelihood = generation.logsumexp(0)
        assert log_likelihood.item() == pytest.approx(law[(sample == STATES).all(-1)].log().item(), abs=1e-12)
        gap = (destruction.exp() * (destruction - generation + log_likelihood)).sum()  # KL from the orders' posterior
        assert log_likelihood.item() - bound == pytest.approx(gap.item(), abs=1e-12)
        assert gap > 1e-3


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("priced", [False, True])
def test_the_gradient_of_destruction_is_that_of_the_divergence(priced):
    """Twice it, by VarGrad among the paths of a sample, weighed by their law; and the cost of a path adds to it."""
    agent, paths = small_agent(), all_paths(STATES[11])
    if priced:
        paths["log_reward"] = torch.linspace(0.0, 2.0, 6)
    paths["weight"] = agent.path_log_probs(paths).destruction.sum(-1).exp().detach()
    parameters = agent.parameter_groups()["destruction"]
    expected = torch.autograd.grad(divergence(agent, paths), parameters)
    objective = JointLoss(agent, MaximumLikelihood(), VarGrad(), target_networks="none")
    losses = objective(paths)
    losses["loss_destruction"].backward()
    trained = objective.agent_params
    for name, parameter in agent.reference.named_parameters():
        found = trained.get(("reference", *name.split("."))).grad
        index = next(i for i, one in enumerate(parameters) if one is parameter)
        torch.testing.assert_close(found, 2.0 * expected[index], rtol=0, atol=1e-10)
    assert sum(one.abs().sum() for one in expected) > 0.1


@pytest.mark.usefixtures("double_precision")
def test_finite_differences_of_the_bound_agree():
    agent, sample = small_agent(), STATES[11:12]
    bias = agent.reference.scores.logits.bias
    (expected,) = torch.autograd.grad(divergence(agent, all_paths(sample[0])), [bias])
    for i in range(3):
        found = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                bias[i] += shift
                found.append(-exact_bound(agent, sample).item())
                bias[i] -= shift
        assert (found[0] - found[1]) / 2e-5 == pytest.approx(expected[i].item(), abs=1e-8)


# Training -------------------------------------------------------------------------------------------------------------

SETTINGS = {
    **{"iterations": 300, "batch_size": 64, "paths_per_sample": 4, "dtype": "float64", "target_networks": "none"},
    **{"generation_optimiser": {"rate": 0.1}, "destruction_optimiser": {"rate": 0.03}},
}


def trained(reference, network, **settings):
    config = TrainConfig.from_dict(SETTINGS | {"objective": "maximum_likelihood"} | settings)
    trainer = Trainer(Data(), config, agent=DenoisingAgent(reference, network))
    trainer.train()
    return trainer.evaluated_agent


def mean_bound(agent):
    return (LAW * exact_bound(agent, STATES)).sum().item()


@pytest.mark.usefixtures("double_precision")
def test_the_order_that_the_guess_is_good_at_is_found():
    """The gap of random masking is the guess's; the learned order closes it, and samples are those of the data."""
    random = trained(MaskOneRandom(SPACE), Predecessors(scores=False))
    learned = trained(MaskLearnedOrder(SPACE, width=16), Predecessors())
    gaps = [-ENTROPY - mean_bound(agent) for agent in (random, learned)]
    assert gaps[0] > 0.1  # nats, of an entropy of 3.0
    assert 0.0 <= gaps[1] < 0.03
    law = exact_law(learned)
    assert (exact_bound(learned, STATES) <= law.log() + 1e-12).all()
    divergence_of_law = (LAW * (LAW.log() - law.log())).sum().item()
    assert 0.0 <= divergence_of_law <= gaps[1] + 1e-12
    samples = learned.generate(20_000)["state"][:, -1]
    counts = torch.bincount((samples * torch.tensor([9, 3, 1])).sum(-1), minlength=27).double()
    assert stats.chisquare(counts.numpy(), (law * 20_000).numpy()).pvalue > 1e-3
    few = torch.bincount((samples[:1000] * torch.tensor([9, 3, 1])).sum(-1), minlength=27).double()
    assert stats.chisquare(few.numpy(), (LAW * 1000).numpy()).pvalue > 1e-3
    written = (learned.generate(500)["state"] != SPACE.mask).long().argmax(1).double().mean(0)  # at which grid point
    assert (written.diff() > 0.3).all()  # from left to right


# A user's cost --------------------------------------------------------------------------------------------------------

PRICE = 1.0


def early_first(paths):
    """PRICE for each step that position 0 is written before the last one."""
    first = (paths["state"][..., 0] != SPACE.mask).long().argmax(1)  # 1, 2 or 3
    return PRICE * (3.0 - first)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("price", [0.0, 0.7])
def test_the_order_goes_to_where_it_is_cheap(price, monkeypatch):
    """Under a generation that is indifferent, to exp(−cost), normalised: the best trade of bound against cost."""
    monkeypatch.setitem(globals(), "PRICE", price)
    config = TrainConfig.from_dict(
        SETTINGS
        | {"iterations": 200}
        | {"generation_optimiser": {"rate": 1e-12}, "path_cost": f"{__name__}:early_first", "average_decay": 0.9}
    )
    network = TokenNetwork(SPACE, 3, width=4, depth=1, outputs=4)
    trainer = Trainer(Data(), config, agent=DenoisingAgent(MaskLearnedOrder(SPACE, width=16), network))
    trainer.train()
    paths = TensorDict.cat([all_paths(sample) for sample in STATES])
    law = trainer.evaluated_agent.path_log_probs(paths).destruction.sum(-1).exp()
    cost = early_first(paths)
    expected = (-cost).exp() / (-cost[:6]).exp().sum()
    assert (law - expected).abs().max() < 0.02


def test_costs_that_do_not_fit_are_told():
    agent = DenoisingAgent(MaskLearnedOrder(SPACE, width=4), TokenNetwork(SPACE, 3, width=4, outputs=4))
    settings = {"iterations": 1, "batch_size": 4, "path_cost": "math:sqrt"}
    with pytest.raises(InputError, match=r"path_cost: expected none, for there is no destruction to learn"):
        Trainer(Data(), TrainConfig.from_dict(settings | {"path_cost": "builtins:len"}))
    with pytest.raises(InputError, match=r"path_cost: expected finite numbers \[4\], one a path, got int"):
        Trainer(Data(), TrainConfig.from_dict(settings | {"path_cost": "builtins:len"}), agent=agent).train()
    with pytest.raises(InputError, match=r"path_cost 'math:nothing': "):
        Trainer(Data(), TrainConfig.from_dict(settings | {"path_cost": "math:nothing"}), agent=agent)


def test_it_is_a_setting():
    config = TrainConfig.from_dict({"iterations": 2, "batch_size": 8, "agent": {"reference": "mask_learned_order"}})
    trainer = Trainer(Data(), config)
    assert (trainer.config.objective, trainer.config.destruction_objective) == ("maximum_likelihood", "vargrad")
    before = [p.clone() for p in trainer.agent.parameter_groups()["destruction"]]
    trainer.train()
    after = trainer.agent.parameter_groups()["destruction"]
    assert any(not one.equal(other) for one, other in zip(before, after, strict=True))
    with pytest.raises(InputError, match=r"random_level needs an agent that guesses"):
        Trainer(Data(), TrainConfig.from_dict(config.to_dict() | {"objective": "random_level"}))
