"""Every objective, for each policy that it can train: it learns from the rows it asks for, and is refused without them."""

import math

import numpy
import pytest
import torch

from ebbflow.agents import Origin, build_agent
from ebbflow.envs import CallableTarget, Continuous, InputError, get_target
from ebbflow.envs.targets.mixtures import GaussianMixture
from ebbflow.trainers.objectives import OBJECTIVES, JointLoss, VarGrad
from ebbflow.trainers.train import evaluate_run
from ebbflow.trainers.trainer import Trainer

PAIRS = [
    ({"generation": name, "destruction": "vargrad"} if policy == "generation" else {"generation": "vargrad", "destruction": name})
    for name, kind in OBJECTIVES.items()
    for policy in kind.trains
]
BALANCES = ("detailed_balance", "sub_trajectory_balance")


def two_modes():
    return GaussianMixture([[-2.0], [2.0]], std=0.5, weights=[0.3, 0.7])


def trainer_of(tiny, generation="vargrad", destruction=None, target=None, **settings):
    config = tiny(objective=generation, destruction_objective=destruction, **settings)
    return Trainer(target or two_modes(), config)


def batches(trainer):
    """The batches that the objective is given while the trainer trains."""
    seen = []
    trainer.objective.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    trainer.train()
    return seen


# Each learns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_a_short_training_narrows_the_sandwich(pair, tiny):
    trainer = trainer_of(
        tiny,
        **pair,
        iterations=80,
        batch_size=64,
        agent={"width": 16},
        anchors={"samples": "exact", "count": 500},
        evaluation_samples=1000,
        log_every=1000,
        checkpoint_every=1000,
        generation_optimiser={"rate": 1e-2, "warmup": 5},
        destruction_optimiser={"rate": 1e-2, "warmup": 5},
    )
    before = evaluate_run(trainer)
    trainer.train()
    found = evaluate_run(trainer)
    assert trainer.skipped == 0
    print(pair, before["sandwich_width"], found["sandwich_width"])
    assert 0 < found["sandwich_width"] < 0.5 * before["sandwich_width"]
