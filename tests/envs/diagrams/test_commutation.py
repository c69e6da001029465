"""The paper's diagrams check; the same with a mistake planted, one for each kind of edge, do not."""

import pytest
import torch
from scipy.stats import binom

from ebbflow.envs.channels import (
    Cypher,
    FiniteChannel,
    GaussianChannel,
    Identity,
    Mash,
    Product,
    gaussian_shuffle,
)
from ebbflow.envs.diagrams import EXAMPLES, Arrow, CommutationError, Diagram, Equal, Lossless, get_example, information
from ebbflow.envs.diagrams.two_sample import energy_test

LAW = [0.5, 0.3, 0.2]
FINITE = [name for name in EXAMPLES if name != "gaussian-interpolation"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_diagrams_of_the_paper_check(name):
    report = get_example(name).check().raise_on_failure()
    assert report.checks and report.holds
    if name in FINITE:
        assert all(check.statistic <= 1e-12 and check.measure != "p-value" for check in report.checks)
    else:
        assert {check.kind for check in report.checks} == {"lossless", "equal", "conditionally equal"}


@pytest.mark.parametrize("name", FINITE)
def test_the_books_of_every_example_balance(name):
    for step in information(get_example(name)):
        change = step.entropy_after - step.entropy_before
        assert change == pytest.approx(step.created - step.destroyed, abs=1e-12)


def replaced(name, label, channel, place=0):
    """An example with another channel on the `place`-th arrow of this label."""
    example = get_example(name)
    edges = list(example.edges)
    places = [i for i, edge in enumerate(edges) if isinstance(edge, Arrow) and edge.label == label]
    edge = edges[places[place]]
    extra = {"inverse": edge.inverse} if isinstance(edge, Lossless) else {}
    edges[places[place]] = type(edge)(edge.source, edge.target, channel, name=label, **extra)
    return Diagram(example.name, example.variables, edges)


WRONG_GUESS = FiniteChannel([[1.0, 0.0, 0.0], [0.0, 0.4, 0.6]])
INDEPENDENT = GaussianChannel(0.0, 1.0)

PLANTED = {
    "arrow": (replaced("cypher", "Decrypt", Identity(3)), ["B =Decrypt=> A'"], "commutes"),
    "product": (
        replaced("product", "Project", Mash([[0, 1], [1, 1], [2, 2]])),
        ["A × coin =Project=> A'"],
        "commutes",
    ),
    "kept part": (
        replaced("product", "Product", Product(3, [0.5, 0.5]).then(Cypher([2, 1, 0, 3, 4, 5], shape=(3, 2)))),
        ["A =Product=> A × coin"],
        "commutes",
    ),
    "lossless": (replaced("cypher", "Cypher", Mash([1, 2, 2])), ["A <=Cypher=> B", "B =Decrypt=> A'"], "lossless"),
    "lossless, noisy": (
        Diagram(
            "noisy",
            {"A": LAW, "B": None},
            [Lossless("A", "B", FiniteChannel([[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))],
        ),
        ["A <=FiniteChannel=> B"],
        "lossless",
    ),
    "lossless, wrong way back": (
        Diagram("back", {"A": LAW, "B": None}, [Lossless("A", "B", Cypher([1, 2, 0]), inverse=Cypher([1, 2, 0]))]),
        ["A <=Cypher=> B"],
        "lossless",
    ),
    "equal": (
        replaced("redraw", "Redraw", FiniteChannel([[0.5, 0.3, 0.2], [0.5, 0.2, 0.3]])),
        ["A -.- A'"],
        "equal",
    ),
    "equal given": (
        Diagram(
            "right law, wrong message",
            get_example("redraw").variables,
            [*get_example("redraw").edges, Equal("A", "A'", given="B")],
        ),
        ["A -.B.- A'"],
        "conditionally equal",
    ),
    "guess": (replaced("mash", "Guess", WRONG_GUESS), ["A -.B.- A'"], "conditionally equal"),
    "singleton": (
        Diagram(
            "not all mashed",
            {"A": LAW, "B": None, "*": [1.0, 0.0]},
            [Arrow("A", "B", Mash([0, 1, 1])), Equal("B", "*")],
        ),
        ["B -.- *"],
        "equal",
    ),
    "sampled arrow": (
        Diagram(
            "two noises",
            {"A": lambda n: torch.randn(n, 2), "B": None},
            [Arrow("A", "B", gaussian_shuffle(0.1), name="one"), Arrow("A", "B", gaussian_shuffle(0.1), name="two")],
        ),
        ["A =two=> B"],
        "commutes",
    ),
    "sampled lossless": (
        replaced("gaussian-interpolation", "Interpolate", lambda x, z: (0.5 * x + 0.6 * z, z)),
        ["A' × Z' <=Interpolate=> B' × Z'", "B -.- B'"],
        "lossless",
    ),
    "sampled equal": (
        replaced("gaussian-interpolation", "Noise", GaussianChannel(1.5, 0.3)),
        ["B -.- B'"],
        "equal",
    ),
    "sampled equal given": (
        replaced("gaussian-interpolation", "Guess", INDEPENDENT),
        ["Z' -.B'.- Z''", "A' -.B'.- A''"],
        "conditionally equal",
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_mistake_is_found_where_it_is(kind):
    diagram, wrong, kind_of_edge = PLANTED[kind]
    report = diagram.check()
    failing = {check.edge: check.kind for check in report.failures}
    # A mistake shows further down as well, where on samples it may be too small to see.
    assert set(failing) == set(wrong) if diagram.finite else set(failing) >= set(wrong)
    assert failing[wrong[0]] == kind_of_edge
    with pytest.raises(CommutationError, match=r"edges fail\n  FAILS  "):
        report.raise_on_failure()


def test_what_nobody_claims_may_be_anything():
    turned = Product(3, [0.5, 0.5]).then(Cypher([1, 0, 2, 3, 4, 5], shape=(3, 2)))  # the coin is not what it was
    assert replaced("product", "Product", turned).check().holds


def test_the_gap_is_the_size_of_the_mistake():
    (check,) = PLANTED["equal"][0].check().checks
    assert check.statistic == pytest.approx(0.5 * 0.1, abs=1e-12)  # a tenth of the mass, when B is 1, moved
    (check,) = PLANTED["guess"][0].check().checks
    assert check.statistic == pytest.approx(0.5 * abs(0.6 - 0.4), abs=1e-12)
    (check,) = PLANTED["equal given"][0].check().failures
    assert check.statistic == pytest.approx(0.5, abs=1e-12)  # E_B of the total variation: half of it either way


def test_25_shuffles_are_uniform_to_the_digits_of_the_paper_and_no_further():
    shuffle = FiniteChannel([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]).repeated(25)
    diagram = Diagram(
        "25", {"A": [1.0, 0.0, 0.0], "Z": None, "U": [1 / 3] * 3}, [Arrow("A", "Z", shuffle), Equal("Z", "U")]
    )
    assert not diagram.check().holds
    assert diagram.check(tolerance=2e-8).holds


def test_finite_channels_run_on_samples_too():
    """One callable, and the whole diagram goes by samples: messages are compared as such."""
    right = replaced("mash", "Mash", lambda a: a.clamp(max=1))
    (check,) = right.check(samples=400).checks
    assert check.holds and check.measure == "p-value" and "400 samples" in check.compared
    wrong = replaced("mash", "Guess", lambda b: b)
    assert not wrong.check(samples=400).holds
    way = Diagram(
        "way", {"A": LAW, "B": None}, [Lossless("A", "B", Cypher([1, 2, 0])), Arrow("A", "B", lambda a: (a + 1) % 3)]
    )
    assert not way.finite and way.check().holds
    lossy = Diagram(
        "way", {"A": LAW, "B": None, "C": None}, [Lossless("A", "B", Mash([0, 1, 1])), Arrow("A", "C", lambda a: a)]
    )
    assert [check.measure for check in lossy.check().failures] == ["probability to differ"]


def test_a_check_is_repeated_by_its_seed_and_leaves_torch_alone():
    before = torch.get_rng_state()
    example = get_example("gaussian-interpolation")
    first, again, other = (example.check(samples=100, seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other
    assert torch.get_rng_state().equal(before)


def test_a_diagram_that_commutes_rarely_fails():
    """At most one in ten, says the level, which the dashed edges share."""
    step = GaussianChannel(0.6, 0.64)  # leaves a unit Gaussian one
    ways = [Arrow(f"X{k}", f"X{k + 1}", step, name="step") for k in range(3)]
    diagram = Diagram(
        "stationary",
        {"X0": lambda n: torch.randn(n, 1)} | {f"X{k}": None for k in (1, 2, 3)} | {"Y": None},
        [
            *ways,
            Arrow("X1", "Y", step, name="step"),
            *(Equal("X0", f"X{k}") for k in (1, 2, 3)),
            Equal("X2", "Y", given="X1"),
        ],
    )
    alarms = sum(not diagram.check(samples=40, level=0.1, seed=seed).holds for seed in range(200))
    assert 1 <= alarms <= binom.ppf(0.999, 200, 0.1)  # it is a test: it can be wrong, but not too often


def test_two_runs_are_compared_since_one_is_not_independent():
    """X and −X of one run are no two samples; the check is fair all the same."""
    mirrored = Diagram(
        "mirror", {"X": lambda n: torch.randn(n, 1), "Y": None}, [Arrow("X", "Y", lambda x: -x), Equal("X", "Y")]
    )
    alarms = sum(not mirrored.check(samples=40, level=0.2, seed=seed).holds for seed in range(300))
    assert binom.ppf(0.0005, 300, 0.2) <= alarms <= binom.ppf(0.9995, 300, 0.2)
    x = torch.randn(300, 40, 1)
    unfair = sum(energy_test(one, -one, 99, seed).p_value <= 0.2 for seed, one in enumerate(x))
    assert unfair > binom.ppf(0.9995, 300, 0.2)
