"""Data of real numbers through the one trainer and the one evaluation, destroyed by noise or by a transform."""

import pytest
import torch

from ebbflow.agents import AgentConfig, DenoisingAgent, PointNetwork, build_point_agent
from ebbflow.agents.references.continuous import ColdTransform, get_continuous_reference
from ebbflow.envs import Continuous, InputError, Target
from ebbflow.trainers import TrainConfig, Trainer, evaluate

SPACE = Continuous(2)


class Line(Target):
    """Samples around a line whose slope is a half; there is no density."""

    def __init__(self):
        super().__init__(SPACE, scale=1.0)

    def sample(self, n):
        x = torch.randn(n)
        return torch.stack([x, 0.5 * x + 0.2 * torch.randn(n)], dim=-1)


def trained(agent, iterations):
    trainer = Trainer(Line(), TrainConfig.from_dict({"iterations": iterations, "batch_size": 256}), agent=agent)
    trainer.train()
    assert trainer.config.objective == "random_level"
    return trainer.agent


@pytest.mark.parametrize("name", ["noise_preserving", "noise_exploding"])
def test_noise_is_learned_to_be_undone(name):
    torch.manual_seed(0)
    agent = build_point_agent(SPACE, scale=1.0, steps=30, config=AgentConfig(reference=name, width=64))
    before = evaluate(agent, Line(), samples=400, seed=0)
    after = evaluate(trained(agent, 150), Line(), samples=400, seed=0)
    assert after["train_log_likelihood"] > before["train_log_likelihood"] + 0.2
    assert after["train_log_likelihood"] > -1.9  # minus the entropy: -1.23
    assert after["sinkhorn"] < 0.5 * before["sinkhorn"] + after["sinkhorn_floor"]


def test_a_deterministic_destruction_is_trained_and_has_no_likelihood():
    drop = ColdTransform(SPACE, [[[1.0, 0.0], [0.0, 0.0]]])  # the second coordinate
    drop.law_of(drop.sample_level(Line().sample(2_000), 0))
    agent = trained(DenoisingAgent(drop, PointNetwork(drop, width=32)), 200)
    numbers = evaluate(agent, Line(), samples=500, seed=0)
    assert numbers["train_log_likelihood"] is None and numbers["sinkhorn"] is not None
    samples = agent.generate(500)["state"][:, -1]
    middle = samples[:, 0].abs() < 2.0
    assert (samples[:, 1] - 0.5 * samples[:, 0])[middle].abs().mean() < 0.1  # its mean given the first: all there is


def test_settings_out_of_range():
    with pytest.raises(
        InputError, match=r"reference: expected one of \['noise_exploding', 'noise_preserving'\] for po"
    ):
        get_continuous_reference("bridge", SPACE)
    with pytest.raises(InputError, match="steps: expected a whole number >= 1, got 0"):
        build_point_agent(SPACE, scale=1.0, steps=0)
    agent = build_point_agent(SPACE, scale=1.0, steps=3, config=AgentConfig(width=8))
    with pytest.raises(
        InputError, match=r"scale: expected 1, for a guess of GaussianNoise has no temperature, got 1.5"
    ):
        agent.generate(3, scale=1.5)
