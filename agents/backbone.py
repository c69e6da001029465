"""The shared network: state features, time and, of a conditional agent, context in; one hidden vector out."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..envs.errors import whole_number
from .precision import HiddenLinear
from .rows_innermost import as_columns, linear, written

__all__ = ["Backbone", "StepIndex"]

StepIndex = int | slice | Tensor
"""Which grid points a batch of states sits on: one for all, one per position of the trajectory axis, or one per row."""


_gelu: Any = nn.functional.gelu  # whose type does not tell of its `out`


class Backbone(nn.Module):
    """Multilayer perceptron with GELU over flattened state features plus a Fourier time embedding.

    The time embedding is computed on the T + 1 grid points, never per row, and added to the embedded state. The context
    is embedded once per trajectory, never per step, and added as well. It reaches both heads through the hidden vector,
    from which they read means and variances that differ from context to context.

    Args:
        inputs: number of features of a whole state (dim × features per coordinate).
        times: the T + 1 grid times.
        width: hidden width, a whole number >= 1.
        depth: number of hidden layers, a whole number >= 1.
        contexts: number of coordinates of a context; 0 for an unconditional agent. Contexts should be of order one.

    Raises:
        InputError: for a width or depth that is not a whole number >= 1.

    Example:
        >>> backbone = Backbone(inputs=6, times=[0.0, 0.5, 1.0], width=16, depth=2)
        >>> backbone(torch.randn(4, 3, 2, 3), slice(None)).shape  # whole trajectories: 4 paths of 3 states
        torch.Size([4, 3, 16])
        >>> backbone(torch.randn(4, 2, 3), 1).shape  # all four states at grid point 1
        torch.Size([4, 16])
    """

    TIME_FREQUENCIES = 8

    time_waves: Tensor

    def __init__(self, inputs: int, times: Sequence[float], width: int = 64, depth: int = 2, contexts: int = 0) -> None:
        super().__init__()
        for name, value in (("width", width), ("depth", depth)):
            whole_number(name, value, least=1)
        angles = torch.as_tensor(list(times), dtype=torch.float64).unsqueeze(-1) * (
            math.pi * torch.arange(1, self.TIME_FREQUENCIES + 1)
        )
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)  # [T+1, 2·TIME_FREQUENCIES]
        self.register_buffer("time_waves", waves.to(torch.get_default_dtype()), persistent=False)
        self.embed_time = nn.Sequential(nn.Linear(waves.shape[-1], width), nn.GELU(), nn.Linear(width, width))
        self.embed_state = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(HiddenLinear(width, width) for _ in range(depth - 1))
        self.embed_context = (
            nn.Sequential(nn.Linear(contexts, width), nn.GELU(), nn.Linear(width, width)) if contexts else None
        )
        self.width = width

    def hidden_layers(self) -> list[HiddenLinear]:
        """The layers between the embedding and the heads, `depth` − 1 of them."""
        return cast(list[HiddenLinear], list(self.layers))

    def time_embedding(self) -> Tensor:
        """Embedding of every grid point, `[T+1, width]`."""
        return self.embed_time(self.time_waves)

    def context_embedding(self, context: Tensor | None) -> Tensor | None:
        """Embedding of contexts, `[..., c] -> [..., width]`; None of None, the context of an unconditional agent."""
        return None if context is None or self.embed_context is None else self.embed_context(context)

    def forward(
        self,
        features: Tensor,
        step: StepIndex,
        time_embedding: Tensor | None = None,
        context_embedding: Tensor | None = None,
        kept: Sequence[Tensor] = (),
    ) -> Tensor:
        """Hidden vectors `[..., width]` of states with features `[..., dim, features]` at grid points `step`.

        `time_embedding` is the result of `time_embedding()`, where a caller has it already, as a rollout does;
        `context_embedding` that of `context_embedding(context)`, broadcastable to `[..., width]`. Of states
        `[n, dim, features]`, what goes into and out of each layer's activation is written to `kept`, each `[width, n]`.
        """
        if features.ndim == 2:
            return self(features.unsqueeze(0), step, time_embedding, context_embedding).squeeze(0)
        table = self.time_embedding() if time_embedding is None else time_embedding
        columns = features.flatten(-2).movedim(0, -1)  # [..., dim · features, B]
        embedded = linear(columns, self.embed_state.weight, self.embed_state.bias)
        if context_embedding is not None:
            embedded = embedded + as_columns(context_embedding, columns.ndim)
        place = iter(kept)
        before = written(next(place, None), torch.add, embedded, as_columns(table[step], columns.ndim))
        hidden = written(next(place, None), _gelu, before)
        for layer in self.hidden_layers():
            before = layer.of_columns(hidden, next(place, None))
            hidden = written(next(place, None), _gelu, before)
        return hidden.movedim(-1, 0)
