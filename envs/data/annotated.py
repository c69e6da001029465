r"""Samples with a condition computed of each: pairs to train a conditional policy on, so that it can be asked for.

    x ~ p,   c = condition(x)        a policy that learns p(x | c) generates at a c of one's choice

A predicate makes c a 0 or a 1; a reward makes it a number, or with bins a one-hot vector of the bin that it lies in.
Where numbers hardly ever come twice there are pairs, and no samples at one of them: what is generated at a number is
then judged by likelihoods alone, and its distance from exact samples is not known. Asking for a high reward takes
no gradient and no search: reward as conditioning. Source: arXiv 2605.30553.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError, whole_number
from ..spaces import Continuous
from ..target import Target
from .conditioned import Conditioned

__all__ = ["Annotated"]

_DRAWS = 10_000  # of which the shape of a context and the edges of bins are found
_MOST_CONTEXTS = 1_000  # different ones among these, for each to come about ten times


class Annotated(Target):
    """A conditional target: samples of another one, whose context is a function of the sample (module docstring).

    Args:
        source: an unconditional target with samples: data, or a density that has them.
        condition: of samples `[n, *space.shape]`, bool or numbers `[n]` or `[n, c]`. For a network numbers are best of
            order one.
        bins: of numbers `[n]`, how many bins of about equal probability take their place, as one-hot vectors, from the
            lowest to the highest; None for the numbers themselves. What has fewer values gets fewer bins.
        name: what messages and reports call it.

    Attributes:
        edges: the lower edge of each bin but the first, `[bins − 1]`; None without bins.
        can_sample_given: whether contexts come back, at most 1,000 different ones among 10,000, so that there are
            exact samples at each.

    Raises:
        InputError: for a conditional source or one without samples, a condition that does not return one finite context
            for each sample, and for bins of anything but numbers `[n]` or with one value only.

    Example:
        >>> from ebbflow.envs import get_target
        >>> potts = get_target("potts")
        >>> zeros = Annotated(potts, lambda x: (x == 0).sum(-1) >= 4)
        >>> x, context = zeros.sample_pairs(5)
        >>> x.shape, context.shape, zeros.context_space
        (torch.Size([5, 6]), torch.Size([5, 1]), Continuous(dim=1))
        >>> bool(((zeros.given(torch.ones(1)).sample(100) == 0).sum(-1) >= 4).all())  # by exact rejection
        True
        >>> rewarded = Annotated(potts, potts, bins=4)
        >>> highest = rewarded.given(rewarded.bin(-1)).sample(100)
        >>> bool((potts(highest) >= rewarded.edges[-1]).all())
        True
    """

    edges: Tensor | None

    def __init__(
        self,
        source: Target,
        condition: Callable[[Tensor], Tensor],
        *,
        bins: int | None = None,
        name: str | None = None,
    ) -> None:
        if source.is_conditional:
            raise InputError(f"source: expected an unconditional target, got {source.name!r}; use given(context)")
        source.require_sample("a condition of samples")
        super().__init__(source.space, scale=source.scale, name=name or f"{source.name}-annotated")
        self.source = source
        self._condition = condition
        self.register_buffer("edges", None, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # not torch.manual_seed, which seeds devices that are not restored
            seen = self._numbers(source.sample(_DRAWS))
        if bins is not None:
            whole_number("bins", bins, least=2)
            if seen.shape[1] != 1:
                raise InputError(f"bins: expected a condition of one number, got {seen.shape[1]} for each sample")
            levels = torch.arange(1, bins, dtype=torch.float64) / bins
            edges = seen.double().squeeze(-1).quantile(levels).unique()
            self.edges = edges[edges > seen.min()].to(seen)
            if not len(self.edges):
                raise InputError("bins: expected numbers that differ, got the same one for all samples")
        different = len(seen.unique(dim=0)) if self.edges is None else len(self.edges) + 1
        self._comes_back = different <= _MOST_CONTEXTS
        self.context_space = Continuous(seen.shape[1] if self.edges is None else len(self.edges) + 1)

    def contexts(self, x: Tensor) -> Tensor:
        """The context of each sample, `[n, *space.shape] -> [n, c]`."""
        numbers = self._numbers(x)
        if self.edges is None:
            return numbers
        index = torch.bucketize(numbers.squeeze(-1).contiguous(), self.edges.to(numbers), right=True)
        return torch.nn.functional.one_hot(index, len(self.edges) + 1).to(numbers)

    def bin(self, index: int) -> Tensor:
        """The context of a bin, `[bins]`; −1 is the highest.

        Raises:
            InputError: without bins, and for a bin that there is not.
        """
        count = 0 if self.edges is None else len(self.edges) + 1
        if not -count <= index < count:
            raise InputError(f"bin: expected one of {count} bins, got {index}")
        return torch.eye(count)[index]

    def sample_pairs(self, n: int) -> tuple[Tensor, Tensor]:
        """`n` samples of the source and their contexts."""
        x = self.source.sample(n)
        return x, self.contexts(x)

    def sample_context(self, n: int) -> Tensor:
        """Contexts of `n` samples, `[n, c]`."""
        return self.sample_pairs(n)[1]

    @property
    def can_sample_given(self) -> bool:
        """Whether there are exact samples at a context (class docstring)."""
        return self._comes_back

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Height and width, where the samples of the source are images."""
        return getattr(self.source, "image_shape", None)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """For each of the contexts `[n, c]` a sample that has it, by exact rejection; without them samples of any.

        Raises:
            InputError: for contexts that samples do not have, or so seldom that none was found, and for any where
                conditions are numbers that hardly ever come twice.
        """
        if context is None:
            return self.source.sample(n)
        if not self.can_sample_given:
            raise InputError(
                f"condition: target {self.name!r} has samples at one context only where contexts come back, and not of "
                "a number that hardly ever does; expected bins=..., or sample_pairs"
            )
        rows = self.check_context(context)
        if rows.shape[:-1] != (n,):
            raise InputError(f"context: expected {n}, one for each sample, got {list(context.shape)}")
        found = torch.zeros((n, *self.space.shape), dtype=self.source.sample(1).dtype, device=context.device)
        wanted, place = rows.unique(dim=0, return_inverse=True)
        for i, one in enumerate(wanted):
            same = place == i
            found[same] = self.at(one).sample(int(same.sum()))
        return found

    def at(self, context: Tensor) -> Conditioned:
        """The source conditioned on a context `[c]`, by exact rejection; it counts what is accepted."""
        wanted = self.check_context(context)
        name = f"{self.name} at {[round(number, 4) for number in wanted.tolist()]}"
        return Conditioned(self.source, lambda x: (self.contexts(x) == wanted.to(x.device)).all(-1), name=name)

    @property
    def held_out(self) -> Tensor | None:
        """Rows that a data set holds out, `[m, *space.shape]`; None of a source that holds out none."""
        return getattr(self.source, "held_out", None)

    @property
    def held_out_contexts(self) -> Tensor | None:
        """The context of each of them, `[m, c]`."""
        return None if self.held_out is None else self.contexts(self.held_out)

    def _numbers(self, x: Tensor) -> Tensor:
        """What the condition says of samples, `[n, c]`, in the floating point type of the target."""
        with torch.no_grad():
            numbers = self._condition(x)
        if (
            not isinstance(numbers, Tensor)
            or numbers.ndim not in (1, 2)
            or len(numbers) != len(x)
            or not numbers.numel()
        ):
            got = list(numbers.shape) if isinstance(numbers, Tensor) else type(numbers).__name__
            raise InputError(f"condition: expected numbers [{len(x)}] or [{len(x)}, c], got {got}")
        numbers = numbers.reshape(len(x), -1)
        numbers = numbers if numbers.is_floating_point() else numbers.to(torch.get_default_dtype())
        if not bool(numbers.isfinite().all()):
            raise InputError(f"condition: expected finite numbers, got {numbers[~numbers.isfinite()][0].item()}")
        return numbers
