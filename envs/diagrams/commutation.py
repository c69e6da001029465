"""Running a diagram, and holding every claim in it to account.

Where all variables have laws and all channels are finite, the joint law goes along the arrows and claims are verified
to rounding. Everything else is run on samples, twice over: two runs are independent, as a two-sample test needs.
"""

import torch

from ..channels.information import Step
from ..errors import InputError, whole_number
from .diagram import Arrow, Diagram, Equal, Lossless, title
from .exact import ExactRun
from .report import EdgeCheck, Report
from .sampled import SampledRun

__all__ = ["check", "information"]


def check(
    diagram: Diagram, *, tolerance: float = 1e-12, samples: int = 1000, level: float = 0.01, seed: int = 0
) -> Report:
    """Run the channels of a diagram and check all that it claims.

    - Dashed edges: both ends have the same law; with a label, each together with it.
    - Lossless arrows: there and back is where it was, and so is there again.
    - An arrow to a variable that another one makes too: both give the same, always.

    Args:
        diagram: what is checked.
        tolerance: up to which total variation, or probability to differ, a claim holds on finite spaces.
        samples: how many of each variable, twice, where the diagram is not finite.
        level: probability, at most, that any dashed edge of a diagram that commutes is reported to fail, where samples
            decide; each of E dashed edges is tested at `level` / E (Bonferroni), by `energy_test`.
        seed: of torch's random numbers on the CPU, which are afterwards as they were; >= 0.

    Returns:
        The report; `report.raise_on_failure()` raises if a claim does not hold.

    Raises:
        InputError: for settings out of range, laws and channels that do not fit, and samples that are not finite.

    Example:
        >>> from ebbflow.envs.channels import Cypher
        >>> edges = [Lossless("A", "B", Cypher([1, 2, 0])), Equal("A", "B")]
        >>> report = check(Diagram("a cypher", {"A": [0.5, 0.25, 0.25], "B": None}, edges))
        >>> print(report)  # nothing is lost, but the law is another one
        a cypher: 1 of 2 edges fail
          holds  A <=Cypher=> B    probability to differ 0 <= 1e-12    A and B, there and back
          FAILS  A -.- B    total variation 0.25 > 1e-12    law of A and of B
    """
    if not 0.0 <= tolerance < 1.0:
        raise InputError(f"tolerance: expected a number in [0, 1), got {tolerance!r}")
    claims = [edge for edge in diagram.edges if isinstance(edge, Equal)]
    run: ExactRun | SampledRun
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(whole_number("seed", seed, least=0))
        if diagram.finite:
            run = ExactRun(diagram, tolerance)
        else:
            run = SampledRun(diagram, samples, level / max(len(claims), 1), seed)
        checks = [found for arrow in diagram.arrows if (found := _follow(run, arrow)) is not None]
        checks += [run.compare(edge) for edge in claims]
    return Report(diagram.name, tuple(checks))


def information(diagram: Diagram) -> tuple[Step, ...]:
    """What each arrow of a finite diagram creates and destroys, in nats, in an order in which they can be called.

    Raises:
        InputError: for a diagram that is not finite, and for laws and channels that do not fit.

    Example:
        >>> from ebbflow.envs.channels import Mash
        >>> diagram = Diagram("mash", {"A": [0.5, 0.25, 0.25], "B": None}, [Arrow("A", "B", Mash([0, 1, 1]))])
        >>> [(step.name, round(step.created, 4), round(step.destroyed, 4)) for step in information(diagram)]
        [('A =Mash=> B', 0.0, 0.3466)]
    """
    if not diagram.finite:
        raise InputError(f"diagram {diagram.name!r}: expected laws and finite channels only, got samplers or callables")
    run = ExactRun(diagram, 0.0)
    for arrow in diagram.arrows:
        run.send(arrow.channel, *arrow.ends)
    return tuple(run.joint.step(str(arrow), *arrow.ends) for arrow in diagram.arrows)


def _follow(run: ExactRun | SampledRun, arrow: Arrow) -> EdgeCheck | None:
    """Call an arrow's channel; the check of it, if it claims anything."""
    sources, targets = arrow.ends
    known = [name for name in targets if run.knows(name)]
    found = run.send(arrow.channel, sources, targets)
    kind, compared = "commutes", f"{' × '.join(known)} as it was, and by {arrow.label}"
    if isinstance(arrow, Lossless):
        again = run.send(arrow.channel, sources, targets)
        back = run.send(arrow.inverse or run.inverse(arrow, sources), targets, sources)
        found = max(again, back, key=lambda gap: gap.value)
        kind, compared = "lossless", f"{title(arrow.source)} and {title(arrow.target)}, there and back"
    elif not known:
        return None
    return EdgeCheck(
        str(arrow), kind, compared, found.measure, found.value, found.threshold, found.value <= found.threshold
    )
