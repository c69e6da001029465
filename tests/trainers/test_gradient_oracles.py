"""Gradients of the objectives against the divergences whose gradients they are said to be, in one dimension.

Expectations over generated paths are integrals over two normal numbers, by Gauss-Hermite; the exact reverse KL is an
integral over the two states themselves on a fine grid, differentiated by finite differences.
"""

import itertools

import numpy
import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate

from ebbflow.agents import AgentConfig, Origin, build_agent
from ebbflow.envs import CallableTarget, Continuous
from ebbflow.envs.spaces import Compressed
from ebbflow.trainers.objectives import (
    JointLoss,
    MaximumLikelihood,
    ReverseKL,
    ReverseKLLogDerivative,
    TrajectoryBalance,
    TrajectoryLikelihood,
    VarGrad,
)

pytestmark = pytest.mark.usefixtures("double_precision")

TARGET = CallableTarget(lambda x: (-(x**4) / 8 + x**2 / 2 + 0.3 * x)[:, 0], dim=1)
PLAIN, COMPRESSED = Continuous(1), Compressed(1, length=8.0)
TWO_NUMBERS = [("bridge", 2), ("variance_exploding", 1)]  # reference and steps whose paths have two random states


def make_agent(reference="bridge", steps=2, size=0.1, seed=0, space=PLAIN, **settings):
    config = {"width": 6, "depth": 1, "frequencies": (1.0,), "compression": None, "reference": reference, **settings}
    config = AgentConfig(**config)
    agent = build_agent(space, scale=1.2, steps=steps, config=config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return agent


def loss_of(agent, generation, destruction=None, **settings):
    objective = JointLoss(agent, generation, destruction, **{"target_networks": "none", **settings})
    if objective.use_targets:
        SoftUpdate(objective, tau=0.1)  # without which TorchRL warns
    return objective


def trajectories(states, **columns):
    """A batch of states `[n, T+1, 1]`, all marked on-policy."""
    n = len(states)
    columns = {"origin": torch.full((n,), Origin.ON_POLICY), "log_reward": TARGET(states[:, -1]), **columns}
    return TensorDict({"state": states, **columns}, [n])


def quadrature(agent, nodes=50):
    """Differentiable generated paths with weights, whose weighted means are expectations."""
    z, weight = map(torch.tensor, numpy.polynomial.hermite_e.hermegauss(nodes))
    noise = list(torch.cartesian_prod(z, z).unsqueeze(-1).unbind(1))  # two of [nodes², 1]
    dirac = agent.reference.is_dirac
    state = torch.zeros_like(noise[0])
    if not dirac:
        state = agent.space.transition(state, agent.reference.initial_std * noise.pop(0), 0)
    states = [state]
    for k in range(agent.steps):
        mean, log_variance = agent.generation_step(state, k)
        action = mean + (0.5 * log_variance).exp() * noise[k] - agent.space.coordinates(state)
        state = agent.space.transition(state, action, k)
        states.append(state)
    return trajectories(torch.stack(states, 1), weight=torch.cartesian_prod(weight, weight).prod(-1))


def grid(agent, size=26.0, points=421):
    """All pairs of the two random states on a square grid, and the area of a cell."""
    x = torch.linspace(-size, size, points)
    pairs = torch.cartesian_prod(x, x)
    states = torch.nn.functional.pad(pairs, (1, 0)) if agent.reference.is_dirac else pairs
    return trajectories(states.unsqueeze(-1)), (x[1] - x[0]) ** 2


def exact_reverse_kl(agent, paths, cell):
    """KL(p→ ‖ R·p←) up to log Z, as an integral over states."""
    with torch.no_grad():
        terms = agent.path_log_probs(paths)
        log_prob = terms.initial + terms.generation.sum(-1)
        return float((log_prob.exp() * terms.log_ratio(paths["log_reward"])).sum() * cell)


def exact_forward_kl(agent, paths, cell):
    """KL(R·p←/Z ‖ p→) as an integral over states, and the density R·p←/Z of each."""
    with torch.no_grad():
        terms = agent.path_log_probs(paths)
        log_target = paths["log_reward"] + terms.destruction.sum(-1)
        density = (log_target - (log_target.exp().sum() * cell).log()).exp()
        log_prob = terms.initial + terms.generation.sum(-1)
        return float((density * (log_target - log_prob)).sum() * cell), density


def gradient(loss, agent, prefixes=("",)):
    """Flat gradient over the parameters whose names start so, but log Z."""
    parameters = chosen(agent, prefixes)
    found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def chosen(agent, prefixes):
    return [p for name, p in agent.named_parameters() if name.startswith(prefixes) and name != "log_z"]


def finite_differences(agent, function, prefixes=("",), directions=2, step=1e-4):
    """(direction, slope) along random directions."""
    parameters = chosen(agent, prefixes)
    generator = torch.Generator().manual_seed(1)
    for _ in range(directions):
        direction = [torch.randn(p.shape, generator=generator) for p in parameters]
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(sign * step * d)
                values.append(function())
                for p, d in zip(parameters, direction, strict=True):
                    p.sub_(sign * step * d)
        yield torch.cat([d.flatten() for d in direction]), (values[0] - values[1]) / (2 * step)


# Reverse KL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("space", [PLAIN, COMPRESSED])
@pytest.mark.parametrize(("reference", "steps"), TWO_NUMBERS)
def test_both_reverse_kl_gradients_are_that_of_the_exact_divergence(reference, steps, space, shared):
    """Generation and destruction together, in all parameters: also those of a trunk that both have."""
    agent = make_agent(reference, steps, space=space, shared_backbone=shared)
    paths = quadrature(agent)
    n = len(paths)
    found = {}
    for generation, destruction in itertools.product(
        (ReverseKL(), ReverseKLLogDerivative()), (ReverseKL(), ReverseKLLogDerivative(), TrajectoryLikelihood())
    ):
        losses = loss_of(agent, generation, destruction)(paths)
        # Leaving one out of n rows scales the score-function gradient up, as rows of equal weight would need it.
        scale = (n - 1) / n if isinstance(generation, ReverseKLLogDerivative) else 1.0
        total = scale * losses["loss_generation"] + losses["loss_destruction"]
        found[type(generation).__name__, type(destruction).__name__] = gradient(total, agent)
    everywhere, cell = grid(agent)
    slopes = list(finite_differences(agent, lambda: exact_reverse_kl(agent, everywhere, cell)))
    assert max(abs(slope) for _, slope in slopes) > 0.1
    for names, value in found.items():
        for direction, slope in slopes:
            assert float(value @ direction) == pytest.approx(slope, rel=1e-5, abs=1e-6), names


@pytest.mark.parametrize("reference", ["bridge", "variance_preserving"])
def test_the_losses_are_the_divergence_itself(reference):
    agent = make_agent(reference, 2 if reference == "bridge" else 1)
    everywhere, cell = grid(agent)
    expected = exact_reverse_kl(agent, everywhere, cell) + float(agent.log_z.detach())
    for objective in (ReverseKL(), ReverseKLLogDerivative()):
        losses = loss_of(agent, objective)(quadrature(agent))
        for policy in ("generation", "destruction"):
            assert losses[f"loss_{policy}"].item() == pytest.approx(expected, rel=1e-8), objective


@pytest.mark.parametrize("objective", [ReverseKL(), ReverseKLLogDerivative()], ids=lambda o: type(o).__name__)
def test_gradients_of_sampled_paths_scatter_around_the_expectation(objective):
    """Of paths as the agent generates them: the mean over batches is within its own standard error."""
    agent = make_agent()
    expected = gradient(loss_of(agent, ReverseKL())(quadrature(agent))["loss_generation"], agent)
    torch.manual_seed(0)
    found = []
    for _ in range(60):
        paths = agent.generate(200, TARGET, differentiable=True)
        paths["origin"] = torch.full((200,), Origin.ON_POLICY)
        found.append(gradient(loss_of(agent, objective)(paths)["loss_generation"], agent))
    mean, stderr = torch.stack(found).mean(0), torch.stack(found).std(0) / 60**0.5
    moved = stderr > 1e-9
    assert ((mean - expected)[moved] / stderr[moved]).abs().max() < 4.5
    signal = (expected.norm() / stderr.norm()).item()
    assert signal > 5  # else agreement would say nothing
    torch.testing.assert_close(mean[~moved], expected[~moved], rtol=1e-6, atol=1e-9)


def test_a_lagging_destruction_is_followed_through_the_states():
    """With a target network the reverse KL is that to the lagging destruction, also along the path."""
    agent, other = make_agent(seed=1), make_agent(seed=2)
    objective = loss_of(agent, ReverseKL(), target_networks="both")
    objective.target_agent_params.data.update_(TensorDict.from_module(other).data)
    everywhere, cell = grid(agent)

    def divergence():
        with torch.no_grad():
            terms = agent.path_log_probs(everywhere)
            lagging = terms._replace(destruction=other.path_log_probs(everywhere).destruction)
            log_prob = terms.initial + terms.generation.sum(-1)
            return float((log_prob.exp() * lagging.log_ratio(everywhere["log_reward"])).sum() * cell)

    own = ("generation.",)
    found = gradient(objective(quadrature(agent))["loss_generation"], agent, own)
    for direction, slope in finite_differences(agent, divergence, own):
        assert float(found @ direction) == pytest.approx(slope, rel=1e-5, abs=1e-6)


# Relations between objectives -----------------------------------------------------------------------------------------


def sampled(agent, n=50):
    torch.manual_seed(0)
    paths = agent.generate(n, TARGET, differentiable=True)
    return paths.set("origin", torch.full((n,), Origin.ON_POLICY))


@pytest.mark.parametrize("targets", ["both", "none"])
def test_tlm_is_the_reverse_kl_of_destruction_on_the_same_paths(targets):
    agent = make_agent(steps=3)
    paths = sampled(agent)
    found = [
        gradient(loss_of(agent, ReverseKL(), objective, target_networks=targets)(paths)["loss_destruction"], agent)
        for objective in (TrajectoryLikelihood(), ReverseKL(), ReverseKLLogDerivative())
    ]
    assert found[0].norm() > 0.1
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("gain", "largest"), [(False, 0.9), (True, 0.95)])
def test_log_derivative_is_half_of_vargrad_for_generation_and_not_for_destruction(gain, largest):
    agent = make_agent(steps=3, shared_backbone=False, gain=gain)
    paths = sampled(agent)
    n = len(paths)
    score, variance = (loss_of(agent, objective)(paths) for objective in (ReverseKLLogDerivative(), VarGrad()))
    torch.testing.assert_close(
        gradient(score["loss_generation"], agent), n / (2 * (n - 1)) * gradient(variance["loss_generation"], agent)
    )
    tlm, log_variance = (gradient(losses["loss_destruction"], agent) for losses in (score, variance))
    cosine = torch.nn.functional.cosine_similarity(tlm, log_variance, dim=0)
    assert cosine < largest  # arXiv 2506.10982: with learned destruction it is another direction


