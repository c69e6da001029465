"""Data of real numbers through the one trainer and the one evaluation, destroyed by noise or by a transform."""

import pytest
import torch

from ebbflow.agents import AgentConfig, DenoisingAgent, PointNetwork, build_point_agent
from ebbflow.agents.references.continuous import ColdTransform, get_continuous_reference
from ebbflow.envs import Continuous, Dataset, InputError, Target, get_target
from ebbflow.trainers import TrainConfig, Trainer, evaluate
from ebbflow.trainers.evaluation import warnings_of
from ebbflow.trainers.train import evaluate_run

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


def bars():
    """Images 4 × 4 of one bar; the further right, the brighter: its mean tells its place."""
    rows = torch.zeros(400, 4, 4)
    place = torch.arange(400) % 4
    rows[torch.arange(400), :, place] = 0.5 + 0.5 * place.unsqueeze(-1)
    return Dataset.split(rows.flatten(1) - 0.3, image_shape=(4, 4), name="bars")


def run_of(reference, target, **settings):
    values = {"iterations": 200, "batch_size": 64, "evaluation_samples": 100, "average_decay": 0.0}
    config = values | {"agent": {"reference": reference, "width": 32}} | settings
    return Trainer(target, TrainConfig.from_dict(config))


@pytest.mark.parametrize(("name", "steps"), [("blur", 10), ("pixelate", 2)])
def test_images_are_restored_from_their_means_by_settings_alone(name, steps):
    data = bars()
    trainer = run_of(name, data)
    assert (trainer.config.objective, trainer.config.steps) == ("random_level", steps)
    trainer.train()
    numbers = evaluate_run(trainer)
    assert all(numbers[key] is None for key in ("elbo", "log_likelihood", "bits_per_dimension"))
    assert numbers["sinkhorn"] > 0.0 and warnings_of(numbers) == []
    made = trainer.agent.generate(200)["state"]
    assert (made[:, 0].std(-1) < 1e-5).all()  # of one grey, and those are the means of the data
    away, nearest = (made[:, -1].unsqueeze(1) - data.train_rows[:40]).abs().mean(-1).min(-1)
    assert away.max() < 0.1
    assert (data.train_rows[nearest].unflatten(-1, (4, 4)).mean(1).argmax(-1)).bincount(minlength=4).min() > 25


def test_a_bijection_gives_back_the_data_that_it_was_given():
    data = bars()
    trainer = run_of("bijection", data, iterations=1)
    made = trainer.agent.generate(50)["state"][:, -1]
    assert (made.unsqueeze(1) - data.train_rows).abs().sum(-1).min(-1).values.max() < 1e-4


def test_a_run_of_a_transform_is_resumed_bit_for_bit():
    whole = run_of("blur", bars(), iterations=6)
    whole.train()
    expected = whole.agent.generate(5)["state"]
    first = run_of("blur", bars(), iterations=6)
    first.train(until=3)
    state = first.state_dict()
    second = run_of("blur", bars(), iterations=6)
    second.load_state_dict(state)
    second.train()
    assert torch.equal(second.agent.generate(5)["state"], expected)


@pytest.mark.parametrize(
    ("reference", "target", "settings", "message"),
    [
        ("blur", "two-moons", {}, "reference: blur is of images, .* got no image_shape"),
        ("pixelate", bars, {"steps": 5}, "steps: pixelate doubles its blocks .* expected 2, got 5"),
        ("pixelate", bars, {"objective": "maximum_likelihood"}, "objective: expected random_level, .* pixelate is det"),
        (
            "bijection",
            "gmm25",
            {"objective": "random_level"},
            "agent.reference: bijection .* 'gmm25', which has a log d",
        ),
    ],
)
def test_what_a_transform_cannot_do_is_refused(reference, target, settings, message):
    with pytest.raises(InputError, match=message):
        run_of(reference, target() if callable(target) else get_target(target), **settings)


def test_settings_out_of_range():
    with pytest.raises(
        InputError, match=r"reference: expected one of \['bijection', 'blur', 'noise_exploding', .*'\] for po"
    ):
        get_continuous_reference("bridge", SPACE)
    with pytest.raises(InputError, match="steps: expected a whole number >= 1, got 0"):
        build_point_agent(SPACE, scale=1.0, steps=0)
    agent = build_point_agent(SPACE, scale=1.0, steps=3, config=AgentConfig(width=8))
    with pytest.raises(
        InputError, match=r"scale: expected 1, for a guess of GaussianNoise has no temperature, got 1.5"
    ):
        agent.generate(3, scale=1.5)
