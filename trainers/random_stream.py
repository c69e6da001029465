"""Random numbers of one's own: what torch's global generators would give to one program, beside those of others."""

from types import TracebackType

import torch

__all__ = ["RandomStream"]


class RandomStream:
    """The random numbers of one run among several in a process.

    It begins at its seed or, without one, where torch's global generators stand when it is made. Inside `with stream:`
    they are this stream's; afterwards they are what they were before. Two runs that draw each inside its own stream
    draw what each would alone.

    Args:
        device: whose numbers, beside those of the CPU.
        seed: where to begin. (torch.manual_seed would seed the generators of all devices, which are not put back.)

    Attributes:
        generator: that of the device, to draw from outside; the next number is the same as inside.

    Example:
        >>> _ = torch.manual_seed(7)
        >>> stream = RandomStream(torch.device("cpu"))
        >>> with stream:
        ...     first = torch.rand(3)
        >>> second = torch.rand(3, generator=stream.generator)
        >>> bool((torch.manual_seed(7) and torch.rand(3) == first).all()), bool((torch.rand(3) == second).all())
        (True, True)
    """

    def __init__(self, device: torch.device, seed: int | None = None) -> None:
        self._outside = [torch.default_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._outside.append(torch.cuda.default_generators[index])
        self._inside = [torch.Generator(device=one.device) for one in self._outside]
        for own, one in zip(self._inside, self._outside, strict=True):
            if seed is None:
                own.set_state(one.get_state())
            else:
                own.manual_seed(seed)
        self.generator = self._inside[-1]

    def __enter__(self) -> None:
        self._before = [one.get_state() for one in self._outside]
        for own, one in zip(self._inside, self._outside, strict=True):
            one.set_state(own.get_state())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for own, one, before in zip(self._inside, self._outside, self._before, strict=True):
            own.set_state(one.get_state())
            one.set_state(before)
