"""Which path a reward is credited to: the gradients of both positions of the switch, by enumeration of all paths.

All orders in which 3 tokens of 2 can be masked, and all samples: 48 paths, so that every expectation is a sum.
"""

import itertools

import pytest
import torch
from tensordict import TensorDict

from ebbflow.agents import AgentConfig, Origin, build_token_agent
from ebbflow.agents.exploration import NOT_WIDENED
from ebbflow.envs import InputError, get_target
from ebbflow.envs.targets import PottsChain
from ebbflow.trainers import TrainConfig, Trainer, exact_law
from ebbflow.trainers.objectives import JointLoss, ReverseKLLogDerivative

pytestmark = pytest.mark.usefixtures("double_precision")

CHAIN = PottsChain(length=3, vocabulary=2, coupling=1.5, field=0.7)
SPACE = CHAIN.space


def make_agent(size=0.3, reference="mask_one_random"):
    agent = build_token_agent(SPACE, config=AgentConfig(reference=reference, width=6, depth=1))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in agent.network.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return agent


def all_paths():
    """Each sample, destroyed in each order: `[48, 4, 3]`."""
    target = CHAIN.double()
    paths = []
    for sample, order in itertools.product(SPACE.all_states(), itertools.permutations(range(3))):
        states = [sample]
        for position in order:
            states.append(states[-1].scatter(0, torch.tensor(position), SPACE.mask))
        paths.append(torch.stack(states[::-1]))
    states = torch.stack(paths)
    return TensorDict({"state": states, "log_reward": target(states[:, -1])}, batch_size=[len(states)])


def gradient(loss, agent):
    found = torch.autograd.grad(loss, list(agent.network.parameters()), allow_unused=True)
    zeros = (torch.zeros_like(p) for p in agent.network.parameters())
    return torch.cat([(z if g is None else g).flatten() for g, z in zip(found, zeros, strict=True)])


def expected_gradient(agent, law):
    """Of the objective, with every path as often as `law` `[48]` says; free of the leave-one-out factor."""
    paths = Origin.ON_POLICY.mark(all_paths())
    paths["weight"] = law
    losses = JointLoss(agent, ReverseKLLogDerivative(), target_networks="none")(paths)
    return gradient(losses["loss_generation"], agent) * (len(paths) - 1) / len(paths)


def laws(agent):
    """Of the path that was followed, and of one redrawn for its sample: p→(τ), and p→(x_T) p←(τ | x_T)."""
    paths = all_paths()
    terms = agent.path_log_probs(paths)
    followed = terms.generation.sum(-1).exp()
    index = (paths["state"][:, -1] * torch.tensor([4, 2, 1])).sum(-1)
    return followed, (exact_law(agent)[index] * terms.destruction.sum(-1).exp()).detach()


def reverse_kl(agent):
    """Σ p→(τ) D(τ), the divergence between paths less log Z; with gradient through both."""
    paths = all_paths()
    return (laws(agent)[0] * agent.log_ratio(paths)).sum()


def test_the_paths_are_all_of_them():
    followed, redrawn = laws(make_agent())
    assert followed.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert redrawn.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_followed_is_the_gradient_of_the_reverse_kl_between_paths():
    agent = make_agent()
    expected = gradient(reverse_kl(agent), agent)
    found = expected_gradient(agent, laws(agent)[0].detach())
    assert expected.norm() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_redrawn_is_half_the_gradient_of_the_log_variance_under_the_redrawn_law():
    agent = make_agent()
    redrawn = laws(agent)[1]
    log_ratio = agent.log_ratio(all_paths())
    variance = (redrawn * log_ratio.square()).sum() - (redrawn * log_ratio).sum().square()
    torch.testing.assert_close(expected_gradient(agent, redrawn), 0.5 * gradient(variance, agent))


def test_redrawn_is_another_direction_than_the_reverse_kl():
    agent = make_agent()
    expected = gradient(reverse_kl(agent), agent)
    found = expected_gradient(agent, laws(agent)[1])
    bias = ((found - expected).norm() / expected.norm()).item()
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0).item()
    assert bias == pytest.approx(0.831, abs=1e-3)  # of the length of the gradient itself
    assert cosine == pytest.approx(0.895, abs=1e-3)


@pytest.mark.parametrize(("size", "reference"), [(0.0, "mask_one_random"), (0.3, "mask_last")])
def test_both_are_the_same_where_generation_is_the_reversal_of_its_own_destruction(size, reference):
    """An untrained policy, whose guesses fit any order, and one with one order only."""
    agent = make_agent(size, reference)
    followed, redrawn = laws(agent)
    if reference == "mask_last":  # the other orders are impossible, and their terms are not finite
        possible = followed > 0
        torch.testing.assert_close(redrawn[possible], followed[possible].detach())
        return
    torch.testing.assert_close(redrawn, followed.detach())
    torch.testing.assert_close(expected_gradient(agent, redrawn), expected_gradient(agent, followed.detach()))


@pytest.mark.parametrize("position", ["followed", "redrawn"])
def test_the_trainer_draws_what_the_switch_says(position):
    agent = make_agent()
    settings = {"objective": "reverse_kl_log_derivative", "reward_path": position, "replay": {"share": 0.0}}
    trainer = Trainer(CHAIN, TrainConfig.from_dict({**settings, "dtype": "float64", "batch_size": 200}), agent=agent)
    law = dict(zip(("followed", "redrawn"), laws(agent), strict=True))[position].detach()
    expected = expected_gradient(agent, law)
    found = []
    for _ in range(80):
        paths = trainer.new_paths.generate(200, NOT_WIDENED)
        found.append(gradient(trainer.objective(paths)["loss_generation"], agent))
    mean, stderr = torch.stack(found).mean(0), torch.stack(found).std(0) / 80**0.5
    moved = stderr > 1e-9
    assert ((mean - expected)[moved] / stderr[moved]).abs().max() < 4.5
    assert expected.norm() > 5 * stderr.norm()  # else agreement would say nothing


def test_the_switch_is_refused_where_it_says_nothing():
    settings = {"objective": "reverse_kl_log_derivative", "reward_path": "redrawn", "agent": {"time_grid_power": 2.0}}
    with pytest.raises(InputError, match=r"reward_path: redrawn is for .* a destruction that has nothing to learn"):
        Trainer(get_target("gmm25"), TrainConfig.from_dict(settings))
    with pytest.raises(InputError, match=r"reward_path: expected one of \['followed', 'redrawn'\], got 'backwards'"):
        TrainConfig(reward_path="backwards")
