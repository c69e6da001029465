"""Priorities: which remembered rows are worth drawing again.

A priority turns the remembered columns, log reward and log-ratio D, into unnormalised sampling weights, one per row.
All of it happens on the columns' device, with a fixed number of operations and no host synchronisation. `known` says
for which rows D has been evaluated; where a priority needs D, the others get the largest priority present, so
that new rows are seen soon.

The log-ratio of a path is D = log p_0 + Σ log p→ − log R − Σ log p←, in nats, so that exp(−D) is the importance weight
of a generated path.
"""

import inspect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..envs.errors import InputError, whole_number

__all__ = [
    "PRIORITIES",
    "ImportanceWeightPriority",
    "LossPriority",
    "Priority",
    "RankPriority",
    "RewardPriority",
    "UniformPriority",
    "get_priority",
]


def _number(field: str, value: float, *, above: float, up_to: float = math.inf) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not above < value <= up_to:
        bound = f"> {above:g}" + (f" and <= {up_to:g}" if math.isfinite(up_to) else "")
        raise InputError(f"{field}: expected a finite number {bound}, got {value!r}")


def _fill_unknown(priority: Tensor, known: Tensor) -> Tensor:
    """Rows whose D is not known get the largest known priority, or 1 where none is known."""
    top = torch.where(known, priority, -torch.inf).max()
    return torch.where(known, priority, torch.where(known.any(), top, 1.0))


@dataclass(frozen=True)
class Priority(ABC):
    """One rule: columns in, unnormalised priorities out.

    Example:
        >>> columns = torch.zeros(3), torch.tensor([-1.0, 0.0, 5.0]), torch.ones(3, dtype=torch.bool)
        >>> LossPriority(alpha=2.0, log_z=0.0)(*columns).round(decimals=3)
        tensor([ 1.,  0., 25.])
    """

    @abstractmethod
    def __call__(self, log_reward: Tensor, log_ratio: Tensor, known: Tensor) -> Tensor:
        """Unnormalised sampling priorities `[N]`, >= 0.

        Args:
            log_reward: log R of each row, `[N]`, nats; finite, or −inf for a row that is not drawn, and whose priority
                is not looked at.
            log_ratio: D of each row, `[N]`, nats; ignored where `known` is False.
            known: whether D has been evaluated, `[N]` bool.
        """


@dataclass(frozen=True)
class UniformPriority(Priority):
    """Every row alike.

    Example:
        >>> UniformPriority()(torch.tensor([3.0, -9.0]), torch.zeros(2), torch.zeros(2, dtype=torch.bool))
        tensor([1., 1.])
    """

    def __call__(self, log_reward: Tensor, log_ratio: Tensor, known: Tensor) -> Tensor:
        """Ones `[N]`; arguments as `Priority`."""
        return torch.ones_like(log_reward)


@dataclass(frozen=True)
class LossPriority(Priority):
    """Badly balanced rows first: |D + log Z|^alpha (prioritised experience replay, arXiv 1511.05952).

    Args:
        alpha: exponent, > 0; 1 is the absolute residual, 2 the squared one, less than 1 flatter.
        log_z: the estimate of log Z in nats; None takes minus the median of the remembered D, which is robust against
            outliers and leaves the residual of the log-variance loss.
        floor: added to the absolute residual, > 0, so that a perfectly balanced row can still be drawn.

    Raises:
        InputError: for an exponent or floor that is not > 0, or a log Z that is not finite.

    Example:
        >>> known = torch.tensor([True, True, True, False])
        >>> LossPriority()(torch.zeros(4), torch.tensor([-7.0, -5.0, -4.0, 0.0]), known).round(decimals=3)
        tensor([2., 0., 1., 2.])
    """

    alpha: float = 1.0
    log_z: float | None = None
    floor: float = 1e-6

    def __post_init__(self) -> None:
        _number("alpha", self.alpha, above=0.0)
        _number("floor", self.floor, above=0.0)
        if self.log_z is not None:
            _number("log_z", self.log_z, above=-math.inf)

    def __call__(self, log_reward: Tensor, log_ratio: Tensor, known: Tensor) -> Tensor:
        """Powers of the residual `[N]`; arguments as `Priority`."""
        if self.log_z is None:
            middle = torch.where(known, log_ratio, torch.nan).nanmedian().nan_to_num()
        else:
            middle = log_ratio.new_full((), -self.log_z)
        return _fill_unknown(((log_ratio - middle).abs() + self.floor) ** self.alpha, known)


