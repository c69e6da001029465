"""The space of token sequences: its states, its steps, and what is no state."""

import pytest
import torch

from ebbflow.envs import Continuous, DestructionEnv, InputError, Target, Tokens

SPACE = Tokens(length=3, vocabulary=4)


def test_all_states_are_listed_once_and_in_order():
    states = SPACE.all_states()
    powers = torch.tensor([16, 4, 1])
    assert ((states * powers).sum(-1) == torch.arange(64)).all()
    masked = SPACE.all_states(masked=True)
    assert masked.shape == (125, 3)
    assert masked.max() == SPACE.mask == 4
    assert Tokens(1, 2).all_states().tolist() == [[0], [1]]


def test_a_step_writes_one_token_at_one_position():
    before = SPACE.fully_masked(2)
    after = SPACE.transition(before, torch.tensor([[0, 3], [2, 1]]), step=0)
    assert after.tolist() == [[3, 4, 4], [4, 4, 1]]
    assert (before == 4).all()


def test_states_are_checked():
    assert SPACE.check("x", SPACE.all_states()) is not None
    assert SPACE.check("x", SPACE.fully_masked(2), masked=True) is not None
    assert SPACE.check("x", torch.zeros(0, 3, dtype=torch.int64)) is not None


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([[0, 1, 2]], r"x: expected a tensor of tokens \[..., 3\], got list"),
        (torch.zeros(2, 3), r"x: expected tokens \[..., 3\] of int64, got \[2, 3\] of torch.float32"),
        (torch.zeros(2, 4, dtype=torch.int64), r"x: expected tokens \[..., 3\] of int64, got \[2, 4\]"),
        (torch.tensor([[0, 1, 4]]), "x: expected tokens from 0 to 3, got 4 .the mask"),
        (torch.tensor([[0, -1, 2]]), "x: expected tokens from 0 to 3, got -1$"),
    ],
)
def test_what_is_no_state(state, message):
    with pytest.raises(InputError, match=message):
        SPACE.check("x", state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0, "vocabulary": 3}, "length: expected a whole number >= 1, got 0"),
        ({"length": 2.0, "vocabulary": 3}, "length: .*got 2.0"),
        ({"length": 2, "vocabulary": 1}, "vocabulary: expected a whole number >= 2, got 1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        Tokens(**settings)


def test_a_large_space_is_not_listed():
    with pytest.raises(InputError, match=r"all_states: .* got 4\^64"):
        Tokens(64, 4).all_states()


class OnesWanted(Target):
    """A density over tokens."""

    def __init__(self):
        super().__init__(SPACE, name="ones", context_space=Continuous(1))

    def log_prob(self, x, context):
        return context[..., 0] * (x == 1).sum(-1)


def test_a_density_over_tokens_is_checked_and_counted():
    target = OnesWanted()
    states = torch.tensor([[0, 1, 2], [1, 1, 1]])
    assert target(states, torch.tensor([0.5])).tolist() == [0.5, 1.5]
    assert target.energy_calls == 2
    with pytest.raises(InputError, match="target 'ones': states: expected tokens from 0 to 3, got 4"):
        target(SPACE.fully_masked(1), torch.tensor([0.5]))
    with pytest.raises(InputError, match="target 'ones': a density of tokens has no gradient"):
        target.value_and_score(states, torch.tensor([0.5]))


def test_environments_have_no_tokens():
    with pytest.raises(InputError, match="target 'ones': environments walk in continuous spaces, got Tokens"):
        DestructionEnv(OnesWanted(), steps=2)
