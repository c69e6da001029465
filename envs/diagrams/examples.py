"""The diagrams of the paper, on spaces small enough to see: worked examples, all of which check.

Alice A has one of three messages, Bob B receives what a channel made of it, Imaginary-Alice A' is what is guessed back.
Source: Noël, *Destruction is a General Strategy to Learn Generation* (https://arxiv.org/abs/2605.30553), tutorial; each
example names its section.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..channels.elementary import Cypher, Identity, Mash, Product, Project, Shuffle
from ..channels.finite import FiniteChannel, probabilities
from ..channels.gaussian import GaussianChannel
from ..errors import InputError
from .diagram import SINGLETON, Arrow, Diagram, Equal, Lossless

__all__ = ["EXAMPLES", "get_example"]

_ALICE = (0.5, 0.3, 0.2)


def cypher() -> Diagram:
    """Section "Destroying and Generating": a bijection destroys nothing, for there is a way back to the identity."""
    permute = Cypher([1, 2, 0])
    return Diagram(
        "a cypher destroys nothing",
        {"A": _ALICE, "B": None, "A'": None},
        [
            Lossless("A", "B", permute),
            Arrow("A", "A'", Identity(3)),
            Arrow("B", "A'", permute.inverse(), name="Decrypt"),
        ],
    )


def product() -> Diagram:
    """Section "Destroying and Generating": a coin beside the message creates information, and destroys none."""
    return Diagram(
        "a product creates, and can be undone",
        {"A": _ALICE, "coin": None, "A'": None},
        [
            Arrow("A", ("A", "coin"), Product(3, [0.5, 0.5])),
            Arrow(("A", "coin"), "A'", Project((3, 2), part=0)),
            Arrow("A", "A'", Identity(3)),
        ],
    )


def mash() -> Diagram:
    """Section "Destroying and Generating": two messages become one, and are guessed back in law, given what is left."""
    destroy = Mash([0, 1, 1])
    return Diagram(
        "destroy, then generate",
        {"A": _ALICE, "B": None, "A'": None},
        [Arrow("A", "B", destroy), Arrow("B", "A'", destroy.reversed(_ALICE)), Equal("A", "A'", given="B")],
    )


def redraw() -> Diagram:
    """Section "Destroying and Generating": where only the marginal law is wanted, Bob need not be asked at all."""
    return Diagram(
        "generate anything with the right law",
        {"A": _ALICE, "B": None, "A'": None},
        [
            Arrow("A", "B", Mash([0, 1, 1])),
            Arrow("B", "A'", FiniteChannel([_ALICE, _ALICE], name="Redraw")),
            Equal("A", "A'"),
        ],
    )


def singleton() -> Diagram:
    """Section "Mashing Everything": down to a singleton, and from nothing back up."""
    first, second = Mash([0, 1, 1]), Mash([0, 0])
    guess, guess_first = second.reversed(first.output_law(_ALICE)), first.reversed(_ALICE)
    return Diagram(
        "mash everything, generate from nothing",
        {"A": _ALICE, "B": None, "C": None, "*": SINGLETON, "B'": None, "A'": None, "B''": None, "A''": None},
        [
            Arrow("A", "B", first),
            Arrow("B", "C", second, name="Mash'"),
            Equal("C", "*"),
            Arrow("C", "B'", guess, name="Guess'"),
            Arrow("B", "A'", guess_first),
            Equal("A", "A'", given="B"),
            Equal("B", "B'", given="C"),
            Arrow("*", "B''", guess, name="Guess'"),
            Arrow("B''", "A''", guess_first),
            Equal("A''", "A"),
        ],
    )


def autoregressive() -> Diagram:
    """Section "Mashing Everything": MashLastToken on two tokens, then GuessNextToken from the empty text."""
    law = [0.4, 0.1, 0.2, 0.3]
    return _two_steps("autoregressive, two tokens", law, Mash([0, 0, 1, 1]), Mash([0, 0]), "LastToken", "NextToken")


def masked() -> Diagram:
    """Section "Mashing Everything": MashOneRandomUnmaskedToken; the order is created, and destroyed again.

    Of two tokens, Bob's messages are 0_ 1_ _0 _1, where _ is a mask.
    """
    law = [0.4, 0.1, 0.2, 0.3]  # of 00 01 10 11
    half = FiniteChannel([[0.5, 0, 0.5, 0], [0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0], [0, 0.5, 0, 0.5]])
    return _two_steps(
        "masked diffusion, two tokens", law, half, Mash([0, 0, 0, 0]), "OneRandomUnmaskedToken", "OneRandomMaskedToken"
    )


def shuffle() -> Diagram:
    """Section "Shuffling Everything": drowned in noise until the law is known; there generation starts.

    Twenty-five uses leave 2e-8 of what was there, fifty 1e-15.
    """
    noise = Shuffle([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]).repeated(25)
    to_bob = noise.reversed(noise.output_law(_ALICE))
    return Diagram(
        "shuffle everything, generate from a known law",
        {"A": _ALICE, "B": None, "Z": None, "Z'": (1 / 3, 1 / 3, 1 / 3), "B'": None, "A'": None},
        [
            Arrow("A", "B", noise),
            Arrow("B", "Z", noise),
            Equal("Z", "Z'"),
            Arrow("Z'", "B'", to_bob),
            Arrow("B'", "A'", noise.reversed(_ALICE)),
            Equal("B", "B'"),
            Equal("A", "A'"),
        ],
    )


def composition() -> Diagram:
    """Section "About the Diagrams": in a row, random channels give their composition's law, not its message."""
    f = FiniteChannel([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]], name="f")
    g = FiniteChannel([[0.7, 0.3], [0.4, 0.6]], name="g")
    return Diagram(
        "harpoons compose in law",
        {"X": _ALICE, "Y": None, "Z": None, "Z'": None},
        [Arrow("X", "Y", f), Arrow("Y", "Z", g), Arrow("X", "Z'", f.then(g)), Equal("Z", "Z'", given="X")],
    )


