"""Numbers on their way from a device to the host: asked for now, and read when they are there."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Fetched"]


class Fetched:
    """Copies numbers of a device to the host, all at once, in double precision.

    From a GPU the copy goes into pinned memory, and is waited for only when the numbers are read.

    Args:
        numbers: by name, of any shape, all on one device.

    Example:
        >>> Fetched({"loss": torch.tensor(2.5), "weights": torch.ones(2)}).read()
        {'loss': tensor(2.5000, dtype=torch.float64), 'weights': tensor([1., 1.], dtype=torch.float64)}
    """

    def __init__(self, numbers: Mapping[str, Tensor]) -> None:
        self._shapes = {name: value.shape for name, value in numbers.items()}
        flat = torch.cat([value.detach().double().flatten() for value in numbers.values()])
        self._there: torch.cuda.Event | None = None
        if flat.device.type == "cuda":
            self._host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            self._host.copy_(flat, non_blocking=True)
            self._there = torch.cuda.Event()
            self._there.record(torch.cuda.current_stream(flat.device))
        else:
            self._host = flat.cpu()

    def read(self) -> dict[str, Tensor]:
        """The numbers, on the host."""
        if self._there is not None:
            self._there.synchronize()
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        parts = self._host.split(sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
