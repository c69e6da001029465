"""Destruction of tokens: one contract that every reference keeps, by enumeration of tiny spaces, and each one's own."""

import math

import pytest
import torch
from scipy import stats

from ebbflow.agents.references.tokens import (
    MaskInOrder,
    MaskMixture,
    MaskOneRandom,
    ShuffleEveryToken,
    ShuffleOneToken,
    TokenChannel,
    mask_last,
)
from ebbflow.agents.references.tokens.one_position import draw
from ebbflow.envs import Continuous, InputError, Tokens
from ebbflow.envs.channels import Cypher, Identity, Shuffle
from ebbflow.envs.deferred_checks import DeferredChecks

pytestmark = pytest.mark.usefixtures("double_precision")

SPACE = Tokens(length=3, vocabulary=3)
CYCLE = [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
LEANING = [[0.7, 0.2, 0.1], [0.0, 0.6, 0.4], [0.3, 0.0, 0.7]]
REFERENCES = {
    "mask_one_random": lambda: MaskOneRandom(SPACE),
    "mask_last": lambda: mask_last(SPACE),
    "mask_in_order": lambda: MaskInOrder(SPACE, [1, 2, 0]),
    "mask_mixture": lambda: MaskMixture([MaskOneRandom(SPACE), MaskInOrder(SPACE, [1, 2, 0])], [0.3, 0.7]),
    "mask_mixture_of_orders": lambda: MaskMixture([mask_last(SPACE), MaskInOrder(SPACE, [1, 2, 0])], [0.3, 0.7]),
    "shuffle_one": lambda: ShuffleOneToken(SPACE, steps=4),
    "shuffle_one_leaning": lambda: ShuffleOneToken(SPACE, steps=3, matrix=LEANING),
    "shuffle_one_learned": lambda: ShuffleOneToken(SPACE, steps=4, positions="learned"),
    "shuffle_every": lambda: ShuffleEveryToken(SPACE, LEANING, steps=3),
    "shuffle_every_channel": lambda: ShuffleEveryToken(SPACE, Shuffle(CYCLE), steps=4),
}
SAMPLE = torch.tensor([2, 0, 1])


@pytest.fixture(params=REFERENCES)
def reference(request):
    return REFERENCES[request.param]()


def level_law(reference, k, sample=SAMPLE):
    """Probabilities of all states at level `k`."""
    return reference.log_prob_level(reference.all_states(), sample, k).exp()


def fits(states, law, space_states):
    """p-value of a chi-square test of drawn `states` against `law`; 0 where an impossible state was drawn."""
    base = int(space_states.max()) + 1
    powers = base ** torch.arange(states.shape[-1]).flip(0)
    counts = torch.bincount((states * powers).sum(-1), minlength=len(law)).double()
    if counts[law < 1e-12].sum() > 0:
        return 0.0
    counts, law = counts[law >= 1e-12], law[law >= 1e-12]
    if len(law) == 1:
        return 1.0
    return stats.chisquare(counts.numpy(), (law / law.sum() * counts.sum()).numpy()).pvalue


# The contract ---------------------------------------------------------------------------------------------------------


def test_steps_and_levels_are_laws(reference):
    states = reference.all_states()
    for k in range(reference.steps + 1):
        assert level_law(reference, k).sum() == pytest.approx(1.0, abs=1e-12)
    assert reference.log_prob_destroyed(states).exp().sum() == pytest.approx(1.0, abs=1e-9)
    for k in range(reference.steps):
        possible = states[level_law(reference, k + 1) > 0]
        steps = reference.log_prob_step(states, possible.unsqueeze(1), k).exp()  # [possible, states]
        torch.testing.assert_close(steps.sum(-1), torch.ones(len(possible)), rtol=0, atol=1e-12)


def test_a_level_is_its_steps_one_after_another(reference):
    states = reference.all_states()
    law = level_law(reference, reference.steps)
    assert law[(states == SAMPLE).all(-1)].tolist() == [1.0]
    for k in reversed(range(reference.steps)):
        law = law @ reference.log_prob_step(states, states.unsqueeze(1), k).exp()
        torch.testing.assert_close(level_law(reference, k), law, rtol=0, atol=1e-12)


def test_levels_and_repeated_steps_are_drawn_from_the_level_law(reference):
    n, states = 6_000, reference.all_states()
    walked = SAMPLE.expand(n, -1)
    for k in reversed(range(reference.steps)):
        walked = reference.sample_step(walked, k)
        law = level_law(reference, k)
        assert fits(walked, law, states) > 1e-3, k
        assert fits(reference.sample_level(SAMPLE.expand(n, -1), k), law, states) > 1e-3, k
    mixed = reference.sample_level(SAMPLE.expand(2 * n, -1), torch.arange(2 * n) % (reference.steps + 1))
    for k in range(reference.steps + 1):
        assert fits(mixed[k :: reference.steps + 1], level_law(reference, k), states) > 1e-3, k


def test_levels_can_differ_from_row_to_row(reference):
    states = reference.all_states()
    k = torch.arange(len(states)) % (reference.steps + 1)
    each = torch.stack([reference.log_prob_level(s, SAMPLE, int(i)) for s, i in zip(states, k, strict=True)])
    assert reference.log_prob_level(states, SAMPLE, k).equal(each)


def test_destroyed_states_are_drawn_from_their_law(reference):
    states = reference.all_states()
    drawn = reference.sample_destroyed(6_000)
    assert fits(drawn, reference.log_prob_destroyed(states).exp(), states) > 1e-3


def test_generation_steps_are_laws_whatever_the_guess(reference):
    states = reference.all_states()
    for k in range(reference.steps):
        possible = states[level_law(reference, k) > 0]
        guess = torch.randn(len(possible), 3, 3)
        law = reference.log_prob_reverse(guess.unsqueeze(1), states, possible.unsqueeze(1), k).exp()
        torch.testing.assert_close(law.sum(-1), torch.ones(len(possible)), rtol=0, atol=1e-12)
        drawn = reference.sample_reverse(guess[:1].expand(6_000, -1, -1), possible[:1].expand(6_000, -1), k)
        assert fits(drawn, law[0], states) > 1e-3, k


def test_deterministic_references_have_one_way(reference):
    one_way = all((level_law(reference, k) > 0).sum() == 1 for k in range(reference.steps + 1))
    assert reference.deterministic == one_way
    assert not reference.learned


@pytest.mark.parametrize("k", [-1, 99, 1.5, True, torch.tensor([0, 99])])
def test_steps_out_of_range(reference, k):
    last = reference.steps
    with pytest.raises(InputError, match=f"level: expected whole numbers from 0 to {last}, got"):
        reference.sample_level(SAMPLE.expand(2, -1), k)
    with pytest.raises(InputError, match=f"step: expected whole numbers from 0 to {last - 1}, got"):
        reference.sample_step(SAMPLE.expand(2, -1), k)


def test_steps_are_checked_later_where_checks_are_deferred(reference):
    checks = DeferredChecks()
    with checks.deferring():
        assert reference._step(torch.tensor([0, 99]), SAMPLE).tolist() == [0, reference.steps - 1]  # meanwhile
    with pytest.raises(InputError, match=f"step: expected whole numbers from 0 to {reference.steps - 1}, got 99"):
        checks.look()


@pytest.mark.parametrize("law", [[0.5, math.nan], [0.0, 0.0], [-1.0, 2.0], [1.0, math.inf]])
def test_what_is_no_law_is_not_drawn_from(law):
    with pytest.raises(InputError, match=r"probabilities: expected numbers >= 0 .* got 1 of 2 laws without"):
        draw(torch.tensor([[0.5, 0.5], law]))


# Fully destroyed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mask_one_random", "mask_last", "mask_in_order"])
def test_masking_destroys_everything_in_length_steps(name):
    reference = REFERENCES[name]()
    assert reference.steps == 3
    state = SPACE.all_states()
    for k in reversed(range(3)):
        state = reference.sample_step(state, k)
        assert (reference.tokens_left(state) == k).all()
    assert (reference.log_prob_destroyed(state) == 0.0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShuffleOneToken(SPACE, steps=60),
        lambda: ShuffleOneToken(SPACE, steps=150, matrix=LEANING),
        lambda: ShuffleEveryToken(SPACE, LEANING, steps=60),
    ],
)
def test_shuffling_ends_in_the_destroyed_law(make):
    reference = make()
    states = SPACE.all_states()
    law = reference.log_prob_destroyed(states).exp()
    after = reference.log_prob_level(states, states.unsqueeze(1), 0).exp()  # from every sample
    assert 0.5 * (after - law).abs().sum(-1).max() < 1e-9
    torch.testing.assert_close(after.sum(-1), torch.ones(27), rtol=0, atol=1e-12)


