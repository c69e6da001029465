"""Detailed and sub-trajectory balance with a state flow: exact cases, limits, and who is trained by what."""

import itertools
import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.envs import CallableTarget, Continuous, InputError
from ebbflow.envs.spaces import Compressed
from ebbflow.trainers.objectives import DetailedBalance, JointLoss, SubTrajectoryBalance, TrajectoryBalance, VarGrad

PLAIN, COMPRESSED = Continuous(2), Compressed(2, length=2.0)
pytestmark = pytest.mark.usefixtures("double_precision")

REFERENCES = ("bridge", "variance_exploding", "variance_preserving")
FLOWS = [DetailedBalance(), SubTrajectoryBalance(0.5), SubTrajectoryBalance(2.0)]
TARGET = CallableTarget(lambda x: -(x**4).sum(-1) / 8 + x[:, 0] * x[:, 1] + 0.5 * x[:, 0], dim=2, name="quartic")


def make_agent(size=0.3, steps=4, space=PLAIN, **settings):
    config = AgentConfig(**{"width": 8, "frequencies": (1.0,), "compression": None, **settings})
    agent = build_agent(space, scale=1.5, steps=steps, config=config, flow=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return agent


def losses_of(agent, objective, paths, **settings):
    module = JointLoss(agent, objective, **settings)
    if module.use_targets:
        SoftUpdate(module, tau=0.1)  # without which TorchRL warns
    return module(paths)


def reached(loss, agent):
    gradients = torch.autograd.grad(loss, list(agent.parameters()), retain_graph=True, materialize_grads=True)
    return {name for (name, _), gradient in zip(agent.named_parameters(), gradients, strict=True) if gradient.any()}


# Exact cases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("objective", FLOWS, ids=str)
@pytest.mark.parametrize("space", [PLAIN, COMPRESSED])
@pytest.mark.parametrize("reference", REFERENCES)
def test_the_loss_is_zero_for_exact_policies_and_flows(reference, space, objective, steps):
    """The untrained agent is the reference, exact for its own last law, and so is its flow; on any paths."""
    agent = make_agent(size=0.0, steps=steps, space=space, reference=reference)
    variance = agent.reference.initial_std**2
    for k in range(steps):
        variance = agent.reference.generation_factor[k] ** 2 * variance + agent.reference.generation_variance[k]
    log_z = 3.0 + math.log(2 * math.pi * variance)

    def log_prob(x):  # normal in the coordinates of the space
        return 3.0 - 0.5 * space.coordinates(x).square().sum(-1) / variance - space.log_volume(x)

    target = CallableTarget(log_prob, dim=2)
    with torch.no_grad():
        agent.log_z.fill_(log_z)
    for paths in (agent.generate(20, target, scale=2.0), agent.destroy(3.0 * torch.randn(20, 2), target)):
        losses = losses_of(agent, objective, paths)
        for name in ("loss_generation", "loss_destruction", "loss_flow"):
            assert losses[name].item() == pytest.approx(0.0, abs=1e-18), name
    with torch.no_grad():
        agent.log_z.add_(0.1)
    assert losses_of(agent, objective, paths)["loss_generation"] > 1e-5


@pytest.mark.parametrize("forward_looking", [False, True])
@pytest.mark.parametrize("reference", REFERENCES)
def test_the_untrained_flow_is_the_documented_one(reference, forward_looking):
    agent = make_agent(size=0.0, reference=reference, forward_looking=forward_looking)
    agent.log_z.data.fill_(0.7)
    states = torch.randn(6, 5, 2)
    paths = TensorDict({"state": states, "log_density": TARGET(states[:, 1:-1])}, [6])
    found = agent.path_log_flow(paths, agent.path_features(paths), agent.log_z)
    assert found.shape == (6, 3)
    reference = agent.reference
    variance = reference.initial_std**2
    for k in range(1, 4):
        variance = reference.generation_factor[k - 1] ** 2 * variance + reference.generation_variance[k - 1]
        normal = torch.distributions.Normal(0.0, math.sqrt(variance))
        start = 0.7 + normal.log_prob(states[:, k]).sum(-1)
        t = reference.times[k] if forward_looking else 0.0
        torch.testing.assert_close(found[:, k - 1], (1 - t) * start + t * TARGET(states[:, k]))


def test_a_flow_changes_nothing_else_of_an_agent():
    torch.manual_seed(0)
    without = build_agent(Continuous(2), scale=1.5, steps=3).state_dict()
    torch.manual_seed(0)
    both = build_agent(Continuous(2), scale=1.5, steps=3, flow=True).state_dict()
    assert {name for name in both if name not in without} == {name for name in both if name.startswith("flow.")}
    assert all(torch.equal(value, both[name]) for name, value in without.items())


# Formula and limits ---------------------------------------------------------------------------------------------------


def by_hand(agent, paths, weight_of):
    """Sum over all parts, one after another, as the module docstring of SubTB writes it."""
    terms = agent.path_log_probs(paths)
    inner = agent.path_log_flow(paths, agent.path_features(paths), agent.log_z)
    log_flow = torch.cat([(agent.log_z + terms.initial)[:, None], inner, paths["log_reward"][:, None]], 1)
    total, weights = torch.zeros(len(paths)), 0.0
    for i, j in itertools.combinations(range(agent.steps + 1), 2):
        steps = (terms.generation - terms.destruction)[:, i:j].sum(-1)
        total = total + weight_of(j - i) * (log_flow[:, i] + steps - log_flow[:, j]) ** 2
        weights += weight_of(j - i)
    return (total / weights).mean()


@pytest.mark.parametrize("decay", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("reference", REFERENCES)
def test_sub_trajectory_balance_follows_the_formula(reference, decay):
    agent = make_agent(reference=reference)
    paths = agent.generate(9, TARGET, scale=1.5)
    expected = by_hand(agent, paths, lambda length: decay**length)
    losses = losses_of(agent, SubTrajectoryBalance(decay), paths, target_networks="none")
    for name in ("loss_generation", "loss_destruction", "loss_flow"):
        torch.testing.assert_close(losses[name], expected)


@pytest.mark.parametrize("residual", ["squared", "huber", "log_cosh"])
@pytest.mark.parametrize(
    ("limit", "simple"), [(0.0, DetailedBalance()), (math.inf, TrajectoryBalance())], ids=["detailed", "trajectory"]
)
def test_limits_of_sub_trajectory_balance(limit, simple, residual):
    """Values and gradients, exactly at the limits and nearly so close to them."""
    agent = make_agent()
    paths = agent.generate(9, TARGET, scale=1.5)
    paths["weight"] = torch.rand(9) + 0.1
    near = 1e-9 if limit == 0.0 else 1e9
    expected = losses_of(agent, simple, paths, residual=residual, residual_bound=2.0)
    for value, tolerance in ((limit, 1e-12), (near, 1e-7)):
        found = losses_of(agent, SubTrajectoryBalance(value), paths, residual=residual, residual_bound=2.0)
        for name in ("loss_generation", "loss_destruction"):
            torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance)
            first, second = (
                torch.autograd.grad(x[name], list(agent.parameters()), retain_graph=True, materialize_grads=True)
                for x in (found, expected)
            )
            for a, b in zip(first, second, strict=True):
                torch.testing.assert_close(a, b, rtol=10 * tolerance, atol=10 * tolerance)


def test_one_step_has_one_part():
    agent = make_agent(steps=1)
    paths = agent.generate(9, TARGET)
    values = [losses_of(agent, objective, paths)["loss_generation"] for objective in (*FLOWS, TrajectoryBalance())]
    for value in values[:-1]:
        torch.testing.assert_close(value, values[-1])


# Who is trained by what -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forward_looking", [False, True])
@pytest.mark.parametrize("objective", FLOWS, ids=str)
def test_the_flow_is_trained_by_its_own_loss_alone(objective, forward_looking):
    agent = make_agent(forward_looking=forward_looking)
    paths = agent.generate(9, TARGET)
    paths["log_density"] = TARGET(paths["state"][:, 1:-1])
    losses = losses_of(agent, objective, paths)
    flow = {name for name, _ in agent.named_parameters() if name.startswith("flow.")}
    assert len(flow) > 5 and reached(losses["loss_flow"], agent) == flow
    for name in ("loss_generation", "loss_destruction", "loss_log_z"):
        assert not reached(losses[name], agent) & flow, name


def test_one_flow_for_both_policies_is_trained_once():
    """Also where only one of two objectives needs it, and by the sum of two different ones."""
    agent = make_agent()
    paths = agent.generate(9, TARGET)

    def flow_value(*objectives):
        module = JointLoss(agent, *objectives, target_networks="none")
        return module(paths)["loss_flow"].item()

    detailed, parts = flow_value(DetailedBalance()), flow_value(SubTrajectoryBalance(2.0))
    assert flow_value(DetailedBalance(), VarGrad()) == flow_value(VarGrad(), DetailedBalance()) == detailed
    assert flow_value(DetailedBalance(), SubTrajectoryBalance(2.0)) == pytest.approx(detailed + parts, rel=1e-12)
    assert flow_value(VarGrad()) == 0.0


def test_without_a_flow_it_is_refused():
    agent = build_agent(Continuous(2), scale=1.5, steps=3)
    with pytest.raises(InputError, match=r"^objective: DetailedBalance needs an agent with a state flow"):
        JointLoss(agent, DetailedBalance())
    with pytest.raises(InputError, match=r"^destruction_objective: SubTrajectoryBalance needs an agent with a state"):
        JointLoss(agent, VarGrad(), SubTrajectoryBalance())
    with pytest.raises(InputError, match=r"^flow: expected an agent with a state flow"):
        agent.path_log_flow(agent.generate(2), torch.zeros(2, 4, 2, 1), agent.log_z)
    for wrong in (-0.1, math.nan):
        with pytest.raises(InputError, match=r"^subtb_lambda: expected a number >= 0"):
            SubTrajectoryBalance(wrong)
