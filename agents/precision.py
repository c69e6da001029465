"""Matrix products of less than single precision, for the hidden layers of the networks and for nothing else.

    float32    as torch's own settings have it
    tf32       factors rounded to 10 bits of mantissa by the tensor cores of an NVIDIA GPU (Ampere and later), sums in
               single precision; on any other device the same as float32
    bfloat16   factors and results rounded to 7 bits of mantissa, sums in single precision; on any device

Features and the layer that reads them, what heads make of hidden vectors, means, variances and log densities stay as
they are: where a state is, is not rounded, and a head that starts at zero is the reference bit for bit. A layer rounds
in rollouts as in losses and in the backward pass as in the forward one, so that a path is judged by the function that
drew it, to the rounding of sums.

torch has one switch for tf32, of the whole process. It is turned for the duration of the call of each product, in the
backward pass too, and then put back as it was found: a density of the user's own, in the same training, never sees it.
Rounding to bfloat16 is part of the layer, and needs no switch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..envs.errors import InputError
from .rows_innermost import linear

__all__ = ["MATMUL_PRECISIONS", "HiddenLinear", "set_matmul_precision"]

MATMUL_PRECISIONS = ("float32", "tf32", "bfloat16")


class HiddenLinear(nn.Linear):
    """A linear layer of hidden vectors, whose matrix products may be less precise than its inputs and outputs.

    Attributes:
        matmul_precision: one of `MATMUL_PRECISIONS`; float32 at first. It is no part of the state that is saved.

    Example:
        >>> layer = HiddenLinear(2, 1)
        >>> set_matmul_precision(layer, "bfloat16")
        >>> layer(torch.ones(5, 2)).dtype
        torch.float32
    """

    matmul_precision: str = "float32"

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b, `[..., in] -> [..., out]`, in the dtype of `x`."""
        rows = self.product(x.reshape(1, -1, self.in_features), self.weight.T.unsqueeze(0))
        return rows.reshape(*x.shape[:-1], self.out_features) + self.bias

    def of_columns(self, columns: Tensor, place: Tensor | None = None) -> Tensor:
        """W x + b, `[..., in, B] -> [..., out, B]`, in the dtype of `columns`; as `rows_innermost.linear`."""
        product = torch.bmm if self.matmul_precision == "float32" else self.product
        return linear(columns, self.weight, self.bias, product, place)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Products of matrices `[n, a, b]` and `[n, b, c]` in the precision of this layer, `[n, a, c]`."""
        if self.matmul_precision == "bfloat16":
            return torch.bmm(left.to(torch.bfloat16), right.to(torch.bfloat16)).to(left.dtype)
        return _tf32_product(left, right) if self.matmul_precision == "tf32" else torch.bmm(left, right)


def set_matmul_precision(module: nn.Module, precision: str) -> None:
    """Let all hidden layers in a module, such as an agent, compute their products in this precision.

    Args:
        module: what has `HiddenLinear` layers in it; with float32 it may also have none.
        precision: one of `MATMUL_PRECISIONS`.

    Raises:
        InputError: for an unknown precision, and a lower one where there is no such layer or where they are of double
            precision.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_agent
        >>> from ebbflow.envs import Continuous
        >>> agent = build_agent(Continuous(2), scale=1.0, steps=3, config=AgentConfig(width=8))
        >>> set_matmul_precision(agent, "bfloat16")
        >>> agent.generate(4)["state"].dtype
        torch.float32
    """
    if precision not in MATMUL_PRECISIONS:
        raise InputError(f"matmul_precision: expected one of {list(MATMUL_PRECISIONS)}, got {precision!r}")
    layers = [layer for layer in module.modules() if isinstance(layer, HiddenLinear)]
    if precision != "float32" and not layers:
        raise InputError(
            "matmul_precision: expected float32 for an agent whose networks have no products of hidden vectors "
            f"(HiddenLinear; a backbone of depth 1 has none), got {precision!r}"
        )
    if precision != "float32" and any(layer.weight.dtype != torch.float32 for layer in layers):
        raise InputError(f"matmul_precision: expected float32 with networks of another dtype, got {precision!r}")
    for layer in layers:
        layer.matmul_precision = precision


def _in_tf32(left: Tensor, right: Tensor) -> Tensor:
    switch: Any = torch.backends.cuda.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "tf32"
    try:
        return left @ right
    finally:
        switch.fp32_precision = before


# As an operation of its own: a compiler takes it as it is, switch and all, and sees nothing of the switch.
_tf32_product: Any = torch.library.custom_op(
    "ebbflow::tf32_product", _in_tf32, mutates_args=(), schema="(Tensor left, Tensor right) -> Tensor"
)
_tf32_product.register_fake(lambda left, right: left.new_empty(*left.shape[:-1], right.shape[-1]))


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    left, right = ctx.saved_tensors
    needs_left, needs_right = ctx.needs_input_grad
    return (
        _tf32_product(gradient, right.mT) if needs_left else None,
        _tf32_product(left.mT, gradient) if needs_right else None,
    )


_tf32_product.register_autograd(_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
