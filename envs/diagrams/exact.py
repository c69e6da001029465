"""A finite diagram, run with its exact joint law."""

from typing import NamedTuple

from torch import Tensor

from ..channels.finite import FiniteChannel
from ..channels.joint import JointLaw, names_of
from ..errors import InputError
from .diagram import Channel, Diagram, Equal, Lossless, title
from .report import EdgeCheck

__all__ = ["ExactRun", "Gap", "words"]


class Gap(NamedTuple):
    """By how much a channel gives anything else than what its targets are already."""

    value: float
    threshold: float
    measure: str


def words(edge: Equal) -> str:
    """What a dashed edge compares."""
    given = f", each with {title(edge.given)}" if edge.given else ""
    return f"law of {title(edge.first)} and of {title(edge.second)}{given}"


class ExactRun:
    """The joint law of what was made so far; see `check` for the arguments."""

    def __init__(self, diagram: Diagram, tolerance: float) -> None:
        self.tolerance = tolerance
        self.joint = JointLaw()
        for name, start in diagram.variables.items():
            if isinstance(start, Tensor):
                self.joint = self.joint.with_variable(name, start)

    def knows(self, name: str) -> bool:
        """Whether a variable was made."""
        return name in self.joint.sizes

    def send(self, channel: Channel, sources: tuple[str, ...], targets: tuple[str, ...]) -> Gap:
        """Make the targets that are not there yet; the gap is that of those that are."""
        assert isinstance(channel, FiniteChannel)
        self.joint, disagreement = self.joint.through(channel, sources, targets)
        return Gap(disagreement, self.tolerance, "probability to differ")

    def inverse(self, arrow: Lossless, sources: tuple[str, ...]) -> FiniteChannel:
        """The channel's own reversal, under the law of what goes in."""
        assert isinstance(arrow.channel, FiniteChannel)
        return arrow.channel.reversed(self.joint.law(*sources).reshape(-1))

    def compare(self, edge: Equal) -> EdgeCheck:
        """Total variation between the laws of both ends, each together with the label."""
        given = names_of(edge.given)
        first, second = (self.joint.law(*end, *given) for end in edge.ends)
        if first.shape != second.shape:
            ends = len(edge.ends[0])
            sizes = list(first.shape[:ends]), list(second.shape[:ends])
            raise InputError(f"edge {edge}: expected as many values at both ends, got {sizes[0]} and {sizes[1]}")
        distance = 0.5 * float((first - second).abs().sum())
        kind = "conditionally equal" if given else "equal"
        return EdgeCheck(
            str(edge), kind, words(edge), "total variation", distance, self.tolerance, distance <= self.tolerance
        )
