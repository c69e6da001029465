"""Actors and state: whose parameters they are, copies, saving, and the distribution that may be a Dirac."""

import copy

import pytest
import torch
from tensordict import TensorDict, TensorDictParams
from torch.distributions import Independent, Normal
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import LossModule

from ebbflow.agents import AgentConfig, DiracNormal, build_agent
from ebbflow.agents.actors import gaussian_log_prob
from ebbflow.envs import CallableTarget, Continuous, GenerationEnv


def observe(k=2, n=6):
    return TensorDict({"state": torch.randn(n, 2), "step": torch.full((n, 1), k)}, batch_size=[n])


def actor_of(agent, which, density=None):
    return getattr(agent, f"{which}_actor")(density)


# The distribution of a step -------------------------------------------------------------------------------------------


def test_dirac_normal():
    loc, scale = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    normal, law = Independent(Normal(loc, scale), 1), DiracNormal(loc, scale)
    x = torch.randn(7, 5, 3)
    torch.testing.assert_close(law.log_prob(x), normal.log_prob(x))
    assert law.event_shape == (3,) and law.rsample((7,)).shape == (7, 5, 3)
    draws = law.sample((40_000,))
    assert ((draws.mean(0) - loc).abs() < 5 * scale / 200).all()
    assert ((draws.std(0) / scale - 1).abs() < 0.02).all()

    law = DiracNormal(loc, scale * torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(law.log_prob(x), normal.log_prob(x) - Normal(loc, scale).log_prob(x)[..., 1])
    assert torch.equal(law.sample((4,))[..., 1], loc[:, 1].expand(4, 5))


def test_dirac_normal_has_finite_gradients():
    loc, scale = torch.randn(5, 3, requires_grad=True), torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    law = DiracNormal(loc, scale.expand(5, 3))
    assert not law.sample().requires_grad
    for value in (law.rsample().sum(), law.log_prob(torch.randn(5, 3)).sum()):
        gradients = torch.autograd.grad(value, [loc, scale])
        assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)


def test_gaussian_log_prob():
    x, mean, log_variance = torch.randn(3, 4, 5, 2)
    expected = Normal(mean, (0.5 * log_variance).exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(gaussian_log_prob(x, mean, log_variance), expected)
    expected = Normal(mean, torch.full_like(mean, 3.0)).log_prob(x).sum(-1)
    torch.testing.assert_close(gaussian_log_prob(x, mean, torch.tensor([9.0]).log()), expected)


# Actors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["generation", "destruction"])
@pytest.mark.parametrize("shared", [True, False])
def test_actors_hold_the_agents_own_parameters(random_agent, shared, which):
    agent = random_agent(shared_backbone=shared)
    trunk = agent.backbone if which == "generation" or shared else agent.destruction_backbone
    expected = {id(p) for p in [*trunk.parameters(), *getattr(agent, which).parameters()]}
    actor = actor_of(agent, which)
    assert {id(p) for p in actor.parameters()} == expected
    seen = observe()
    before = actor(seen.clone())["loc"]
    with torch.no_grad():
        getattr(agent, which).readout.linear.bias.add_(1.0)
    assert (actor(seen.clone())["loc"] - before).abs().min() > 1e-3


def test_the_targets_tensors_are_not_the_actors(random_agent):
    target = CallableTarget(torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0)), dim=2)
    agent = random_agent(langevin=True)
    actor = agent.generation_actor(target)
    assert not {id(p) for p in target.parameters()} & {id(p) for p in actor.parameters()}
    copy.deepcopy(actor)(observe())
    assert target.gradient_calls == 6  # the copy reads the same target, whose count goes on


