"""A plain function as a target: the shortest way from a density to a sampler of it."""

from collections.abc import Callable

import torch
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
        contexts: makes the target conditional: rows `[m, c]` of a data set, drawn uniformly as the law of contexts.
            Then `log_prob` is a function of states and contexts, `[n, dim], [n, c] -> [n]`, and `sample` of a count and
            contexts.

    Raises:
        InputError: if `log_prob` or `sample` cannot be called, `dim` or `scale` is out of range, or `contexts` are not
            finite rows.

    Example:
        >>> import torch
        >>> ring = CallableTarget(lambda x: -((x.norm(dim=-1) - 3.0) ** 2) / 0.08, dim=2, scale=2.0, name="ring")
        >>> ring(torch.tensor([[3.0, 0.0]])), ring.can_sample
        (tensor([-0.]), False)
        >>> moved = CallableTarget(lambda x, c: -(x - c).square().sum(-1), dim=1, contexts=torch.tensor([[0.0], [5.0]]))
        >>> moved(torch.tensor([[5.0]]), torch.tensor([[4.0]]))
        tensor([-1.])
    """

    contexts: Tensor

    def __init__(
        self,
        log_prob: Callable[..., Tensor],
        dim: int,
        scale: float = 1.0,
        sample: Callable[..., Tensor] | None = None,
        log_z: float | None = None,
        name: str | None = None,
        contexts: Tensor | None = None,
    ) -> None:
        if not callable(log_prob):
            raise InputError(f"log_prob: expected a function of states, got {type(log_prob).__name__}")
        if sample is not None and not callable(sample):
            raise InputError(f"sample: expected a function of a count, got {type(sample).__name__}")
        if name is None:
            name = getattr(log_prob, "__name__", type(log_prob).__name__)
            name = "function" if name == "<lambda>" else name
        context_space = None if contexts is None else Continuous(_checked_contexts(contexts).shape[1])
        super().__init__(Continuous(dim), scale=scale, log_z=log_z, name=name, context_space=context_space)
        self._log_prob = log_prob
        self._sample = sample
        if contexts is not None:
            self.register_buffer("contexts", contexts.detach().to(torch.get_default_dtype()), persistent=False)

    def log_prob(self, x: Tensor, *context: Tensor) -> Tensor:
        """The function's value, `[..., dim] -> [...]`; batches of any rank reach it as `[n, dim]`, contexts as well."""
        if x.ndim == 2:
            return self._log_prob(x, *context)
        value = self._log_prob(x.reshape(-1, self.space.dim), *(c.reshape(-1, c.shape[-1]) for c in context))
        batch = x.shape[:-1]
        # A wrong shape is passed on as it is, for the check that names it.
        return value.reshape(batch) if isinstance(value, Tensor) and value.shape == (batch.numel(),) else value

    def sample_context(self, n: int) -> Tensor:
        """`n` rows of the contexts given, drawn uniformly, `[n, c]`."""
        if self.context_space is None:
            return super().sample_context(n)
        return self.contexts[torch.randint(len(self.contexts), (n,), device=self.contexts.device)]

    def sample(self, n: int, *context: Tensor) -> Tensor:
        """The sampler's `n` samples, `[n, dim]`.

        Raises:
            InputError: without a sampler, or when it returns another shape.
        """
        if self._sample is None:
            return super().sample(n)
        x = self._sample(n, *context)
        if not isinstance(x, Tensor) or x.shape != (n, self.space.dim):
            got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"target {self.name!r}: sample({n}) must have shape [{n}, {self.space.dim}], got {got}")
        return x

    @property
    def can_sample(self) -> bool:
        """Whether a sampler was given."""
        return self._sample is not None


def _checked_contexts(contexts: Tensor) -> Tensor:
    if not isinstance(contexts, Tensor) or contexts.ndim != 2 or not len(contexts):
        got = list(contexts.shape) if isinstance(contexts, Tensor) else type(contexts).__name__
        raise InputError(f"contexts: expected a tensor [m >= 1, c], got {got}")
    if not bool(contexts.isfinite().all()):
        raise InputError("contexts: expected finite values, got NaN or infinity")
    return contexts
