"""The exact joint law of finite variables that channels make from one another, one outcome per row.

Only outcomes that can occur are stored, so that deterministic channels cost nothing, however many variables there are.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .finite import FiniteChannel, probabilities, ravel, unravel
from .information import Step

__all__ = ["JointLaw", "Names", "names_of"]

Names = str | Sequence[str]  # one variable, or several at once

_MOST = 4_000_000  # rows; beyond, a mistake is likelier than patience


def names_of(names: Names) -> tuple[str, ...]:
    """The variables named, be it one or several.

    Example:
        >>> names_of("A'"), names_of(("A", "Z"))
        (("A'",), ('A', 'Z'))
    """
    return (names,) if isinstance(names, str) else tuple(names)


class JointLaw:
    """Law of several variables at once; `with_variable` and `through` give larger ones.

    Args:
        values: the value of each variable in each outcome, `[k]` of int64 each; none by default.
        sizes: how many values each variable can take.
        probability: of each outcome, `[k]` in float64.

    Example:
        >>> from ebbflow.envs.channels import Product
        >>> joint = JointLaw().with_variable("A", [0.5, 0.25, 0.25])
        >>> joint, _ = joint.through(Product(3, [0.5, 0.5]), "A", ("A", "coin"))
        >>> joint.law("A", "coin")
        tensor([[0.2500, 0.2500],
                [0.1250, 0.1250],
                [0.1250, 0.1250]], dtype=torch.float64)
        >>> joint.mutual_information("A", "coin")
        0.0
    """

    def __init__(
        self,
        values: Mapping[str, Tensor] | None = None,
        sizes: Mapping[str, int] | None = None,
        probability: Tensor | None = None,
    ) -> None:
        self.values = dict(values or {})
        self.sizes = dict(sizes or {})
        self.probability = torch.ones(1, dtype=torch.float64) if probability is None else probability

    def with_variable(self, name: str, law: Any) -> "JointLaw":
        """With one variable more, independent of the others, of this `law`, `[n]`.

        Raises:
            InputError: for no law, or a name that is there already.
        """
        if name in self.sizes:
            raise InputError(f"variable: expected a new name, got {name!r}")
        source = FiniteChannel(probabilities(f"law of {name!r}", law, dims=1).unsqueeze(0), input_shape=())
        return self.through(source, (), (name,))[0]

    def through(self, channel: FiniteChannel, sources: Names, targets: Names) -> tuple["JointLaw", float]:
        """Send the `sources` through a channel, and call what comes out `targets`.

        Targets that are there already are not made again: the channel should give what they are.

        Returns:
            The joint law with the new targets, and the probability that the channel gives anything else than the
            targets that were there (0 if all are new).

        Raises:
            InputError: for unknown sources, or sizes that do not fit the channel's shapes.

        Example:
            >>> from ebbflow.envs.channels import Mash
            >>> joint = JointLaw().with_variable("A", [0.5, 0.25, 0.25])
            >>> joint.through(Mash([0, 1, 1], outcomes=3), "A", "A")[1]  # 2 becomes 1
            0.25
        """
        sources, targets = names_of(sources), names_of(targets)
        self._fit(channel, sources, targets)
        sent = ravel([self.values[name] for name in sources], channel.input_shape, channel.name)
        sent = sent.expand(len(self.probability))
        possible = channel.matrix.nonzero()[:, 1]  # outputs, input by input
        count = (channel.matrix > 0.0).sum(-1)
        ways = count[sent]
        total = int(ways.sum())
        if total > _MOST:
            raise InputError(f"{channel}: expected a joint law of at most {_MOST:,} outcomes, got {total:,}")
        row = torch.arange(len(sent)).repeat_interleave(ways)
        within = torch.arange(total) - (ways.cumsum(0) - ways)[row]  # 0, 1, ... for each outcome before
        output = possible[(count.cumsum(0) - count)[sent][row] + within]
        probability = self.probability[row] * channel.matrix[sent[row], output]
        parts = unravel(output, channel.output_shape)
        other = torch.zeros(len(row), dtype=torch.bool)
        made = {}
        for name, part in zip(targets, parts, strict=True):
            if name in self.values:
                other |= self.values[name][row] != part
            else:
                made[name] = part
        disagreement = float(probability[other].sum())
        if not made:
            return self, disagreement
        values = {name: value[row] for name, value in self.values.items()} | made
        sizes = self.sizes | {name: channel.output_shape[targets.index(name)] for name in made}
        return JointLaw(values, sizes, probability), disagreement

    def law(self, *names: str) -> Tensor:
        """Law of some of the variables, a dimension for each, in the order named.

        Raises:
            InputError: for unknown names.
        """
        shape = tuple(self.sizes[self._known(name)] for name in names)
        index = ravel([self.values[name] for name in names], shape, "law")
        table = torch.zeros(math.prod(shape), dtype=torch.float64)
        return table.index_add_(0, index.expand(len(self.probability)), self.probability).reshape(shape)

    def entropy(self, *names: str) -> float:
        """H of some variables together, in nats."""
        if not names:
            return 0.0
        columns = torch.stack([self.values[self._known(name)] for name in names], -1)
        groups, group = columns.unique(dim=0, return_inverse=True)
        law = torch.zeros(len(groups), dtype=torch.float64).index_add_(0, group, self.probability)
        return max(float(torch.special.entr(law).sum()), 0.0)

    def conditional_entropy(self, names: Names, given: Names) -> float:
        """H(names | given) in nats."""
        return max(self.entropy(*names_of(names), *names_of(given)) - self.entropy(*names_of(given)), 0.0)

    def mutual_information(self, first: Names, second: Names) -> float:
        """I(first; second) in nats."""
        first, second = names_of(first), names_of(second)
        return max(self.entropy(*first) + self.entropy(*second) - self.entropy(*first, *second), 0.0)

    def step(self, name: str, sources: Names, targets: Names) -> Step:
        """The books between some variables and others that were made from them."""
        return Step(
            name,
            entropy_before=self.entropy(*names_of(sources)),
            entropy_after=self.entropy(*names_of(targets)),
            created=self.conditional_entropy(targets, sources),
            destroyed=self.conditional_entropy(sources, targets),
        )

    def _known(self, name: str) -> str:
        if name not in self.sizes:
            raise InputError(f"variable: expected one of {', '.join(self.sizes) or 'none'}, got {name!r}")
        return name

    def _fit(self, channel: FiniteChannel, sources: tuple[str, ...], targets: tuple[str, ...]) -> None:
        sizes = tuple(self.sizes[self._known(name)] for name in sources)
        if sizes != channel.input_shape:
            names = " × ".join(sources)
            raise InputError(
                f"{channel}: expected an input of shape {list(channel.input_shape)}, got {names} of {list(sizes)}"
            )
        if len(targets) != len(channel.output_shape):
            raise InputError(f"{channel}: expected {len(channel.output_shape)} targets, got {' × '.join(targets)}")
        for name, size in zip(targets, channel.output_shape, strict=True):
            if self.sizes.get(name, size) != size:
                raise InputError(f"{channel}: expected an output {name} of {self.sizes[name]} values, got {size}")
