"""Rows of one context, drawn together: what is compared within a context needs several of them.

Drawing first some rows, and then for each its companions among all rows of the same context, leaves every row's
probability what it was: P(context) · P(row | context) = P(row). So priorities and importance weights keep their
meaning.
"""

import torch
from torch import Tensor, nn

__all__ = ["context_keys", "draw_companions", "numbered"]


def context_keys(context: Tensor) -> Tensor:
    """A whole number for each context, `[n, c] -> [n]` int64: equal for equal contexts (to single precision).

    Different contexts have different keys but for chance (a 64-bit hash of their bits).

    Example:
        >>> keys = context_keys(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
        >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
        (True, False)
    """
    bits = context.detach().float().contiguous().view(torch.int32).long()  # [n, c]
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (context.shape[-1],), generator=generator) * 2 + 1
    factors = factors.to(bits.device, non_blocking=True)
    return (bits * factors).sum(-1)  # integers wrap around, so that the order of addition is no matter


def numbered(keys: Tensor) -> Tensor:
    """The place of each key among the different ones in order, `[n] -> [n]`: `unique(return_inverse=True)[1]`.

    How many there are stays on the device; `unique` would wait to be told.

    Example:
        >>> numbered(torch.tensor([7, -2, 7, 9]))
        tensor([1, 0, 1, 2])
    """
    ordered, order = keys.sort()
    new = nn.functional.pad(ordered.diff() != 0, (1, 0))[: len(keys)]  # there is nothing before the first
    return torch.empty_like(order).index_copy_(0, order, new.cumsum(0))


def draw_companions(seeds: Tensor, keys: Tensor, probability: Tensor, n: int) -> Tensor:
    """Positions `[n]` of rows with the seeds' contexts: an equal number for each seed, drawn with replacement.

    Args:
        seeds: positions of the rows drawn first, `[g]`.
        keys: `context_keys` of all rows, `[N]`.
        probability: of all rows, `[N]`.
        n: how many to draw, >= 1; where the seeds do not divide it, the last one gets fewer.

    Example:
        >>> keys = torch.tensor([5, 7, 5, 7])
        >>> keys[draw_companions(torch.tensor([0, 3]), keys, torch.full((4,), 0.25), n=6)]
        tensor([5, 5, 5, 7, 7, 7])
    """
    same = keys[seeds].unsqueeze(1) == keys  # [g, N]
    each = -(-n // len(seeds))
    return torch.multinomial(same * probability, each, replacement=True).flatten()[:n]
