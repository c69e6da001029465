r"""An agent with the exact parameters has constant log-ratio −log Z, so that ELBO = log Z = EUBO.

With an affine-Gaussian destruction x_k = r y + d + N(0, q) of a Gaussian target, marginals and the time reversal follow
from second moments; both are affine in the state, which a feature that is constant (a Fourier feature of frequency
zero) and the raw feature let the tables of the heads represent.
"""

import math

import pytest
import torch

from ebbflow.agents import AgentConfig, build_agent, ebb_and_flow
from ebbflow.agents.actors import DESTRUCTION_MEANS, DESTRUCTION_VARIANCES
from ebbflow.agents.references import REFERENCES
from ebbflow.envs import CallableTarget, Continuous

SCALE = 1.3
RAW, CONSTANT = 0, 2  # columns of the features used here: x / SCALE, sin 0, cos 0
DIM = 2


def gaussian_target(mean, std, offset=0.7):
    """Unnormalised normal law with independent coordinates, with exact samples and log Z."""
    return CallableTarget(
        lambda x: offset - 0.5 * ((x - mean) / std).square().sum(-1),
        dim=DIM,
        sample=lambda n: mean + std * torch.randn(n, DIM),
        log_z=offset + (std.log() + 0.5 * math.log(2 * math.pi)).sum().item(),
    )


def small_agent(reference, steps, **settings):
    config = AgentConfig(
        reference=reference,
        width=4,
        features=("raw", "fourier"),
        frequencies=(0.0,),
        sigma=1.1,
        compression=None,
        **settings,
    )
    return build_agent(Continuous(DIM), scale=SCALE, steps=steps, config=config)


def constant_destruction(agent, generator):
    """Random constant raw outputs a, b, c of the destruction head, and the affine kernels that they must give."""
    settings, kernels = agent_settings(agent), []
    for k in range(agent.steps):
        r, s2 = agent.reference.destruction_factor[k], agent.reference.destruction_variance[k]
        a, b, c = torch.randn(3, DIM, generator=generator) * torch.tensor([[1.0], [1.0], [0.1]])  # gains are bounded
        if agent.destruction.readout is not None:
            raw = [a, b, c] if agent.destruction.gain else [a, b]
            with torch.no_grad():
                agent.destruction.readout.table[k, :, CONSTANT] = torch.stack(raw, -1)
        s = math.sqrt(s2)
        factor, offset = {
            "reference": (r + 0 * a, 0 * a),
            "multiplicative": (r - (1 - r) * 2.0 * a.tanh() if s else 0 * a, 0 * a),
            "bounded_offset": (r + 0 * a, s * 2.0 * a.tanh()),
            "offset": (r + 0 * a, s * a),
        }[settings[0]]
        if agent.destruction.gain and s:
            factor = factor + r * (s / math.sqrt(sum(agent.reference.destruction_variance)) * c).tanh()
        variance = (
            s2
            * {
                "reference": 1 + 0 * b,
                "multiplicative": 1 + 0.8 * b.tanh(),
                "log_bounded": (0.8 * b.tanh()).exp(),
                "free": b.exp(),
            }[settings[1]]
        )
        kernels.append((factor, offset, variance))
    return kernels


def agent_settings(agent):
    (mean,) = [name for name, form in DESTRUCTION_MEANS.items() if form is agent.destruction.mean_form]
    (variance,) = [name for name, form in DESTRUCTION_VARIANCES.items() if form is agent.destruction.variance_form]
    return mean, variance


def affine_destruction(agent, mean, variance, generator):
    """Random affine kernels, the last of which lands on the initial law, given to the free form of the head."""
    kernels, table = [], agent.destruction.readout.table
    for k in reversed(range(agent.steps)):
        r, s2 = agent.reference.destruction_factor[k], agent.reference.destruction_variance[k]
        factor, offset = torch.rand(2, DIM, generator=generator)
        q = 0.2 + torch.rand(DIM, generator=generator)
        if k == 0:
            p0 = agent.reference.initial_std**2
            factor = 0.3 * math.sqrt(p0) / variance.sqrt()
            offset, q = -factor * mean, p0 - factor**2 * variance
        if s2 > 0:
            with torch.no_grad():
                table[k, :, RAW, 0] = (factor - r) * SCALE / math.sqrt(s2)
                table[k, :, CONSTANT, 0] = offset / math.sqrt(s2)
                table[k, :, CONSTANT, 1] = (q / s2).log()
        kernels.insert(0, (factor, offset, q))
        mean, variance = factor * mean + offset, factor**2 * variance + q
    return kernels


