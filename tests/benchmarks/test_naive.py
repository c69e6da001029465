"""The naive implementation that speed is measured against does the trainer's work: same losses, gradients and steps."""

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("target_rate", [0.0, 0.05])
def test_losses_and_gradients_are_the_trainers(target_rate):
    from naive import difference, on_policy_trainer

    trainer = on_policy_trainer(16, target_rate, steps=4, dtype="float64")
    loss, gradient = difference(trainer)
    assert loss < 1e-12
    assert gradient < 1e-10


def test_another_work_is_noticed(monkeypatch):
    import naive

    trainer = naive.on_policy_trainer(16, 0.0, steps=4, dtype="float64")
    plain = naive.NaivePolicies.network
    later = lambda policies, u, time: plain(policies, u, time + 0.1)  # noqa: E731
    monkeypatch.setattr(naive.NaivePolicies, "network", later)
    assert max(naive.difference(trainer)) > 1e-6


def test_naive_training_learns():
    from naive import Naive, on_policy_trainer

    trainer = on_policy_trainer(64, 0.05, steps=4)
    naive = Naive(trainer.agent, trainer.target, 0.05)
    torch.manual_seed(0)
    before = float(naive.losses(512)[1].median())
    for _ in range(40):
        naive.step(64)
    assert float(naive.losses(512)[1].median()) < before - 0.1
