"""Conditioning: exact rejection by a predicate, and contexts that are computed of samples."""

import math

import pytest
import torch
from scipy import stats

from ebbflow.envs import Annotated, Conditioned, Dataset, InputError, get_target
from ebbflow.envs.targets import PottsChain

CHAIN = PottsChain(4, 3)
STATES = CHAIN.space.all_states()
LAW = CHAIN(STATES).double().softmax(0)


def two_zeros(x):
    return (x == 0).sum(-1) >= 2


def counts(samples):
    return (samples * 3 ** torch.arange(3, -1, -1)).sum(-1).bincount(minlength=81)


def test_rejection_is_exact_and_reports_its_rate():
    target = Conditioned(CHAIN, two_zeros)
    assert math.isnan(target.acceptance)
    samples = target.sample(5_000)
    possible = two_zeros(STATES)
    found = counts(samples)
    assert samples.shape == (5_000, 4) and found[~possible].sum() == 0
    law = LAW[possible] / LAW[possible].sum()
    assert stats.chisquare(found[possible], 5_000 * law).pvalue > 1e-3
    assert target.acceptance == pytest.approx(LAW[possible].sum().item(), abs=0.03)
    assert target.accepted >= 5_000 and target.sample(0).shape == (0, 4)


def test_a_density_is_that_of_the_source_where_the_predicate_holds():
    values, possible = Conditioned(CHAIN, two_zeros)(STATES.reshape(9, 9, 4)).flatten(), two_zeros(STATES)
    assert torch.equal(values[possible], CHAIN(STATES)[possible])
    assert (values[~possible] == -torch.inf).all()


def test_a_data_set_keeps_its_capabilities():
    data = Dataset(torch.tensor([[0, 1], [1, 1], [1, 0]]), held_out=torch.tensor([[0, 0], [1, 1]]))
    same = Conditioned(data, lambda x: x[:, 0] == x[:, 1])
    assert same.sample(5).tolist() == [[1, 1]] * 5
    assert same.held_out.tolist() == [[0, 0], [1, 1]]
    assert same.can_sample and not same.has_log_prob


def test_what_never_holds_is_reported():
    with pytest.raises(
        InputError, match="predicate holds for 0 of 2000 samples of 'potts-4'; expected at least one in 1500"
    ):
        Conditioned(CHAIN, lambda x: x[:, 0] > 7, limit=1_500).sample(3)
    with pytest.raises(InputError, match=r"predicate: expected bool \[1000\], .* got \[1000\] of torch.int64"):
        Conditioned(CHAIN, lambda x: x[:, 0]).sample(3)
    with pytest.raises(InputError, match="source: expected an unconditional target, got 'conditional-gmm'"):
        Conditioned(get_target("conditional-gmm"), two_zeros)


def test_a_predicate_is_a_context_of_one_number():
    target = Annotated(CHAIN, two_zeros)
    x, context = target.sample_pairs(1_000)
    assert torch.equal(context.squeeze(-1) == 1.0, two_zeros(x))
    wanted = target.sample_context(200)
    assert torch.equal(target.contexts(target.sample(200, wanted)), wanted)
    assert target.at(torch.ones(1)).sample(5).shape == (5, 4)


def test_a_reward_is_a_number_or_a_bin():
    numbers, binned = Annotated(CHAIN, CHAIN), Annotated(CHAIN, CHAIN, bins=3)
    x, context = numbers.sample_pairs(500)
    assert torch.equal(context.squeeze(-1), CHAIN(x))
    share = binned.sample_context(4_000).mean(0)
    assert binned.context_space.dim == 3 and (share > 0.15).all()  # of few values, quantiles are only about even
    best = binned.given(binned.bin(-1)).sample(300)
    assert CHAIN(best).min() >= binned.edges[-1] > CHAIN(binned.given(binned.bin(0)).sample(300)).max()
    assert binned.contexts(best)[:, -1].all()


def test_at_a_number_that_never_comes_twice_there_are_no_samples():
    first = Annotated(get_target("two-moons"), lambda x: x[:, 0])
    binned = Annotated(get_target("two-moons"), lambda x: x[:, 0], bins=3)
    assert (first.can_sample, first.can_sample_given, binned.can_sample_given) == (True, False, True)
    at = first.given(first.sample_context(1)[0])
    assert not at.can_sample
    with pytest.raises(InputError, match=r"condition: target 'two-moons-annotated' has samples .* expected bins="):
        at.sample(3)
    assert Annotated(CHAIN, CHAIN).can_sample_given and Annotated(CHAIN, two_zeros).given(torch.ones(1)).can_sample


def test_pairs_held_out_are_annotated():
    data = Annotated(Dataset.split(CHAIN.sample(50)), two_zeros)
    assert data.held_out.shape == (10, 4) and data.held_out_contexts.shape == (10, 1)
    assert Annotated(CHAIN, two_zeros).held_out_contexts is None


@pytest.mark.parametrize(
    ("condition", "bins", "message"),
    [
        (lambda x: x[:3], None, r"condition: expected numbers \[10000\] or \[10000, c\], got \[3, 4\]"),
        (lambda x: x[:, 0] / 0.0, None, "condition: expected finite numbers"),
        (lambda x: x.float(), 3, "bins: expected a condition of one number, got 4 for each sample"),
        (lambda x: 0.0 * x[:, 0], 3, "bins: expected numbers that differ"),
        (two_zeros, 1, "bins: expected a whole number >= 2"),
    ],
)
def test_conditions_that_cannot_be_used_are_reported(condition, bins, message):
    with pytest.raises(InputError, match=message):
        Annotated(CHAIN, condition, bins=bins)


def test_bins_and_contexts_that_there_are_not_are_reported():
    with pytest.raises(InputError, match="bin: expected one of 0 bins, got 0"):
        Annotated(CHAIN, two_zeros).bin(0)
    with pytest.raises(InputError, match="the predicate holds for 0 of"):
        Annotated(CHAIN, two_zeros).given(torch.tensor([0.5])).sample(3)
    with pytest.raises(InputError, match="context: expected 4, one for each sample"):
        Annotated(CHAIN, two_zeros).sample(4, torch.ones(3, 1))