def reverse(agent, kernels, mean, variance):
    """Give the generation head the time reversal of the destruction kernels, started from N(mean, variance).

    Its gain is some number, for which the factor on the state makes up.
    """
    table = agent.generation.readout.table
    bound = agent.generation.bound
    for k in reversed(range(agent.steps)):
        r, d, q = kernels[k]
        low_mean, low_variance = r * mean + d, r**2 * variance + q
        factor = torch.where(low_variance > 0, r * variance / low_variance.clamp(min=1e-300), 0.0)
        g, v = agent.reference.generation_factor[k], agent.reference.generation_variance[k]
        conditional = variance - factor**2 * low_variance
        c = 0.05 * (0.5 - k) if agent.generation.gain else 0.0
        gain = math.tanh(math.sqrt(v / sum(agent.reference.generation_variance)) * c)
        with torch.no_grad():
            table[k, :, CONSTANT, 2:] = c
            table[k, :, RAW, 0] = (factor - (1 + gain) * g) * SCALE / math.sqrt(v)
            table[k, :, CONSTANT, 0] = (mean - factor * low_mean) / math.sqrt(v)
            table[k, :, CONSTANT, 1] = bound * ((conditional / v).log() / bound).atanh()
        mean, variance = low_mean, low_variance
    assert mean.abs().max() < 1e-12, "the destroyed law must be the initial law"
    assert (variance - agent.reference.initial_std**2).abs().max() < 1e-12


def assert_exact(agent, target, tolerance=1e-9):
    """D = −log Z on generated, on destroyed and on widened paths alike."""
    for paths in (
        agent.generate(100, target),
        agent.generate(100, target, scale=2.0, added=1.0),
        agent.destroy(target.sample(100), target),
    ):
        assert (agent.log_ratio(paths) + target.log_z).abs().max() < tolerance


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("reference", REFERENCES)
def test_reference_destruction(reference, steps):
    """The bridge destroys any law to its Dirac; the others reach their initial law from one centred Gaussian only."""
    agent = small_agent(reference, steps, destruction_mean="reference", destruction_variance="reference")
    mean, std = torch.tensor([0.8, -1.9]), torch.tensor([0.6, 1.4])
    if reference != "bridge":
        mean, std = torch.zeros(DIM), torch.full((DIM,), 1.1 * (math.sqrt(2) if "exploding" in reference else 1))
    kernels = constant_destruction(agent, None)
    reverse(agent, kernels, mean, std**2)
    assert_exact(agent, gaussian_target(mean, std))


@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("reference", REFERENCES)
def test_learned_affine_destruction(reference, steps, gain):
    """With free destruction, every reference is exact on every Gaussian."""
    agent = small_agent(reference, steps, destruction_mean="offset", destruction_variance="free", gain=gain)
    assert agent.generation.readout.outputs == agent.destruction.readout.outputs == 2 + gain
    mean, std = torch.tensor([0.8, -1.9]), torch.tensor([0.6, 1.4])
    kernels = affine_destruction(agent, mean, std**2, torch.Generator().manual_seed(1))
    reverse(agent, kernels, mean, std**2)
    assert_exact(agent, gaussian_target(mean, std))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("variance_form", DESTRUCTION_VARIANCES)
@pytest.mark.parametrize("mean_form", DESTRUCTION_MEANS)
def test_every_destruction_form(mean_form, variance_form, steps):
    """Each form gives the kernel of its formula: the time reversal computed from the formula has constant D."""
    agent = small_agent(
        "bridge",
        steps,
        destruction_mean=mean_form,
        destruction_variance=variance_form,
        destruction_mean_bound=2.0,
        destruction_variance_bound=0.8,
    )
    mean, std = torch.tensor([0.8, -1.9]), torch.tensor([0.6, 1.4])
    kernels = constant_destruction(agent, torch.Generator().manual_seed(2))
    reverse(agent, kernels, mean, std**2)
    assert_exact(agent, gaussian_target(mean, std))


@pytest.mark.parametrize("steps_back", [1, 3, 5])
@pytest.mark.parametrize("reference", REFERENCES)
def test_every_ebb_and_flow_move_is_accepted(reference, steps_back):
    """D is the same on all paths, hence on all segments from one state: the Metropolis ratio is one, from anywhere."""
    agent = small_agent(reference, 5, destruction_mean="offset", destruction_variance="free")
    mean, std = torch.tensor([0.8, -1.9]), torch.tensor([0.6, 1.4])
    kernels = affine_destruction(agent, mean, std**2, torch.Generator().manual_seed(1))
    reverse(agent, kernels, mean, std**2)
    target = gaussian_target(mean, std)
    for x in (target.sample(100), 4.0 * torch.randn(100, DIM)):
        proposal = ebb_and_flow(agent, x, target(x), target, steps_back=steps_back)
        assert proposal.log_acceptance.abs().max() < 1e-9
        assert (proposal.state - x).abs().min() > 0
        torch.testing.assert_close(proposal.log_reward, target(proposal.state))
    with torch.no_grad():
        agent.generation.readout.table[-1, 0, RAW, 0] += 1e-3  # the tolerance means something
    assert ebb_and_flow(agent, x, target(x), target, steps_back=steps_back).log_acceptance.abs().max() > 1e-5


def test_inexact_parameters_are_seen():
    """The tolerance above means something: a thousandth off in one number shows."""
    agent = small_agent("bridge", 3, destruction_mean="reference", destruction_variance="reference")
    mean, std = torch.tensor([0.8, -1.9]), torch.tensor([0.6, 1.4])
    reverse(agent, constant_destruction(agent, None), mean, std**2)
    with torch.no_grad():
        agent.generation.readout.table[1, 0, RAW, 0] += 1e-3
    with pytest.raises(AssertionError):
        assert_exact(agent, gaussian_target(mean, std), tolerance=1e-5)
