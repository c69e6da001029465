"""The study of the path that is rewarded: its sums are exact, and its third row estimates what is said of it."""

import importlib
from pathlib import Path

import pytest
import torch

from ebbflow.agents.exploration import NOT_WIDENED
from ebbflow.envs.targets import PottsChain
from ebbflow.trainers import TrainConfig, Trainer, exact_bound, exact_law

CHAIN = PottsChain(length=3, vocabulary=2, coupling=1.5, field=0.7)
STATES = CHAIN.space.all_states()


@pytest.fixture
def study(monkeypatch):
    """As for scripts that run beside each other."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("reward_path")


@pytest.fixture
def trainer():
    settings = {"objective": "reverse_kl_log_derivative", "batch_size": 500, "replay": {"share": 0.0}}
    trainer = Trainer(CHAIN, TrainConfig.from_dict(settings | {"agent": {"width": 6, "depth": 1}}))
    with torch.no_grad():
        for parameter in trainer.agent.network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return trainer


def test_the_numbers_are_exact(study, trainer):
    found = study.exact_numbers(trainer.agent, CHAIN)
    law, log_reward = exact_law(trainer.agent), CHAIN(STATES)
    expected = (law * (law.log() - log_reward)).sum().item() + CHAIN.log_z
    assert found["sample_kl"] == pytest.approx(expected, abs=1e-4)
    assert found["expected_reward"] == pytest.approx((law * log_reward).sum().item(), abs=1e-4)
    paths = trainer.new_paths.collect(20_000)
    log_ratio = trainer.agent.log_ratio(paths).detach()
    assert found["path_kl"] == pytest.approx(
        log_ratio.mean().item() + CHAIN.log_z, abs=5 * log_ratio.std().item() / 141
    )
    assert found["path_kl"] > found["sample_kl"] > 0.01


def test_credit_to_another_path_moves_the_bound_and_not_the_likelihood(study, trainer):
    """E_q[(E[D | x] − b) ∇ B(x)], held against finite differences of the bound along a direction."""
    agent = trainer.agent
    paths = trainer.new_paths.collect(40_000)
    index = (paths["state"][:, -1] * torch.tensor([4, 2, 1])).sum(-1)
    with torch.no_grad():
        advantage = agent.log_ratio(paths)
    advantage = advantage - advantage.mean()
    weight = torch.zeros(8).index_add(0, index, advantage) / len(index)  # q(x) (E[D | x] − b)
    trainer.new_paths = study.Credited(agent, trainer.target, trainer.config, trainer.objective)

    def slopes(n):
        loss = trainer.objective(trainer.new_paths.generate(n, NOT_WIDENED))["loss_generation"]
        return torch.autograd.grad(loss, list(agent.network.parameters()))

    direction = slopes(10_000)  # about the gradient itself

    def bound_at(step):
        with torch.no_grad():
            for p, d in zip(agent.network.parameters(), direction, strict=True):
                p.add_(step * d)
            bound = exact_bound(agent, STATES)
            for p, d in zip(agent.network.parameters(), direction, strict=True):
                p.sub_(step * d)
        return (weight * bound).sum().item()

    expected = (bound_at(1e-2) - bound_at(-1e-2)) / 2e-2
    found = [sum((g * d).sum().item() for g, d in zip(slopes(500), direction, strict=True)) for _ in range(60)]
    mean, stderr = torch.tensor(found).mean().item(), torch.tensor(found).std().item() / 60**0.5
    assert mean == pytest.approx(expected, abs=4.5 * stderr)
    assert abs(expected) > 5 * stderr  # else agreement would say nothing
