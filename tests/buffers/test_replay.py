"""The replay: order of overwriting, draw frequencies, importance correction, updates, and exact restoration."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from tensordict import TensorDict

from ebbflow.agents import Origin
from ebbflow.buffers import PRIORITIES, Replay
from ebbflow.envs import InputError


def rows(n, dim=2, start=0, steps=None, log_ratio=False):
    """Rows numbered from `start`: the number is every coordinate of the state, and the log reward."""
    number = torch.arange(start, start + n, dtype=torch.float32)
    shape = (n, dim) if steps is None else (n, steps + 1, dim)
    columns = {"state": number.view(n, *[1] * (len(shape) - 1)).expand(shape).clone(), "log_reward": number.clone()}
    if log_ratio:
        columns["log_ratio"] = number.sin() * 3
    return TensorDict(columns, batch_size=[n])


def held(replay):
    torch.manual_seed(0)
    return sorted({int(v) for v in replay.draw(2000)["log_reward"]})


def test_remembering_prints_nothing():
    code = "import torch; from tensordict import TensorDict; from ebbflow.buffers import Replay; "
    code += "Replay(5).extend(TensorDict({'state': torch.zeros(2, 1), 'log_reward': torch.zeros(2)}, [2]))"
    environment = {name: value for name, value in os.environ.items() if name != "RL_LOGGING_LEVEL"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr


def test_first_in_first_out():
    replay = Replay(5)
    assert len(replay) == 0
    assert replay.extend(rows(3)).tolist() == [0, 1, 2]
    assert len(replay) == 3
    assert replay.extend(rows(4, start=3)).tolist() == [3, 4, 0, 1]
    assert len(replay) == 5
    assert held(replay) == [2, 3, 4, 5, 6]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_holds_the_latest_rows(capacity, sizes):
    replay, total = Replay(capacity), 0
    for size in sizes:
        replay.extend(rows(size, start=total))
        total += size
    assert len(replay) == min(capacity, total)
    assert held(replay) == list(range(max(0, total - capacity), total))


@pytest.mark.parametrize("of", [1, 2, 3])
def test_several_memories_are_split_anew_by_age(of):
    replays = [Replay(5), Replay(5), Replay(5)]
    replays[0].extend(rows(7, start=0, log_ratio=True))  # overwritten: holds 2 … 6, and 2 is the oldest
    replays[1].extend(rows(3, start=10, log_ratio=True))
    states = [replay.state_dict() for replay in replays]
    parts = [Replay(6) for _ in range(of)]
    for number, part in enumerate(parts):
        part.load_shard(states, number, of=of)
    number = [part.state_dict()["log_reward"].tolist() for part in parts]
    by_age = [2.0, 3.0, 4.0, 10.0, 5.0, 11.0, 6.0, 12.0]
    assert number == [by_age[i::of][-6:] for i in range(of)]
    for part in parts:
        saved = part.state_dict()
        assert torch.equal(saved["log_ratio"], (saved["log_reward"].sin() * 3)) and saved["known"].all()
        part.extend(rows(6 - len(part) + 1, start=100))  # one more than there is room for
    assert [held(part)[0] for part in parts] == [min(by_age[i::of][-6:][1:]) for i in range(of)]


def test_memories_of_nothing_are_split_into_nothing():
    part = Replay(3)
    part.extend(rows(2))
    part.load_shard([Replay(3).state_dict()], 0, of=2)
    assert len(part) == 0


def test_terminal_and_path_rows():
    terminal, path = Replay(10), Replay(10, contents="path")
    terminal.extend(rows(4, dim=3))
    path.extend(rows(4, dim=3, steps=5))
    drawn = path.draw(7)
    assert terminal.draw(6)["state"].shape == (6, 3)
    assert drawn["state"].shape == (7, 6, 3)
    assert (drawn["state"] == drawn["log_reward"][:, None, None]).all()
    assert set(drawn.keys()) == {"state", "log_reward", "log_ratio", "origin", "index", "weight"}
    with pytest.raises(InputError, match=r"state: expected shape \[B, dim\]"):
        terminal.extend(rows(4, dim=3, steps=5))
    with pytest.raises(InputError, match=r"state: expected shape \[B, T\+1, dim\]"):
        path.extend(rows(4, dim=3))


@pytest.mark.parametrize("mixture", [0.0, 0.3, 1.0])
def test_draw_frequencies_match_the_probabilities(mixture):
    replay = Replay(20, priority="rank", fraction=0.1, uniform_mixture=mixture)
    replay.extend(rows(20))
    rank = torch.arange(19, -1, -1, dtype=torch.float64)
    priority = 1 / (2.0 + rank)
    expected = (1 - mixture) * priority / priority.sum() + mixture / 20
    torch.testing.assert_close(replay.probabilities, expected)
    torch.manual_seed(0)
    n = 40_000
    counts = torch.bincount(replay.draw(n)["index"], minlength=20).double()
    statistic = float(((counts - n * expected).square() / (n * expected)).sum())
    assert statistic < chi2.ppf(0.999, df=19)


@pytest.mark.parametrize("name", sorted(PRIORITIES))
def test_importance_correction_is_unbiased(name):
    replay = Replay(50, priority=name, uniform_mixture=0.2, beta=1.0)
    torch.manual_seed(1)
    batch = TensorDict({"state": torch.randn(50, 2), "log_reward": torch.randn(50)}, batch_size=[50])
    batch["log_ratio"] = 2 * torch.randn(50)
    replay.extend(batch)
    value = batch["state"][:, 0]
    drawn = replay.draw(100_000)
    terms = drawn["weight"] * value[drawn["index"]]
    assert abs(float(terms.mean() - value.mean())) < 4 * float(terms.std()) / 100_000**0.5
    assert float(drawn["weight"].mean()) == pytest.approx(1.0, abs=0.02)
    # Exactly, in expectation: Σ P w f = mean f.
    every = torch.zeros(50, dtype=torch.float64).index_put_((drawn["index"],), drawn["weight"].double())
    torch.testing.assert_close((replay.probabilities * every * value).sum(), value.mean().double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_weights_follow_beta(beta):
    replay = Replay(10, priority="reward", temperature=5.0, uniform_mixture=0.5, beta=beta)
    replay.extend(rows(10))
    drawn = replay.draw(500)
    probability = replay.probabilities
    expected = (10 * probability) ** -beta
    expected = expected / (probability * expected).sum()
    torch.testing.assert_close(drawn["weight"], expected.float()[drawn["index"]])


def test_rows_know_where_they_come_from():
    replay = Replay(10)
    assert replay.share_of(Origin.LOCAL_SEARCH) == 0.0
    replay.extend(rows(6))
    replay.extend(rows(2, start=6), Origin.LOCAL_SEARCH)
    assert (replay.share_of(Origin.REPLAY), replay.share_of(Origin.LOCAL_SEARCH)) == (0.75, 0.25)
    restored = Replay(10)
    restored.load_state_dict(replay.state_dict())
    restored.extend(rows(8, start=8), Origin.LOCAL_SEARCH)  # overwrites the first six
    assert restored.share_of(Origin.LOCAL_SEARCH) == 1.0
    assert (restored.draw(3)["origin"] == Origin.LOCAL_SEARCH).all()


def test_update_moves_the_priorities():
    replay = Replay(10, priority="loss", log_z=0.0, uniform_mixture=0.0)
    replay.extend(rows(10))
    assert (replay.priorities == 1.0).all()
    replay.draw(3)
    replay.update(torch.arange(10), torch.tensor([7.0] + [0.0] * 9))
    drawn = replay.draw(200)
    assert (drawn["index"] == 0).all()
    assert (drawn["log_ratio"] == 7.0).all()
    replay.update(torch.tensor([0, 4]), torch.tensor([0.0, 3.0]))
    assert (replay.draw(200)["index"] == 4).all()


def test_new_rows_get_the_largest_priority():
    replay = Replay(10, priority="loss", log_z=0.0)
    replay.extend(rows(4, log_ratio=True))
    replay.extend(rows(2, start=4))
    priorities = replay.priorities
    torch.testing.assert_close(priorities[:4], rows(4, log_ratio=True)["log_ratio"].abs() + 1e-6)
    assert (priorities[4:] == priorities[:4].max()).all()


def test_update_of_a_row_drawn_twice_writes_the_mean():
    replay = Replay(4)
    replay.extend(rows(4))
    replay.update(torch.tensor([2, 1, 2]), torch.tensor([1.0, 5.0, 4.0]))
    assert replay.state_dict()["log_ratio"].tolist() == [0.0, 5.0, 2.5, 0.0]


def test_a_log_ratio_that_is_not_finite_counts_as_unknown():
    replay = Replay(4, priority="loss", log_z=0.0)
    replay.extend(rows(4, log_ratio=True))
    replay.update(torch.tensor([3]), torch.tensor([float("nan")]))
    state = replay.state_dict()
    assert state["known"].tolist() == [True, True, True, False]
    assert replay.priorities.isfinite().all()


def test_priorities_are_computed_at_most_once_per_draw():
    replay = Replay(10, priority="rank")
    calls = []
    rule = replay._sampler.priority
    replay._sampler.priority = lambda *columns: calls.append(1) or rule(*columns)
    replay.extend(rows(5))
    replay.extend(rows(5))
    replay.update(torch.arange(3), torch.zeros(3))
    assert calls == []
    replay.draw(4)
    replay.draw(4)
    assert calls == [1]


def test_priorities_set_by_hand_reach_the_draw():
    replay = Replay(6, uniform_mixture=0.0)
    replay.extend(rows(6))
    replay.draw(1)
    replay._sampler.update_priority(torch.arange(6), torch.tensor([0.0, 0, 0, 1, 0, 0]), storage=replay._buffer.storage)
    assert (replay.draw(50)["index"] == 3).all()


def test_underflowed_priorities_fall_back_to_uniform():
    replay = Replay(6, uniform_mixture=0.0)
    replay.extend(rows(6))
    replay._sampler.update_priority(torch.arange(6), torch.zeros(6), storage=replay._buffer.storage)
    assert held(replay) == [0, 1, 2, 3, 4, 5]


def test_rows_that_are_not_wanted_leave_their_places_as_they_are():
    replay = Replay(6)
    wanted = torch.tensor([True, False, True, False])
    replay.write(rows(4), where=wanted)
    assert (replay.filled, len(replay), held(replay)) == (4, 2, [0, 2])
    replay.write(rows(4, start=10), where=wanted)  # places 4, 5, 0 and 1
    assert (replay.filled, len(replay), held(replay)) == (6, 3, [2, 10, 12])
    for start in range(20, 50, 10):  # round and round: nothing that is drawn is lost to what is not wanted
        replay.write(rows(6, start=start))
        replay.write(rows(6, start=start + 6), where=torch.zeros(6) > 0)
        assert held(replay) == list(range(start, start + 6))
    replay.write(rows(9, start=60), where=torch.arange(9) == 8)  # more than there are places: the last ones
    assert 68 in held(replay) and len(replay) == 6
    for where in (torch.ones(3) > 0, torch.ones(4)):
        with pytest.raises(InputError, match=r"where: expected bool \[4\], one for each row, got \[[34]\] of torch"):
            replay.write(rows(4), where=where)


def test_rows_outside_the_support_are_not_remembered():
    replay = Replay(10)
    batch = rows(4)
    batch["log_reward"][1] = -torch.inf
    assert replay.extend(batch).tolist() == [0, 1, 2]
    assert held(replay) == [0, 2, 3]
    batch["log_reward"][:] = -torch.inf
    assert replay.extend(batch).numel() == 0
    assert len(replay) == 3


BAD = {"outside": ("log_reward", -torch.inf), "nan": ("log_reward", torch.nan), "inf": ("log_reward", torch.inf)}
BAD |= {"state": ("state", torch.nan), "far": ("state", -torch.inf)}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("priority", sorted(PRIORITIES))
@pytest.mark.parametrize("log_ratio", [False, True])
def test_bad_rows_that_are_written_count_for_nothing(bad, priority, log_ratio):
    """Others are drawn as if there were none; what hides in them is not seen."""
    key, value = BAD[bad]
    settings = {"priority": priority, "uniform_mixture": 0.3, "beta": 0.7}
    replay, clean = Replay(20, **settings), Replay(20, **settings)
    batch = rows(12, log_ratio=log_ratio)
    good = torch.arange(12) % 3 != 0
    clean.extend(batch[good])
    if log_ratio:
        batch["log_ratio"][~good] = 1e6
    batch[key][~good] = value
    assert replay.write(batch).tolist() == list(range(12))
    assert (len(replay), replay.filled, replay.cursor) == (8, 12, 12)
    assert torch.equal(replay.probabilities > 0, good)
    torch.testing.assert_close(replay.probabilities[good], clean.probabilities)
    torch.testing.assert_close(replay.priorities[good], clean.priorities)
    assert (replay.priorities[~good] == 0).all()
    replay.update(torch.arange(12), torch.arange(12.0) * 1e3)  # as if they had been drawn nevertheless
    clean.update(torch.arange(8), torch.arange(12.0)[good] * 1e3)
    torch.testing.assert_close(replay.probabilities[good], clean.probabilities)
    drawn = replay.draw(200)
    assert good[drawn["index"]].all()
    assert all(column.isfinite().all() for column in drawn.values())
    assert replay.share_of(Origin.REPLAY) == 1.0 and replay.share_of(Origin.LOCAL_SEARCH) == 0.0
    restored = Replay(20, **settings)
    restored.load_state_dict(replay.state_dict())
    assert torch.equal(restored.probabilities, replay.probabilities)
    assert torch.equal(restored.write(rows(3)), replay.write(rows(3)))


@pytest.mark.parametrize("priority", sorted(PRIORITIES))
def test_where_all_rows_are_outside_they_are_drawn_alike(priority):
    replay = Replay(20, priority=priority, beta=1.0)
    batch = rows(4, log_ratio=True)
    batch["log_reward"][:] = -torch.inf
    replay.write(batch)
    assert (len(replay), replay.filled, replay.share_of(Origin.REPLAY)) == (0, 4, 0.0)
    assert replay.probabilities.tolist() == [0.25] * 4
    drawn = replay.draw(50)
    assert drawn["state"].isfinite().all() and (drawn["log_reward"] == -torch.inf).all()
    assert drawn["weight"].tolist() == [1.0] * 50
    replay.update(drawn["index"], torch.zeros(50))
    replay.write(rows(2))
    assert torch.equal(replay.probabilities > 0, torch.arange(6) >= 4)


def test_rows_of_contexts_are_written_likewise():
    replay = Replay(20)
    batch = rows(6)
    batch["context"] = torch.arange(6.0).view(6, 1) % 2
    batch["log_reward"][3] = torch.nan
    replay.write(batch)
    drawn = replay.draw(40, contexts=2)
    assert 3 not in drawn["index"]
    with pytest.raises(InputError, match="context: expected one for each row as remembered, got none"):
        replay.write(rows(2))
    plain = Replay(20)
    plain.write(rows(2))
    with pytest.raises(InputError, match="context: expected none as remembered, got one"):
        plain.write(batch)


@pytest.mark.parametrize("n", [0, 3, 5, 11])
def test_written_rows_are_as_extended_ones(n):
    one, other = Replay(5), Replay(5)
    for start in (0, n):
        batch = rows(n, start=start, log_ratio=True)
        assert one.extend(batch, Origin.LOCAL_SEARCH).tolist() == other.write(batch, Origin.LOCAL_SEARCH).tolist()
    assert one.cursor == other.cursor and len(one) == len(other) == min(5, 2 * n)
    for key, value in one.state_dict().items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other.state_dict()[key])), key


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_log_reward(value):
    batch = rows(3)
    batch["log_reward"][1] = value
    with pytest.raises(InputError, match=r"log_reward: expected finite values or -inf, got NaN or \+inf in 1 rows"):
        Replay(10).extend(batch)


def test_bad_batches():
    replay = Replay(10)
    with pytest.raises(InputError, match="expected the key 'log_reward'"):
        replay.extend(rows(3).exclude("log_reward"))
    batch = rows(3)
    batch["state"][0, 0] = torch.nan
    with pytest.raises(InputError, match="state: expected finite"):
        replay.extend(batch)
    replay.extend(rows(3))
    with pytest.raises(InputError, match=r"state: expected rows of shape \[2\]"):
        replay.extend(rows(3, dim=4))
    with pytest.raises(InputError, match=r"log_ratio: expected shape \[2\]"):
        replay.update(torch.arange(2), torch.zeros(3))
    with pytest.raises(InputError, match="n: expected"):
        replay.draw(0)


def test_empty():
    replay = Replay(10)
    with pytest.raises(InputError, match="empty memory"):
        replay.draw(3)
    with pytest.raises(InputError, match="empty memory"):
        replay.update(torch.arange(2), torch.zeros(2))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"capacity": 0}, "capacity: expected a whole number >= 1, got 0"),
        ({"capacity": 2.5}, "capacity"),
        ({"priority": "luck"}, "priority: expected one of"),
        ({"uniform_mixture": 1.1}, "uniform_mixture: expected a number between 0 and 1, got 1.1"),
        ({"beta": -0.1}, "beta: expected a number between 0 and 1, got -0.1"),
        ({"contents": "all"}, "contents: expected 'terminal' or 'path', got 'all'"),
        ({"temperature": 2.0}, "temperature"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        Replay(**{"capacity": 10} | options)


@pytest.mark.parametrize("contents, steps", [("terminal", None), ("path", 3)])
@pytest.mark.parametrize("name", sorted(PRIORITIES))
@pytest.mark.parametrize("n", [7, 23])
def test_restored_replay_continues_bit_for_bit(name, contents, steps, n):
    def new():
        return Replay(16, priority=name, beta=0.7, contents=contents)

    def act(replay):
        torch.manual_seed(3)
        drawn = [replay.draw(9)]
        replay.update(drawn[0]["index"], torch.randn(9))
        replay.extend(rows(4, start=100, steps=steps))
        drawn.append(replay.draw(9))
        return drawn

    original = new()
    original.extend(rows(n, steps=steps, log_ratio=True))
    original.update(torch.arange(5), torch.randn(5))
    state = {
        key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in original.state_dict().items()
    }
    assert all(isinstance(value, (torch.Tensor, int)) for value in state.values())
    restored = new()
    restored.extend(rows(3, start=50, steps=steps))
    restored.load_state_dict(state)
    for before, after in zip(act(original), act(restored), strict=True):
        assert set(before.keys()) == set(after.keys())
        for key in list(before.keys()):
            assert torch.equal(before[key], after[key]), key


def test_state_survives_safetensors(tmp_path):
    from safetensors.torch import load_file, save_file

    replay = Replay(8, priority="loss")
    replay.extend(rows(11, log_ratio=True))
    state = replay.state_dict()
    save_file({k: v for k, v in state.items() if isinstance(v, torch.Tensor)}, tmp_path / "replay.safetensors")
    numbers = {k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}
    restored = Replay(8, priority="loss")
    restored.load_state_dict(load_file(tmp_path / "replay.safetensors") | numbers)
    assert restored.extend(rows(2, start=11)).tolist() == replay.extend(rows(2, start=11)).tolist()
    assert held(restored) == held(replay)


def test_empty_state_round_trip():
    restored = Replay(4)
    restored.extend(rows(2))
    restored.load_state_dict(Replay(4).state_dict())
    assert len(restored) == 0


def test_bad_states():
    replay = Replay(8)
    replay.extend(rows(3))
    state = replay.state_dict()
    with pytest.raises(InputError, match="capacity: expected 9 as this replay has, got 8"):
        Replay(9).load_state_dict(state)
    with pytest.raises(InputError, match="state: expected 3 dimensions"):
        Replay(8, contents="path").load_state_dict(state)
    other = Replay(8)
    other.extend(rows(3, dim=5))
    with pytest.raises(InputError, match=r"state: expected rows of shape \[5\], got \[2\]"):
        other.load_state_dict(state)
    for key in ("cursor", "known", "origin", "priorities"):
        with pytest.raises(InputError, match=f"{key}: missing"):
            Replay(8).load_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(InputError, match=r"log_reward: expected shape \[3\]"):
        Replay(8).load_state_dict(state | {"log_reward": torch.zeros(2)})
    with pytest.raises(InputError, match="cursor"):
        Replay(8).load_state_dict(state | {"cursor": 8})
