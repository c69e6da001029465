"""Data as targets: what is drawn, what is held out, what is left out, and what is no data."""

import math

import pytest
import torch

from ebbflow.envs import Continuous, Dataset, DestructionEnv, InputError, Tokens, get_target
from ebbflow.envs.data.split import split_rows

POINTS = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], dtype=torch.float64)


def of_points(**settings) -> Dataset:
    return Dataset(POINTS, POINTS[:1], **settings)


def test_samples_are_rows_drawn_uniformly():
    data = of_points()
    samples = data.sample(30_000)
    rows, counts = samples.unique(dim=0, return_counts=True)
    assert torch.equal(rows, POINTS)
    assert (counts / 30_000 - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 30_000)
    torch.manual_seed(3)
    again = data.sample(5)
    torch.manual_seed(3)
    assert torch.equal(data.sample(5), again)


def test_there_are_samples_and_nothing_else():
    data = of_points()
    assert (data.can_sample, data.has_log_prob, data.log_z, data.mode_masses) == (True, False, None, None)
    with pytest.raises(InputError, match="training needs a log density, but target 'data' has samples but no log den"):
        data.require_log_prob("training")
    with pytest.raises(InputError, match="a value needs a log density"):
        data(POINTS)
    assert data.energy_calls == 0


def test_scale_is_the_standard_deviation_about_each_mean():
    assert of_points().scale == pytest.approx(math.sqrt(8 / 3))
    shifted = Dataset(POINTS + torch.tensor([100.0, -3.0]), POINTS)
    assert shifted.scale == pytest.approx(math.sqrt(8 / 3))


def test_rows_move_and_tokens_stay_whole_numbers():
    tokens = Dataset(torch.tensor([[0, 2], [1, 1]]), torch.tensor([[3, 0]])).to(torch.float64)
    assert tokens.space == Tokens(2, 4) and tokens.scale == 1.0
    assert tokens.sample(4).dtype == tokens.held_out.dtype == torch.int64
    points = of_points().float()
    assert points.sample(4).dtype == points.held_out.dtype == torch.float32
    meta = of_points().to("meta")
    assert meta.sample(4).device == meta.held_out.device == torch.device("meta")


def test_levels_become_a_density_between_their_edges():
    edges = torch.tensor([[0.0], [0.5]])
    data = Dataset(edges, edges.repeat(1000, 1), level_width=0.5)
    for samples in (data.sample(2000), data.held_out):
        assert len(samples.unique()) > 1900 and samples.min() >= 0.0 and samples.max() < 1.0
        assert samples.mean() == pytest.approx(0.5, abs=0.03)
    assert not torch.equal(data.sample(10).sort(0)[0], data.sample(10).sort(0)[0])
    assert torch.equal(Dataset(edges, edges, level_width=0.5).held_out, Dataset(edges, edges, level_width=0.5).held_out)


def test_fewer_rows_are_among_more_and_the_rest_stays():
    data = Dataset.split(torch.arange(200.0).reshape(100, 2))
    few, more, other = data.limited(5), data.limited(50), data.limited(5, seed=1)
    rows = {tuple(row) for row in data.train_rows.tolist()}
    few_rows, more_rows, other_rows = ({tuple(row) for row in d.train_rows.tolist()} for d in (few, more, other))
    assert few_rows < more_rows < rows and other_rows != few_rows and len(few_rows) == 5
    assert torch.equal(few.held_out, data.held_out) and few.scale == data.scale
    assert len(data.train_rows) == 80
    for unique in (0, 81, 2.0):
        with pytest.raises(InputError, match=r"unique: expected .*got"):
            data.limited(unique)


@pytest.mark.parametrize(("n", "share", "block"), [(2, 0.01, 1), (2, 0.99, 5), (1000, 0.1, 7), (130, 0.3, 64)])
def test_a_split_takes_every_row_once_and_whole_blocks(n, share, block):
    train, held_out = split_rows(n, held_out=share, seed=4, block=block)
    assert len(train) and len(held_out)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(n))
    size = min(block, n // 2)
    assert not set((train // size).tolist()) & set((held_out // size).tolist())
    assert abs(len(held_out) - share * n) <= max(size, 1)
    assert torch.equal(split_rows(n, held_out=share, seed=4, block=block)[1], held_out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 1}, "data: expected at least 2 samples, .*got 1"),
        ({"n": 9, "held_out": 0.0}, "held_out: expected a share between 0 and 1, got 0.0"),
        ({"n": 9, "held_out": "x"}, "held_out: .*got 'x'"),
        ({"n": 9, "seed": -1}, "seed: .*got -1"),
        ({"n": 9, "block": 0}, "block: .*got 0"),
    ],
)
def test_splits_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        split_rows(**settings)


@pytest.mark.parametrize(
    ("train", "held_out", "space", "message"),
    [
        (POINTS[0], POINTS, None, r"data: train_rows: expected rows \[n, d\], n >= 1 and d >= 1, got \[2\]"),
        (POINTS[:0], POINTS, None, r"train_rows: .*got \[0, 2\]"),
        (POINTS, POINTS[:0], None, r"held_out: .*got \[0, 2\]"),
        ([[1.0]], POINTS, None, "train_rows: .*got list"),
        (
            POINTS,
            POINTS.float(),
            None,
            "held_out: expected tokens of int64 or floating point values, got torch.float32",
        ),
        (POINTS.int(), POINTS.int(), None, "train_rows: .*got torch.int32"),
        (POINTS, POINTS / 0, None, "held_out: expected finite values, got"),
        (POINTS, POINTS[:, :1], None, "held_out: expected rows of length 2, got 1"),
        (POINTS, POINTS, Tokens(2, 9), r"space: expected one for rows \[3, 2\] of torch.float64, got Tokens"),
        (POINTS, POINTS, Continuous(3), "space: expected one for rows"),
        (POINTS.long(), POINTS.long(), Tokens(2, 3), "data: expected tokens from 0 to 2, got [345]"),
        (POINTS.long() - 1, POINTS.long(), None, "data: expected tokens from 0 to 5, got -1"),
        (POINTS[:1].repeat(3, 1), POINTS, None, "data: expected samples that differ, got the same one 3 times"),
    ],
)
def test_what_is_no_data(train, held_out, space, message):
    with pytest.raises(InputError, match=message):
        Dataset(train, held_out, space=space)


def test_samples_can_be_destroyed():
    env = DestructionEnv(get_target("two-moons"), steps=2, batch_size=[4])
    assert env.reset()["state"].shape == (4, 2)
