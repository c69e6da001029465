"""Constants keep float64 whatever the target is moved to."""

import copy

import torch

from ebbflow.envs.targets.exact_constants import ExactConstants

THIRD = torch.tensor(1.0, dtype=torch.float64) / 3


def test_casts_come_from_the_exact_value():
    constants = ExactConstants(third=THIRD)
    half = constants.like(torch.zeros(1, dtype=torch.float16))["third"]
    assert half.dtype == torch.float16
    assert constants.like(torch.zeros(1, dtype=torch.float64))["third"].item() == THIRD.item()
    assert constants.like(torch.zeros(1))["third"] is constants.like(torch.ones(3))["third"]  # cast once


def test_copies_are_whole():
    constants = copy.deepcopy(ExactConstants(third=THIRD))
    assert constants.like(THIRD)["third"].item() == THIRD.item()
