"""A density of token sequences trains through the Trainer as any other, and is judged against the truth."""

import copy
import dataclasses

import numpy
import pytest
import torch

from ebbflow.agents import Origin
from ebbflow.envs import InputError, Target, Tokens, get_target
from ebbflow.envs.targets import PottsChain
from ebbflow.trainers import TrainConfig, Trainer, exact_law, fit
from ebbflow.trainers.train import evaluate_run

SMALL = {"width": 32, "depth": 1}
SHORT = {
    "iterations": 150,
    "batch_size": 128,
    "average_decay": 0.9,
    "agent": SMALL,
    "generation_optimiser": {"rate": 1e-2, "warmup": 5},
    "log_z_optimiser": {"rate": 0.1, "warmup": 5},
}


@pytest.mark.parametrize("reference", ["mask_one_random", "mask_last", "shuffle_every_token"])
def test_it_trains_without_a_setting_that_suits_tokens_only(reference):
    trainer = Trainer(get_target("potts-3"), TrainConfig.from_dict({"agent": {"reference": reference} | SMALL}))
    assert trainer.config.objective == "vargrad" and trainer.config.anchors.share == 0.0
    assert trainer.exploration.scale == 1.5  # the temperature of the guess
    trainer.train(until=3)
    assert trainer.anchors is None and len(trainer.replay) > 0 and trainer.skipped == 0


@pytest.mark.parametrize("objective", ["vargrad", "trajectory_balance", "reverse_kl_log_derivative"])
def test_it_learns_the_law(objective):
    target = PottsChain(4, 3)
    trainer = Trainer(target, TrainConfig.from_dict({**SHORT, "objective": objective}))
    law = target(target.space.all_states()).softmax(0)
    untrained = exact_law(trainer.evaluated_agent)
    trainer.train()
    before, after = (
        float(0.5 * (found - law).abs().sum()) for found in (untrained, exact_law(trainer.evaluated_agent))
    )
    assert after < 0.06 < 0.25 < before
    if objective == "trajectory_balance":
        assert trainer.agent.log_z.item() == pytest.approx(target.log_z, abs=0.2)


def test_it_is_judged_against_the_truth():
    target = PottsChain(4, 3)
    found = fit(target, evaluation_samples=600, **SHORT).evaluation
    assert found["true_log_z"] == target.log_z
    assert found["elbo"] - 3 * found["elbo_stderr"] < target.log_z < found["eubo"] + 3 * found["eubo_stderr"]
    assert found["sandwich_width"] < 0.2 and found["ess_reverse"] > 0.9 and found["ess_forward"] > 0.9
    assert found["log_z"] == pytest.approx(target.log_z, abs=6 * found["log_z_stderr"])
    assert found["sinkhorn"] < 0.2 + found["sinkhorn_floor"]
    assert found["gradient_calls"] == 0 and 150 * 64 <= found["energy_calls"] <= 152 * 64 + 128


def test_random_levels_learn_from_its_exact_samples_alone():
    trainer = Trainer(PottsChain(3, 2), TrainConfig.from_dict({**SHORT, "objective": "random_level"}))
    trainer.train()
    assert trainer.energy_calls == 0 and len(trainer.replay) == 0
    assert evaluate_run(trainer, samples=500)["sandwich_width"] < 0.2


@pytest.mark.parametrize("kind", ["exact", "file", "given"])
def test_anchors_of_tokens_are_samples(kind, tmp_path):
    target = get_target("potts-3")
    settings = {"iterations": 2, "batch_size": 16, "agent": SMALL}
    if kind == "given":
        trainer = fit(target, samples=target.sample(20), evaluation_samples=50, **settings).trainer
    else:
        numpy.save(tmp_path / "mine.npy", target.sample(20).numpy())
        path = "exact" if kind == "exact" else str(tmp_path / "mine.npy")
        trainer = Trainer(target, TrainConfig.from_dict({**settings, "anchors": {"samples": path, "count": 20}}))
        trainer.train()
    assert trainer.config.anchors.share == 0.75
    assert trainer.anchors.states.dtype == torch.int64 and len(trainer.anchors) == 20
    drawn = trainer.memory.trajectories(trainer.memory.draw(2, 4))[0]
    assert (drawn["origin"] == Origin.DATA).sum() == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "reverse_kl"}, "objective: tokens have no gradient .* expected reverse_kl_log_derivative, got"),
        ({"objective": "detailed_balance"}, "objective: detailed_balance needs a state flow"),
        (
            {"anchors": {"share": 0.5}},
            r"anchors.share: tokens have no gradient .* expected 0, or anchors.samples, got 0.5",
        ),
        ({"local_search": {"kind": "mala"}}, "local_search.kind: .* expected none, got mala"),
        ({"exploration": {"drift": 0.5}}, "exploration.drift: .* expected 0, got 0.5"),
        ({"exploration": {"added": 0.5}}, "exploration.added: .* expected 0, got 0.5"),
        ({"agent": {"langevin": True}}, "agent.langevin: .* expected no, got yes"),
        ({"agent": {"features": ["raw", "score"]}}, "agent.features: .* expected no score"),
        ({"reward_path": "redrawn"}, "reward_path: redrawn is for reverse_kl_log_derivative, .* followed with vargrad"),
    ],
)
def test_what_tokens_cannot_do_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        Trainer(get_target("potts-3"), TrainConfig.from_dict(changes))
    assert "\n" not in str(caught.value)


def test_the_command_line_trains_a_density_of_ones_own(ebbflow, densities):
    class Palindromes(Target):
        def __init__(self):
            super().__init__(Tokens(length=4, vocabulary=2), name="palindromes")

        def log_prob(self, x):
            return 2.0 * (x == x.flip(-1)).float().mean(-1)

    densities.Palindromes = Palindromes
    run = ebbflow(
        "train",
        "densities:Palindromes",
        "--iterations",
        3,
        "--batch-size",
        8,
        "--evaluation-samples",
        64,
        "--out",
        "run",
    )
    assert run.code == 0, run.err
    assert ebbflow("sample", "run", "-n", 5, "--out", "samples.npz").code == 0
    assert numpy.load("samples.npz")["x"].dtype == numpy.int64
    assert ebbflow("report", "run").code == 0


def test_settings_of_other_densities_stay_as_they_were():
    config = Trainer(get_target("gmm25"), TrainConfig.from_dict({"agent": {"time_grid_power": 2.0}})).config
    assert config.anchors.share == 0.75
    assert dataclasses.replace(config.anchors, share=None) == TrainConfig().anchors


def test_an_interrupted_training_goes_on_bit_for_bit():
    config = TrainConfig.from_dict({**SHORT, "iterations": 8, "batch_size": 16})
    whole = Trainer(PottsChain(3, 2), config)
    whole.train()
    first = Trainer(PottsChain(3, 2), config)
    first.train(until=4)
    state = copy.deepcopy(first.state_dict())
    second = Trainer(PottsChain(3, 2), config)
    second.load_state_dict(state)
    second.train()
    assert second.energy_calls == whole.energy_calls
    for a, b in zip(second.agent.parameters(), whole.agent.parameters(), strict=True):
        assert torch.equal(a, b)
