"""The same walks for gymnasium's agents."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from tensordict import TensorDict

import ebbflow.envs  # noqa: F401, registers the ids
from ebbflow.envs import GenerationEnv, InputError, get_target
from ebbflow.envs.gymnasium import SamplingEnv, VectorSamplingEnv
from ebbflow.envs.registry import BUILT_IN


def walk(env, seed, actions):
    """All that a walk returns, from reset to the end."""
    seen = [env.reset(seed=seed)]
    seen += [env.step(action) for action in actions]
    return seen


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("arguments", [{}, {"steps": 2, "initial_std": 1.0, "max_increment": 0.5}], ids=str)
def test_single_environments_pass_gymnasiums_check(name, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(f"ebbflow/{name}-v0", **arguments).unwrapped)


@pytest.mark.parametrize("name", BUILT_IN)
def test_vector_environments_hold_what_their_spaces_promise(name):
    envs = gymnasium.make_vec(f"ebbflow/{name}-v0", num_envs=3, steps=3, initial_std=1.0)
    assert isinstance(envs, VectorSamplingEnv) and envs.num_envs == 3
    envs.action_space.seed(0)
    observations, infos = envs.reset(seed=0)
    assert infos == {}
    for k in range(9):
        assert observations in envs.observation_space
        observations, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
        assert rewards.shape == terminated.shape == truncated.shape == (3,)
        assert terminated.tolist() == [k % 4 == 2] * 3 and not truncated.any()
        assert (rewards != 0).all() == (k % 4 == 2)
    envs.close()


@pytest.mark.parametrize("std", [0.0, 1.0])
def test_vector_environment_is_many_single_ones(std):
    """Against gymnasium's own vectorisation: the same actions lead to the same rewards, resets included."""
    arguments = {"num_envs": 3, "steps": 2, "initial_std": std}
    ours = gymnasium.make_vec("ebbflow/gmm25-v0", **arguments)
    theirs = gymnasium.make_vec("ebbflow/gmm25-v0", vectorization_mode="sync", **arguments)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    actions = np.random.default_rng(0).uniform(-1, 1, (7, 3, 2)).astype(np.float32)
    if std == 0.0:
        for left, right in zip(walk(ours, 0, actions), walk(theirs, 0, actions), strict=True):
            for a, b in zip(left[:-1], right[:-1], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6)
    else:  # other initial states, but the same rule for where they go
        for envs in (ours, theirs):
            states, target = [], get_target("gmm25")
            (start, _), *steps = walk(envs, 0, actions[:2])
            states = start[:, :2] + 2.0 * target.scale * actions[:2].sum(0)
            np.testing.assert_allclose(steps[-1][0][:, :2], states, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(steps[-1][1], target(torch.tensor(steps[-1][0][:, :2])).numpy(), rtol=1e-5)


def test_physics_is_that_of_the_torchrl_environment():
    target, steps = get_target("manywell-4"), 4
    actions = np.random.default_rng(1).uniform(-1, 1, (steps, 3, 4)).astype(np.float32)
    seen = walk(VectorSamplingEnv(target, num_envs=3, steps=steps, max_increment=1.5), 0, actions)
    env = GenerationEnv(target, steps, batch_size=[3])
    state: TensorDict = env.reset()
    for action, (observation, reward, terminated, *_) in zip(actions, seen[1:], strict=True):
        state["action"] = torch.from_numpy(action) * 1.5
        after, state = env.step_and_maybe_reset(state)
        assert np.array_equal(observation[:, :-1], after["next", "state"].numpy())
        np.testing.assert_allclose(observation[:, -1], after["next", "step"].flatten() / steps, rtol=1e-6)
        assert np.array_equal(reward, after["next", "reward"].flatten().double().numpy())
        assert np.array_equal(terminated, after["next", "done"].flatten().numpy())


@pytest.mark.parametrize("make", [SamplingEnv, VectorSamplingEnv])
def test_seed_repeats_a_walk_and_leaves_the_global_generator_alone(make):
    env = make("gmm25", initial_std=2.0)
    before = torch.get_rng_state()
    first, again, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(env.reset()[0], other)
    assert torch.equal(before, torch.get_rng_state())


def test_actions_are_clipped():
    env = SamplingEnv("gmm25", steps=1, max_increment=3.0)
    env.reset(seed=0)
    observation, *_ = env.step(np.array([5.0, -0.5], dtype=np.float32))
    assert observation.tolist() == [3.0, -1.5, 1.0]


def test_returned_arrays_stay_as_they_were():
    envs = VectorSamplingEnv("gmm25", num_envs=2, steps=3)
    actions = np.ones((2, 2), dtype=np.float32)
    seen = walk(envs, 0, [actions] * 3)
    assert [step[0][0, 2].item() for step in seen] == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    assert actions.tolist() == [[1.0, 1.0]] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "gmm52"}, "target: unknown name 'gmm52'"),
        ({"target": "gmm25", "steps": 0}, "steps: expected a whole number >= 1, got 0"),
        ({"target": "gmm25", "dim": 3}, "dim: target 'gmm25' has 2 coordinates, got 3"),
        ({"target": "gmm25", "initial_std": -1.0}, "std: expected a finite standard deviation"),
        ({"target": "gmm25", "max_increment": 0.0}, "max_increment: expected a positive finite length, got 0.0"),
    ],
)
@pytest.mark.parametrize("make", [SamplingEnv, VectorSamplingEnv])
def test_bad_arguments_are_reported(make, arguments, message):
    with pytest.raises(InputError, match=message):
        make(**arguments)


def test_bad_calls_are_reported():
    with pytest.raises(InputError, match="num_envs: expected a whole number >= 1, got 0"):
        VectorSamplingEnv("gmm25", num_envs=0)
    env = SamplingEnv("gmm25", steps=1)
    with pytest.raises(InputError, match="step: reset comes first"):
        env.step(np.zeros(2, dtype=np.float32))
    env.reset(seed=0)
    for action in (np.array([0.0, np.nan]), np.zeros(3), np.zeros((1, 2))):
        with pytest.raises(InputError, match="action: expected finite values of shape"):
            env.step(action)
    assert env.step(np.zeros(2))[2] is True  # bad actions moved nothing
    with pytest.raises(InputError, match="again after 1 steps"):
        env.step(np.zeros(2))


def test_any_target_can_be_walked_to():
    env = SamplingEnv(get_target(lambda x: -x.abs().sum(-1), dim=3), steps=1, max_increment=1.0)
    env.reset(seed=0)
    assert env.step(np.array([1.0, -0.5, 0.25], dtype=np.float32))[1] == -1.75


@pytest.mark.parametrize(
    "code",
    [
        "import gymnasium, ebbflow.envs; gymnasium.make('ebbflow/gmm25-v0').reset(seed=0)",
        "import gymnasium; gymnasium.make('ebbflow.envs.gymnasium:ebbflow/gmm25-v0').reset(seed=0)",
        "import gymnasium, ebbflow.envs.gymnasium; gymnasium.make_vec('ebbflow/funnel-v0', num_envs=2).reset(seed=0)",
    ],
)
def test_ids_are_there_after_an_import(code):
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


def test_data_have_no_environment_for_there_is_no_reward():
    assert "ebbflow/two-moons-v0" not in gymnasium.registry
    with pytest.raises(InputError, match="generation needs a log density, but target 'two-moons' has samples but no"):
        SamplingEnv("two-moons")