def conditioning() -> Diagram:
    """The thesis, on control by conditioning: Bob guesses with joint access to what is left and to a label."""
    remains, label = [0, 0, 0, 1], [0, 1, 1, 0]
    law = [0.4, 0.1, 0.2, 0.3]
    both = Mash([2 * r + c for r, c in zip(remains, label, strict=True)], outcomes=4).reversed(law)
    return Diagram(
        "conditioning is joint access to a label",
        {"A": law, "B": None, "label": None, "A'": None},
        [
            Arrow("A", "B", Mash(remains)),
            Arrow("A", "label", Mash(label), name="Label"),
            Arrow(("B", "label"), "A'", FiniteChannel(both.matrix, input_shape=(2, 2), name="Guess")),
            Equal("A", "A'", given=("B", "label")),
        ],
    )


# What both interpolations claim: the levels of the Markov chain, and a guess of the noise as good as the data's.
_INTERPOLATED = (
    Equal("A", "A'"),
    Equal("B", "B'"),
    Equal("C", "C'"),
    Equal("Z", "Z'"),
    Equal("Z'", "Z''", given="B'"),
    Equal("A'", "A''", given="B'"),
)


def interpolation() -> Diagram:
    """Section "Beyond Markov", on the integers modulo 4: every level is made from the data and one and the same noise.

    B' = A' + f(Z'), C' = A' + g(Z'), where f and g of the uniform Z' have the laws of one fair step and of two.
    """
    law = probabilities("law", [0.4, 0.3, 0.2, 0.1], dims=1)
    step, drown = (
        Shuffle([[steps[(j - i) % 4] for j in range(4)] for i in range(4)]) for steps in ([0.5, 0.5, 0, 0], [0.25] * 4)
    )
    f, g = [0, 0, 1, 1], [0, 1, 1, 2]
    to_b = Cypher([4 * ((a + f[z]) % 4) + z for a in range(4) for z in range(4)], shape=(4, 4))
    b_to_c = Cypher([4 * ((b - f[z] + g[z]) % 4) + z for b in range(4) for z in range(4)], shape=(4, 4))
    from_noise = FiniteChannel([[law[(b - f[z]) % 4] for b in range(4)] for z in range(4)])
    return Diagram(
        "interpolation with noise, on four messages",
        {"A": law, "B": None, "C": None, "Z": None}
        | {"A'": law, "Z'": [0.25] * 4, "B'": None, "C'": None, "Z''": None, "A''": None},
        [
            Arrow("A", "B", step),
            Arrow("B", "C", step),
            Arrow("C", "Z", drown),
            Lossless(("A'", "Z'"), ("B'", "Z'"), to_b, name="Interpolate"),
            Lossless(("B'", "Z'"), ("C'", "Z'"), b_to_c, name="Interpolate"),
            Arrow("B'", "Z''", from_noise.reversed([0.25] * 4)),
            Arrow(("B'", "Z''"), "A''", to_b.inverse().then(Project((4, 4), part=0)), name="Solve"),
            *_INTERPOLATED,
        ],
    )