@pytest.mark.parametrize("variance", ["fixed", "learned"])
@pytest.mark.parametrize("kind", [TrajectoryBalance, VarGrad])
@pytest.mark.parametrize(("reference", "steps"), TWO_NUMBERS)
def test_on_policy_gradient_is_twice_that_of_the_reverse_kl(reference, steps, kind, variance):
    settings = {"destruction_mean": "reference", "destruction_variance": "reference", "generation_variance": variance}
    agent = make_agent(reference, steps, **settings)
    paths = quadrature(agent)
    expected = gradient(loss_of(agent, ReverseKL())(paths)["loss_generation"], agent)
    found = gradient(loss_of(agent, kind())(paths)["loss_generation"], agent)
    assert expected.norm() > 0.1
    torch.testing.assert_close(found, 2 * expected, rtol=1e-5, atol=1e-6)


def test_with_a_learned_destruction_on_a_shared_trunk_it_is_not():
    """The trunk's gradient then has the destruction's share in it, which is another one (arXiv 2506.10982)."""
    agent = make_agent()
    paths = quadrature(agent)

    def total(objective):
        losses = loss_of(agent, objective)(paths)
        return gradient(losses["loss_generation"] + losses["loss_destruction"], agent, ("backbone.",))

    first, second = total(VarGrad()), 2 * total(ReverseKL())
    assert (first - second).norm() > 0.2 * second.norm()


# Forward KL -----------------------------------------------------------------------------------------------------------


def test_maximum_likelihood_is_the_forward_kl():
    agent = make_agent(shared_backbone=False)
    paths, cell = grid(agent, size=6.0, points=201)
    _, density = exact_forward_kl(agent, paths, cell)
    paths["weight"] = density
    paths["origin"] = torch.full((len(paths),), Origin.DATA)
    own = ("generation.", "backbone.")
    found = gradient(loss_of(agent, MaximumLikelihood(), VarGrad())(paths)["loss_generation"], agent, own)
    for direction, slope in finite_differences(agent, lambda: exact_forward_kl(agent, paths, cell)[0], own):
        assert float(found @ direction) == pytest.approx(slope, rel=1e-5, abs=1e-6)
