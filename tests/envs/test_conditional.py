"""Conditional targets: the checks of contexts, the density at one context, and the benchmark's known truth."""

import math

import pytest
import torch

from ebbflow.envs import ConditionalMixture, Continuous, InputError, Target, get_target


def test_contexts_go_with_states_one_for_all_one_for_each_row_or_one_for_each_state():
    target = ConditionalMixture().double()
    x, context = torch.randn(4, 3, 2, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
    by_row = target(x, context)
    assert by_row.shape == (4, 3) and target.energy_calls == 12
    by_state = target(x, context.unsqueeze(1).expand(4, 3, 2))
    one = torch.stack([target(x[i], context[i]) for i in range(4)])
    torch.testing.assert_close(by_row, by_state, rtol=0, atol=0)
    torch.testing.assert_close(by_row, one, rtol=1e-12, atol=1e-12)
    value, score = target.value_and_score(x, context)
    assert value.shape == (4, 3) and score.shape == x.shape and target.gradient_calls == 12


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, "is conditional: its density needs a context"),
        (torch.zeros(3), r"context: expected a tensor \[\.\.\., 2\] for target 'conditional-gmm', got \[3\]"),
        (torch.zeros(5, 2), r"one for each of the states \[4, 2\], or one for all, got \[5, 2\]"),
        (torch.zeros(4, 2).long(), "context: expected floating point values, got torch.int64"),
        ([0.0, 0.0], "context: expected a tensor .* got list"),
    ],
)
def test_a_bad_context_is_reported(context, message):
    with pytest.raises(InputError, match=message):
        ConditionalMixture()(torch.zeros(4, 2), context)


def test_an_unconditional_target_takes_no_context():
    target = get_target("gmm25")
    assert not target.is_conditional and target.context_space is None
    with pytest.raises(InputError, match="'gmm25' is not conditional"):
        target(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(InputError, match="'gmm25' is not conditional"):
        target.given(torch.zeros(2))
    with pytest.raises(InputError, match="'gmm25' has no law of contexts"):
        target.sample_context(3)


def test_given_a_context_it_is_an_unconditional_target_that_counts_with_its_source():
    target = ConditionalMixture()
    context = torch.tensor([0.5, -0.3])
    given = target.given(context)
    x = torch.randn(6, 2)
    torch.testing.assert_close(given(x), target(x, context.expand(6, 2)))
    value, _ = given.value_and_score(x)
    torch.testing.assert_close(value, given(x))
    assert target.energy_calls == given.energy_calls == 24
    assert target.gradient_calls == given.gradient_calls == 6
    given.energy_calls = 7
    assert target.energy_calls == 7
    assert (given.has_log_prob, given.can_sample, given.is_conditional) == (True, True, False)
    assert given.log_z == pytest.approx(4 * 0.5 - 3 * 0.09)
    assert given.sample(9).shape == (9, 2)
    for bad in (torch.zeros(1, 2), torch.tensor([math.nan, 0.0])):
        with pytest.raises(InputError, match="expected one finite context"):
            target.given(bad)


def test_a_family_without_density_or_samples_has_none_at_a_context_either():
    class Samples(Target):
        def __init__(self):
            super().__init__(Continuous(1), context_space=Continuous(1))

        def sample(self, n, context):
            return context + torch.randn(n, 1)

    given = Samples().given(torch.zeros(1))
    assert (given.has_log_prob, given.can_sample, given.log_z) == (False, True, None)


@pytest.mark.parametrize("context", [[0.0, 0.0], [1.0, -0.5], [-0.7, 0.9]])
def test_the_conditional_mixture_has_the_normalising_constant_and_the_samples_it_says(context):
    target = ConditionalMixture().double()
    given = target.given(torch.tensor(context, dtype=torch.float64))
    ticks = torch.linspace(-8.0, 8.0, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    log_mass = given(grid) + 2 * math.log(float(ticks[1] - ticks[0]))
    assert float(log_mass.logsumexp(0)) == pytest.approx(given.log_z, abs=1e-6)
    torch.manual_seed(0)
    x = given.sample(20_000)
    mean = ((log_mass - given.log_z).exp()[:, None] * grid).sum(0)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.1)
