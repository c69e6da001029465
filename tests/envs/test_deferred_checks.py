"""Checks that raise at once or are put off: the same error, of the same numbers."""

import copy
import math

import pytest
import torch

from ebbflow.envs import CallableTarget, InputError, Tokens, get_target
from ebbflow.envs.deferred_checks import DeferredChecks

VALUES = "target 'density': log_prob is nan for {} of {} states, first at x = [3.0, -1.5]; expected finite values"


def density(x):
    return torch.where(x[..., 0] > 2, x.new_tensor(math.nan), -x.square().sum(-1))


def kinked(x):
    return -x.square().sum(-1).sqrt()  # no gradient at 0


GOOD, BAD = torch.zeros(4, 2), torch.tensor([[0.0, 1.0], [3.0, -1.5], [4.0, 1.0]])


@pytest.fixture
def target():
    return CallableTarget(density, 2)


def test_a_value_that_is_not_finite_raises_at_once_by_default(target):
    with pytest.raises(InputError) as error:
        target(BAD)
    assert str(error.value).startswith(VALUES.format(2, 3))
    assert target(GOOD).shape == (4,)
    target.checks.look()  # and is told once


def test_what_was_deferred_is_raised_by_the_next_look(target):
    with target.checks.deferring():
        assert target(GOOD).isfinite().all()
        assert target(BAD).isnan().tolist() == [False, True, True]
        target(torch.tensor([[9.0, 9.0]]))  # the first one counts
    assert target.energy_calls == 8
    with pytest.raises(InputError) as error:
        target.checks.look()
    assert str(error.value).startswith(VALUES.format(3, 8))
    target.checks.look()


def test_what_was_deferred_is_raised_by_the_next_check_that_is_not(target):
    with target.checks.deferring():
        target(BAD)
    with pytest.raises(InputError, match="nan for 2 of 3 states"):
        target(GOOD)


def test_fine_numbers_leave_nothing_to_tell(target):
    with target.checks.deferring():
        target(GOOD)
        target.value_and_score(GOOD)
        target(GOOD[:0])
    target.checks.look()


def test_gradients_are_checked_likewise():
    target = CallableTarget(kinked, 2)
    with pytest.raises(InputError, match="the gradient of log_prob is NaN for some states"):
        target.value_and_score(GOOD)
    with target.checks.deferring():
        assert target.value_and_score(GOOD)[1].isnan().all()
    with pytest.raises(InputError, match="the gradient of log_prob is NaN for some states"):
        target.checks.look()


@pytest.mark.parametrize("broken", [lambda x: 1 / 0, lambda x: torch.zeros(3)])
def test_what_needs_no_device_to_be_seen_raises_at_once(broken):
    target = CallableTarget(broken, 2)
    with target.checks.deferring(), pytest.raises(InputError, match="log_prob"):
        target(GOOD)


def test_views_share_the_checks():
    family = get_target("conditional-gmm")
    views = [family.given(torch.zeros(2)), family.counted_apart()]
    assert all(view.checks is family.checks for view in views)
    assert copy.deepcopy(family).checks is not family.checks


def test_a_space_takes_the_checks_that_defer_now():
    space, wrong = Tokens(length=2, vocabulary=3), torch.tensor([[0, 1], [2, 3]])
    checks = DeferredChecks()
    with checks.deferring():
        assert space.check("x", wrong).tolist() == [[0, 1], [2, 2]]  # what is looked up by it meanwhile
        Tokens(length=1, vocabulary=3).check("x", wrong[:, :1])
    for tells in (checks.look, lambda: space.check("x", wrong)):
        with pytest.raises(InputError, match="x: expected tokens from 0 to 2, got 3"):
            tells()


def test_switched_off_inside_another_it_changes_nothing():
    checks = DeferredChecks()
    bad = torch.tensor([False, True])

    def error(failed, total):
        return InputError(f"{failed} of {total}")

    with checks.deferring(False), pytest.raises(InputError, match="1 of 2"):
        checks.check(bad, [], error)
    with checks.deferring():
        with checks.deferring(False):
            checks.check(bad, [], error)
        checks.check(bad, [], error)
    with pytest.raises(InputError, match="2 of 4"):
        checks.look()