def gaussian_interpolation() -> Diagram:
    """Section "Beyond Markov", DDPM's: x_k = √α_k x + √(1 − α_k) z, with the noise guessed from x_k in closed form.

    Real numbers, so checked on samples; A ~ N(1, 0.25), α = 0.7 at B and 0.3 at C.
    """
    mean, variance, at_b, at_c = 1.0, 0.25, 0.7, 0.3

    def data(n: int) -> Tensor:
        return mean + math.sqrt(variance) * torch.randn(n, dtype=torch.float64)

    def level(alpha: float) -> Callable[..., tuple[Tensor, Tensor]]:
        return lambda x, z: (math.sqrt(alpha) * x + math.sqrt(1.0 - alpha) * z, z)

    def solve(alpha: float) -> Callable[..., tuple[Tensor, Tensor]]:
        return lambda y, z: ((y - math.sqrt(1.0 - alpha) * z) / math.sqrt(alpha), z)

    ratio = at_c / at_b
    from_noise = GaussianChannel(math.sqrt(1.0 - at_b), at_b * variance, math.sqrt(at_b) * mean)
    return Diagram(
        "DDPM's interpolation, Gaussian data",
        {"A": data, "B": None, "C": None, "Z": None}
        | {"A'": data, "Z'": lambda n: torch.randn(n, dtype=torch.float64)}
        | {"B'": None, "C'": None, "Z''": None, "A''": None},
        [
            Arrow("A", "B", GaussianChannel(math.sqrt(at_b), 1.0 - at_b), name="Noise"),
            Arrow("B", "C", GaussianChannel(math.sqrt(ratio), 1.0 - ratio), name="Noise"),
            Arrow("C", "Z", GaussianChannel(0.0, 1.0), name="Drown"),
            Lossless(("A'", "Z'"), ("B'", "Z'"), level(at_b), name="Interpolate", inverse=solve(at_b)),
            Lossless(
                ("B'", "Z'"),
                ("C'", "Z'"),
                lambda b, z: level(at_c)(*solve(at_b)(b, z)),
                name="Interpolate",
                inverse=lambda c, z: level(at_b)(*solve(at_c)(c, z)),
            ),
            Arrow("B'", "Z''", from_noise.reversed(0.0, 1.0), name="Guess"),
            Arrow(("B'", "Z''"), "A''", lambda b, z: solve(at_b)(b, z)[0], name="Solve"),
            *_INTERPOLATED,
        ],
    )


EXAMPLES: dict[str, Callable[[], Diagram]] = {
    "cypher": cypher,
    "product": product,
    "mash": mash,
    "redraw": redraw,
    "singleton": singleton,
    "autoregressive": autoregressive,
    "masked": masked,
    "shuffle": shuffle,
    "composition": composition,
    "conditioning": conditioning,
    "interpolation": interpolation,
    "gaussian-interpolation": gaussian_interpolation,
}


def get_example(name: str) -> Diagram:
    """A diagram of the paper, by its name: one of `EXAMPLES`.

    Raises:
        InputError: for an unknown name.

    Example:
        >>> print(get_example("mash").check())
        destroy, then generate: holds
          holds  A -.B.- A'    total variation 0 <= 1e-12    law of A and of A', each with B
    """
    if name not in EXAMPLES:
        raise InputError(f"example: expected one of {', '.join(EXAMPLES)}, got {name!r}")
    return EXAMPLES[name]()


def _two_steps(
    name: str, law: list[float], first: FiniteChannel, second: FiniteChannel, destroyed: str, guessed: str
) -> Diagram:
    """Two tokens A, one left B, none left; and from nothing B' with one, A' with two."""
    return Diagram(
        name,
        {"A": law, "B": None, "C": None, "*": SINGLETON, "B'": None, "A'": None},
        [
            Arrow("A", "B", first, name=f"Mash{destroyed}"),
            Arrow("B", "C", second, name=f"Mash{destroyed}"),
            Equal("C", "*"),
            Arrow("*", "B'", second.reversed(first.output_law(law)), name=f"Guess{guessed}"),
            Arrow("B'", "A'", first.reversed(law), name=f"Guess{guessed}"),
            Equal("B", "B'"),
            Equal("A", "A'"),
        ],
    )
