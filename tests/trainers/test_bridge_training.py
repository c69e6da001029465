"""Training on two sample sets finds the entropic plan between them, and what cannot find it is refused."""

from dataclasses import replace

import pytest
import torch

from ebbflow.agents import BRIDGE, Origin, build_bridge_agent
from ebbflow.envs import Continuous, InputError, Target, get_target
from ebbflow.envs.data import two_moons
from ebbflow.trainers import TrainConfig, Trainer
from ebbflow.trainers.data_likelihood import likelihood_numbers
from ebbflow.trainers.metrics import gaussian_cross_covariance

A = torch.tensor([[1.0, 0.6], [0.6, 0.8]])
B = torch.tensor([[0.5, -0.3], [-0.3, 0.6]])
SMALL = replace(BRIDGE, width=16, depth=1, features=("raw",))


class Normal(Target):
    def __init__(self, mean, covariance):
        super().__init__(Continuous(len(mean)))
        self.mean, self.covariance = torch.tensor(mean), covariance

    def sample(self, n):
        return self.mean + torch.randn(n, len(self.mean)) @ torch.linalg.cholesky(self.covariance).mT


def covariance(x, y):
    return (x - x.mean(0)).mT @ (y - y.mean(0)) / len(x)


def learned(source, target, steps, **settings):
    agent = build_bridge_agent(source.space, source=source, sigma=1.0, steps=steps, config=SMALL, scale=1.5, **settings)
    rate = {"rate": 2e-2, "table_rate": 3e-2, "warmup": 20, "clip_norm": 10.0}
    config = {"iterations": 250, "average_decay": 0.95, "generation_optimiser": rate}
    config["destruction_optimiser"] = rate
    trainer = Trainer(target, TrainConfig.from_dict(config), agent=agent)
    trainer.train()
    return trainer.evaluated_agent


@pytest.mark.parametrize(("dim", "steps"), [(1, 5), (2, 10), (1, 20)])
def test_between_normal_laws_the_ends_are_the_closed_form(dim, steps):
    a, b = A[:dim, :dim], B[:dim, :dim]
    source, target = Normal([-1.0, 0.0][:dim], a), Normal([1.0, 0.5][:dim], b)
    agent = learned(source, target, steps)
    exact = gaussian_cross_covariance(a, b, 1.0).float()
    x_0, x_t = agent.coupling(20_000)
    y_0, y_t = agent.destroy(target.sample(20_000))["state"][:, [0, -1]].unbind(1)
    for x, y in ((x_0, x_t), (y_0, y_t)):
        assert (covariance(x, y) - exact).abs().max() < 0.06  # the plan that is learned below is 0.15 off
    assert (x_t.mean(0) - target.mean).abs().max() < 0.06 and (y_0.mean(0) - source.mean).abs().max() < 0.06
    assert (covariance(x_t, x_t) - b).abs().max() < 0.15 and (covariance(y_0, y_0) - a).abs().max() < 0.15


def test_both_at_once_on_their_own_paths_do_not_find_the_plan():
    """Why paths are redrawn: what makes the test above pass is not the training alone."""
    source, target = Normal([-1.0], A[:1, :1]), Normal([1.0], B[:1, :1])
    x_0, x_t = learned(source, target, 5, redraw=False).coupling(20_000)
    assert covariance(x_0, x_t) < gaussian_cross_covariance(A[:1, :1], B[:1, :1], 1.0) - 0.1


def small(**settings):
    moons = two_moons(50)
    agent = build_bridge_agent(moons.space, source=moons, sigma=1.0, steps=3, config=SMALL)
    return Trainer(two_moons(60, seed=1), TrainConfig.from_dict({"batch_size": 8, **settings}), agent=agent)


def test_the_batches_start_and_end_in_the_data():
    trainer = small()
    assert (trainer.config.objective, trainer.config.destruction_objective) == ("maximum_likelihood", "tlm")
    assert trainer.data is not None
    batch = trainer.data.draw()
    destroyed, generated = batch["state"][:4], batch["state"][4:]
    assert batch["origin"].tolist() == [Origin.DATA] * 4 + [Origin.ON_POLICY] * 4
    assert batch["sample"].unique().numel() == 8  # a path of each, for paths of one sample are not compared
    for ends, rows in (
        (destroyed[:, -1], trainer.target.train_rows),
        (generated[:, 0], trainer.agent.source.train_rows),
    ):
        assert (ends.unsqueeze(1) == rows).all(-1).any(-1).all()


def test_its_likelihood_is_not_told():
    trainer = small()
    assert set(likelihood_numbers(trainer.agent, trainer.target, 10).values()) == {None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"destruction_objective": "vargrad"},
            "destruction_objective: expected tlm, for the agent starts from samples",
        ),
        ({"objective": "random_level"}, "random_level"),
        ({"steps": 4}, "steps: expected 3 as the given agent has, got 4"),
    ],
)
def test_objectives_that_need_log_ratios_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        small(**settings)


def test_targets_that_do_not_fit_are_refused():
    moons = two_moons(50)
    agent = build_bridge_agent(moons.space, source=moons, sigma=1.0, steps=3, config=SMALL)
    with pytest.raises(InputError, match="target: expected a data set for an agent that starts from samples"):
        Trainer(get_target("gmm25"), TrainConfig(), agent=agent)
    with pytest.raises(InputError, match="has states in"):
        Trainer(Normal([0.0], torch.eye(1)), TrainConfig(), agent=agent)
