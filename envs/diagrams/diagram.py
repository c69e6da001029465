"""The diagram itself: variables, and the edges between them.

    Arrow       A ==> B       a channel that can be called: B is what it makes of A
    Lossless    A <==> B      a channel with a way back: neither direction creates or destroys anything
    Equal       A -.- B       claims the same marginal law; with a label, the same law conditionally on it

An end of an edge is a variable, `"A"`, or several at once, `("A", "Z")`, which is drawn A × Z. A variable starts from a
law or a sampler, or is made by an arrow. Several arrows may lead to the same variable: then they must agree, whatever
way is taken, which is what it means to commute. Source: Noël, *Destruction is a General Strategy to Learn Generation*
(https://arxiv.org/abs/2605.30553), "About the Diagrams"; the paper's bidirectional arrow is `Lossless` here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..channels.finite import FiniteChannel, probabilities
from ..channels.joint import names_of
from ..errors import InputError

if TYPE_CHECKING:
    from .report import Report

__all__ = ["SINGLETON", "Arrow", "Box", "Channel", "Diagram", "Edge", "End", "Equal", "Lossless", "title"]

End = str | tuple[str, ...]
Box = tuple[str, ...]  # an end, whether it is one variable or several
Channel = Callable[..., Tensor | tuple[Tensor, ...]]

SINGLETON = (1.0,)  # the law of a variable that says nothing, "*" in diagrams


def title(end: End) -> str:
    """How an end is written: `A`, or `A × Z` for joint access."""
    return " × ".join(names_of(end))


@dataclass(frozen=True)
class Arrow:
    """`target` is what `channel` makes of `source`.

    Args:
        source: one variable, or several that the channel sees together.
        target: one variable, or several: of those that exist already, the channel must give the value that they have.
        channel: a finite channel, or a callable from samples `[n, ...]`, one tensor for each source, to samples, one
            tensor for each target (a tuple if they are several).
        name: what is written on the arrow; by default the channel's name.
    """

    source: End
    target: End
    channel: Channel
    name: str = ""

    @property
    def ends(self) -> tuple[Box, Box]:
        """Where it comes from, and where it leads."""
        return names_of(self.source), names_of(self.target)

    @property
    def label(self) -> str:
        """What is written on the arrow."""
        if self.name:
            return self.name
        return str(getattr(self.channel, "name", getattr(self.channel, "__name__", type(self.channel).__name__)))

    def __str__(self) -> str:
        return f"{title(self.source)} ={self.label}=> {title(self.target)}"


@dataclass(frozen=True)
class Lossless(Arrow):
    """An arrow that can be taken back, and forth again, with nothing changed.

    Args:
        inverse: the way back, from targets to sources; for a finite channel by default its own reversal.

    Raises:
        InputError: for a callable without an inverse.
    """

    inverse: Channel | None = None

    def __post_init__(self) -> None:
        if self.inverse is None and not isinstance(self.channel, FiniteChannel):
            raise InputError(f"inverse: expected a callable for the lossless arrow {self}, got None")

    def __str__(self) -> str:
        return f"{title(self.source)} <={self.label}=> {title(self.target)}"


@dataclass(frozen=True)
class Equal:
    """A dashed edge: both ends have the same law, or the same law conditionally on `given`.

    Args:
        first: one variable, or several at once.
        second: as many.
        given: the label on the dashed edge; none by default.
    """

    first: End
    second: End
    given: End = ()

    @property
    def ends(self) -> tuple[Box, Box]:
        """What is compared."""
        return names_of(self.first), names_of(self.second)

    def __str__(self) -> str:
        between = f"-.{title(self.given)}.-" if self.given else "-.-"
        return f"{title(self.first)} {between} {title(self.second)}"


Edge = Arrow | Equal


@dataclass(frozen=True)
class Diagram:
    """Variables, and the edges between them.

    Args:
        name: its title.
        variables: every variable by its name, and what it starts from: a law `[n]` (finite), a callable that gives so
            many samples, `n -> [n, ...]` (continuous), or None if an arrow makes it.
        edges: arrows and dashed edges, in any order.

    Raises:
        InputError: for edges between undeclared variables; for variables that nothing makes, or that an arrow leads to
            though they have a law of their own; for laws that are none; and for arrows that go in a circle, which only
            a dashed edge may close.

    Example:
        >>> from ebbflow.envs.channels import Mash
        >>> law, mash = [0.5, 0.25, 0.25], Mash([0, 1, 1])
        >>> diagram = Diagram(
        ...     "destroy, then generate",
        ...     variables={"A": law, "B": None, "A'": None},
        ...     edges=[Arrow("A", "B", mash), Arrow("B", "A'", mash.reversed(law)), Equal("A", "A'", given="B")],
        ... )
        >>> print(diagram.check())
        destroy, then generate: holds
          holds  A -.B.- A'    total variation 0 <= 1e-12    law of A and of A', each with B
    """

    name: str
    variables: Mapping[str, Any]
    edges: Sequence[Edge]
    finite: bool = field(init=False)
    arrows: tuple[Arrow, ...] = field(init=False)  # in an order in which they can be called

    def __post_init__(self) -> None:
        for edge in self.edges:
            self._declared(edge)
        object.__setattr__(self, "variables", {name: self._start(name) for name in self.variables})
        arrows = [edge for edge in self.edges if isinstance(edge, Arrow)]
        laws = all(start is None or isinstance(start, Tensor) for start in self.variables.values())
        channels = [arrow.channel for arrow in arrows]
        channels += [arrow.inverse for arrow in arrows if isinstance(arrow, Lossless) and arrow.inverse is not None]
        object.__setattr__(self, "finite", laws and all(isinstance(channel, FiniteChannel) for channel in channels))
        object.__setattr__(self, "arrows", self._ordered(arrows))

    @property
    def boxes(self) -> list[Box]:
        """What is drawn as a box: the variables, then what has joint access to several of them, each once."""
        boxes: list[Box] = [(name,) for name in self.variables]
        return list(dict.fromkeys(boxes + [end for edge in self.edges for end in edge.ends]))

    def check(self, **settings: Any) -> "Report":
        """Run the channels and hold every claim to account: see `ebbflow.envs.diagrams.check`."""
        from .commutation import check

        return check(self, **settings)

    def to_mermaid(self) -> str:
        """The diagram as mermaid text: see `ebbflow.envs.diagrams.to_mermaid`."""
        from .mermaid import to_mermaid

        return to_mermaid(self)

    def _declared(self, edge: Edge) -> None:
        given = names_of(edge.given) if isinstance(edge, Equal) else ()
        for name in (*edge.ends[0], *edge.ends[1], *given):
            if name not in self.variables:
                raise InputError(f"edge {edge}: expected one of {', '.join(self.variables)}, got {name!r}")
        if () in edge.ends:
            raise InputError(f"edge {edge}: expected a variable at both ends, got ()")
        if isinstance(edge, Equal) and len(edge.ends[0]) != len(edge.ends[1]):
            raise InputError(f"edge {edge}: expected as many variables at both ends, got {title(edge.second)}")

    def _start(self, name: str) -> Any:
        start = self.variables[name]
        if start is None or callable(start):
            return start
        return probabilities(f"law of {name!r}", start, dims=1)

    def _ordered(self, arrows: Sequence[Arrow]) -> tuple[Arrow, ...]:
        before: dict[str, set[str]] = {name: set() for name in self.variables}
        for arrow in arrows:
            sources, targets = arrow.ends
            for target in set(targets) - set(sources):
                before[target].update(sources)
        try:
            order = {name: place for place, name in enumerate(TopologicalSorter(before).static_order())}
        except CycleError as error:
            circle = " => ".join(error.args[1])
            raise InputError(
                f"edges: expected a dashed edge to close the loop, got arrows in a circle {circle}"
            ) from None
        for name, start in self.variables.items():
            if start is None and not before[name]:
                raise InputError(f"variable {name!r}: expected a law, a sampler or an arrow to it, got none")
            if start is not None and before[name]:
                raise InputError(
                    f"variable {name!r}: expected no arrow to a variable with a law of its own, got one from "
                    f"{', '.join(sorted(before[name]))}; a dashed edge compares laws"
                )
        return tuple(sorted(arrows, key=lambda arrow: max(order[name] for name in arrow.ends[0])))
