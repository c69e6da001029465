"""Data with classes: a conditional target whose pairs are those of the data."""

import pytest
import torch

from ebbflow.envs import InputError, get_target
from ebbflow.envs.data import LabelledDataset, digits, digits_tokens

ROWS, LABELS = torch.arange(12.0)[:, None], torch.tensor([0, 1, 1, 3] * 3)


def of_rows(**settings) -> LabelledDataset:
    return LabelledDataset(ROWS, ROWS, labels=LABELS, held_out_labels=LABELS, **settings)


def test_pairs_are_drawn_as_they_are_in_the_data():
    data = of_rows()
    context = data.sample_context(40_000)
    rows = data.sample(40_000, context)[:, 0].long()
    assert torch.equal(LABELS[rows], context.argmax(-1))
    counts = torch.bincount(rows, minlength=12)
    assert ((counts - 40_000 / 12).square() * 12 / 40_000).sum() < 31.3  # chi-square, 11 degrees: 0.1 %
    assert data.is_conditional and data.sample(3).shape == (3, 1)
    assert torch.equal(data.held_out_contexts.argmax(-1), LABELS)


def test_one_class_is_a_target():
    ones = of_rows().given(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert ones.can_sample and not ones.has_log_prob and not ones.is_conditional
    assert set(ones.sample(500)[:, 0].long().tolist()) == {1, 2, 5, 6, 9, 10}


def test_labels_stay_with_their_rows():
    data = LabelledDataset.split(ROWS, labels=LABELS, held_out=0.25).double()
    few = data.limited(4)
    for rows, labels in (
        (data.train_rows, data.labels),
        (data.held_out, data.held_out_labels),
        (few.train_rows, few.labels),
    ):
        assert torch.equal(LABELS[rows[:, 0].long()], labels)
    assert len(few.labels) == 4 and len(data.labels) == 9
    assert data.sample_context(2).dtype == torch.float64


def test_digits_have_their_classes_in_every_form():
    grey, tokens = digits(labelled=True), digits_tokens(labelled=True)
    assert torch.equal(grey.labels, tokens.labels) and torch.equal(grey.train_rows, get_target("digits").train_rows)
    assert tokens.context_space.dim == 10
    context = tokens.sample_context(50)
    means = torch.stack([tokens.train_rows[tokens.labels == k].float().mean(0) for k in range(10)])
    nearest = torch.cdist(tokens.sample(50, context).float(), means).argmin(-1)
    assert (nearest == context.argmax(-1)).float().mean() > 0.75  # nearest class mean: about 0.9 on digits


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (torch.tensor([[0.0, 0.0, 1.0, 0.0]]), "context: target 'data' has no sample of class 2 to learn from"),
        (torch.tensor([[0.5, 0.5, 0.0, 0.0]]), r"context: expected one-hot vectors \[n, 4\] of the classes"),
        (torch.tensor([1.0, 0.0, 0.0, 0.0]), r"context: expected one-hot vectors \[n, 4\]"),
        (torch.eye(4)[:2], r"context: expected 1, one for each sample, got \[2, 4\]"),
        (torch.eye(3)[:1], r"context: expected a tensor \[..., 4\]"),
    ],
)
def test_contexts_that_do_not_fit(context, message):
    with pytest.raises(InputError, match=message):
        of_rows().sample(1, context)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (LABELS[:3], None, r"labels: expected int64 \[12\], one for each row, got \[3\] of torch.int64"),
        (LABELS.float(), None, r"labels: expected int64 \[12\], .*float32"),
        (LABELS.tolist(), None, "labels: .*got list"),
        (LABELS - 1, None, "labels: expected classes from 0 to 3, got -1"),
        (LABELS, 3, "labels: expected classes from 0 to 2, got 3"),
    ],
)
def test_labels_that_do_not_fit(labels, classes, message):
    with pytest.raises(InputError, match=message):
        LabelledDataset(ROWS, ROWS, labels=labels, held_out_labels=LABELS, classes=classes)


def test_labels_to_split_are_one_for_each_row():
    with pytest.raises(InputError, match=r"labels: expected int64 \[12\], one for each row, got \[5\]"):
        LabelledDataset.split(ROWS, labels=LABELS[:5])
