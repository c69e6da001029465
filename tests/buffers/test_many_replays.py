"""Several replays used at once are the replays used one by one."""

import math

import pytest
import torch
from tensordict import TensorDict

from ebbflow.buffers import ManyReplays, Replay
from ebbflow.buffers.priorities import PRIORITIES
from ebbflow.envs.errors import InputError


def filled(seeds, rows=(6, 6, 6), **settings):
    replays = []
    for seed, n in zip(seeds, rows, strict=True):
        replay = Replay(10, **settings)
        torch.manual_seed(seed)
        if n:
            replay.extend(batch(n))
        replays.append(replay)
    return replays


def batch(n):
    columns = {"state": torch.randn(n, 2), "log_reward": torch.randn(n), "log_ratio": torch.randn(n)}
    return TensorDict(columns, batch_size=[n])


def columns_of(replay):
    return {k: v for k, v in replay.state_dict().items() if isinstance(v, torch.Tensor)}


def assert_alike(one, other):
    assert len(one) == len(other) and one.cursor == other.cursor
    one, other = columns_of(one), columns_of(other)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=name)


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("rows", [(6, 6, 6), (6, 3, 6)])
def test_draws_updates_and_rows_are_those_of_each(priority, rows):
    settings = {"priority": priority, "beta": 0.5, "uniform_mixture": 0.1}
    alone, together = filled(range(3), rows, **settings), filled(range(3), rows, **settings)
    many = ManyReplays(together)
    for turn in range(3):
        drawn, numbers, values = [], [], []
        for s, replay in enumerate(alone):
            torch.manual_seed(10 * turn + s)
            drawn.append(replay.draw(4))
            torch.manual_seed(10 * turn + s)
            numbers.append(torch.rand(4, dtype=torch.float64))
            values.append(torch.randn(4).index_fill(0, torch.tensor([s]), math.nan))
        places, weights = many.draw(numbers)
        flat = many.columns.flatten(0, 1)
        for s, (place, weight) in enumerate(zip(places, weights, strict=True)):
            assert torch.equal(place - 10 * s, drawn[s]["index"])
            assert torch.equal(flat["state"][place], drawn[s]["state"])
            torch.testing.assert_close(weight, drawn[s]["weight"])
            alone[s].update(drawn[s]["index"], values[s])
        many.update(torch.cat(places), torch.cat(values))
        new = [batch(7) for _ in alone]  # beyond the capacity: around the end
        for replay, rows_of_it in zip(alone, new, strict=True):
            replay.extend(rows_of_it)
        names = ("state", "log_reward", "log_ratio")
        many.write(*(torch.stack([one[name] for one in new]) for name in names), [7, 7, 7])
        for one, other in zip(alone, together, strict=True):
            assert_alike(one, other)


def test_rows_that_are_not_fine_are_never_drawn():
    alone, together = filled(range(2), (0, 0)), filled(range(2), (0, 0))
    many = ManyReplays(together)
    with pytest.raises(InputError, match="at least one remembered row"):
        many.columns  # noqa: B018
    new = [batch(4), batch(4)]
    new[0]["state"][0, 0] = math.nan
    new[1]["log_reward"][1:] = -math.inf
    names = ("state", "log_reward", "log_ratio")
    for counts in ((3, 4), (4, 4)):
        for replay, rows, count in zip(alone, new, counts, strict=True):
            replay.write(rows[:count])
        many.write(*(torch.stack([one[name] for one in new]) for name in names), counts)
        for one, other in zip(alone, together, strict=True):
            assert_alike(one, other)
    assert [(len(replay), replay.filled) for replay in together] == [(2 + 3, 7), (2, 8)]
    places, _ = many.draw([torch.linspace(0, 1 - 1e-9, 100, dtype=torch.float64)] * 2)
    assert (torch.cat(places) % many.capacity).unique().tolist() == [0, 1, 2, 4, 5, 6]
    assert many.columns["log_reward"].flatten()[torch.cat(places)].isfinite().all()


def test_where_no_row_is_fine_all_are_drawn_alike():
    many = ManyReplays([Replay(10, priority=name) for name in ("rank", "importance_weight")])
    state, outside = torch.randn(2, 4, 1), torch.full((2, 4), -math.inf)
    many.write(state, outside, torch.randn(2, 4), [4, 4])
    places, weights = many.draw([torch.linspace(0, 1 - 1e-9, 8, dtype=torch.float64)] * 2)
    assert [place.tolist() for place in places] == [[0, 0, 1, 1, 2, 2, 3, 3], [10, 10, 11, 11, 12, 12, 13, 13]]
    assert all(weight.isfinite().all() for weight in weights)


def test_a_replay_of_many_may_be_used_by_itself():
    alone, together = filled(range(2), (6, 0)), filled(range(2), (6, 0))
    many = ManyReplays(together)
    more = batch(3)
    alone[1].extend(more)
    together[1].extend(more)
    assert torch.equal(many.columns["state"][1, :3], more["state"])
    torch.manual_seed(0)
    first = alone[0].draw(5)
    torch.manual_seed(0)
    assert torch.equal(together[0].draw(5)["state"], first["state"])
    assert_alike(alone[0], together[0])


@pytest.mark.parametrize("change", [{"capacity": 11}, {"contents": "path"}])
def test_what_may_not_differ_is_named(change):
    with pytest.raises(InputError, match=f"replay.{next(iter(change))}: expected the same"):
        ManyReplays([Replay(**{"capacity": 10, **values}) for values in ({}, change)])
