"""Settings that would do nothing, or cannot be done, are refused in one line that names field, value and what fits."""

import pytest
import torch

from ebbflow.envs import Dataset, InputError, get_target
from ebbflow.trainers import TrainConfig, Trainer, fit


def points():
    return Dataset.split(torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), name="points")


def words():
    return Dataset.split(torch.arange(40).reshape(20, 2) % 3, name="words")


def potts():
    return get_target("potts")


@pytest.mark.parametrize("data", [points, words])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"exploration": {"scale": 3.0}},
            "exploration.scale: of data no .* expected 1.5, the default, or 1.0, got 3.0",
        ),
        ({"exploration": {"until": 0.9}}, "exploration.until: .* expected 0.5, the default, got 0.9"),
        ({"exploration": {"drift": 0.5}}, "exploration.drift: .* expected 0.0, the default, got 0.5"),
        ({"anchors": {"share": 0.5}}, "anchors.share: of data there are no .* expected None, the .* or 0.0, got 0.5"),
        ({"anchors": {"count": 10}}, "anchors.count: .* expected 5000, the default, got 10"),
        ({"anchors": {"samples": "exact"}}, "anchors.samples: .* expected None, the default, got exact"),
        ({"replay": {"share": 0.2}}, "replay.share: of data nothing is .* expected 0.5, the default, or 0.0, got 0.2"),
        ({"agent": {"langevin": True}}, "agent.langevin: data have no log density, .* expected no, got yes"),
        ({"agent": {"features": ["raw", "score"]}}, r"agent.features: .* expected no score, got \('raw', 'score'\)"),
        ({"agent": {"forward_looking": True}}, "agent.forward_looking: .* expected no, got yes"),
        ({"objective": "vargrad"}, "objective: vargrad needs a log .*one of .'maximum_likelihood', 'random_level'"),
        (
            {"destruction_objective": "detailed_balance"},
            "destruction_objective: detailed_balance .*one of .'tlm', 'vargrad'",
        ),
    ],
)
def test_of_data(data, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        Trainer(data(), TrainConfig.from_dict(settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reference"), [(points, "noise_preserving"), (words, "mask_one_random"), (words, "mask_learned_order")]
)
@pytest.mark.parametrize("schedule", ["learned", "faster"])
def test_a_schedule_is_a_bridge_s_to_learn(data, reference, schedule):
    settings = {"reference": reference, "destruction_schedule": schedule}
    with pytest.raises(InputError, match=f"agent.destruction_schedule: {reference} .* expected fixed, got {schedule}"):
        Trainer(data(), TrainConfig.from_dict({"agent": settings}))


def test_what_says_so_anyway_is_taken():
    """No exploration, no replay and no anchors are what data have, and so are the defaults."""
    settings = {"exploration": {"scale": 1.0}, "replay": {"share": 0.0}, "anchors": {"share": 0.0}}
    trainer = Trainer(points(), TrainConfig.from_dict(settings | {"iterations": 1, "agent": {"width": 8}}))
    trainer.train()
    assert Trainer(points(), trainer.config).config == trainer.config


@pytest.mark.parametrize("objective", ["detailed_balance", "sub_trajectory_balance"])
def test_a_density_of_tokens_has_no_state_flow(objective):
    with pytest.raises(InputError, match=f"objective: {objective} needs a state flow, .*'trajectory_balance', 'vargr"):
        Trainer(potts(), TrainConfig(objective=objective))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 2}, "batch_size: expected at least 4, for the 4 paths of a sample .* got 2"),
        ({"batch_size": 8, "paths_per_sample": 9}, "paths_per_sample: expected at most 8, .* got 9"),
    ],
)
def test_a_batch_holds_the_paths_of_a_sample(settings, message):
    with pytest.raises(InputError, match=message):
        Trainer(points(), TrainConfig.from_dict(settings))
    Trainer(points(), TrainConfig(batch_size=2, paths_per_sample=2))
    Trainer(words(), TrainConfig(batch_size=2))  # destruction has nothing to learn


def test_samples_of_ones_own_are_no_anchors_of_data():
    with pytest.raises(InputError, match=r"samples: expected none for target 'points', .* fit\(Dataset.split\(samples"):
        fit(points(), samples=torch.randn(10, 2), iterations=1)
    with pytest.raises(InputError, match="samples: expected none for target 'two-moons'"):
        fit("two-moons", samples=torch.randn(10, 2), iterations=1)