@dataclass(frozen=True)
class RewardPriority(Priority):
    """High reward first: exp((log R − max log R) / temperature); the largest is 1, whatever the range.

    Args:
        temperature: in nats of log reward, > 0; the larger, the flatter.

    Raises:
        InputError: for a temperature that is not > 0.

    Example:
        >>> priority = RewardPriority(temperature=2.0)
        >>> priority(torch.tensor([1e6, 1e6 - 2.0, -1e30]), torch.zeros(3), torch.zeros(3, dtype=torch.bool))
        tensor([1.0000, 0.3679, 0.0000])
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, above=0.0)

    def __call__(self, log_reward: Tensor, log_ratio: Tensor, known: Tensor) -> Tensor:
        """Rewards relative to the largest `[N]`; arguments as `Priority`."""
        return ((log_reward - log_reward.max()) / self.temperature).exp()


@dataclass(frozen=True)
class RankPriority(Priority):
    """High reward first by rank: p ∝ 1 / (fraction·N + rank), rank 0 the highest log reward (arXiv 2402.05098).

    Ties are ordered by position in the memory. Only the order counts, so the rule does not care for the range of log R.

    Args:
        fraction: share of the memory over which the priority falls to one half, > 0.

    Raises:
        InputError: for a fraction that is not > 0.

    Example:
        >>> RankPriority(fraction=1.0)(torch.tensor([0.0, 9.0]), torch.zeros(2), torch.zeros(2, dtype=torch.bool))
        tensor([0.3333, 0.5000])
    """

    fraction: float = 0.01

    def __post_init__(self) -> None:
        _number("fraction", self.fraction, above=0.0)

    def __call__(self, log_reward: Tensor, log_ratio: Tensor, known: Tensor) -> Tensor:
        """Reciprocal shifted ranks `[N]`; arguments as `Priority`."""
        n = (log_reward > -torch.inf).sum()
        order = log_reward.argsort(descending=True, stable=True)
        rank = torch.arange(log_reward.shape[0], dtype=log_reward.dtype, device=log_reward.device)
        return torch.empty_like(log_reward).scatter(0, order, 1.0 / (self.fraction * n + rank))


@dataclass(frozen=True)
class ImportanceWeightPriority(Priority):
    """Importance weights tempered to a target effective sample size: w = exp(−τ D).

    τ <= 1 is the largest temperature for which ESS(w) = (Σw)² / Σw² over the known rows is at least `ess_fraction` of
    their number, found by a fixed number of bisections (the ESS falls monotonically in τ; at τ = 0 it is full). With
    τ = 1 these are the plain importance weights of generated paths. The same device chooses temperatures in
    sequential Monte Carlo (Del Moral et al. 2012, "An adaptive sequential Monte Carlo method").

    As a rule for drawing it is a heuristic: D of a row that was destroyed again, or generated with widened steps, is no
    longer exactly the D of a generated path. What it does is leave out states of negligible density, which a loss of
    squares would spend itself on. Rows left out are seen again only through the uniform mixture.

    Args:
        ess_fraction: least effective sample size as a share of the rows, in (0, 1].
        bisections: how often the interval of τ is halved, >= 1.

    Raises:
        InputError: for a fraction outside (0, 1] or fewer than one bisection.

    Example:
        >>> log_ratio = torch.tensor([-100.0, 0.0, 0.0, 0.0])
        >>> weight = ImportanceWeightPriority(ess_fraction=0.5)(torch.zeros(4), log_ratio, torch.ones(4) > 0)
        >>> round(float(weight.sum() ** 2 / weight.square().sum()), 2)
        2.0
    """

    ess_fraction: float = 0.25
    bisections: int = 16

    def __post_init__(self) -> None:
        _number("ess_fraction", self.ess_fraction, above=0.0, up_to=1.0)
        whole_number("bisections", self.bisections, least=1)

    def __call__(self, log_reward: Tensor, log_ratio: Tensor, known: Tensor) -> Tensor:
        """Tempered weights `[N]`, the largest 1; arguments as `Priority`."""
        # Double precision: the ESS of near-equal weights is a ratio of near-equal sums.
        score = torch.where(known, -log_ratio.double(), -torch.inf)
        score = torch.where(known, score - score.max(), -torch.inf)
        goal = self.ess_fraction * known.sum().double()

        def enough(tau: Tensor) -> Tensor:
            weight = (tau * score).exp()  # 0 for the others, as tau > 0
            return weight.sum().square() >= goal * weight.dot(weight)

        # Keep the lower end, where the ESS is enough, unless the plain weights (tau = 1) are enough already.
        low = score.new_zeros(())
        for bisection in range(self.bisections):
            middle = low + 0.5 ** (bisection + 1)
            low = torch.where(enough(middle), middle, low)
        tau = torch.where(enough(torch.ones_like(low)), 1.0, low)
        return _fill_unknown((tau * torch.where(known, score, 0.0)).exp(), known)


PRIORITIES: dict[str, type[Priority]] = {
    "uniform": UniformPriority,
    "loss": LossPriority,
    "reward": RewardPriority,
    "rank": RankPriority,
    "importance_weight": ImportanceWeightPriority,
}


def get_priority(name: str, **options: object) -> Priority:
    """The priority called `name`, with its options.

    Args:
        name: a key of `PRIORITIES`.
        options: keyword arguments of that priority's class.

    Raises:
        InputError: for an unknown name, an unknown option or an option value out of range.

    Example:
        >>> get_priority("rank", fraction=0.1)
        RankPriority(fraction=0.1)
        >>> sorted(PRIORITIES)
        ['importance_weight', 'loss', 'rank', 'reward', 'uniform']
    """
    if not isinstance(name, str) or name not in PRIORITIES:
        raise InputError(f"priority: expected one of {', '.join(sorted(PRIORITIES))}, got {name!r}")
    kind = PRIORITIES[name]
    known = list(inspect.signature(kind).parameters)
    for option in options:
        if option not in known:
            names = ", ".join(known) or "none"
            raise InputError(f"priority option {option!r}: priority {name!r} takes {names}")
    return kind(**options)
