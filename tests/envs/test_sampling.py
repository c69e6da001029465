"""Generation and destruction as TorchRL environments."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch.distributions import Normal
from torchrl.envs.utils import check_env_specs, step_mdp

from ebbflow.envs import CallableTarget, Continuous, DestructionEnv, GenerationEnv, InitialLaw, InputError, get_target
from ebbflow.envs.target import Target

LAWS = [InitialLaw(0.0), InitialLaw(2.0)]


class Slope(Target):
    """A log density of which the value says where it was evaluated."""

    def __init__(self):
        super().__init__(Continuous(2), name="slope")

    def log_prob(self, x):
        return x[..., 0] + 10 * x[..., 1]


def act(env, state, action):
    state["action"] = action
    return env.step(state)


# Initial law ----------------------------------------------------------------------------------------------------------


@given(std=st.floats(0.01, 100.0), n=st.integers(0, 5), dim=st.integers(1, 4))
def test_gaussian_law(std, n, dim):
    law = InitialLaw(std)
    x = law.sample(n, Continuous(dim), dtype=torch.float64)
    assert x.shape == (n, dim)
    expected = Normal(torch.zeros((), dtype=torch.float64), std).log_prob(x).sum(-1)
    torch.testing.assert_close(law.log_prob(x), expected)


def test_laws_are_what_they_say():
    assert torch.equal(InitialLaw(0.0).sample(3, Continuous(2)), torch.zeros(3, 2))
    assert torch.equal(InitialLaw(0.0).log_prob(torch.ones(4, 3, 2)), torch.zeros(4, 3))
    x = InitialLaw(3.0).sample(40_000, Continuous(2))
    assert x.std().item() == pytest.approx(3.0, rel=0.02) and abs(x.mean().item()) < 0.06


def test_law_of_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    draws = [InitialLaw(1.0).sample(3, Continuous(2), generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(draws[0], draws[1]) and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("std", [-1.0, math.inf, math.nan, "wide", None, True])
def test_bad_laws_are_reported(std):
    with pytest.raises(InputError, match="std: expected a finite standard deviation >= 0"):
        InitialLaw(std)


# Both directions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_generation_specs(law, batch, dtype):
    env = GenerationEnv(get_target("gmm25"), 5, law, batch_size=batch, dtype=dtype)
    check_env_specs(env, break_when_any_done="both")
    check_env_specs(GenerationEnv(get_target("gmm25"), 2, law, batch_size=batch, dtype=dtype), seed=1)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("steps", [2, 5])
def test_destruction_specs(batch, dtype, steps):
    env = DestructionEnv(get_target("manywell-4"), steps, batch_size=batch, dtype=dtype)
    check_env_specs(env, break_when_any_done="both")


@pytest.mark.parametrize("steps", [0, -3, 2.0, True, None, "5"])
@pytest.mark.parametrize("kind", [GenerationEnv, DestructionEnv])
def test_bad_steps_are_reported(kind, steps):
    with pytest.raises(InputError, match="steps: expected a whole number >= 1, got "):
        kind(get_target("gmm25"), steps, batch_size=[2])


@pytest.mark.parametrize("kind", [GenerationEnv, DestructionEnv])
def test_bad_dtypes_are_reported(kind):
    with pytest.raises(InputError, match=r"dtype: expected a floating point type, got torch\.int64"):
        kind(get_target("gmm25"), 2, batch_size=[2], dtype=torch.int64)


@pytest.mark.parametrize(
    "make", [lambda t: GenerationEnv(t, 3, LAWS[1], batch_size=[4]), lambda t: DestructionEnv(t, 3, batch_size=[4])]
)
def test_seed_repeats_a_walk(make):
    env = make(get_target("gmm25"))
    walks = []
    for seed in (1, 1, 2):
        env.set_seed(seed)
        walks.append(env.rollout(3))
    assert (walks[0] == walks[1]).all()
    assert not torch.equal(walks[0]["state"], walks[2]["state"])


# Generation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)], ids=str)
def test_reward_is_the_target_at_the_end(law, batch):
    target = get_target("gmm25")
    env = GenerationEnv(target, 4, law, batch_size=batch)
    walk = env.rollout(100)
    rows = math.prod(batch)
    assert target.energy_calls == rows  # called once for each walk
    assert walk.shape == (*batch, 4)
    torch.testing.assert_close(walk["next", "state"], walk["state"] + walk["action"])
    assert torch.equal(walk["next", "state"][..., :-1, :], walk["state"][..., 1:, :])
    assert walk["step"].reshape(rows, 4).tolist() == [[0, 1, 2, 3]] * rows
    assert walk["next", "done"].reshape(rows, 4).tolist() == [[False, False, False, True]] * rows
    assert torch.equal(walk["next", "done"], walk["next", "terminated"])
    reward = walk["next", "reward"].squeeze(-1)
    assert (reward[..., :-1] == 0).all()
    torch.testing.assert_close(reward[..., -1], target(walk["next", "state"][..., -1, :]))
    if law.std == 0:
        assert (walk["state"][..., 0, :] == 0).all()
    else:
        assert (walk["state"][..., 0, :] != 0).all()


def test_space_moves_the_state():
    class Circle(Continuous):
        def transition(self, state, action, step):
            return (state + action + step).remainder(2.0)

    class Angle(Slope):
        def __init__(self):
            Target.__init__(self, Circle(2))

    env = GenerationEnv(Angle(), 2, batch_size=[1])
    state = env.reset()
    for _ in range(2):
        state = step_mdp(act(env, state, torch.tensor([[1.5, 0.25]])))
    assert state["state"].tolist() == [[0.0, 1.5]]  # (0 + 1.5 + 0, ...) then (1.5 + 1.5 + 1, ...), modulo 2


def test_rows_at_different_steps():
    target = Slope()
    env = GenerationEnv(target, 3, batch_size=[3])
    state = env.reset()
    state["step"] = torch.tensor([[0], [2], [1]])
    step = act(env, state, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))["next"]
    assert step["step"].flatten().tolist() == [1, 3, 2]
    assert step["done"].flatten().tolist() == [False, True, False]
    assert step["reward"].flatten().tolist() == [0.0, 10.0, 0.0]
    assert target.energy_calls == 1


def test_partial_reset():
    env = GenerationEnv(Slope(), 3, batch_size=[3])
    state = step_mdp(act(env, env.reset(), torch.ones(3, 2)))
    state["_reset"] = torch.tensor([[True], [False], [True]])
    state = env.reset(state)
    assert state["step"].flatten().tolist() == [0, 1, 0]
    assert state["state"].tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


def test_walks_follow_each_other():
    walk = GenerationEnv(Slope(), 2, batch_size=[3]).rollout(5, break_when_any_done=False)
    assert walk["step"][0].flatten().tolist() == [0, 1, 0, 1, 0]
    assert (walk["state"][:, 2] == 0).all()


def test_reward_can_be_differentiated():
    env = GenerationEnv(Slope(), 1, batch_size=[2])
    action = torch.zeros(2, 2, requires_grad=True)
    act(env, env.reset(), action)["next", "reward"].sum().backward()
    assert action.grad.tolist() == [[1.0, 10.0]] * 2


def test_what_cannot_be_generated_is_reported():
    data = CallableTarget(lambda x: x.sum(-1), dim=2)
    with pytest.raises(InputError, match="generation needs a log density"):
        GenerationEnv(Target(data.space, name="data"), 3, batch_size=[2])
    env = GenerationEnv(Slope(), 1, batch_size=[2])
    with pytest.raises(InputError, match="target 'slope': log_prob is nan for 1 of 2 states"):
        act(env, env.reset(), torch.tensor([[0.0, 0.0], [0.0, math.nan]]))
    state = step_mdp(act(env, env.reset(), torch.zeros(2, 2)))
    with pytest.raises(InputError, match="a walk was over after 1 steps; reset before stepping on"):
        act(env, state, torch.zeros(2, 2))


# Destruction ----------------------------------------------------------------------------------------------------------


def test_destruction_counts_down_and_rewards_nothing():
    target = get_target("gmm25")
    walk = DestructionEnv(target, 3, batch_size=[4]).rollout(100)
    assert walk["step"][0].flatten().tolist() == [3, 2, 1]
    assert walk["next", "step"][0].flatten().tolist() == [2, 1, 0]
    assert walk["next", "done"][0].flatten().tolist() == [False, False, True]
    assert (walk["next", "reward"] == 0).all()
    torch.testing.assert_close(walk["next", "state"], walk["state"] + walk["action"])
    assert target.energy_calls == 0


def test_destruction_starts_from_given_states():
    env = DestructionEnv(Slope(), 3, batch_size=[2])
    given_states = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    state = env.reset(TensorDict({"state": given_states}, batch_size=[2]))
    assert state["state"].dtype == torch.float32 and state["state"].tolist() == given_states.tolist()
    assert state["step"].flatten().tolist() == [3, 3] and not state["done"].any()


def test_destruction_starts_from_a_source_before_the_target():
    env = DestructionEnv(get_target("gmm25"), 3, source=lambda n: torch.full((n, 2), 7.0), batch_size=[2, 3])
    assert torch.equal(env.reset()["state"], torch.full((2, 3, 2), 7.0))
    given_states = torch.zeros(2, 3, 2)
    assert torch.equal(env.reset(TensorDict({"state": given_states}, batch_size=[2, 3]))["state"], given_states)


def test_destruction_starts_from_the_targets_samples():
    target = get_target("gmm25")
    torch.manual_seed(3)
    expected = target.sample(6)
    torch.manual_seed(3)
    assert torch.equal(DestructionEnv(target, 3, batch_size=[2, 3]).reset()["state"], expected.reshape(2, 3, 2))


def test_destroyed_states_are_not_taken_for_given_ones():
    env = DestructionEnv(Slope(), 2, source=lambda n: torch.full((n, 2), 7.0), batch_size=[2])
    walk = env.rollout(4, break_when_any_done=False)
    assert (walk["state"][:, 2] == 7.0).all()
    state = step_mdp(act(env, env.reset(), torch.ones(2, 2)))
    state["_reset"] = torch.tensor([[True], [False]])
    assert env.reset(state)["state"].tolist() == [[7.0, 7.0], [8.0, 8.0]]


def test_what_cannot_be_destroyed_is_reported():
    with pytest.raises(InputError, match="source: expected a function of a count, got Tensor"):
        DestructionEnv(Slope(), 2, source=torch.zeros(3, 2), batch_size=[3])
    env = DestructionEnv(Slope(), 1, batch_size=[3])
    with pytest.raises(InputError, match=r"destruction without given states or a source needs exact samples.*'slope'"):
        env.reset()
    with pytest.raises(InputError, match=r"state: expected states of shape \[3, 2\] to destroy, got \[3, 5\]"):
        env.reset(TensorDict({"state": torch.zeros(3, 5)}, batch_size=[3]))
    with pytest.raises(InputError, match=r"source: expected states of shape \[3, 2\] to destroy, got \[2, 2\]"):
        DestructionEnv(Slope(), 1, source=lambda n: torch.zeros(2, 2), batch_size=[3]).reset()
    state = env.reset(TensorDict({"state": torch.zeros(3, 2)}, batch_size=[3]))
    state = step_mdp(act(env, state, torch.zeros(3, 2)))
    with pytest.raises(InputError, match="a walk was over after 1 steps; reset before stepping on"):
        act(env, state, torch.zeros(3, 2))
