"""Constants of a density that stay in double precision while the target itself moves between dtypes and devices.

A buffer that has been through `.float()` keeps single precision for good: after `.double()` the density would be right
to seven digits only. So what was computed in float64 (a Cholesky factor, a normaliser) is kept here, and handed out in
the dtype and on the device of whoever asks.
"""

import torch
from torch import Tensor

__all__ = ["ExactConstants"]


class ExactConstants:
    """Named float64 tensors, cast once for every dtype and device that asks.

    Args:
        tensors: the constants by name, of any floating point dtype; kept in float64 on the CPU.

    Example:
        >>> constants = ExactConstants(third=torch.tensor(1.0, dtype=torch.float64) / 3)
        >>> x = torch.zeros(2)
        >>> constants.like(x)["third"].dtype, constants.like(x.double())["third"].item()
        (torch.float32, 0.3333333333333333)
    """

    def __init__(self, **tensors: Tensor) -> None:
        self._exact = {name: tensor.detach().double().cpu() for name, tensor in tensors.items()}
        self._cast: dict[tuple[torch.dtype, torch.device], dict[str, Tensor]] = {}

    def like(self, x: Tensor) -> dict[str, Tensor]:
        """The constants in the dtype and on the device of `x`."""
        key = (x.dtype, x.device)
        if key not in self._cast:
            self._cast[key] = {name: tensor.to(x) for name, tensor in self._exact.items()}
        return self._cast[key]