def test_untouched_tokens_are_counted():
    """P(x_0 = x_T) of the uniform shuffle, from the number of distinct positions hit in n throws."""
    length, steps, v = 4, 7, 5
    reference = ShuffleOneToken(Tokens(length, v), steps=steps)
    sample = torch.tensor([4, 0, 1, 1])
    law = torch.zeros(length + 1)
    law[0] = 1.0
    for _ in range(steps):  # coupon collector
        m = torch.arange(length + 1.0)
        law = law * m / length + torch.cat([torch.zeros(1), law[:-1] * (1 - m[:-1] / length)])
    expected = (law * v ** -torch.arange(length + 1.0)).sum()
    assert reference.log_prob_level(sample, sample, 0).exp().item() == pytest.approx(expected.item(), rel=1e-12)


# Channels -------------------------------------------------------------------------------------------------------------


def test_the_stationary_law_is_stationary():
    channel = TokenChannel(LEANING, vocabulary=3, uses=2)
    torch.testing.assert_close(channel.stationary @ torch.tensor(LEANING), channel.stationary, rtol=0, atol=1e-12)
    torch.testing.assert_close(channel.powers[2], torch.tensor(LEANING) @ torch.tensor(LEANING))


def test_a_mash_is_deterministic_and_ends_in_one_state():
    reference = ShuffleEveryToken(SPACE, [[1.0, 0, 0], [1, 0, 0], [0, 1, 0]], steps=2)
    assert reference.deterministic
    assert (reference.sample_level(SPACE.all_states(), 0) == 0).all()
    assert reference.log_prob_destroyed(torch.zeros(1, 3, dtype=torch.int64)).item() == 0.0