@pytest.mark.parametrize("which", ["generation", "destruction"])
def test_copies_of_actors_stand_on_their_own(random_agent, which):
    agent = random_agent()
    actor = actor_of(agent, which)
    other, seen = copy.deepcopy(actor), observe()
    before = actor(seen.clone())["loc"]
    assert torch.equal(other(seen.clone())["loc"], before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    assert torch.equal(actor(seen.clone())["loc"], before)
    assert (other(seen.clone())["loc"] - before).abs().max() > 1e-3
    written = other(seen.clone())
    total = written["loc"].sum() + written["scale"].sum()
    for gradient in torch.autograd.grad(total, list(other.parameters()), materialize_grads=True):
        assert gradient.any()  # trunk and head of the copy are its own
    actor.load_state_dict(other.state_dict())
    assert torch.equal(actor(seen.clone())["loc"], other(seen.clone())["loc"])


@pytest.mark.parametrize("which", ["generation", "destruction"])
def test_actors_are_functional_in_torchrl_losses(random_agent, which):
    """A loss module swaps parameters in and out of an actor; the swapped ones must be those that act."""

    class Probe(LossModule):
        actor: ProbabilisticActor
        actor_params: TensorDictParams
        target_actor_params: TensorDictParams

        def __init__(self, actor):
            super().__init__()
            self.convert_to_functional(actor, "actor")

    actor, other = actor_of(random_agent(seed=1), which), actor_of(random_agent(seed=2), which)
    probe, seen = Probe(actor), observe()
    found = []
    for parameters in (probe.actor_params, TensorDict.from_module(other)):
        with parameters.to_module(probe.actor):
            found.append(probe.actor(seen.clone())["loc"])
    assert torch.equal(found[0], actor(seen.clone())["loc"])
    assert torch.equal(found[1], other(seen.clone())["loc"])
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_actors_sample_unless_told_otherwise(random_agent, quartic):
    agent = random_agent()
    env = GenerationEnv(quartic, agent.steps, batch_size=[5], dtype=torch.float64)
    actor = agent.generation_actor()
    walk = env.rollout(3, actor)
    assert (walk["action"] != walk["loc"]).all()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        walk = env.rollout(3, actor)
    assert torch.equal(walk["action"], walk["loc"])


def test_rows_of_an_actor_may_be_at_different_steps(random_agent):
    agent = random_agent(langevin=True)
    states, score = torch.randn(6, 2), torch.randn(6, 2)

    class Fixed:
        def value_and_score(self, x):
            return x.sum(-1), score

    steps = torch.tensor([0, 1, 2, 0, 1, 2])
    written = agent.generation_actor(Fixed())(TensorDict({"state": states, "step": steps.unsqueeze(-1)}, [6]))
    for i, k in enumerate(steps.tolist()):
        mean, log_variance = agent.generation_step(states[i : i + 1], k, score[i : i + 1])
        torch.testing.assert_close(written["loc"][i], (mean - states[i])[0])
        torch.testing.assert_close(written["scale"][i], (0.5 * log_variance).exp()[0])
    written = agent.destruction_actor()(TensorDict({"state": states, "step": steps.unsqueeze(-1) + 1}, [6]))
    for i, k in enumerate(steps.tolist()):
        mean, log_variance = agent.destruction_step(states[i : i + 1], k + 1)
        torch.testing.assert_close(written["loc"][i], (mean - states[i])[0])
        torch.testing.assert_close(written["scale"][i], (0.5 * log_variance).exp()[0])


# State of an agent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_saving_and_copying(random_agent, quartic, shared, tmp_path):
    settings = {"shared_backbone": shared, "langevin": True, "reference": "variance_preserving"}
    agent = random_agent(seed=1, **settings)
    paths = agent.generate(5, quartic)
    expected = agent.log_ratio(paths).detach()
    torch.save(agent.state_dict(), tmp_path / "agent.pt")
    loaded = random_agent(seed=2, **settings)
    assert (loaded.log_ratio(paths) - expected).abs().min() > 1e-3
    loaded.load_state_dict(torch.load(tmp_path / "agent.pt", weights_only=True))
    assert torch.equal(loaded.log_ratio(paths), expected) and torch.equal(loaded.log_z, agent.log_z)

    other = copy.deepcopy(agent)
    assert torch.equal(other.log_ratio(paths), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    assert torch.equal(agent.log_ratio(paths), expected)
    assert (other.log_ratio(paths) - expected).abs().min() > 1e-3


def test_the_state_is_what_is_learned(random_agent):
    """Tables of the reference are settings, not state: they are rebuilt, and cannot disagree with a loaded file."""
    agent = random_agent(reach=None)
    assert set(agent.state_dict()) == {name for name, _ in agent.named_parameters()}
    found = set(random_agent().state_dict()) - set(agent.state_dict())  # what the training has found
    assert found == {"generation.reach.bound", "destruction.reach.bound"}
    assert agent.log_z.shape == ()


@pytest.mark.parametrize("shared", [True, False])
def test_which_loss_trains_which_trunk(random_agent, quartic, shared):
    agent = random_agent(shared_backbone=shared)
    terms = agent.path_log_probs(agent.generate(8, quartic))
    trunks = {"generation": agent.backbone, "destruction": agent.destruction_backbone or agent.backbone}
    assert (trunks["generation"] is trunks["destruction"]) == shared
    reached = {}
    for name in ("generation", "destruction"):
        agent.zero_grad()
        getattr(terms, name).sum().backward(retain_graph=True)
        reached[name] = {id(p) for p in agent.parameters() if p.grad is not None and p.grad.abs().max() > 0}
        own = [*trunks[name].parameters(), *getattr(agent, name).parameters()]
        assert reached[name] == {id(p) for p in own}
    assert bool(reached["generation"] & reached["destruction"]) == shared


def test_no_second_trunk_for_nothing():
    config = AgentConfig(shared_backbone=False, width=4).variant("generation")
    assert build_agent(Continuous(2), scale=1.0, steps=2, config=config).destruction_backbone is None
