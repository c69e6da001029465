"""The elementary channels of the paper, by what they do to information.

| channel  | what it is                                | creates | destroys |
|----------|-------------------------------------------|---------|----------|
| Identity | gives what it got                         | no      | no       |
| Cypher   | a bijection                               | no      | no       |
| Product  | a fresh independent variable beside       | yes     | no       |
| Project  | one part of several, the rest forgotten   | no      | yes      |
| Mash     | many to one, down to a singleton          | no      | yes      |
| Shuffle  | any stochastic matrix: drowns what was    | yes     | yes      |

Source: Noël, *Destruction is a General Strategy to Learn Generation* (https://arxiv.org/abs/2605.30553), tutorial,
"Destroying and Generating", "Mashing Everything" and "Shuffling Everything".
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import InputError, whole_number
from .finite import FiniteChannel, probabilities

__all__ = ["Cypher", "Identity", "Mash", "Product", "Project", "Shuffle"]


class Identity(FiniteChannel):
    """Gives what it got, out of `n` messages.

    Example:
        >>> Identity(3).output_law([0.5, 0.25, 0.25])
        tensor([0.5000, 0.2500, 0.2500], dtype=torch.float64)
    """

    def __init__(self, n: int) -> None:
        super().__init__(torch.eye(whole_number("n", n, least=1)))


class Cypher(FiniteChannel):
    """A bijection of messages: it takes another one to undo it, and nothing was lost or won.

    Args:
        permutation: what each message becomes, `[n]`, each of 0..n-1 once.
        shape: how many values each part of a message takes, if it has several; their product is n.

    Raises:
        InputError: if it is no permutation.

    Example:
        >>> cypher = Cypher([1, 2, 0])
        >>> cypher.then(cypher.inverse()).matrix.equal(Identity(3).matrix)
        True
    """

    def __init__(self, permutation: Sequence[int] | Tensor, *, shape: Sequence[int] | None = None) -> None:
        self.permutation = _labels("permutation", permutation).reshape(-1)
        n = len(self.permutation)
        if not self.permutation.sort().values.equal(torch.arange(n)):
            raise InputError(f"permutation: expected each of 0..{n - 1} once, got {self.permutation.tolist()}")
        super().__init__(one_hot(self.permutation, n), input_shape=shape, output_shape=shape)

    def inverse(self) -> "Cypher":
        """The bijection that undoes this one."""
        return Cypher(self.permutation.argsort(), shape=self.input_shape)


class Product(FiniteChannel):
    """Keeps the message and puts a fresh independent one beside it: A becomes A × coin.

    Args:
        n: number of messages that come in.
        law: of what is put beside, `[m]`.

    Example:
        >>> Product(3, [0.5, 0.5])
        Product([3] -> [3, 2])
    """

    def __init__(self, n: int, law: Any) -> None:
        beside = probabilities("law", law, dims=1)
        matrix = torch.kron(torch.eye(whole_number("n", n, least=1), dtype=beside.dtype), beside.unsqueeze(0))
        super().__init__(matrix, output_shape=(n, len(beside)))


class Mash(FiniteChannel):
    """Sends each message to one label, many to the same: what is mashed together cannot be told apart again.

    Args:
        labels: the label of each message, whole numbers from 0 on; `[n]`, or for messages of several parts
            `[n_1, ..., n_k]`.
        outcomes: number of labels; by default just enough.

    Raises:
        InputError: if labels are no whole numbers from 0 to `outcomes` - 1.

    Example:
        >>> Mash([0, 1, 1]).output_law([0.5, 0.25, 0.25])
        tensor([0.5000, 0.5000], dtype=torch.float64)
        >>> Mash([0, 0, 0])  # down to a singleton
        Mash([3] -> [1])
        >>> Mash([[0, 1, 2], [1, 2, 0]])  # of two parts: their sum modulo 3
        Mash([2, 3] -> [3])
    """

    def __init__(self, labels: Sequence[Any] | Tensor, *, outcomes: int | None = None) -> None:
        table = _labels("labels", labels)
        needed = int(table.max()) + 1
        outcomes = needed if outcomes is None else whole_number("outcomes", outcomes, least=needed)
        super().__init__(one_hot(table.reshape(-1), outcomes), input_shape=table.shape)


class Project(Mash):
    """Keeps one part of a message of several, and forgets the rest.

    Args:
        shape: how many values each part takes.
        part: which to keep, from 0 on.

    Raises:
        InputError: if there is no such part.

    Example:
        >>> coin = Product(3, [0.5, 0.5]).then(Project((3, 2), part=1))
        >>> coin.output_law([1.0, 0.0, 0.0])
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, shape: Sequence[int], part: int) -> None:
        if whole_number("part", part, least=0) >= len(shape):
            raise InputError(f"part: expected a whole number < {len(shape)}, got {part!r}")
        sizes = [whole_number("shape", size, least=1) for size in shape]
        index = torch.arange(math.prod(sizes)).reshape(sizes)
        super().__init__(torch.unravel_index(index, sizes)[part], outcomes=sizes[part])


class Shuffle(FiniteChannel):
    """A stochastic matrix from messages to the same messages: fresh noise is folded in, until only noise is left.

    Args:
        matrix: P(output | input), `[n, n]`; rows sum to one.

    Raises:
        InputError: if it is no square stochastic matrix.

    Example:
        >>> shuffle = Shuffle([[0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
        >>> [round(p, 7) for p in shuffle.repeated(25).output_law([1.0, 0.0, 0.0]).tolist()]
        [0.3333333, 0.3333333, 0.3333333]
    """

    def __init__(self, matrix: Any) -> None:
        super().__init__(matrix)
        inputs, outputs = self.matrix.shape
        if inputs != outputs:
            raise InputError(f"matrix: expected a square matrix, got shape {[inputs, outputs]}")


def _labels(field: str, values: Sequence[Any] | Tensor) -> Tensor:
    """Whole numbers >= 0 as int64."""
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{field}: expected whole numbers >= 0, got {values!r} ({error})") from None
    if labels.is_floating_point() or labels.dtype == torch.bool or not labels.numel() or bool((labels < 0).any()):
        raise InputError(f"{field}: expected whole numbers >= 0, got {values!r}")
    return labels.long()