@pytest.mark.parametrize("make", [lambda m: ShuffleEveryToken(SPACE, m, 5), lambda m: ShuffleOneToken(SPACE, 5, m)])
@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.eye(3), "matrix: expected one that destroys, .*tokens 0 and 1 stay 2 apart"),
        (Identity(3), "matrix: expected one that destroys"),
        (Cypher([1, 2, 0]), "matrix: expected one that destroys"),
        ([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]], "matrix: expected one that destroys"),
        ([[0.5, 0.5], [0.5, 0.5]], r"matrix: expected one over 3 tokens, got shape \[2, 2\]"),
        ([[0.5, 0.4, 0.0]] * 3, "matrix: expected probabilities that sum to 1, got a sum of 0.9"),
        ([[1.5, -0.5, 0.0]] * 3, "matrix: expected probabilities >= 0, got -0.5"),
    ],
)
def test_matrices_that_are_no_destruction(make, matrix, message):
    with pytest.raises(InputError, match=message):
        make(matrix)


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3], [0.0, 1.0, 2.0], ["a", 1, 2], torch.zeros(3, 3)])
def test_orders_that_are_none(order):
    with pytest.raises(InputError, match="order: expected each position from 0 to 2 once, got"):
        MaskInOrder(SPACE, order)


def test_spaces_and_numbers_of_steps_that_do_not_fit():
    with pytest.raises(InputError, match="space: expected a space of Tokens, got Continuous"):
        MaskOneRandom(Continuous(3))
    with pytest.raises(InputError, match="steps: expected a whole number >= 1, got 0"):
        ShuffleOneToken(SPACE, steps=0)
    with pytest.raises(InputError, match="positions: expected 'uniform' or 'learned', got 'random'"):
        ShuffleOneToken(SPACE, steps=3, positions="random")


def test_levels_of_random_masking_keep_each_set_equally_often():
    reference = MaskOneRandom(Tokens(5, 2))
    sample = torch.zeros(5, dtype=torch.int64)
    assert reference.log_prob_level(torch.tensor([0, 0, 2, 2, 2]), sample, 2).item() == pytest.approx(-math.log(10))
    assert reference.log_prob_level(torch.tensor([0, 1, 2, 2, 2]), sample, 2).item() == -math.inf
