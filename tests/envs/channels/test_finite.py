import itertools

import pytest
import torch

from ebbflow.envs.channels import Cypher, FiniteChannel, Identity, Mash, Product, Project, Shuffle
from ebbflow.envs.errors import InputError

SHUFFLE = [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]


def random_channel(inputs, outputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return FiniteChannel(torch.rand(inputs, outputs, generator=generator, dtype=torch.float64).softmax(-1))


@pytest.mark.parametrize("matrix", [SHUFFLE, torch.tensor(SHUFFLE).T], ids=["as rows", "as columns"])
def test_25_shuffles_leave_a_third_of_everything(matrix):
    channel = Shuffle(matrix).repeated(25)
    corners = torch.eye(3, dtype=torch.float64)
    starts = [*corners, *torch.rand(200, 3, dtype=torch.float64).softmax(-1)]  # by convexity, the corners would do
    for start in starts:
        law = channel.output_law(start)
        assert ((law > 0.33333331) & (law < 0.33333335)).all()


def test_repetition_is_composition():
    shuffle = Shuffle(SHUFFLE)
    by_hand = Identity(3)
    for n in range(6):
        torch.testing.assert_close(shuffle.repeated(n).matrix, by_hand.matrix, rtol=0, atol=1e-15)
        by_hand = by_hand.then(shuffle)


def test_composition_is_summing_over_what_is_between():
    first, second = random_channel(3, 4), random_channel(4, 2, seed=1)
    expected = [[sum(first.matrix[i, k] * second.matrix[k, j] for k in range(4)) for j in range(2)] for i in range(3)]
    torch.testing.assert_close(first.then(second).matrix, torch.tensor(expected).double())


def test_reversal_is_bayes_rule_and_gives_the_law_back():
    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    channel = random_channel(3, 4)
    guess = channel.reversed(law)
    output = channel.output_law(law)
    for i, j in itertools.product(range(3), range(4)):
        assert guess.matrix[j, i].item() == pytest.approx((law[i] * channel.matrix[i, j] / output[j]).item(), abs=1e-15)
    torch.testing.assert_close(guess.output_law(output), law, rtol=0, atol=1e-15)


def test_what_cannot_be_received_is_guessed_by_the_law():
    guess = Mash([0, 0], outcomes=2).reversed([0.25, 0.75])
    assert guess.matrix[1].tolist() == [0.25, 0.75]


def test_messages_are_drawn_from_the_rows():
    channel = random_channel(3, 4)
    sent = torch.arange(3).repeat_interleave(20_000)
    received = channel(sent)
    counts = torch.zeros(3, 4).index_put_((sent, received), torch.ones(()), accumulate=True)
    torch.testing.assert_close(counts / 20_000, channel.matrix.float(), rtol=0, atol=0.02)


def test_messages_of_several_parts():
    a, coin = Product(3, [0.25, 0.75])(torch.tensor([0, 1, 2] * 2000))
    assert a.tolist() == [0, 1, 2] * 2000
    assert coin.double().mean().item() == pytest.approx(0.75, abs=0.02)
    assert Project((3, 2), part=1)(a, coin).equal(coin)
    assert Mash([[0, 1], [1, 2], [2, 0]])(a, coin).equal((a + coin) % 3)
    swapped = Cypher([2, 3, 0, 1], shape=(2, 2))(torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert [part.tolist() for part in swapped] == [[1, 0], [1, 0]]


def test_single_precision_is_made_exact():
    matrix = torch.full((3, 3), 1 / 3)
    assert abs(FiniteChannel(matrix).matrix.sum(-1) - 1.0).max() < 1e-15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FiniteChannel([[0.5, 0.4], [0.5, 0.5]]), "matrix: expected .* sum to 1, got a sum of 0.9 in row 0"),
        (lambda: FiniteChannel([[0.5, 0.5], [1.5, -0.5]]), "matrix: expected probabilities >= 0, got -0.5"),
        (lambda: FiniteChannel([[float("nan"), 0.5]]), "matrix: expected probabilities >= 0, got nan"),
        (lambda: FiniteChannel([0.5, 0.5]), r"matrix: expected probabilities in 2 dimensions, got shape \[2\]"),
        (lambda: FiniteChannel([[1.0], [0.5, 0.5]]), "matrix: expected probabilities in 2 dimensions"),
        (lambda: FiniteChannel("half"), "matrix: expected probabilities in 2 dimensions, got 'half'"),
        (lambda: FiniteChannel(SHUFFLE, input_shape=(2, 2)), r"input_shape: .* product is 3, got \[2, 2\]"),
        (lambda: FiniteChannel(SHUFFLE, output_shape=(3, 0)), "output_shape: expected a whole number >= 1, got 0"),
        (lambda: Shuffle([[0.5, 0.5]]), r"matrix: expected a square matrix, got shape \[1, 2\]"),
        (lambda: Identity(0), "n: expected a whole number >= 1, got 0"),
        (lambda: Cypher([0, 0, 1]), r"permutation: expected each of 0..2 once, got \[0, 0, 1\]"),
        (lambda: Mash([0, -1]), r"labels: expected whole numbers >= 0, got \[0, -1\]"),
        (lambda: Mash([0.5, 1.0]), "labels: expected whole numbers >= 0"),
        (lambda: Mash([[0], [0, 1]]), "labels: expected whole numbers >= 0"),
        (lambda: Mash([0, 3], outcomes=2), "outcomes: expected a whole number >= 4, got 2"),
        (lambda: Product(3, [0.5, 0.6]), "law: expected probabilities that sum to 1, got a sum of 1.1"),
        (lambda: Project((2, 3), part=2), "part: expected a whole number < 2, got 2"),
        (lambda: Identity(3).then(Identity(2)), r"other: expected a channel with inputs \[3\], got \[2\]"),
        (lambda: Mash([0, 0]).repeated(2), r"repeated: expected outputs that fit in again, \[2\], got \[1\]"),
        (lambda: Identity(3).repeated(-1), "n: expected a whole number >= 0, got -1"),
        (lambda: Identity(3).output_law([0.5, 0.5]), "law: expected 3 probabilities for Identity.*, got 2"),
        (lambda: Identity(3)(torch.tensor([3])), "Identity: expected messages below 3"),
        (lambda: Identity(3)(torch.tensor([0.0])), "Identity: expected messages below 3"),
        (lambda: Project((2, 3), part=0)(torch.tensor([0])), "Project: expected an input of 2 parts, got 1"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
