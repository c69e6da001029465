"""A plain function as a target: the shortest way from a density to a sampler of it."""

from collections.abc import Callable

from torch import Tensor

from ..errors import InputError
from ..spaces import Continuous
from ..target import Target

__all__ = ["CallableTarget"]


class CallableTarget(Target):
    """A target made of a log density, and of a sampler if there is one.

    Args:
        log_prob: unnormalised log density in torch, batched `[n, dim] -> [n]`; a module is moved along with the target.
        dim: number of coordinates, >= 1.
        scale: typical length of the density (about the standard deviation of one coordinate), > 0.
        sample: exact sampler `n -> [n, dim]`, if known.
        log_z: true log normalising constant, if known.
        name: what messages and reports call it; the function's name by default.

    Raises:
        InputError: if `log_prob` or `sample` cannot be called, or `dim` or `scale` is out of range.

    Example:
        >>> import torch
        >>> ring = CallableTarget(lambda x: -((x.norm(dim=-1) - 3.0) ** 2) / 0.08, dim=2, scale=2.0, name="ring")
        >>> ring(torch.tensor([[3.0, 0.0]])), ring.can_sample
        (tensor([-0.]), False)
    """

    def __init__(
        self,
        log_prob: Callable[[Tensor], Tensor],
        dim: int,
        scale: float = 1.0,
        sample: Callable[[int], Tensor] | None = None,
        log_z: float | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(log_prob):
            raise InputError(f"log_prob: expected a function of states, got {type(log_prob).__name__}")
        if sample is not None and not callable(sample):
            raise InputError(f"sample: expected a function of a count, got {type(sample).__name__}")
        if name is None:
            name = getattr(log_prob, "__name__", type(log_prob).__name__)
            name = "function" if name == "<lambda>" else name
        super().__init__(Continuous(dim), scale=scale, log_z=log_z, name=name)
        self._log_prob = log_prob
        self._sample = sample

    def log_prob(self, x: Tensor) -> Tensor:
        """The function's value, `[..., dim] -> [...]`; batches of any rank reach it as `[n, dim]`."""
        if x.ndim == 2:
            return self._log_prob(x)
        value = self._log_prob(x.reshape(-1, self.space.dim))
        batch = x.shape[:-1]
        # A wrong shape is passed on as it is, for the check that names it.
        return value.reshape(batch) if isinstance(value, Tensor) and value.shape == (batch.numel(),) else value

    def sample(self, n: int) -> Tensor:
        """The sampler's `n` samples, `[n, dim]`.

        Raises:
            InputError: without a sampler, or when it returns another shape.
        """
        if self._sample is None:
            return super().sample(n)
        x = self._sample(n)
        if not isinstance(x, Tensor) or x.shape != (n, self.space.dim):
            got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"target {self.name!r}: sample({n}) must have shape [{n}, {self.space.dim}], got {got}")
        return x

    @property
    def can_sample(self) -> bool:
        """Whether a sampler was given."""
        return self._sample is not None
