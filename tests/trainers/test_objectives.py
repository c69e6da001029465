"""Objectives: values and gradients against formulas, target networks, and who is trained by what."""

import copy
import math
import warnings

import numpy
import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.envs import CallableTarget, Continuous
from ebbflow.trainers.objectives import JointLoss, TrajectoryBalance, VarGrad

pytestmark = pytest.mark.usefixtures("double_precision")

REFERENCES = ("bridge", "variance_exploding", "variance_preserving")
KINDS = [TrajectoryBalance, VarGrad]
TARGET = CallableTarget(lambda x: -(x**4).sum(-1) / 8 + x[:, 0] * x[:, 1] + 0.5 * x[:, 0], dim=2, name="quartic")


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def make_agent(seed=0, size=0.3, dim=2, steps=3, **settings):
    config = AgentConfig(**{"width": 8, "frequencies": (1.0,), **settings})
    agent = build_agent(Continuous(dim), scale=1.5, steps=steps, config=config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return agent


def make_objective(kind, agent, **settings):
    """An objective and, where it has targets, their updater, without which TorchRL warns."""
    destruction = settings.pop("destruction", kind)
    objective = JointLoss(agent, kind(), destruction(), **settings)
    updater = SoftUpdate(objective, tau=0.1) if objective.use_targets else None
    return objective, updater


def change_targets(objective, agent):
    """Let the target networks be those of another agent."""
    objective.target_agent_params.data.update_(TensorDict.from_module(agent).data)


def mixed_log_ratio(generation_agent, destruction_agent, paths):
    """D with generation of one agent and destruction of another."""
    first, second = generation_agent.path_log_probs(paths), destruction_agent.path_log_probs(paths)
    return first.initial + first.generation.sum(-1) - paths["log_reward"] - second.destruction.sum(-1)


def hand_loss(kind, log_ratio, log_z, weight=None):
    weight = torch.ones_like(log_ratio) if weight is None else weight
    weight = weight / weight.sum()
    centre = -log_z if kind is TrajectoryBalance else (weight * log_ratio).sum()
    return (weight * (log_ratio - centre) ** 2).sum()


def gradients(loss, agent):
    """Gradient of each named parameter; zero where the loss does not reach."""
    found = torch.autograd.grad(loss, list(agent.parameters()), retain_graph=True, materialize_grads=True)
    return dict(zip(dict(agent.named_parameters()), found, strict=True))


def reached(loss, agent):
    return {name for name, gradient in gradients(loss, agent).items() if gradient.any()}


def names(agent, *prefixes):
    return {name for name, _ in agent.named_parameters() if name.startswith(prefixes)}


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("destruction", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_follow_the_formula_with_targets(kind, destruction, reference, shared, weighted):
    """Each policy sees the other one's target network; values and gradients from agents put together by hand."""
    agent = make_agent(seed=1, reference=reference, shared_backbone=shared)
    other = make_agent(seed=2, reference=reference, shared_backbone=shared)
    objective, _ = make_objective(kind, agent, destruction=destruction)
    change_targets(objective, other)
    paths = agent.generate(9, TARGET, scale=1.5)
    weight = torch.rand(9) + 0.1 if weighted else None
    if weighted:
        paths["weight"] = weight
    losses = objective(paths)

    log_z = agent.log_z.detach()
    online = mixed_log_ratio(agent, agent, paths).detach()
    other.requires_grad_(False)
    mean = online.mean() if weight is None else (weight * online).sum() / weight.sum()
    expected = {
        "loss_generation": hand_loss(kind, mixed_log_ratio(agent, other, paths), log_z, weight),
        "loss_destruction": hand_loss(destruction, mixed_log_ratio(other, agent, paths), log_z, weight),
        "loss_log_z": (agent.log_z + mean) ** 2,
    }
    torch.testing.assert_close(losses["log_ratio"], online)
    assert not losses["log_ratio"].requires_grad
    for name, value in expected.items():
        assert losses[name].shape == ()
        torch.testing.assert_close(losses[name], value)
        found = gradients(losses[name], agent)
        for parameter, gradient in gradients(value, agent).items():
            torch.testing.assert_close(found[parameter], gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_without_targets_each_policy_sees_the_others_detached_value(kind):
    agent = make_agent()
    objective, updater = make_objective(kind, agent, target_networks="none")
    assert updater is None
    paths = agent.generate(9, TARGET)
    losses = objective(paths)
    log_ratio = mixed_log_ratio(agent, agent, paths)
    expected = hand_loss(kind, log_ratio, agent.log_z.detach())
    torch.testing.assert_close(losses["loss_generation"], expected)
    torch.testing.assert_close(losses["loss_destruction"], expected)
    # The two gradients together are that of the one loss of both.
    together = gradients(losses["loss_generation"] + losses["loss_destruction"], agent)
    for name, gradient in gradients(expected, agent).items():
        if name != "log_z":
            torch.testing.assert_close(together[name], gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_count_rows(kind):
    """An integer weight is that many copies of a row; only ratios of weights matter."""
    agent = make_agent()
    objective, _ = make_objective(kind, agent)
    paths = agent.generate(4, TARGET)
    repeats = torch.tensor([1, 3, 2, 1])
    copies = objective(torch.cat([paths[i : i + 1] for i, n in enumerate(repeats) for _ in range(n)]))
    paths["weight"] = 0.2 * repeats
    for name in ("loss_generation", "loss_destruction", "loss_log_z"):
        torch.testing.assert_close(objective(paths)[name], copies[name])


# Who is trained by what -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_networks", ["both", "none"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_each_loss_reaches_its_own_parameters(kind, shared, target_networks):
    agent = make_agent(shared_backbone=shared)
    objective, _ = make_objective(kind, agent, target_networks=target_networks)
    losses = objective(agent.generate(9, TARGET))
    trunk = "backbone." if shared else "destruction_backbone."
    assert reached(losses["loss_generation"], agent) == names(agent, "generation.", "backbone.")
    assert reached(losses["loss_destruction"], agent) == names(agent, "destruction.", trunk)
    assert reached(losses["loss_log_z"], agent) == {"log_z"}


def test_the_agents_own_parameters_are_trained():
    agent = make_agent()
    objective, _ = make_objective(VarGrad, agent)
    assert {id(p) for p in objective.parameters()} == {id(p) for p in agent.parameters()}
    paths = agent.generate(9, TARGET)
    losses = objective(paths)
    (losses["loss_generation"] + losses["loss_destruction"] + losses["loss_log_z"]).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in agent.parameters())
    before = agent.log_ratio(paths)
    torch.optim.SGD(agent.parameters(), lr=1e-3).step()
    torch.testing.assert_close(objective(paths)["log_ratio"], agent.log_ratio(paths))
    assert (agent.log_ratio(paths) - before).abs().min() > 0
    assert objective(paths)["loss_generation"] < losses["loss_generation"]


@pytest.mark.parametrize("kind", KINDS)
def test_destruction_that_is_not_learned(kind):
    agent = make_agent(destruction_mean="reference", destruction_variance="reference")
    objective, _ = make_objective(kind, agent, target_networks="both")
    assert not objective.use_targets
    assert {id(p) for p in objective.parameters()} == {id(p) for p in agent.parameters()}
    assert not any("target" in name for name, _ in objective.named_buffers())
    losses = objective(agent.generate(9, TARGET))
    assert losses["loss_destruction"] == 0 and not losses["loss_destruction"].requires_grad
    assert reached(losses["loss_generation"], agent) == names(agent, "generation.", "backbone.")


@pytest.mark.parametrize("target_networks", ["both", "none"])
def test_losses_without_gradient_are_the_same_numbers(target_networks):
    agent = make_agent()
    objective, _ = make_objective(VarGrad, agent, target_networks=target_networks)
    paths = agent.generate(9, TARGET)
    with torch.no_grad():
        found = objective(paths)
    for name, value in objective(paths).items():
        assert torch.equal(found[name], value) and (value.any() or name == "loss_flow")


@pytest.mark.parametrize("kind", KINDS)
def test_log_z_moves_to_minus_the_mean_log_ratio(kind):
    agent = make_agent()
    objective, _ = make_objective(kind, agent)
    paths = agent.generate(9, TARGET)
    losses = objective(paths)
    losses["loss_log_z"].backward()
    torch.testing.assert_close(agent.log_z.grad, 2 * (agent.log_z.detach() + losses["log_ratio"].mean()))
    torch.optim.SGD([agent.log_z], lr=0.5).step()  # one Newton step of a parabola
    torch.testing.assert_close(agent.log_z.detach(), -losses["log_ratio"].mean())


# Target networks ------------------------------------------------------------------------------------------------------


def test_targets_start_at_the_agent_and_move_by_the_rate():
    agent = make_agent(seed=1)
    objective, updater = make_objective(VarGrad, agent)
    targets, online = objective.target_agent_params.data, objective.agent_params.data
    start = TensorDict.from_module(agent).data.clone()
    assert (targets == start).all()
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(1.0)
    assert (targets == start).all()  # a copy, not the same tensors
    for rounds in (1, 2, 3):
        updater.step()
        expected = start.lerp(online, 1 - 0.9**rounds)
        for key, value in expected.items(True, True):
            if "constants" not in key:  # of which some are infinite
                torch.testing.assert_close(targets[key], value)
    for name in ("generation", "destruction"):  # the reference's tables stay as they are
        for table in ("factor", "variance", "constants"):
            assert torch.equal(targets[name, table], start[name, table])
    paths = agent.generate(5, TARGET)
    with targets.to_module(agent):
        lagging = copy.deepcopy(agent.path_log_probs(paths).destruction.sum(-1).detach())
    terms = agent.path_log_probs(paths)
    log_ratio = terms.initial + terms.generation.sum(-1) - paths["log_reward"] - lagging
    torch.testing.assert_close(objective(paths)["loss_generation"], hand_loss(VarGrad, log_ratio, agent.log_z))


def test_targets_are_saved():
    first, second = make_agent(seed=1), make_agent(seed=2)
    objective, _ = make_objective(VarGrad, first)
    change_targets(objective, make_agent(seed=3))
    loaded, _ = make_objective(VarGrad, second)
    loaded.load_state_dict(objective.state_dict())
    paths = first.generate(5, TARGET)
    for name, value in objective(paths).items():
        torch.testing.assert_close(loaded(paths)[name], value)
    torch.testing.assert_close(second.log_ratio(paths), first.log_ratio(paths))


# Oracles --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_vargrad_is_trajectory_balance_at_the_optimal_log_z(weighted):
    agent = make_agent()
    paths = agent.generate(9, TARGET, scale=1.5)
    weight = torch.rand(9) + 0.1 if weighted else torch.ones(9)
    if weighted:
        paths["weight"] = weight
    with torch.no_grad():
        agent.log_z.copy_(-(weight * agent.log_ratio(paths)).sum() / weight.sum())
    losses = {kind: make_objective(kind, agent)[0](paths) for kind in KINDS}
    for name in ("loss_generation", "loss_destruction"):
        first, second = (losses[kind][name] for kind in KINDS)
        torch.testing.assert_close(first, second)
        found = gradients(first, agent)
        for parameter, gradient in gradients(second, agent).items():
            torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("compression", [None, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_on_policy_gradient_is_twice_that_of_the_reverse_kl(kind, compression):
    """One step from a Dirac, so that expectations over paths are integrals over one normal number, by Gauss-Hermite."""
    fixed = {"destruction_mean": "reference", "destruction_variance": "reference"}
    agent = make_agent(dim=1, steps=1, size=0.1, compression=compression, **fixed)
    target = CallableTarget(lambda x: (-(x**4) / 8 + x**2 / 2 + 0.3 * x)[:, 0], dim=1)
    nodes, weight = map(torch.tensor, numpy.polynomial.hermite_e.hermegauss(40))
    mean, log_variance = agent.generation_step(torch.zeros(40, 1), 0)
    x = agent.space.from_coordinates(mean + (0.5 * log_variance).exp() * nodes.unsqueeze(-1))

    def paths(x):
        return TensorDict({"state": torch.stack([torch.zeros_like(x), x], 1), "log_reward": target(x)}, [40])

    # Reparametrised: the path moves with the parameters. E[D] is the divergence less log Z.
    divergence = (weight / weight.sum() * agent.log_ratio(paths(x))).sum()
    expected = gradients(divergence, agent)
    fixed = paths(x.detach()).set("weight", weight)
    found = gradients(make_objective(kind, agent)[0](fixed)["loss_generation"], agent)
    seen = [name for name, gradient in expected.items() if gradient.abs().max() > 1e-3]
    assert len(seen) >= 5
    for name in seen:
        torch.testing.assert_close(found[name], 2 * expected[name], rtol=1e-8, atol=1e-8)


# Devices --------------------------------------------------------------------------------------------------------------


def test_an_objective_moves_as_a_whole():
    """Buffers of the features included, which no loss trains."""
    agent = make_agent()
    paths = agent.generate(9, TARGET)
    expected = make_objective(VarGrad, copy.deepcopy(agent))[0](paths)
    objective, _ = make_objective(VarGrad, agent)
    losses = objective.to(torch.float32)(paths.float())
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("kind", KINDS)
def test_device(kind, device):
    agent = make_agent(langevin=True)
    paths = agent.generate(9, TARGET)
    expected = make_objective(kind, agent)[0](paths)
    losses = make_objective(kind, agent.to(device))[0](paths.to(device))
    for name, value in losses.items():
        assert value.device.type == device
        torch.testing.assert_close(value.cpu(), expected[name])
    assert math.isfinite(losses["loss_generation"].item())
