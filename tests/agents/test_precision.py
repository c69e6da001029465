"""Products of less than single precision round the hidden vectors a little, and touch nothing else."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from ebbflow.agents import (
    MATMUL_PRECISIONS,
    AgentConfig,
    Backbone,
    HiddenLinear,
    build_agent,
    build_point_agent,
    build_token_agent,
    set_matmul_precision,
)
from ebbflow.agents.compilation import compiled
from ebbflow.envs import Continuous, InputError, Tokens

CONFIG = AgentConfig(width=16, depth=3)


@pytest.fixture(autouse=True)
def single_precision(in_double_precision):
    """For what is rounded here: after the double precision of the other tests of agents."""
    torch.set_default_dtype(torch.float32)


AGENTS = {
    "Gaussian steps": lambda: build_agent(Continuous(2), scale=1.0, steps=4, config=CONFIG),
    "a backbone each": lambda: build_agent(
        Continuous(2),
        scale=1.0,
        steps=4,
        config=AgentConfig(width=16, shared_backbone=False, reference="variance_preserving"),
    ),
    "points": lambda: build_point_agent(Continuous(2), scale=1.0, steps=4, config=CONFIG),
    "tokens": lambda: build_token_agent(Tokens(length=3, vocabulary=4), config=CONFIG),
}


def made(name, *, trained=False):
    torch.manual_seed(0)
    agent = AGENTS[name]()
    if trained:
        for parameter in agent.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return agent


def of_paths(agent):
    """The log-ratio of paths of the agent, and its gradients."""
    torch.manual_seed(1)
    paths = agent.generate(64)
    paths["log_reward"] = torch.zeros(64)
    log_ratio = agent.log_ratio(paths)
    parameters = [parameter for parameter in agent.parameters() if parameter is not agent.log_z]
    gradients = torch.autograd.grad(log_ratio.square().mean(), parameters, allow_unused=True)
    return paths["state"], log_ratio, [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("name", AGENTS)
def test_untrained_it_is_the_reference_bit_for_bit(name, precision):
    agent = made(name)
    states, log_ratio, _ = of_paths(agent)
    set_matmul_precision(agent, precision)
    again, the_same, _ = of_paths(agent)
    assert torch.equal(states, again) and torch.equal(log_ratio, the_same)


@pytest.mark.parametrize("name", AGENTS)
def test_bfloat16_is_near(name):
    """On paths of float32: log-ratios to 0.05 nats, gradients to 5 % of their norm."""
    agent = made(name, trained=True)
    torch.manual_seed(1)
    paths = agent.generate(256)
    paths["log_reward"] = torch.zeros(256)
    parameters = [parameter for parameter in agent.parameters() if parameter is not agent.log_z]
    found = []
    for precision in ("float32", "bfloat16"):
        set_matmul_precision(agent, precision)
        log_ratio = agent.log_ratio(paths)
        gradients = torch.autograd.grad(log_ratio.square().mean(), parameters, allow_unused=True)
        found.append((log_ratio, [gradient for gradient in gradients if gradient is not None]))
    (exact, of_exact), (near, of_near) = found
    assert near.dtype == torch.float32
    assert 0.0 < (near - exact).abs().max() < 0.05
    for one, other in zip(of_near, of_exact, strict=True):
        assert one.isfinite().all()
        assert (one - other).norm() < 0.05 * other.norm() + 1e-6


@pytest.mark.parametrize("name", AGENTS)
def test_tf32_is_float32_on_a_cpu(name):
    agent = made(name, trained=True)
    states, log_ratio, gradients = of_paths(agent)
    set_matmul_precision(agent, "tf32")
    again, the_same, of_same = of_paths(agent)
    torch.testing.assert_close(again, states)
    torch.testing.assert_close(the_same, log_ratio)
    torch.testing.assert_close(of_same, gradients, rtol=1e-4, atol=1e-5)


class Switch:
    """In place of torch's own, and of what reads it: remembers how it was set."""

    def __init__(self, at_first):
        self.settings = [at_first]

    @property
    def fp32_precision(self):
        return self.settings[-1]

    @fp32_precision.setter
    def fp32_precision(self, value):
        self.settings.append(value)


