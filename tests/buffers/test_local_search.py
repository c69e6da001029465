"""Local search: the law stays, states improve, steps adapt, calls are counted, and it can be taken up again."""

import math
from typing import NamedTuple

import pytest
import torch

from ebbflow.buffers import Anchors, EbbAndFlowSearch, LangevinSearch
from ebbflow.buffers.langevin import Chains, Tempered, langevin_move
from ebbflow.envs import Continuous, InputError, Target


class Stretched(Target):
    """Gaussian with standard deviations 4 and 0.25."""

    def __init__(self):
        super().__init__(Continuous(2))
        self.std = torch.tensor([4.0, 0.25], dtype=torch.float64)

    def log_prob(self, x):
        return -0.5 * (x / self.std.to(x)).square().sum(-1)


class Proposal(NamedTuple):
    state: torch.Tensor
    log_reward: torch.Tensor
    log_acceptance: torch.Tensor


def independent(target, std):
    """Proposals from N(0, std²), whatever the state."""

    def propose(states, log_reward):
        y = std * torch.randn_like(states)
        value = target(y)
        log_density = [-0.5 * (x / std).square().sum(-1) for x in (states, y)]
        return Proposal(y, value, value - log_reward + log_density[0] - log_density[1])

    return propose


def searches(target, moves=10):
    wide = torch.tensor([6.0, 0.5], dtype=torch.float64)
    return {
        "mala": LangevinSearch(target, moves),
        "proposals": EbbAndFlowSearch(target, moves, independent(target, wide)),
    }


@pytest.mark.parametrize("kind", ["mala", "proposals"])
def test_exact_samples_stay_exact_and_others_get_there(kind):
    torch.manual_seed(0)
    target, n = Stretched(), 20_000
    search = searches(target)[kind]
    exact = target.std * torch.randn(n, 2, dtype=torch.float64)
    shifted = exact * torch.tensor([0.3, 5.0]) + torch.tensor([2.0, 1.0])
    for x, searches_done in ((exact, 3), (shifted, 12)):
        log_reward = target(x)
        for _ in range(searches_done):
            x, log_reward = search.run(x, log_reward)
        torch.testing.assert_close(log_reward, target(x))
        assert ((x.std(dim=0) / target.std - 1).abs() < 0.03).all()
        assert (x.mean(0).abs() < 0.04 * target.std).all()


@pytest.mark.parametrize("acceptance", [0.574, 0.8])
def test_the_step_follows_the_acceptance(acceptance):
    torch.manual_seed(0)
    target = Stretched()
    search = LangevinSearch(target, 10, target_acceptance=acceptance)
    x = 100.0 * torch.randn(500, 2, dtype=torch.float64)
    log_reward, steps = target(x), []
    assert math.isnan(search.acceptance) and search.log_step == 0.0
    for _ in range(20):
        x, log_reward = search.run(x, log_reward)
        steps.append(search.log_step)
    assert search.acceptance == pytest.approx(acceptance, abs=0.05)
    assert max(abs(step) for step in steps[:2]) > 0.1


def test_calls_are_counted_by_each_search():
    target = Stretched()
    x = torch.randn(7, 2)
    kinds = searches(target, moves=3)
    kinds["proposals"].propose = independent(target, 1.0)
    before = target.energy_calls
    for expected, search in ((((3 + 1) * 7, (3 + 1) * 7), kinds["mala"]), ((3 * 7, 0), kinds["proposals"])):
        for times in (1, 2):
            search.run(x, torch.zeros(7))
            assert (search.energy_calls, search.gradient_calls) == (times * expected[0], times * expected[1])
    assert target.energy_calls - before == 2 * 7 * (4 + 3)


def test_what_is_not_a_number_or_outside_is_not_accepted():
    x = torch.zeros(4, 2)
    ratio = torch.tensor([math.nan, -math.inf, math.inf, 0.0])
    search = EbbAndFlowSearch(Stretched(), 1, lambda states, log_reward: Proposal(states + 1, log_reward + 1, ratio))
    states, log_reward = search.run(x, torch.zeros(4))
    assert states[:, 0].tolist() == log_reward.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert search.acceptance == 0.5


def test_a_step_may_be_a_whole_number():
    chains = Chains(torch.zeros(3, 2), *Stretched().value_and_score(torch.zeros(3, 2)))
    assert langevin_move(Tempered(Stretched()), chains, torch.ones(2), log_step=-1).shape == (3,)
    search = LangevinSearch(Stretched(), 5)
    search.load_state_dict({"acceptance": 1, "energy_calls": 0, "gradient_calls": 0, "log_step": 0})
    assert search.run(torch.zeros(3, 2), torch.zeros(3))[0].isfinite().all()


def test_states_all_alike_can_be_moved():
    torch.manual_seed(0)
    states, _ = LangevinSearch(Stretched(), 5).run(torch.ones(3, 2), torch.zeros(3))
    assert states.isfinite().all() and (states != 1).any()


def test_a_restored_search_goes_on_bit_for_bit():
    target = Stretched()
    search, other = (LangevinSearch(target, 5) for _ in range(2))
    x = torch.randn(20, 2)
    search.run(x, target(x))
    other.load_state_dict(search.state_dict())
    ends = []
    for one in (search, other):
        torch.manual_seed(1)
        ends.append((*one.run(x, target(x)), one.state_dict()))
    assert torch.equal(ends[0][0], ends[1][0]) and torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]
    state = search.state_dict()
    for key in state:
        with pytest.raises(InputError, match=f"{key}: missing"):
            other.load_state_dict({k: v for k, v in state.items() if k != key})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moves": 0}, "moves: expected a whole number >= 1, got 0"),
        ({"target_acceptance": 0.0}, "target_acceptance: expected a number between 0 and 1, got 0.0"),
        ({"target_acceptance": 1.0}, "target_acceptance: expected a number between 0 and 1, got 1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        LangevinSearch(Stretched(), **{"moves": 5} | options)


def test_refreshed_anchors_are_new_ones():
    target = Stretched()
    anchors = Anchors.from_samples(target, torch.arange(10.0).view(5, 2))
    moved = torch.full((2, 2), 0.5)
    new = anchors.refreshed(torch.tensor([3, 1]), moved, target(moved))
    assert new.states[:, 0].tolist() == [0.0, 0.5, 4.0, 0.5, 8.0]
    torch.testing.assert_close(new.log_reward, target(new.states))
    assert anchors.states[:, 0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert (new.energy_calls, len(new)) == (anchors.energy_calls, 5)
