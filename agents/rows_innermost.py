"""Where numbers lie in memory: the rows of a batch side by side, so that processors take many rows at a time.

States have few coordinates, features and outputs of heads fewer still; rows there are hundreds. A tensor `[B, ..., n]`
of states, features or hidden vectors is therefore laid out as `[..., n, B]`, and every sum, sine, product or table is
then computed for consecutive rows. Shapes are what they always are: only strides differ, and whatever comes in another
order gives the same result, more slowly. Operations that go number by number keep the order of what they are given;
those that do not, and gradients of parts of a tensor, are made of *columns*, `[..., n, B]` in shape as well.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

__all__ = [
    "as_columns",
    "cat_rows",
    "cat_trajectories",
    "linear",
    "rows_innermost",
    "stack_steps",
    "steps_of",
    "sum_of_products",
    "written",
]


def rows_innermost(x: Tensor) -> Tensor:
    """The same tensor `[B, ...]` with its rows side by side in memory.

    Example:
        >>> rows_innermost(torch.zeros(5, 3, 2)).stride()
        (1, 10, 5)
    """
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def cat_rows(parts: Sequence[Tensor]) -> Tensor:
    """Tensors `[B_i, ...]` one after the other, `[ΣB_i, ...]`.

    Example:
        >>> cat_rows([torch.zeros(2, 3), torch.ones(4, 3)]).stride()
        (1, 6)
    """
    return torch.cat([part.movedim(0, -1) for part in parts], dim=-1).movedim(-1, 0)


def cat_trajectories(parts: Sequence[TensorDict]) -> TensorDict:
    """Trajectories `[B_i]` with the same columns, one after the other, `[ΣB_i]`; of a single one they are as they were.

    Example:
        >>> parts = [TensorDict({"state": torch.zeros(n, 3, 2)}, batch_size=[n]) for n in (1, 2)]
        >>> cat_trajectories(parts)["state"].stride()
        (1, 6, 3)
    """
    if len(parts) == 1:
        return parts[0].clone(recurse=False)
    columns = {name: cat_rows([part[name] for part in parts]) for name in list(parts[0].keys())}
    return TensorDict(columns, batch_size=[sum(len(part) for part in parts)])


def stack_steps(states: Sequence[Tensor]) -> Tensor:
    """What was visited step by step, each `[B, ...]`, as one tensor `[B, steps, ...]`.

    Example:
        >>> stack_steps([torch.zeros(5, 2)] * 3).stride()
        (1, 10, 5)
    """
    return torch.stack([state.movedim(0, -1) for state in states]).movedim(-1, 0)


def steps_of(x: Tensor, which: slice) -> Tensor:
    """The steps `which` of `x` `[B, steps, ...]`; gradients, too, keep the order (that of `x[:, which]` does not).

    Example:
        >>> steps_of(stack_steps([torch.zeros(5, 2)] * 3), slice(1, 3)).shape
        torch.Size([5, 2, 2])
    """
    return x.movedim(0, -1)[which].movedim(-1, 0)


def as_columns(values: Tensor, ndim: int) -> Tensor:
    """Numbers `[..., n]` that go with tensors `[B, ..., n]` of `ndim` dimensions, so that they go with their columns.

    Those that have fewer dimensions are the same of all rows.

    Example:
        >>> as_columns(torch.zeros(3, 2), ndim=3).shape, as_columns(torch.zeros(5, 2), ndim=2).shape
        (torch.Size([3, 2, 1]), torch.Size([2, 5]))
    """
    return values.movedim(0, -1) if values.ndim == ndim else values.unsqueeze(-1)


def linear(
    columns: Tensor,
    weight: Tensor,
    bias: Tensor,
    product: Callable[[Tensor, Tensor], Tensor] = torch.bmm,
    place: Tensor | None = None,
) -> Tensor:
    """W x + b of columns, `[..., in, B] -> [..., out, B]`, with a weight `[out, in]`; written to `place` where given.

    The bias is of each output, `[out]`; the `product` is one of batches of matrices.

    Example:
        >>> linear(torch.ones(3, 2, 5), torch.ones(4, 2), torch.zeros(4)).shape
        torch.Size([3, 4, 5])
    """
    # Compiled code adds the bias with what follows; `addmm` would copy it to the result first.
    if columns.ndim == 2 and product is torch.bmm and not torch.compiler.is_compiling():
        return written(place, torch.addmm, bias.unsqueeze(-1), weight, columns)
    if columns.ndim > 2 and few_rows(columns, weight):
        products = product(weight.unsqueeze(0), _folded(columns)).squeeze(0)
        products = products.unflatten(1, (*columns.shape[:-2], -1)).movedim(0, -2)
        return written(place, torch.add, products, bias.unsqueeze(-1))
    batch = columns.flatten(0, -3) if columns.ndim > 2 else columns.unsqueeze(0)
    products = product(weight.expand(len(batch), -1, -1), batch)
    return written(place, torch.add, products.view(*columns.shape[:-2], *products.shape[1:]), bias.unsqueeze(-1))


def written(place: Tensor | None, function: Callable[..., Tensor], *args: Any) -> Tensor:
    """What a function of torch's gives for these arguments, written to `place` where that is given.

    Example:
        >>> place = torch.empty(2)
        >>> written(place, torch.add, torch.ones(2), torch.ones(2)) is place, place
        (True, tensor([2., 2.]))
    """
    if place is None:
        return function(*args)
    if not torch.compiler.is_compiling():
        return function(*args, out=place)
    result = function(*args)  # the compiler takes no `out` but whole tensors, and writes at once by itself
    place.copy_(result)
    return result


def few_rows(columns: Tensor, weight: Tensor) -> bool:
    """Whether rows `[..., in, B]` are so few that they are better multiplied by a weight `[out, in]` all at once.

    Otherwise each place has a product of its own, and a gradient of the weight, `[out, in]`, before these are added up:
    more numbers than the columns are where B < out.
    """
    return columns.shape[-1] < len(weight)


def sum_of_products(left: Tensor, right: Tensor, product: Callable[[Tensor, Tensor], Tensor] = torch.bmm) -> Tensor:
    """Σ_n left_n right_nᵀ of `[n, out, B]` and `[n, in, B]`: the gradient of a weight, `[out, in]`.

    Example:
        >>> sum_of_products(torch.ones(3, 4, 5), torch.ones(3, 2, 5))[0]
        tensor([15., 15.])
    """
    if few_rows(right, left[0]):
        left, right = _folded(left), _folded(right)
    return product(left, right.mT).sum(0)


def _folded(columns: Tensor) -> Tensor:
    """Columns `[..., n, B]` of all places as those of one, `[1, n, ... · B]`, copied."""
    return columns.movedim(-2, 0).flatten(1).unsqueeze(0)
