"""Target networks follow as TorchRL's `SoftUpdate` lets them, bit for bit, also after a state was loaded."""

import copy

import pytest
import torch
from torchrl.objectives import SoftUpdate

from ebbflow.envs import get_target
from ebbflow.trainers.target_update import TargetUpdate
from ebbflow.trainers.trainer import Trainer


def targets(trainer):
    return {name: value.clone() for name, value in trainer.objective.target_agent_params.items(True, True)}


@pytest.mark.parametrize("agent", [{}, {"shared_backbone": False}])
def test_it_is_a_soft_update(agent, tiny):
    trainer = Trainer(get_target("gmm25"), tiny(agent=agent))
    trainer.train(until=3)
    assert type(trainer.target_update) is TargetUpdate
    saved = copy.deepcopy(trainer.state_dict()["target_networks"])
    before = targets(trainer)
    trainer.target_update.step()
    found = targets(trainer)
    assert any(not torch.equal(found[name], before[name]) for name in found)
    trainer.load_state_dict({**trainer.state_dict(), "target_networks": saved})
    assert all(torch.equal(value, before[name]) for name, value in targets(trainer).items())
    SoftUpdate.step(trainer.target_update)
    assert all(torch.equal(value, found[name]) for name, value in targets(trainer).items())


def test_it_follows_what_was_loaded(tiny):
    trainer = Trainer(get_target("gmm25"), tiny())
    trainer.train(until=2)
    state = copy.deepcopy(trainer.state_dict())
    trainer.train(until=6)
    expected = targets(trainer)
    trainer.load_state_dict(state)
    trainer.train(until=6)
    assert all(torch.equal(value, expected[name]) for name, value in targets(trainer).items())
