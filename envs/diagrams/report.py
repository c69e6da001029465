"""What a check found, edge by edge."""

from dataclasses import dataclass

__all__ = ["CommutationError", "EdgeCheck", "Report"]


class CommutationError(ValueError):
    """A diagram claims what its channels do not do; the message says which edges, and by how much."""


@dataclass(frozen=True)
class EdgeCheck:
    """One claim of a diagram, and what became of it.

    Attributes:
        edge: as it is written in the diagram.
        kind: "equal", "conditionally equal", "lossless", or "commutes" (an arrow to what another one makes too).
        compared: what was compared, in words.
        measure: what the statistic is: "total variation" of two laws, "probability to differ", "largest difference"
            (relative to the largest value), or "p-value" of the energy distance.
        statistic: its value.
        threshold: up to which value the edge holds; for p-values, above which.
        holds: whether it does.
    """

    edge: str
    kind: str
    compared: str
    measure: str
    statistic: float
    threshold: float
    holds: bool

    def __str__(self) -> str:
        sign = "<=" if self.holds != (self.measure == "p-value") else ">"
        verdict = "holds" if self.holds else "FAILS"
        return (
            f"{verdict}  {self.edge}    {self.measure} {self.statistic:.3g} {sign} {self.threshold:.3g}"
            f"    {self.compared}"
        )


@dataclass(frozen=True)
class Report:
    """All claims of a diagram, checked.

    Attributes:
        name: of the diagram.
        checks: one for each claim.

    Example:
        >>> wrong = EdgeCheck("A -.- B", "equal", "law of A and of B", "total variation", 0.5, 1e-12, False)
        >>> Report("planted", (wrong,)).raise_on_failure()
        Traceback (most recent call last):
        ...
        ebbflow.envs.diagrams.report.CommutationError: planted: 1 of 1 edges fail
          FAILS  A -.- B    total variation 0.5 > 1e-12    law of A and of B
    """

    name: str
    checks: tuple[EdgeCheck, ...]

    @property
    def holds(self) -> bool:
        """Whether every claim does."""
        return not self.failures

    @property
    def failures(self) -> tuple[EdgeCheck, ...]:
        """The claims that do not hold."""
        return tuple(check for check in self.checks if not check.holds)

    def raise_on_failure(self) -> "Report":
        """Return the report itself if every claim holds.

        Raises:
            CommutationError: otherwise; it lists the edges that fail.
        """
        if self.failures:
            lines = [f"{self.name}: {len(self.failures)} of {len(self.checks)} edges fail"]
            raise CommutationError("\n  ".join([*lines, *map(str, self.failures)]))
        return self

    def __str__(self) -> str:
        verdict = "holds" if self.holds else f"{len(self.failures)} of {len(self.checks)} edges fail"
        return "\n  ".join([f"{self.name}: {verdict}", *map(str, self.checks)])
