r"""Finite channels: a message out of n goes in, a message out of m comes out, perhaps at random.

    matrix[i, j] = P(output = j | input = i),    law of the output = law of the input · matrix

so rows sum to one. (The paper, https://arxiv.org/abs/2605.30553, lets its matrices act on columns: they are the
transposes of these.) A message with several parts, "A × B", is one number: the parts in row-major order, which
`input_shape` and `output_shape` take apart.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, whole_number

__all__ = ["FiniteChannel", "probabilities"]

_SUM = 1e-6  # so far from one may a sum be, as it comes out of single precision; it is then divided by


def probabilities(field: str, values: Any, *, dims: int) -> Tensor:
    """Probabilities as a float64 tensor of `dims` dimensions whose last one sums to one.

    Sums may be off by 1e-6, as those of single precision are; they are divided by.

    Raises:
        InputError: if they are no numbers of that many dimensions, negative, not finite, or do not sum to one; it
            names the `field`.

    Example:
        >>> probabilities("law", [0.5, 0.25, 0.25], dims=1)
        tensor([0.5000, 0.2500, 0.2500], dtype=torch.float64)
    """
    try:
        table = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{field}: expected probabilities in {dims} dimensions, got {values!r} ({error})") from None
    if table.ndim != dims or not table.numel():
        raise InputError(f"{field}: expected probabilities in {dims} dimensions, got shape {list(table.shape)}")
    if not bool(table.isfinite().all()) or bool((table < 0.0).any()):
        wrong = table[~table.isfinite() | (table < 0.0)][0].item()
        raise InputError(f"{field}: expected probabilities >= 0, got {wrong!r}")
    sums = table.sum(-1, keepdim=True)
    off = (sums - 1.0).abs()
    if bool((off > _SUM).any()):
        row = f" in row {int(off.argmax())}" if dims > 1 else ""
        raise InputError(
            f"{field}: expected probabilities that sum to 1, got a sum of {sums[off == off.max()][0]}{row}"
        )
    return table / sums


class FiniteChannel:
    """Any stochastic matrix, as a channel that can be called, composed, repeated and reversed.

    Args:
        matrix: P(output | input), `[inputs, outputs]`; rows sum to one.
        input_shape: how many values each part of the input takes; by default one part, `(inputs,)`.
        output_shape: the same of the output.
        name: what diagrams and reports call it; by default the class's name.

    Raises:
        InputError: for entries that are negative or not finite, rows that do not sum to one, and shapes whose product
            is not the number of inputs or outputs.

    Example:
        >>> noisy = FiniteChannel([[0.9, 0.1], [0.2, 0.8]])
        >>> noisy.output_law([0.5, 0.5])
        tensor([0.5500, 0.4500], dtype=torch.float64)
        >>> noisy.repeated(100).output_law([1.0, 0.0])
        tensor([0.6667, 0.3333], dtype=torch.float64)
        >>> noisy(torch.tensor([0, 0, 1, 1])).shape  # messages go in, messages come out
        torch.Size([4])
    """

    def __init__(
        self,
        matrix: Any,
        *,
        input_shape: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        self.matrix = probabilities("matrix", matrix, dims=2)
        inputs, outputs = self.matrix.shape
        self.input_shape = _shape("input_shape", input_shape, inputs)
        self.output_shape = _shape("output_shape", output_shape, outputs)
        self.name = type(self).__name__ if name is None else name

    def __repr__(self) -> str:
        return f"{self.name}({list(self.input_shape)} -> {list(self.output_shape)})"

    def __call__(self, *parts: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Send messages: one tensor `[n]` of int64 for each part of the input, the same of the output.

        Raises:
            InputError: for another number of parts, or messages that the channel does not know.
        """
        rows = self.matrix[ravel(parts, self.input_shape, self.name)]
        drawn = torch.multinomial(rows, 1).squeeze(-1)
        return drawn if len(self.output_shape) == 1 else unravel(drawn, self.output_shape)

    def output_law(self, law: Any) -> Tensor:
        """Law of the output, `[outputs]`, from the law of the input, `[inputs]`."""
        return self._law(law) @ self.matrix

    def then(self, other: "FiniteChannel") -> "FiniteChannel":
        """The channel that sends through this one, and what comes out through the `other`.

        Raises:
            InputError: if the `other` takes inputs of another shape than the outputs of this one.

        Example:
            >>> flip = FiniteChannel([[0.0, 1.0], [1.0, 0.0]], name="Flip")
            >>> flip.then(flip).matrix.tolist()
            [[1.0, 0.0], [0.0, 1.0]]
        """
        if other.input_shape != self.output_shape:
            raise InputError(
                f"other: expected a channel with inputs {list(self.output_shape)}, got {list(other.input_shape)}"
            )
        return FiniteChannel(
            self.matrix @ other.matrix,
            input_shape=self.input_shape,
            output_shape=other.output_shape,
            name=f"{other.name} ∘ {self.name}",
        )

    def repeated(self, n: int) -> "FiniteChannel":
        """This channel, `n` >= 0 times in a row.

        Raises:
            InputError: if `n` is no such number, or what comes out does not fit in again.
        """
        whole_number("n", n, least=0)
        if self.input_shape != self.output_shape:
            raise InputError(
                f"repeated: expected outputs that fit in again, {list(self.input_shape)}, got {list(self.output_shape)}"
            )
        return FiniteChannel(
            torch.linalg.matrix_power(self.matrix, n),
            input_shape=self.input_shape,
            output_shape=self.output_shape,
            name=f"{self.name} ×{n}",
        )

    def reversed(self, law: Any) -> "FiniteChannel":
        """The guess that is always right in law: P(input | output) where the input has this `law` (Bayes' rule).

        Where an output cannot occur, the guess is the law itself.

        Example:
            >>> FiniteChannel([[1.0, 0.0], [0.5, 0.5]]).reversed([0.5, 0.5]).matrix
            tensor([[0.6667, 0.3333],
                    [0.0000, 1.0000]], dtype=torch.float64)
        """
        law = self._law(law)
        joint = law.unsqueeze(-1) * self.matrix  # [inputs, outputs]
        output = joint.sum(0)
        guess = torch.where(output > 0.0, joint / output, law.unsqueeze(-1))
        return FiniteChannel(guess.T, input_shape=self.output_shape, output_shape=self.input_shape, name="Guess")

    def _law(self, law: Any) -> Tensor:
        checked = probabilities("law", law, dims=1)
        if len(checked) != len(self.matrix):
            raise InputError(f"law: expected {len(self.matrix)} probabilities for {self}, got {len(checked)}")
        return checked


