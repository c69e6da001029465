"""A learned schedule is a bridge whatever its numbers are, and finds the widths of a Gaussian by itself."""

import math

import pytest
import torch

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.envs import CallableTarget, Continuous
from ebbflow.envs.errors import InputError
from ebbflow.trainers import TrainConfig, Trainer

WIDTHS = torch.tensor([0.2, 3.0])


def normal(std):
    return CallableTarget(
        lambda x: -0.5 * (x / std).square().sum(-1),
        dim=2,
        sample=lambda n: std * torch.randn(n, 2, dtype=std.dtype),
        log_z=(std.log() + 0.5 * math.log(2 * math.pi)).sum().item(),
        scale=1.0,
    )


def agent_of(**settings):
    config = AgentConfig(width=8, compression=None, **settings)
    return build_agent(Continuous(2), scale=1.0, steps=4, config=config)


def test_untrained_is_the_bridge(double_precision):
    torch.manual_seed(0)
    plain = agent_of()
    learned = agent_of(destruction_schedule="learned")
    learned.load_state_dict(plain.state_dict(), strict=False)
    paths = plain.generate(16)
    for name in ("generation", "destruction"):
        expected, found = (getattr(one.path_log_probs(paths), name) for one in (plain, learned))
        assert torch.allclose(expected, found, atol=1e-12, rtol=0.0), name


@pytest.mark.parametrize("compression", [None, 3.0])
def test_any_schedule_is_reversed_exactly(double_precision, compression):
    """Untouched otherwise, generation and destruction are time reversals: D differs from log p(x_T) by nothing."""
    torch.manual_seed(1)
    agent = agent_of(destruction_schedule="learned")
    agent.destruction.schedule.table.data = 0.2 * torch.randn(4, 2, dtype=torch.float64)
    variance = agent.destruction.schedule.generation_variance().sum(0)
    target = normal(variance.sqrt().detach())
    for paths in (agent.generate(32, target), agent.destroy(target.sample(32), target)):
        assert torch.allclose(agent.log_ratio(paths), torch.tensor(-target.log_z, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("objective", ["reverse_kl", "vargrad"])
def test_learns_the_widths_of_a_gaussian(objective):
    """With nothing else to learn, the schedule alone closes both bounds, which a fixed one leaves far apart."""
    settings = {"target": "normal", "steps": 3, "iterations": 300, "batch_size": 64, "target_networks": "none"}
    settings |= {"objective": objective, "destruction_objective": "tlm" if objective == "reverse_kl" else objective}
    settings["replay"] = {"share": 0.0}
    settings["exploration"] = {"scale": 1.0}
    settings["agent"] = {"width": 8, "compression": None, "time_grid_power": 2.0, "generation_variance": "fixed"}
    settings["agent"] |= {"destruction_mean": "reference", "destruction_variance": "reference", "gain": False}
    settings["agent"] |= {"tables": False, "depth": 1, "destruction_schedule": "learned"}
    settings["generation_optimiser"] = {"rate": 1e-6}
    settings["destruction_optimiser"] = {"table_rate": 2e-2}
    target = normal(WIDTHS)
    trainer = Trainer(target, TrainConfig.from_dict(settings))
    before = -trainer.agent.log_ratio(trainer.agent.generate(2000, target)).mean().item()
    trainer.train()
    agent = trainer.evaluated_agent
    elbo = -agent.log_ratio(agent.generate(2000, target)).mean().item()
    eubo = -agent.log_ratio(agent.destroy(target.sample(2000), target)).mean().item()
    assert target.log_z - before > 5.0
    assert abs(target.log_z - elbo) < 0.1 and abs(eubo - target.log_z) < 0.1
    widths = agent.destruction.schedule.generation_variance().sum(0).sqrt()
    assert torch.allclose(widths, WIDTHS, rtol=0.2)


def test_belongs_to_destruction_and_moves_both():
    agent = agent_of(destruction_schedule="learned", destruction_mean="reference", destruction_variance="reference")
    assert agent.destruction.learned and not agent.destruction.reads_state
    groups = agent.parameter_groups()
    table = agent.destruction.schedule.table
    assert [table is one for one in groups["destruction"]] == [True]
    assert all(table is not one for one in groups["generation"])
    probs = agent.path_log_probs(agent.generate(4))
    for part in (probs.generation, probs.destruction):
        (gradient,) = torch.autograd.grad(part.sum(), table, retain_graph=True)
        assert gradient.isfinite().all() and (gradient != 0).any()


def test_only_a_bridge_has_one():
    with pytest.raises(InputError, match="destruction_schedule: expected 'fixed' with a reference that does not begin"):
        agent_of(destruction_schedule="learned", reference="variance_preserving")
    with pytest.raises(InputError, match="destruction_schedule: expected 'fixed' or 'learned', got 'free'"):
        agent_of(destruction_schedule="free")
