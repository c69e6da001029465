"""A diagram run on samples, twice, from one seed.

An arrow is called on whole batches, `[n, ...]`; finite channels take and give int64 messages, `[n]`, which two-sample
tests see as one-hot vectors.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..channels.finite import FiniteChannel, ravel
from ..channels.joint import names_of
from ..errors import InputError, whole_number
from .diagram import Channel, Diagram, Equal, Lossless, title
from .exact import Gap, words
from .report import EdgeCheck
from .two_sample import energy_test

__all__ = ["SampledRun"]


class SampledRun:
    """Two independent runs of a diagram.

    Args:
        diagram: what is run.
        samples: n, rows of each variable in each run, >= 2.
        level: of the test of a single dashed edge, in (0, 1).
        seed: of the tests' relabellings, >= 0; samples come from torch's global generator.
    """

    def __init__(self, diagram: Diagram, samples: int, level: float, seed: int) -> None:
        self.samples = whole_number("samples", samples, least=2)
        self.seed = whole_number("seed", seed, least=0)
        if not 0.0 < level < 1.0:
            raise InputError(f"level: expected a number in (0, 1), got {level!r}")
        self.level = level
        starts = {name: start for name, start in diagram.variables.items() if start is not None}
        self.runs = tuple({name: self._draw(name, start) for name, start in starts.items()} for _ in range(2))

    def knows(self, name: str) -> bool:
        """Whether a variable was made."""
        return name in self.runs[0]

    def send(self, channel: Channel, sources: tuple[str, ...], targets: tuple[str, ...]) -> Gap:
        """Make the targets that are not there yet; the gap is that of those that are, over both runs."""
        gaps = []
        for values in self.runs:
            made = channel(*(values[name] for name in sources))
            for name, value in zip(targets, self._checked(made, sources, targets), strict=True):
                if name in values:
                    gaps.append(_gap(values[name], value, name))
                else:
                    values[name] = value
        return max(gaps, key=lambda gap: gap.value - gap.threshold, default=Gap(0.0, 0.0, "probability to differ"))

    def inverse(self, arrow: Lossless, sources: tuple[str, ...]) -> FiniteChannel:
        """The channel's own reversal, under the frequencies of what went in."""
        channel = arrow.channel
        assert isinstance(channel, FiniteChannel)
        sent = ravel([self.runs[0][name] for name in sources], channel.input_shape, channel.name)
        return channel.reversed(torch.bincount(sent, minlength=len(channel.matrix)) / len(sent))

    def compare(self, edge: Equal) -> EdgeCheck:
        """Energy test of one end in the first run against the other end in the second, each with the label."""
        given = names_of(edge.given)
        ends = [end + given for end in edge.ends]
        columns = [_columns(self.runs[0][one], self.runs[1][other], edge) for one, other in zip(*ends, strict=True)]
        first, second = (torch.cat(side, -1) for side in zip(*columns, strict=True))
        # The smallest p-value that so many relabellings can give is half of the level.
        test = energy_test(first, second, math.ceil(2.0 / self.level), self.seed)
        kind = "conditionally equal" if given else "equal"
        compared = f"{words(edge)}, {self.samples} samples each, energy distance {test.statistic:.3g}"
        return EdgeCheck(str(edge), kind, compared, "p-value", test.p_value, self.level, test.p_value > self.level)

    def _draw(self, name: str, start: Any) -> Tensor:
        if isinstance(start, Tensor):
            return torch.multinomial(start, self.samples, replacement=True)
        return self._checked(start(self.samples), (), (name,))[0]

    def _checked(self, made: Any, sources: tuple[str, ...], targets: tuple[str, ...]) -> tuple[Tensor, ...]:
        """Outputs of a sampler or channel, one for each target, if they are what they should be."""
        values = made if isinstance(made, tuple) else (made,)
        way = f"channel {title(sources)} => {title(targets)}" if sources else f"sampler of {title(targets)}"
        if len(values) != len(targets):
            raise InputError(f"{way}: expected {len(targets)} tensors, got {len(values)}")
        for value in values:
            if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != self.samples:
                found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise InputError(f"{way}: expected a tensor of {self.samples} rows, got {found}")
            if not bool(value.isfinite().all()):
                raise InputError(f"{way}: expected finite samples, got {value[~value.isfinite()][0]}")
        return values


def _gap(old: Tensor, new: Tensor, name: str) -> Gap:
    """How far two values of the same variable are apart: by share of rows, or relative to the largest number."""
    if old.shape != new.shape:
        raise InputError(f"variable {name!r}: expected shape {list(old.shape)}, got {list(new.shape)}")
    if not (old.is_floating_point() or new.is_floating_point()):
        differ = (old != new).reshape(len(old), -1).any(-1)
        return Gap(float(differ.double().mean()), 0.0, "probability to differ")
    largest = float(old.abs().max()) or 1.0
    rounding = max(torch.finfo(value.dtype).eps for value in (old, new) if value.is_floating_point())
    return Gap(float((old - new).abs().max()) / largest, math.sqrt(rounding), "largest difference")


def _columns(first: Tensor, second: Tensor, edge: Equal) -> tuple[Tensor, Tensor]:
    """Two variables as `[n, columns]` alike: one-hot where both are messages `[n]`."""
    if first.ndim == second.ndim == 1 and first.dtype == second.dtype == torch.int64:
        outcomes = 1 + int(torch.maximum(first.max(), second.max()))
        return one_hot(first, outcomes).double(), one_hot(second, outcomes).double()
    if first.shape != second.shape:
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise InputError(f"edge {edge}: expected samples of the same shape at both ends, got {shapes}")
    return first.reshape(len(first), -1).double(), second.reshape(len(second), -1).double()
