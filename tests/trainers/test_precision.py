"""Training with products of less than single precision: what is switched, and what never is."""

import pytest
import torch

from ebbflow.agents import HiddenLinear
from ebbflow.agents.denoising_agent import DenoisingAgent
from ebbflow.agents.references.tokens import MaskOneRandom
from ebbflow.envs import InputError, Target, Tokens, get_target
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.trainer import Trainer


def precisions(module):
    return {layer.matmul_precision for layer in module.modules() if isinstance(layer, HiddenLinear)}


@pytest.fixture
def tiny(settings):
    """As elsewhere, with a hidden layer more: that of the features is not rounded."""
    return lambda **changes: TrainConfig.from_dict(
        settings(**{**changes, "agent": {"depth": 2, **changes.get("agent", {})}})
    )


def trained(tiny, iterations=4, **changes):
    trainer = Trainer(get_target("gmm25"), tiny(**changes))
    trainer.train(iterations)
    return trainer


@pytest.mark.parametrize("average_decay", [0.99, 0.0])
def test_what_is_evaluated_is_exact(tiny, average_decay):
    trainer = trained(tiny, matmul_precision="bfloat16", average_decay=average_decay)
    assert precisions(trainer.agent) == precisions(trainer.objective.agent) == {"bfloat16"}
    assert precisions(trainer.evaluated_agent) == {"float32"}
    if average_decay == 0.0:
        for one, other in zip(trainer.evaluated_agent.parameters(), trainer.agent.parameters(), strict=True):
            assert torch.equal(one, other)
        paths = trainer.agent.generate(8)
        paths["log_reward"] = torch.zeros(8)
        exact, rounded = (agent.log_ratio(paths) for agent in (trainer.evaluated_agent, trainer.agent))
        assert 0.0 < (exact - rounded).abs().max() < 0.01


def test_a_given_agent_is_switched_to_what_the_settings_say(tiny):
    agent = trained(tiny, 0, matmul_precision="bfloat16").agent
    trainer = Trainer(get_target("gmm25"), tiny(), agent=agent)
    assert precisions(trainer.agent) == precisions(trainer.averaged) == {"float32"}


def test_the_first_losses_are_those_of_float32(tiny):
    """Heads are zero at first: the first batch and its losses are bit for bit the same, and the next are not."""
    found = {}
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(get_target("gmm25"), tiny(matmul_precision=precision))
        trainer.prepare()
        found[precision] = [trainer.step(), trainer.step()]
    (first, second), (low, lower) = found.values()
    assert torch.equal(first["log_ratio"], low["log_ratio"])
    assert not torch.equal(second["log_ratio"], lower["log_ratio"])
    torch.testing.assert_close(lower["log_ratio"], second["log_ratio"], rtol=0.05, atol=0.05)


def test_in_chunks_it_is_the_same_to_rounding(tiny):
    whole, chunked = (trained(tiny, steps=7, matmul_precision="bfloat16", chunk=chunk) for chunk in (None, 3))
    for one, other in zip(whole.agent.parameters(), chunked.agent.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=5e-3)


class Words(Target):
    def sample(self, n):
        return torch.randint(2, (n, 3))


def test_on_tokens(tiny_of_data):
    settings = {"steps": None, "objective": None, "agent": {"reference": None}, "matmul_precision": "bfloat16"}
    trainer = Trainer(Words(Tokens(3, 2)), tiny_of_data(**settings))
    trainer.train(3)
    assert precisions(trainer.agent) == {"bfloat16"} and precisions(trainer.evaluated_agent) == {"float32"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matmul_precision": "half"}, "expected one of ['float32', 'tf32', 'bfloat16'], got 'half'"),
        ({"matmul_precision": "bfloat16", "dtype": "float64"}, "expected float32 with dtype float64"),
        ({"matmul_precision": "tf32", "dtype": "float64"}, "expected float32 with dtype float64"),
    ],
)
def test_settings_that_do_not_fit(tiny, changes, message):
    with pytest.raises(InputError) as error:
        tiny(**changes)
    assert f"matmul_precision: {message}" in str(error.value)


def guess(state, k):
    return torch.zeros(*state.shape, 2)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("matmul_precision", "tf32", "float32"), ("compile", True, "False"), ("chunk", 2, "None")],
)
def test_agents_that_it_does_not_apply_to(tiny_of_data, name, value, expected):
    space = Tokens(3, 2)
    agent = DenoisingAgent(MaskOneRandom(space), guess)
    with pytest.raises(InputError) as error:
        Trainer(Words(space), tiny_of_data(steps=None, objective=None, **{name: value}), agent=agent)
    assert str(error.value).startswith(f"{name}: expected {expected} for a")
    assert str(error.value).endswith(f"got {value!r}")
