r"""The inverse hyperbolic sine, fast on a CPU: torch computes its own there number by number, ten times as slowly.

asinh x = sign(x) · log1p(|x| + x² / (1 + √(1 + x²))),    exact to rounding near 0 as well;
d/dx    = 1 / √(1 + x²).
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["asinh"]


def asinh(x: Tensor) -> Tensor:
    """asinh of each number, in any shape; differentiable, and under `torch.vmap`.

    Example:
        >>> asinh(torch.tensor([-1.0, 0.0, 1e-8]))
        tensor([-8.8137e-01,  0.0000e+00,  1.0000e-08])
    """
    if x.device.type != "cpu":
        return torch.asinh(x)
    return _Asinh.apply(x) if x.requires_grad and torch.is_grad_enabled() else _value(x)


def _value(x: Tensor) -> Tensor:
    square = x * x
    return torch.addcdiv(x.abs(), square, (square + 1.0).sqrt_().add_(1.0)).log1p_().copysign_(x)


class _Asinh(torch.autograd.Function):
    """The formulas of the module docstring: the graph of the first one has no derivative at 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _value(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient / (x * x + 1.0).sqrt()