def _shape(field: str, shape: Sequence[int] | None, size: int) -> tuple[int, ...]:
    parts = (size,) if shape is None else tuple(whole_number(field, part, least=1) for part in shape)
    if math.prod(parts) != size:
        raise InputError(f"{field}: expected whole numbers whose product is {size}, got {list(parts)}")
    return parts


def ravel(parts: Sequence[Tensor], shape: tuple[int, ...], name: str) -> Tensor:
    """One number for a message of several parts, `[n]` each, in row-major order.

    Raises:
        InputError: if there are not as many parts as in `shape`, or a part is no index below its size.

    Example:
        >>> ravel([torch.tensor([0, 1]), torch.tensor([2, 0])], (2, 3), "channel")
        tensor([2, 3])
    """
    if len(parts) != len(shape):
        raise InputError(f"{name}: expected an input of {len(shape)} parts, got {len(parts)}")
    index = torch.zeros((), dtype=torch.int64)
    for part, size in zip(parts, shape, strict=True):
        if part.dtype != torch.int64 or part.ndim != 1 or (len(part) and not 0 <= int(part.min()) <= part.max() < size):
            raise InputError(f"{name}: expected messages below {size}, `[n]` of int64, got {part!r}")
        index = index * size + part
    return index


def unravel(index: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The parts of messages `[n]`, `[n]` each: the inverse of `ravel`."""
    return torch.unravel_index(index, shape)
