"""Rows drawn by context: several of each, and every row as often as before; contexts are remembered to the bit."""

import pytest
import torch
from tensordict import TensorDict

from ebbflow.buffers import Anchors, Replay, annealed_smc_by_context, context_keys, draw_companions, numbered
from ebbflow.envs import ConditionalMixture, InputError, get_target


def rows(n, contexts, seed=0):
    torch.manual_seed(seed)
    context = torch.randn(contexts, 3)[torch.arange(n) % contexts]
    columns = {
        "state": torch.randn(n, 2),
        "log_reward": torch.randn(n),
        "log_ratio": torch.randn(n),
        "context": context,
    }
    return TensorDict(columns, batch_size=[n])


def test_keys_tell_contexts_apart_and_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    context = torch.cat(
        [torch.randn(2000, 64), torch.eye(64), torch.zeros(1, 64), (torch.rand(2000, 64) < 0.5).float()]
    )
    keys = context_keys(context)
    assert len(keys.unique()) == len(context)
    assert all(int(context_keys(context[i : i + 1])) == int(keys[i]) for i in (0, 7, 2003, 4000))
    assert context_keys(context.double()).equal(keys)


@pytest.mark.parametrize("keys", [[], [3], [5, 5, 5], [2**62, -(2**62), 0, 2**62, -1, 0]])
def test_keys_are_numbered_in_order(keys):
    keys = torch.tensor(keys, dtype=torch.int64)
    assert numbered(keys).equal(keys.unique(return_inverse=True)[1])


def test_rows_drawn_by_context_have_the_probability_they_had():
    keys = torch.tensor([0, 0, 1, 2, 2, 2])
    probability = torch.tensor([0.3, 0.1, 0.2, 0.05, 0.15, 0.2], dtype=torch.float64)
    torch.manual_seed(0)
    seeds = torch.multinomial(probability, 40_000, replacement=True)
    index = draw_companions(seeds, keys, probability, 80_000)
    assert keys[index].equal(keys[seeds].repeat_interleave(2))
    share = index.bincount(minlength=6) / len(index)
    torch.testing.assert_close(share.double(), probability, rtol=0, atol=0.01)


def test_a_replay_draws_few_contexts_and_goes_on_bit_for_bit():
    replay = Replay(60, priority="loss", beta=1.0)
    replay.extend(rows(60, 12))
    drawn = replay.draw(20, contexts=4)
    assert len(drawn["context"].unique(dim=0)) <= 4
    assert drawn["state"].shape == (20, 2) and drawn["weight"].shape == (20,)
    saved = replay._columns()[drawn["index"]]
    assert drawn["context"].equal(saved["context"]) and drawn["state"].equal(saved["state"])
    assert replay.draw(5)["context"].shape == (5, 3)
    other = Replay(60, priority="loss", beta=1.0)
    other.load_state_dict(replay.state_dict())
    torch.manual_seed(1)
    first = replay.draw(20, contexts=4)
    torch.manual_seed(1)
    second = other.draw(20, contexts=4)
    assert all(first[key].equal(second[key]) for key in first.keys())  # noqa: SIM118 (not a dict)


def test_contexts_that_do_not_fit_are_named():
    replay = Replay(10)
    bad = rows(4, 2)
    bad["context"] = torch.zeros(4, 1, 1)
    with pytest.raises(InputError, match=r"context: expected shape \[4, c\], got \[4, 1, 1\]"):
        replay.extend(bad)
    replay.extend(rows(4, 2).exclude("context"))
    with pytest.raises(InputError, match="rows without"):
        replay.draw(2, contexts=1)
    with pytest.raises(InputError, match="anchors without"):
        Anchors.from_samples(get_target("gmm25"), torch.zeros(3, 2)).draw(2, contexts=1)


def test_the_search_finds_the_states_of_each_context():
    target = ConditionalMixture()
    contexts = torch.tensor([[0.0, 1.0], [1.0, -1.0], [-1.0, 0.0]])
    torch.manual_seed(0)
    anchors = annealed_smc_by_context(target, contexts, 900, initial_std=4.5, temperatures=20)
    assert anchors.energy_calls == target.energy_calls and len(anchors) == 900
    torch.testing.assert_close(anchors.log_reward, target(anchors.states, anchors.contexts))
    for context in contexts:
        own = anchors.states[(anchors.contexts == context).all(-1)]
        nearest = (own.unsqueeze(1) - target._means(context)).square().sum(-1).argmin(-1)
        shares = nearest.bincount(minlength=4) / len(own)
        torch.testing.assert_close(shares, target._log_weights(context).exp(), rtol=0, atol=0.12)
    drawn = anchors.draw(12, contexts=2)
    assert len(drawn["context"].unique(dim=0)) <= 2
    again = Anchors.from_state_dict(anchors.state_dict())
    assert again.contexts.equal(anchors.contexts)
    mine = Anchors.from_samples(target, anchors.states, anchors.contexts)
    torch.testing.assert_close(mine.log_reward, anchors.log_reward)