@pytest.mark.parametrize("at_first", ["none", "ieee", "tf32"])
def test_the_switch_of_tf32_is_put_back(monkeypatch, at_first):
    switch = Switch(at_first)
    monkeypatch.setattr(torch.backends.cuda, "matmul", switch)
    layer = HiddenLinear(3, 2)
    set_matmul_precision(layer, "tf32")
    value = layer(torch.ones(5, 3, requires_grad=True)).sum()
    assert switch.settings == [at_first, "tf32", at_first]
    value.backward()  # one product for the gradient of each factor
    assert switch.settings == [at_first, *["tf32", at_first] * 3]
    with pytest.raises(RuntimeError):
        layer(torch.ones(2, 3, dtype=torch.float64))
    assert switch.settings[-1] == at_first


def test_torch_has_the_switch():
    before = torch.backends.cuda.matmul.fp32_precision
    layer = HiddenLinear(3, 2)
    set_matmul_precision(layer, "tf32")
    layer(torch.ones(5, 3)).sum().backward()
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_a_layer_is_torch_s_own_unless_it_is_told_otherwise():
    torch.manual_seed(0)
    layer = HiddenLinear(4, 3)
    torch.manual_seed(0)
    plain = nn.Linear(4, 3)
    x = torch.randn(2, 5, 4)
    assert torch.equal(layer(x), plain(x))
    assert layer.state_dict().keys() == plain.state_dict().keys()
    for precision in MATMUL_PRECISIONS:
        set_matmul_precision(layer, precision)
        assert layer(x[0, 0]).shape == (3,) and layer(x).shape == (2, 5, 3)
        assert layer.state_dict().keys() == plain.state_dict().keys()


def test_bfloat16_rounds_factors_and_results():
    layer = HiddenLinear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0 + 2**-9, 1.0]]))
        layer.bias.zero_()
    set_matmul_precision(layer, "bfloat16")
    assert layer(torch.tensor([1.0, 0.0])).item() == 1.0  # the weight
    assert layer(torch.tensor([1.0, 2.0**-8])).item() in (1.0, 1.0 + 2**-7)  # the sum, 1 + 2⁻⁸, lies between these


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_compiled_it_is_the_same_to_rounding(precision):
    torch.manual_seed(0)
    backbone = Backbone(inputs=4, times=[0.0, 1.0], width=8, depth=2)
    features = torch.randn(5, 2, 2)
    set_matmul_precision(backbone, precision)
    counters.clear()
    try:
        results = [of_backbone(function, backbone, features) for function in (hidden_of, compiled(hidden_of))]
    finally:
        compiled.cache_clear()
        torch.compiler.reset()
    assert not counters["graph_break"]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def hidden_of(backbone, features):
    return backbone(features, 1)


def of_backbone(function, backbone, features):
    hidden = function(backbone, features)
    return hidden, *torch.autograd.grad(hidden.square().sum(), list(backbone.layers.parameters()))


class Constant(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("module", "precision", "message"),
    [
        (HiddenLinear(2, 2), "float16", "expected one of ['float32', 'tf32', 'bfloat16'], got 'float16'"),
        (Constant(), "bfloat16", "expected float32 for an agent whose networks have no products of hidden vectors"),
        (HiddenLinear(2, 2).double(), "tf32", "expected float32 with networks of another dtype, got 'tf32'"),
    ],
)
def test_what_cannot_be_switched(module, precision, message):
    with pytest.raises(InputError) as error:
        set_matmul_precision(module, precision)
    assert str(error.value).startswith(f"matmul_precision: {message}")
    set_matmul_precision(module, "float32")  # which all can
