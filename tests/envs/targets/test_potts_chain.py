"""The Potts chain against the sum over all its sequences."""

import itertools

import pytest
import torch
from scipy import stats

from ebbflow.envs import InputError, get_target
from ebbflow.envs.targets import PottsChain


@pytest.mark.parametrize(
    ("length", "vocabulary", "coupling", "field"), [(6, 3, 1.0, 0.5), (1, 4, 2.0, -1.0), (5, 2, -0.7, 0.0)]
)
def test_the_normalising_constant_and_the_samples_are_exact(length, vocabulary, coupling, field):
    chain = PottsChain(length, vocabulary, coupling, field).double()
    states = chain.space.all_states()
    expected = [
        sum(coupling * (a == b) for a, b in itertools.pairwise(row)) + field * row.count(0) for row in states.tolist()
    ]
    values = chain(states)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))
    assert chain.log_z == pytest.approx(values.logsumexp(0).item(), abs=1e-12)
    samples = chain.sample(20_000)
    index = (samples * vocabulary ** torch.arange(length - 1, -1, -1)).sum(-1)
    law = values.softmax(0)
    assert torch.equal(states[index], samples)
    assert stats.chisquare(index.bincount(minlength=len(law)), 20_000 * law).pvalue > 1e-3


def test_it_goes_by_its_name():
    assert get_target("potts").space == get_target("potts-6").space == PottsChain().space
    assert get_target("potts", dim=9).space.length == 9
    assert get_target("potts-4").sample(0).shape == (0, 4)
    assert get_target("potts").log_z == pytest.approx(10.19304, abs=1e-5)


def test_numbers_that_make_no_chain_are_reported():
    with pytest.raises(InputError, match="coupling: expected a finite number"):
        PottsChain(coupling=float("inf"))
    with pytest.raises(InputError, match="vocabulary: expected a whole number >= 2, got 1"):
        PottsChain(vocabulary=1)
