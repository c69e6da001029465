"""The target: what is to be sampled. One small class of capabilities, not a hierarchy.

A benchmark has a log density and exact samples; a user's energy has a log density only; a dataset has samples only.
Whoever needs a capability asks for it with `require_log_prob` / `require_sample`, and the error names what is missing.

A *conditional* target is a family of densities p(x | c), one for each context c, a vector of `c` floats (a class is a
one-hot vector): it has a `context_space`, a law of contexts to train on (`sample_context`), and its log Z is a function
of the context. `target.given(context)` is the one density at one context, an unconditional target like any other.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from .deferred_checks import DeferredChecks
from .errors import InputError
from .spaces import Continuous, Tokens

if TYPE_CHECKING:
    from .given import GivenTarget

__all__ = ["Target"]


@dataclass
class _Calls:
    """How often a density was evaluated; one object for a conditional target and all that is made of it by `given`."""

    energy: int = 0
    gradient: int = 0


class Target(nn.Module):
    """An unnormalised density, a sampler, or both, on one state space.

    Subclass it, set the space, and override `log_prob` and/or `sample`. Tensors that the density needs are best kept as
    (non-persistent) buffers, so that `.to(device)` and `.double()` carry them along.

    Calling the target evaluates `log_prob` behind the one shape, dtype and finiteness check, and counts the call.

    A conditional target overrides `log_prob(x, context)` and, where it can, `sample(n, context)`, and `sample_context`.

    Args:
        space: the state space.
        scale: typical length of the density (about the standard deviation of one coordinate), > 0; the default
            diffusion rate of an agent.
        log_z: true log normalising constant of `log_prob`, if known.
        name: what messages and reports call it.
        context_space: the space of contexts of a conditional target; None for an unconditional one.

    Attributes:
        energy_calls: number of single densities evaluated through `__call__` or `value_and_score` so far.
        gradient_calls: number of single gradients evaluated through `value_and_score` so far.
        checks: whether what the density gives is finite: told at once, or later inside `checks.deferring()`. Shared
            with all that is made of this target by `given` and `counted_apart`.

    Raises:
        InputError: if `scale` is not a positive finite number.

    Example:
        >>> class Ring(Target):
        ...     def __init__(self):
        ...         super().__init__(Continuous(2), scale=3.0)
        ...     def log_prob(self, x):
        ...         return -((x.norm(dim=-1) - 3.0) ** 2) / 0.08
        >>> ring = Ring()
        >>> ring(torch.tensor([[3.0, 0.0], [0.0, 3.0]]))
        tensor([-0., -0.])
        >>> ring.energy_calls, ring.can_sample
        (2, False)
    """

    def __init__(
        self,
        space: Continuous | Tokens,
        *,
        scale: float = 1.0,
        log_z: float | None = None,
        name: str | None = None,
        context_space: Continuous | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 < scale < float("inf"):
            raise InputError(f"scale: expected a positive finite length, got {scale!r}")
        self.space: Any = space  # who needs more of it than a shape asks which one it is
        self.scale = float(scale)
        self.log_z = log_z
        self.name = name or type(self).__name__
        self.context_space = context_space
        self._calls = _Calls()
        self.checks = DeferredChecks()

    @property
    def energy_calls(self) -> int:
        """Single densities evaluated so far."""
        return self._calls.energy

    @energy_calls.setter
    def energy_calls(self, count: int) -> None:
        self._calls.energy = count

    @property
    def gradient_calls(self) -> int:
        """Single gradients evaluated so far."""
        return self._calls.gradient

    @gradient_calls.setter
    def gradient_calls(self, count: int) -> None:
        self._calls.gradient = count

    # Capabilities -------------------------------------------------------------------------------------------------

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Unnormalised log density, `[..., dim] -> [...]`; optional.

        A conditional target takes `log_prob(x, context)`, with a context `[..., c]` beside every state.
        """
        raise InputError(f"target {self.name!r} has no log density (log_prob)")

    def sample(self, n: int, *args: Any, **kwargs: Any) -> Tensor:
        """`n` exact independent samples, `[n, dim]`, from torch's global generator; optional.

        A conditional target takes `sample(n, context)`: one sample for each of the contexts `[n, c]`.
        """
        raise InputError(f"target {self.name!r} has no exact samples (sample)")

    def sample_context(self, n: int) -> Tensor:
        """`n` contexts to train on, `[n, c]`, from torch's global generator; a conditional target needs it."""
        raise InputError(f"target {self.name!r} has no law of contexts (sample_context)")

    def sample_pairs(self, n: int) -> tuple[Tensor, Tensor]:
        """`n` samples `[n, dim]` and their contexts `[n, c]`, drawn together, to train a conditional policy on.

        Here contexts first, and then a sample at each; a target that draws samples first overrides it.
        """
        context = self.sample_context(n)
        return self.sample(n, context), context

    def conditional_log_z(self, context: Tensor) -> Tensor | None:
        """True log Z(c) of each context, `[n, c] -> [n]`; None where it is not known."""
        return None

    def given(self, context: Tensor) -> "GivenTarget":
        """The density at one context `[c]`, an unconditional target that shares this one's tensors and call counters.

        Raises:
            InputError: for an unconditional target, or a context of another shape or with values that are not finite.
        """
        from .given import GivenTarget

        return GivenTarget(self, context)

    def counted_apart(self) -> Self:
        """The same density and samples with call counters of its own, which begin at 0; tensors are shared.

        Example:
            >>> from ebbflow.envs import get_target
            >>> target = get_target("gmm25")
            >>> other = target.counted_apart()
            >>> _ = other(torch.zeros(3, 2))
            >>> target.energy_calls, other.energy_calls
            (0, 3)
        """
        view = copy.copy(self)
        view._calls = _Calls()
        return view

    @property
    def mode_masses(self) -> Tensor | None:
        """True probability of each known mode's region, `[M]`; None where modes are not known."""
        return None

    def mode_membership(self, x: Tensor) -> Tensor:
        """Which known modes' regions each state lies in, `[n, dim] -> [n, M]` bool; regions may overlap."""
        raise InputError(f"target {self.name!r} has no known modes")

    @property
    def is_conditional(self) -> bool:
        """Whether densities, samples and log Z are asked for at a context."""
        return self.context_space is not None

    @property
    def has_log_prob(self) -> bool:
        """Whether a log density can be evaluated."""
        return type(self).log_prob is not Target.log_prob

    @property
    def can_sample(self) -> bool:
        """Whether exact samples can be drawn."""
        return type(self).sample is not Target.sample

    @property
    def can_sample_given(self) -> bool:
        """Of a conditional target: whether exact samples can be drawn at a context of one's choice, beside pairs."""
        return self.can_sample

    def require_log_prob(self, purpose: str) -> None:
        """Raise an InputError that names `purpose` unless the target has a log density."""
        if not self.has_log_prob:
            lacks = "has samples but no log density" if self.can_sample else "has none"
            raise InputError(f"{purpose} needs a log density, but target {self.name!r} {lacks} (log_prob)")

    def require_sample(self, purpose: str) -> None:
        """Raise an InputError that names `purpose` unless the target has exact samples."""
        if not self.can_sample:
            raise InputError(f"{purpose} needs exact samples, but target {self.name!r} has none (sample)")

    # Checked evaluation -------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Checked and counted `log_prob`, `[..., dim] -> [...]`; `-inf` (outside the support) is allowed.

        Args:
            x: the states, `[..., dim]`.
            context: of a conditional target: one context `[c]` for all states, one for each row `[n, c]` of states
                `[n, ..., dim]`, or one for each state `[..., c]`.

        Raises:
            InputError: without a log density; on a wrong shape or dtype of `x`, on a context that is missing, not asked
                for or of a wrong shape, when `log_prob` raises, or when it returns a wrong shape, NaN or +inf (the
                last two, and numbers that are no tokens, where checks are deferred, in `checks.look`).
        """
        self.require_log_prob("a value")
        shape = self.space.shape
        if tuple(x.shape[x.ndim - len(shape) :]) != shape or x.ndim < len(shape):
            raise InputError(f"target {self.name!r}: expected states of shape [..., {shape[0]}], got {list(x.shape)}")
        if isinstance(self.space, Tokens):
            x = self.space.check(f"target {self.name!r}: states", x)
        elif not x.is_floating_point():
            raise InputError(f"target {self.name!r}: expected floating point states, got {x.dtype}")
        batch = x.shape[: x.ndim - len(shape)]
        contexts = self._contexts_of(x, batch, context)
        self.energy_calls += batch.numel()
        try:
            value = self.log_prob(x, *contexts)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"target {self.name!r}: log_prob raised {type(error).__name__}: {error}") from error
        if not isinstance(value, Tensor) or value.shape != batch:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"target {self.name!r}: log_prob of states {list(x.shape)} must have shape {list(batch)}, got {got}"
            )
        if not value.is_floating_point():
            raise InputError(f"target {self.name!r}: log_prob must return floating point values, got {value.dtype}")
        bad = (value.isnan() | (value == float("inf"))).flatten()
        self.checks.check(bad, [value.flatten(), x.reshape(-1, *shape)], self._bad_value)
        return value

    def _bad_value(self, failed: int, total: int, value: Tensor, state: Tensor) -> InputError:
        start = [round(v, 4) for v in state.flatten()[:4].tolist()]
        return InputError(
            f"target {self.name!r}: log_prob is {value.item()} for {failed} of {total} states, first at x = "
            f"{start}{'...' if self.space.shape[0] > 4 else ''}; expected finite values (or -inf outside the support)"
        )

    def check_context(self, context: Any) -> Tensor:
        """The contexts `[..., c]`, if this target has contexts and they are of its shape.

        Raises:
            InputError: otherwise.
        """
        if self.context_space is None:
            raise InputError(f"context: target {self.name!r} is not conditional, and takes none")
        size = self.context_space.dim
        if not isinstance(context, Tensor) or context.ndim < 1 or context.shape[-1] != size:
            got = list(context.shape) if isinstance(context, Tensor) else type(context).__name__
            raise InputError(f"context: expected a tensor [..., {size}] for target {self.name!r}, got {got}")
        if not context.is_floating_point():
            raise InputError(f"context: expected floating point values, got {context.dtype}")
        return context

    def _contexts_of(self, x: Tensor, batch: torch.Size, context: Tensor | None) -> tuple[Tensor, ...]:
        """What `log_prob` takes beside the states: nothing, or a context `[*batch, c]` for each of them."""
        if context is None:
            if self.context_space is None:
                return ()
            raise InputError(f"target {self.name!r} is conditional: its density needs a context [n, c], or use given")
        context = self.check_context(context)
        context = context.to(x) if x.is_floating_point() else context.to(x.device)
        own = context.shape[:-1]
        if own != batch[: len(own)]:
            raise InputError(
                f"context: expected one for each of the states {list(x.shape)}, or one for all, got "
                f"{list(context.shape)}"
            )
        row = context.reshape(*own, *(1,) * (len(batch) - len(own)), -1)
        return (row.expand(*batch, -1),)

    def value_and_score(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log density `[...]` and its gradient `[..., dim]`, both detached; counted as values and as gradients.

        Contexts are those of `__call__`.

        Raises:
            InputError: as `forward`; also when the gradient cannot be had or is NaN (which may be deferred, too).
        """
        if isinstance(self.space, Tokens):
            raise InputError(f"target {self.name!r}: a density of tokens has no gradient, but its gradient is needed")
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            value = self(leaf, context)
            if not value.requires_grad:
                raise InputError(f"target {self.name!r}: log_prob is not differentiable, but its gradient is needed")
            (score,) = torch.autograd.grad(value.sum(), leaf)
        self.gradient_calls += value.numel()
        self.checks.check(score.isnan().flatten(), [], self._bad_score)
        return value.detach(), score

    def _bad_score(self, failed: int, total: int) -> InputError:
        return InputError(f"target {self.name!r}: the gradient of log_prob is NaN for some states")
