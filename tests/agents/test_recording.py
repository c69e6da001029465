"""A loss of what rollouts have computed is the loss that computes it again, in value and gradient."""

import pytest
import torch

from ebbflow.agents import AgentConfig, build_agent, set_matmul_precision
from ebbflow.agents.recording import Recording
from ebbflow.envs import Continuous, InputError
from ebbflow.trainers.objectives import JointLoss, VarGrad

AGENTS = {
    "plain": {},
    "one layer": {"depth": 1},
    "three layers": {"depth": 3, "tables": False},
    "scores": {"features": ("raw", "asinh", "score"), "langevin": True},
    "from a normal law": {"reference": "variance_preserving"},
    "learned schedule": {"destruction_schedule": "learned"},
    "compressed": {"compression": 2.0},
}


def recorded(agent, density, new=5, destroyed=3, context=None):
    """Paths of both kinds, and their recording."""
    recording = Recording.of_agent(agent, new + destroyed)
    first, second = (None, None) if context is None else (context[:new], context[new:])
    parts = [
        agent.generate(new, density, context=first, scale=1.3, recording=recording.rows(0, new)),
        agent.destroy(
            torch.randn(destroyed, 2), density, context=second, recording=recording.rows(new, new + destroyed)
        ),
    ]
    return torch.cat(parts), recording


def check_same(agent, paths, recording, trunk="both", tolerance=1e-10, of_largest=False):
    parameters = list(agent.parameters())
    found = []
    for given in ({}, {"recording": recording}):
        terms = agent.path_log_probs(paths, trunk=trunk, **given)
        gradients = torch.autograd.grad(
            (terms.generation.sum(-1) - terms.destruction.sum(-1)).square().mean(), parameters, allow_unused=True
        )
        found.append([*terms, *(g for g in gradients if g is not None)])
    assert len(found[0]) == len(found[1]) > 10
    for one, other in zip(*found, strict=True):
        size = float(one.detach().abs().max()) if of_largest else 1.0
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance * size)
    return found


@pytest.mark.parametrize("trunk", ["both", "generation", "destruction"])
@pytest.mark.parametrize("settings", AGENTS.values(), ids=AGENTS)
def test_values_and_gradients_are_the_same(random_agent, quartic, settings, trunk):
    agent = random_agent(**settings)
    paths, recording = recorded(agent, quartic)
    terms, _ = check_same(agent, paths, recording, trunk)
    assert terms[1].abs().max() > 0.1
    torch.testing.assert_close(recording.path_features(2), agent.path_features(paths))


def test_contexts(randomise):
    config = AgentConfig(width=8, depth=2, time_grid="uniform")
    agent = randomise(build_agent(Continuous(2), scale=1.5, steps=3, config=config, context_space=Continuous(2)))
    context = torch.randn(8, 2)
    paths, recording = recorded(agent, lambda x, c: -((x - c) ** 2).sum(-1), context=context)
    terms, _ = check_same(agent, paths, recording)
    weight = agent.backbone.embed_context[0].weight
    (gradient,) = torch.autograd.grad(agent.path_log_probs(paths, recording=recording).generation.sum(), weight)
    assert gradient.abs().max() > 1e-3 and len(terms) > 10


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_rounded_products_are_rounded_in_the_gradient_too(random_agent, quartic, precision):
    agent = random_agent(depth=3).float()
    set_matmul_precision(agent, precision)
    torch.set_default_dtype(torch.float32)
    paths, recording = recorded(agent, quartic)
    if precision == "tf32":
        check_same(agent, paths, recording, tolerance=1e-4)
    else:  # the gradient at x_0 is rounded once for all rows, not row by row, and some of it cancels
        check_same(agent, paths, recording, tolerance=5e-3, of_largest=True)


def test_a_joint_loss_takes_it_with_target_networks(random_agent, quartic):
    agent = random_agent()
    objective = JointLoss(agent, VarGrad())
    paths, recording = recorded(agent, quartic)
    found = []
    for given in ({}, {"recording": recording}):
        losses = objective(paths, **given)
        total = losses["loss_generation"] + losses["loss_destruction"]
        found.append([total, *torch.autograd.grad(total, [p for p in agent.parameters() if p is not agent.log_z])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


def test_parameters_that_have_changed_since_are_noticed(random_agent, quartic):
    agent = random_agent()
    objective = JointLoss(agent, VarGrad(), target_networks="none")
    paths, recording = recorded(agent, quartic)
    objective(paths, recording=recording)
    with torch.no_grad():
        agent.backbone.embed_state.bias.add_(0.1)
    with pytest.raises(InputError, match="recording: expected rollouts of the parameters as they are"):
        objective(paths, recording=recording)


def test_a_rollout_between_loss_and_backward_is_noticed(random_agent, quartic):
    agent = random_agent()
    paths, recording = recorded(agent, quartic)
    terms = agent.path_log_probs(paths, recording=recording)
    agent.generate(8, quartic, recording=recording)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        terms.generation.sum().backward()


@pytest.mark.parametrize(
    "settings",
    [{"shared_backbone": False}, {"destruction_mean": "reference", "destruction_variance": "reference"}],
)
def test_agents_that_do_not_suit(random_agent, settings):
    agent = random_agent(**settings)
    assert not Recording.suits(agent)
    with pytest.raises(InputError, match="recording: expected an agent whose"):
        Recording.of_agent(agent, 4)


class Constant(torch.nn.Module):
    """A trunk of a user's own, with what the agent asks of one and no more."""

    width = 8

    def time_embedding(self):
        return torch.zeros(4, 8)

    def context_embedding(self, context):
        return None

    def forward(self, features, step, time_embedding=None, context_embedding=None):
        return features.new_ones(*features.shape[:-2], 8)


def test_a_trunk_of_ones_own_is_not_recorded(random_agent, quartic):
    agent = random_agent()
    agent.backbone = Constant()
    assert not Recording.suits(agent)
    assert agent.log_ratio(agent.generate(4, quartic)).shape == (4,)
    assert agent.log_ratio(agent.destroy(torch.randn(4, 2), quartic)).shape == (4,)


@pytest.mark.parametrize(
    "wrong",
    [{"n": 3}, {"first": 1, "start": torch.zeros(4, 2)}, {"start": torch.zeros(4, 2)}, {"differentiable": True}],
)
def test_paths_that_do_not_fit(random_agent, quartic, wrong):
    agent = random_agent()
    recording = Recording.of_agent(agent, 4)
    with pytest.raises(InputError, match="recording: expected 4 whole paths without gradient, got"):
        agent.generate(**{"n": 4, "density": quartic, **wrong}, recording=recording)
