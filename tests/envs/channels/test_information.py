"""Entropy identities to rounding, against sums over outcomes written out here."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebbflow.envs.channels import Cypher, FiniteChannel, Identity, JointLaw, Mash, Product, Project, Shuffle
from ebbflow.envs.channels.information import account, entropy
from ebbflow.envs.errors import InputError

LAW = [0.5, 0.3, 0.2]
EXACT = 1e-12


def plogp(p):
    return -sum(x * math.log(x) for x in p if x > 0.0)


def law_of(size, seed):
    weights = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4
    return weights / weights.sum()


def chain_of(sizes, seed):
    """Random channels between the sizes, some entries zero."""
    generator = torch.Generator().manual_seed(seed)
    channels = []
    for before, after in itertools.pairwise(sizes):
        matrix = torch.rand(before, after, generator=generator, dtype=torch.float64)
        matrix = matrix * (torch.rand(before, after, generator=generator) < 0.7)
        matrix[:, 0] += 0.01
        channels.append(FiniteChannel(matrix / matrix.sum(-1, keepdim=True)))
    return channels


sizes = st.lists(st.integers(1, 6), min_size=2, max_size=6)
seeds = st.integers(0, 10_000)


def test_entropy_is_that_of_a_coin_of_a_die_and_of_nothing():
    assert entropy([0.5, 0.5]) == pytest.approx(math.log(2), abs=EXACT)
    assert entropy(torch.full((2, 3), 1 / 6).double()) == pytest.approx(math.log(6), abs=EXACT)
    assert entropy([1.0]) == 0.0


@given(sizes, seeds)
def test_the_books_balance(sizes, seed):
    books = account(law_of(sizes[0], seed), chain_of(sizes, seed))
    for step, before, after in zip(books.steps, books.laws, books.laws[1:], strict=False):
        assert step.entropy_before == pytest.approx(plogp(before.tolist()), abs=EXACT)
        assert step.entropy_after == pytest.approx(plogp(after.tolist()), abs=EXACT)
        assert step.entropy_after - step.entropy_before == pytest.approx(step.created - step.destroyed, abs=EXACT)
        assert -EXACT <= step.kept <= min(step.entropy_before, step.entropy_after) + EXACT
        assert step.kept == pytest.approx(step.entropy_after - step.created, abs=EXACT)
    change = books.steps[-1].entropy_after - books.steps[0].entropy_before
    assert books.created - books.destroyed == pytest.approx(change, abs=EXACT)


@given(sizes, seeds)
def test_both_stories_are_told_in_order(sizes, seed):
    books = account(law_of(sizes[0], seed), chain_of(sizes, seed))
    assert (books.destruction_story.diff() <= EXACT).all()
    assert (books.generation_story.diff() >= -EXACT).all()
    # the whole chain is the same seen from either end, and each end knows all of itself
    assert books.destruction_story[-1].item() == pytest.approx(books.generation_story[0].item(), abs=EXACT)
    assert books.destruction_story[0].item() == pytest.approx(plogp(books.laws[0].tolist()), abs=EXACT)
    assert books.generation_story[-1].item() == pytest.approx(plogp(books.laws[-1].tolist()), abs=EXACT)


@given(sizes, seeds)
def test_stories_agree_with_the_joint_law_of_the_whole_chain(sizes, seed):
    law, channels = law_of(sizes[0], seed), chain_of(sizes, seed)
    books = account(law, channels)
    joint = JointLaw().with_variable("0", law)
    for k, channel in enumerate(channels):
        joint, _ = joint.through(channel, (str(k),), (str(k + 1),))
    last = str(len(channels))
    for k in range(len(channels) + 1):
        assert joint.mutual_information("0", str(k)) == pytest.approx(books.destruction_story[k].item(), abs=EXACT)
        assert joint.mutual_information(last, str(k)) == pytest.approx(books.generation_story[k].item(), abs=EXACT)
    for k, step in enumerate(books.steps):
        assert joint.conditional_entropy(str(k + 1), str(k)) == pytest.approx(step.created, abs=EXACT)
        assert joint.conditional_entropy(str(k), str(k + 1)) == pytest.approx(step.destroyed, abs=EXACT)


@given(sizes, seeds)
def test_along_a_loop_as_much_is_created_as_destroyed(sizes, seed):
    law, channels = law_of(sizes[0], seed), chain_of(sizes, seed)
    back, laws = [], [law]
    for channel in channels:
        back.insert(0, channel.reversed(laws[-1]))
        laws.append(channel.output_law(laws[-1]))
    loop = account(law, [*channels, *back])
    torch.testing.assert_close(loop.laws[-1], loop.laws[0], rtol=0, atol=EXACT)
    assert loop.created == pytest.approx(loop.destroyed, abs=10 * EXACT)
    # the guess takes back what each step did: generation is destruction told backwards
    for step, guess in zip(loop.steps, loop.steps[::-1], strict=True):
        assert step.created == pytest.approx(guess.destroyed, abs=EXACT)


@pytest.mark.parametrize(
    ("channel", "creates", "destroys"),
    [
        (Identity(3), 0.0, 0.0),
        (Cypher([2, 0, 1]), 0.0, 0.0),
        (Product(3, [0.5, 0.5]), math.log(2), 0.0),
        (Mash([0, 1, 1]), 0.0, 0.5 * plogp([0.6, 0.4])),
        (Mash([0, 0, 0]), 0.0, plogp(LAW)),
        (Project((3, 1), part=1), 0.0, plogp(LAW)),
        (FiniteChannel([LAW] * 3), plogp(LAW), plogp(LAW)),
        (
            Shuffle([[0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]),
            math.log(2),
            plogp(LAW) + math.log(2) - plogp([0.4, 0.25, 0.35]),
        ),
    ],
    ids=lambda value: value.name if isinstance(value, FiniteChannel) else None,
)
def test_what_each_channel_creates_and_destroys(channel, creates, destroys):
    (step,) = account(LAW, [channel]).steps
    assert step.created == pytest.approx(creates, abs=EXACT)
    assert step.destroyed == pytest.approx(destroys, abs=EXACT)


def test_a_product_is_undone_by_one_projection_and_its_coin_seen_by_another():
    product = Product(3, [0.25, 0.75])
    assert product.then(Project((3, 2), part=0)).matrix.equal(Identity(3).matrix)
    joint, _ = JointLaw().with_variable("A", LAW).through(product, ("A",), ("B", "coin"))
    assert joint.mutual_information("A", "coin") <= EXACT
    assert joint.mutual_information("A", ("B", "coin")) == pytest.approx(entropy(LAW), abs=EXACT)


def test_joint_access_can_know_what_neither_part_does():
    joint = JointLaw().with_variable("A", [0.5, 0.5]).with_variable("key", [0.5, 0.5])
    joint, _ = joint.through(Mash([[0, 1], [1, 0]]), ("A", "key"), ("B",))
    assert joint.mutual_information("A", "B") <= EXACT
    assert joint.mutual_information("A", ("B", "key")) == pytest.approx(math.log(2), abs=EXACT)
    assert joint.law("A", "key", "B").sum().item() == pytest.approx(1.0, abs=EXACT)


def test_what_is_made_twice_is_compared():
    joint = JointLaw().with_variable("A", LAW)
    same, agrees = joint.through(Identity(3), ("A",), ("A",))
    _, differs = joint.through(Shuffle([[0.9, 0.1, 0.0]] * 3), ("A",), ("A",))
    assert same is joint and agrees == 0.0
    assert differs == pytest.approx(1.0 - (0.5 * 0.9 + 0.3 * 0.1), abs=EXACT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: entropy([0.5, 0.6]), "law: expected probabilities that sum to 1"),
        (lambda: account(LAW, []), "channels: expected at least one, got none"),
        (lambda: account(LAW, [Identity(2)]), "law: expected 2 probabilities for Identity.*, got 3"),
        (lambda: account(LAW, [Mash([0, 1, 1]), Identity(3)]), "law: expected 3 probabilities for Identity"),
        (lambda: JointLaw().with_variable("A", LAW).with_variable("A", LAW), "variable: expected a new name, got 'A'"),
        (lambda: JointLaw().with_variable("A", LAW).law("B"), "variable: expected one of A, got 'B'"),
        (lambda: JointLaw().with_variable("A", [0.7]), "law of 'A': expected probabilities that sum to 1"),
        (
            lambda: JointLaw().with_variable("A", LAW).through(Identity(2), ("A",), ("B",)),
            r"Identity.*: expected an input of shape \[2\], got A of \[3\]",
        ),
        (
            lambda: JointLaw().with_variable("A", LAW).through(Identity(3), ("A",), ("B", "C")),
            "Identity.*: expected 1 targets, got B × C",
        ),
        (
            lambda: JointLaw().with_variable("A", LAW).through(Mash([0, 1, 1]), ("A",), ("A",)),
            "Mash.*: expected an output A of 3 values, got 2",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_joint_law_too_large_is_refused():
    joint = JointLaw()
    with pytest.raises(InputError, match="expected a joint law of at most 4,000,000 outcomes, got"):
        for k in range(10):
            joint = joint.with_variable(str(k), [0.1] * 10)
