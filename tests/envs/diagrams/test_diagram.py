"""What may be declared at all, and the text that a diagram becomes."""

import pytest
import torch

from ebbflow.envs.channels import Cypher, FiniteChannel, Identity, Mash, Product
from ebbflow.envs.diagrams import SINGLETON, Arrow, Diagram, Equal, Lossless, get_example, information
from ebbflow.envs.errors import InputError

LAW = [0.5, 0.3, 0.2]


def diagram(*edges, **variables):
    return Diagram("test", {"A": LAW} | variables, edges)


def there_and_back():
    return [Arrow("A", "B", Identity(3)), Arrow("B", "C", Identity(3)), Arrow("C", "B", Identity(3))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diagram(Arrow("A", "B", Identity(3))), "edge A =Identity=> B: expected one of A, got 'B'"),
        (lambda: diagram(Arrow("X", "A", Identity(3))), "edge X =Identity=> A: expected one of A, got 'X'"),
        (lambda: diagram(Equal("A", "A'")), "edge A -.- A': expected one of A, got \"A'\""),
        (lambda: diagram(Equal("A", "A", given="B")), "edge A -.B.- A: expected one of A, got 'B'"),
        (lambda: diagram(Arrow(("A", "Z"), "A", Identity(3))), "edge A × Z =.*: expected one of A, got 'Z'"),
        (lambda: diagram(Equal("A", ())), "expected a variable at both ends, got ()"),
        (lambda: diagram(Equal("A", ("A", "A"))), "expected as many variables at both ends, got A × A"),
        (lambda: diagram(B=None), "variable 'B': expected a law, a sampler or an arrow to it, got none"),
        (
            lambda: diagram(Arrow("B", ("B", "C"), Product(3, LAW)), B=None, C=None),
            "variable 'B': expected a law, a sampler or an arrow to it",
        ),
        (lambda: diagram(*there_and_back(), B=None, C=None), "dashed edge to close the loop.* circle [BC] => [BC]"),
        (
            lambda: diagram(Arrow("A", "B", Identity(3)), Arrow("B", "A", Identity(3)), B=None),
            "edges: expected a dashed edge to close the loop, got arrows in a circle",
        ),
        (
            lambda: diagram(Arrow("A", "B", Identity(3)), B=LAW),
            "variable 'B': expected no arrow to a variable with a law of its own, got one from A",
        ),
        (lambda: diagram(B=[0.5, 0.4]), "law of 'B': expected probabilities that sum to 1, got a sum of 0.9"),
        (lambda: diagram(B=[1.5, -0.5]), "law of 'B': expected probabilities >= 0, got -0.5"),
        (lambda: diagram(B="normal"), "law of 'B': expected probabilities in 1 dimensions, got 'normal'"),
        (lambda: Lossless("A", "B", lambda a: a), "inverse: expected a callable for the lossless arrow A <=.*got None"),
        (lambda: get_example("cipher"), "example: expected one of cypher, .*, got 'cipher'"),
    ],
)
def test_bad_declarations_are_named(make, message):
    with pytest.raises(InputError, match=message.replace("()", r"\(\)")):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diagram(Arrow("A", "B", Identity(2)), B=None), r"Identity.*: expected an input of shape \[2\], got A"),
        (lambda: diagram(Arrow("A", "B", Product(3, LAW)), B=None), "Product.*: expected 2 targets, got B"),
        (
            lambda: diagram(Arrow("A", "B", Identity(3)), Arrow("A", "B", Mash([0, 1, 1])), B=None),
            "Mash.*: expected an output B of 3 values, got 2",
        ),
        (
            lambda: diagram(Arrow("A", "B", Mash([0, 1, 1])), Equal("A", "B"), B=None),
            r"edge A -.- B: expected as many values at both ends, got \[3\] and \[2\]",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make().check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": -1.0}, "tolerance: expected a number in .*, got -1.0"),
        ({"samples": 1}, "samples: expected a whole number >= 2, got 1"),
        ({"level": 0.0}, "level: expected a number in"),
        ({"seed": -1}, "seed: expected a whole number >= 0, got -1"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        get_example("gaussian-interpolation").check(**settings)


def normal(n):
    return torch.randn(n)


@pytest.mark.parametrize(
    ("source", "channel", "message"),
    [
        (lambda n: torch.randn(n + 1), Identity(1), r"sampler of A: expected a tensor of 20 rows, got shape \[21\]"),
        (lambda n: [0.0] * n, Identity(1), r"sampler of A: expected a tensor of 20 rows, got \[0.0"),
        (normal, lambda a: a / 0.0, "channel A => B: expected finite samples, got "),
        (normal, lambda a: a.mean(), r"channel A => B: expected a tensor of 20 rows, got shape \[\]"),
        (normal, lambda a: (a, a), "channel A => B: expected 1 tensors, got 2"),
        (normal, lambda a: torch.stack([a, a], -1), r"edge A -.- B: expected samples of the same shape .* \[20, 2\]"),
        (normal, Identity(3), "Identity: expected messages below 3"),
    ],
)
def test_samples_that_are_none_are_named(source, channel, message):
    wrong = Diagram("test", {"A": source, "B": None}, [Arrow("A", "B", channel), Equal("A", "B")])
    with pytest.raises(InputError, match=message):
        wrong.check(samples=20)


def test_two_ways_of_different_shapes_are_named():
    ways = [
        Arrow("A", "B", lambda a: a, name="as it is"),
        Arrow("A", "B", lambda a: a.unsqueeze(-1), name="as a column"),
    ]
    with pytest.raises(InputError, match=r"variable 'B': expected shape \[20\], got \[20, 1\]"):
        Diagram("test", {"A": normal, "B": None}, ways).check(samples=20)


def test_information_needs_laws():
    with pytest.raises(InputError, match="expected laws and finite channels only"):
        information(get_example("gaussian-interpolation"))


def test_edges_may_come_in_any_order():
    example = get_example("interpolation")
    backwards = Diagram(example.name, example.variables, tuple(reversed(example.edges)))
    assert backwards.check().holds


def test_an_arrow_is_named_after_its_channel():
    def blur(x):
        return x

    named = [
        Arrow("A", "B", Mash([0, 1, 1])),
        Arrow("A", "B", FiniteChannel([[1.0]], name="f")),
        Arrow("A", "B", blur),
        Arrow("A", "B", torch.nn.Identity()),
        Arrow("A", "B", blur, name="Blur"),
    ]
    assert [arrow.label for arrow in named] == ["Mash", "f", "blur", "Identity", "Blur"]


def test_mermaid_has_every_kind_of_edge_and_escapes_quotes():
    text = Diagram(
        "all",
        {"A": LAW, 'so-called "B"': None, "Z'": LAW, "Zp": None, "*": SINGLETON},
        [
            Arrow("A", 'so-called "B"', Mash([0, 1, 1])),
            Lossless(("A", "Z'"), ("Zp", "Z'"), Cypher(range(9), shape=(3, 3)), name="Same"),
            Equal("A", "Zp"),
            Equal("A", "Zp", given=("Z'", "A")),
        ],
    ).to_mermaid()
    assert text.splitlines() == [
        "flowchart LR",
        '    A["A"]',
        '    SocalledB["so-called #quot;B#quot;"]',
        '    Zp["Z\'"]',
        '    Zp_3["Zp"]',
        '    N["*"]',
        '    AxZp["A × Z\'"]',
        '    ZpxZp["Zp × Z\'"]',
        "    A --- AxZp",
        "    Zp --- AxZp",
        "    Zp_3 --- ZpxZp",
        "    Zp --- ZpxZp",
        '    A ==>|"Mash"| SocalledB',
        '    AxZp <==>|"Same"| ZpxZp',
        "    A -.- Zp_3",
        '    A -.-|"Z\' × A"| Zp_3',
    ]
