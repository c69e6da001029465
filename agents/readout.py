"""What heads read: a linear map of the hidden vector plus, optionally, a table on each coordinate's own features.

The table has one weight per step, coordinate, feature and output: what a nearly factorised density needs. Outputs are
*raw*: what they correct, and how, is the heads' matter. Both heads of a shared trunk are read in one product.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from .backbone import StepIndex
from .rows_innermost import linear, written

__all__ = ["JointReadout", "Readout"]


class Readout(nn.Module):
    """Raw outputs of one head (module docstring). Everything starts at zero.

    Args:
        width: width of the hidden vectors.
        dim: state dimension.
        outputs: number of raw outputs a coordinate.
        steps: number of steps, each with weights of its own in the table.
        features: number of features of one coordinate.
        tables: whether there is a table.

    Example:
        >>> readout = Readout(8, dim=2, outputs=3, steps=4, features=5, tables=True)
        >>> readout(torch.randn(6, 8), torch.randn(6, 2, 5), 0).shape
        torch.Size([2, 3, 6])
    """

    def __init__(self, width: int, dim: int, outputs: int, *, steps: int, features: int, tables: bool) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = nn.Linear(width, outputs * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.table = nn.Parameter(torch.zeros(steps, dim, features, outputs)) if tables else None

    def forward(self, hidden: Tensor | None, features: Tensor | None, transition: StepIndex) -> Tensor:
        """Columns `[..., dim, outputs, B]` of hidden vectors `[B, ..., width]` and features `[B, ..., dim, features]`.

        They are those of the given transitions: one for all rows, one per row, or one per place of a trajectory.
        """
        assert hidden is not None
        raw = linear(hidden.movedim(0, -1), self.linear.weight, self.linear.bias).unflatten(-2, (-1, self.outputs))
        if self.table is None:
            return raw
        assert features is not None
        weights = self.table[transition]
        if isinstance(transition, Tensor) and transition.ndim and len(weights) > 1:  # of each row
            return raw + torch.einsum("ndf,ndfo->don", features, weights)
        return raw + _looked_up(weights.mT, features)


class JointReadout(NamedTuple):
    """Two readouts of the same hidden vectors as one: weights by coordinate, of generation first.

    Attributes:
        weight: `[dim · outputs, width]`, with the outputs of both.
        bias: `[dim · outputs]`.
        table: of each of the T + 1 grid points, `[T+1, dim, outputs, F]`; None without tables. There is no generation
            from the last one, and no destruction from the first.
        first: how many of the outputs are generation's.

    Example:
        >>> both = [Readout(8, dim=2, outputs=n, steps=4, features=5, tables=True) for n in (3, 2)]
        >>> joint = JointReadout.of(*both)
        >>> hidden, features = torch.randn(6, 5, 8), torch.randn(6, 5, 2, 5)  # 6 trajectories of 5 states
        >>> [raw.shape for raw in joint.parts(joint.read(hidden, features, slice(None)))]
        [torch.Size([5, 2, 3, 6]), torch.Size([5, 2, 2, 6])]
    """

    weight: Tensor
    bias: Tensor
    table: Tensor | None
    first: int

    @classmethod
    def of(cls, generation: Readout, destruction: Readout) -> Self:
        """That of a generation head and of a destruction head, with the gradients of both."""
        both = generation, destruction
        weight = torch.cat([one.linear.weight.unflatten(0, (-1, one.outputs)) for one in both], dim=1).flatten(0, 1)
        bias = torch.cat([one.linear.bias.view(-1, one.outputs) for one in both], dim=1).flatten()
        shape = next((one.table.shape[:3] for one in both if one.table is not None), None)
        if shape is None:
            return cls(weight, bias, None, generation.outputs)
        tables = [bias.new_zeros(*shape, one.outputs) if one.table is None else one.table for one in both]
        nowhere = (1, 0), (0, 1)  # generation from the last grid point, destruction from the first
        parts = [nn.functional.pad(table.mT, (0,) * 6 + pad) for table, pad in zip(tables, nowhere[::-1], strict=True)]
        return cls(weight, bias, torch.cat(parts, dim=2), generation.outputs)

    def read(
        self, hidden: Tensor, features: Tensor, point: int | slice | Tensor, place: Tensor | None = None
    ) -> Tensor:
        """Columns `[..., dim, outputs, B]` of states at the grid points `point`, all rows of a place at the same.

        They are written to `place` where that is given.
        """
        hidden = hidden.movedim(0, -1)
        if self.table is None:
            raw = linear(hidden, self.weight, self.bias, place=None if place is None else place.flatten(-3, -2))
            return raw.unflatten(-2, (features.shape[-2], -1))
        raw = linear(hidden, self.weight, self.bias).unflatten(-2, (features.shape[-2], -1))
        return written(place, torch.add, raw, _looked_up(self.table[point], features))

    def parts(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Generation's and destruction's part of what was read."""
        return raw[..., : self.first, :], raw[..., self.first :, :]


def _looked_up(weights: Tensor, features: Tensor) -> Tensor:
    """What tables `[..., dim, outputs, F]` give for features `[B, ..., dim, F]`: `[..., dim, outputs, B]`."""
    columns = features.movedim(0, -1)  # [..., dim, F, B]
    if weights.ndim > columns.ndim:  # of a grid point that is a tensor `[1]`
        weights = weights.squeeze(0)
    if torch.compiler.is_compiling():  # fused with what is around it; a product of so few numbers is slow
        return (weights.unsqueeze(-1) * columns.unsqueeze(-3)).sum(-2)
    return torch.matmul(weights, columns)
