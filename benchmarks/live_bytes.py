"""How many bytes of tensors a piece of work makes and holds at once: exact, and the same on any machine."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["LiveBytes"]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside, backward passes included, as long as they live.

    Attributes:
        now: bytes held now.
        peak: the most that was held at once.

    Example:
        >>> with LiveBytes() as live:
        ...     x = torch.zeros(1000)
        ...     y = x + 1.0
        ...     del x
        ...     z = (y + 1.0).sum()
        >>> live.peak, live.now
        (8004, 4004)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {self._key(x) for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and self._key(tensor) not in self._known | given:
                self._add(tensor.untyped_storage())
        return result

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def release() -> None:
            self._known.discard(key)
            self.now -= size

        weakref.finalize(storage, release).atexit = False
