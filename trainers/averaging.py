"""The exponentially averaged agent, which is evaluated and sampled from."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["Average"]


class Average(AveragedModel):
    """torch's `AveragedModel`, which copies its count to the device in every update, and the host waits for that.

    The first average is the parameters themselves. Buffers are those of the model.

    Args:
        model: whose parameters are averaged: average ← decay · average + (1 − decay) · parameters.
        decay: in (0, 1).

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = Average(model, decay=0.75)
        >>> for value in (1.0, 5.0):
        ...     _ = model.weight.data.fill_(value)
        ...     average.update_parameters(model)
        >>> average.module.weight.item(), int(average.n_averaged)
        (2.0, 2)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay

    @property
    def rate(self) -> float:
        """What the next update counts, 1 − decay; 1 for the first one."""
        return 1.0 - self.decay if int(self.n_averaged) else 1.0  # a number that lives on the host, on a GPU as well

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average once."""
        own: nn.Module = self.module
        torch._foreach_lerp_(list(own.parameters()), list(model.parameters()), self.rate)
        buffers: list[Any] = list(own.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(model.buffers()))
        self.n_averaged += 1
