"""Annealed sequential Monte Carlo: finds the modes of a density without any policy.

A population of particles starts from the Gaussian q_0 = N(0, s² I) and follows the geometric path

    log π_β = (1 − β) log q_0 + β log R,        β_i = (i / K)²,   i = 1 … K,

with smaller steps where one step would cost more than half of the effective sample size.

At each temperature the particles are reweighted by (π_β' / π_β), resampled systematically when the effective sample
size falls below a threshold, and moved by kernels that leave π_β invariant (Del Moral, Doucet & Jasra 2006,
"Sequential Monte Carlo samplers"):

- *Langevin moves* (`langevin.py`) preconditioned by the population's standard deviation per coordinate.
- *Block moves*, which carry particles across barriers: some coordinates are proposed independently from histograms of
  the population's marginals. Each half of the population uses histograms of the other half; with its own, a particle
  would pull the proposal towards itself, and log Z would be biased.

Step sizes and block sizes follow the acceptance (Robbins–Monro on the logarithm), which is adaptation between moves and
leaves each move exact.

Where a density is narrow in one place and wide in another, the narrow place has next to no mass at any temperature but
the last ones (of a funnel's neck, a share of about β^(d/2)·exp(−(1 − β)·d·|x_1|/2)), so that the ladder passes before
particles have found it. *Final moves*, at the target itself, let the population flow there, until it stays where it
is: until the chains have not drifted on the whole since half as many moves, neither in place nor in spread, by a paired
test of their ranks in each coordinate at a level of 1 % for all together. What does not flow at all, as from one far
mode to another, is not noticed.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from ..envs.errors import InputError, whole_number
from ..envs.spaces import Compressed, Continuous
from ..envs.target import Target
from .anchors import Anchors
from .langevin import Chains, Tempered, adapted_move

__all__ = ["annealed_smc"]

_BLOCK_ACCEPTANCE = 0.3
_BINS = 64
_FINAL_ROUND = 20  # final moves between two looks at how wide the population is
_FINAL_LOOK = 100  # final moves before the first look at where it is; the next are after twice as many each


@dataclass
class _Population(Chains):
    """Chains with log weights `[n]` and first ancestors `[n]`."""

    log_weight: Tensor
    ancestor: Tensor

    def take(self, index: Tensor) -> None:
        self.x, self.energy, self.score = self.x[index], self.energy[index], self.score[index]
        self.log_weight, self.ancestor = self.log_weight[index], self.ancestor[index]


def _block(path: Tempered, population: _Population, std: Tensor, share: float) -> Tensor:
    """One block move; returns the acceptance of each particle `[n]`. The population comes back in another order.

    Half of the particles redraw one coordinate, the others each coordinate with probability `share`.
    """
    n, d = population.x.shape
    device = population.x.device
    population.take(torch.randperm(n, device=device))
    x = population.x
    half = n // 2
    proposals, corrections = [], []
    for own, other in ((x[:half], x[half:]), (x[half:], x[:half])):
        # Histograms with bins of equal mass: density of a bin = 1 / (bins · width).
        bins = max(1, min(_BINS, other.shape[0] // 8))
        position = torch.linspace(0, other.shape[0] - 1, bins + 1, device=device).round().long()
        edges = other.T.sort(dim=1).values[:, position]  # [d, bins + 1]
        edges[:, 0] -= 0.25 * std
        edges[:, -1] += 0.25 * std
        log_width = edges.diff(dim=1).clamp_min(torch.finfo(x.dtype).tiny).log()  # [d, bins]
        bin_to = torch.randint(bins, (d, own.shape[0]), device=device)
        low, high = edges.gather(1, bin_to), edges.gather(1, bin_to + 1)
        new = low + (high - low) * torch.rand_like(low)
        bin_from = torch.searchsorted(edges, own.T.contiguous(), right=True) - 1
        outside = (bin_from < 0) | (bin_from >= bins)  # the way back would be impossible
        correction = log_width.gather(1, bin_to) - log_width.gather(1, bin_from.clamp(0, bins - 1))
        proposals.append(new.T)
        corrections.append(torch.where(outside, -torch.inf, correction).T)
    chosen = torch.rand(n, d, device=device) < share * (torch.rand(n, 1, device=device) < 0.5)
    chosen.scatter_(1, torch.randint(d, (n, 1), device=device), True)
    y = torch.where(chosen, torch.cat(proposals), x)
    correction = torch.where(chosen, torch.cat(corrections), 0.0).sum(dim=1)
    energy, score = path.target.value_and_score(y)
    return path.accept(population, y, energy, score, correction)


def _systematic(weight: Tensor, n: int) -> Tensor:
    """Indices `[n]` of a systematic resampling with normalised weights `[n]`."""
    cumulative = weight.double().cumsum(0)
    points = (torch.arange(n, device=weight.device) + torch.rand((), dtype=torch.float64, device=weight.device)) / n
    return torch.searchsorted(cumulative, points * cumulative[-1], right=True).clamp_(max=n - 1)


def _bounded(beta: float, wanted: float, log_weight: Tensor, slope: Tensor) -> float:
    """The temperature `wanted`, or one so near to `beta` that reweighting keeps half of the effective sample size."""

    def kept(to: float) -> bool:
        step = (to - beta) * slope.double()
        step = torch.where(inside, step, -torch.inf)
        # Conditional effective sample size (Zhou, Johansen & Aston 2016) among the particles inside the support.
        log_ess = 2.0 * (log_share + step).logsumexp(0) - (log_share + 2.0 * step).logsumexp(0)
        return bool(log_ess >= math.log(0.5))

    inside = slope > -torch.inf
    log_share = torch.where(inside, log_weight.double(), -torch.inf).log_softmax(0)
    if kept(wanted):
        return wanted
    low, high = beta, wanted
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low if low > beta else wanted


def _std(u: Tensor, weight: Tensor, initial_std: float) -> Tensor:
    """Weighted standard deviation of the population's coordinates `[n, d] -> [d]`, not below a trifle."""
    mean = weight @ u
    return (weight @ (u - mean).square()).sqrt().clamp_min(1e-6 * initial_std)


def _drifts(before: Tensor, after: Tensor, level: float = 0.01) -> bool:
    """Whether chains `[n, d]` have drifted on the whole, in any coordinate, in place or in spread.

    What is looked at are the ranks of each chain's states among all of both, and their distances from the middle one.
    """
    n, d = before.shape
    both = torch.cat([before, after]).T.contiguous()  # [d, 2 n]
    ordered = both.sort(dim=1).values
    below = torch.searchsorted(ordered, both) + torch.searchsorted(ordered, both, right=True)  # the same for the same
    ranks = (below.to(before.dtype) / (2 * n) - 1.0).T
    changes = torch.cat([ranks[n:] - ranks[:n], ranks[n:].abs() - ranks[:n].abs()], dim=1)  # [n, 2 d]
    t = changes.mean(0) / (changes.std(0) / math.sqrt(n)).clamp_min(torch.finfo(before.dtype).tiny)
    return bool(t.abs().max() > NormalDist().inv_cdf(1.0 - level / (4 * d)))


def _check(n: int, temperatures: int, moves: int, final_moves: int, **positive: float) -> None:
    whole_number("n", n, least=2)
    whole_number("temperatures", temperatures, least=1)
    whole_number("moves", moves, least=1)
    whole_number("final_moves", final_moves, least=0)
    for field, number in positive.items():
        top = math.inf if field == "initial_std" else 1.0
        if (
            not isinstance(number, (int, float))
            or isinstance(number, bool)
            or not 0.0 < number <= top
            or number == math.inf
        ):
            raise InputError(
                f"{field}: expected a finite number > 0{'' if top == math.inf else ' and <= 1'}, got {number!r}"
            )


def annealed_smc(
    target: Target,
    n: int = 5000,
    *,
    initial_std: float,
    temperatures: int = 100,
    moves: int = 2,
    ess_threshold: float = 0.7,
    target_acceptance: float = 0.574,
    final_moves: int = 0,
    compression: float | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Anchors:
    """Equally weighted states of the target, and an estimate of log Z, by annealed sequential Monte Carlo.

    It costs n · (1 + temperatures · (moves + 1)) energy calls and as many gradients, and then at most n · final_moves
    of both; more where a density is so steep that a step of the ladder is shortened to keep half of the effective
    sample size (at most some ten times as many).

    Args:
        target: has a differentiable log density; −inf outside the support is allowed.
        n: number of particles, >= 2; hundreds per mode give even masses.
        initial_std: standard deviation s of the Gaussian it starts from, > 0; wide enough to cover the modes, about 1.5
            times the target's scale.
        temperatures: number K of steps from q_0 to the target, >= 1; 60 find the modes just as well, with more error in
            log Z.
        moves: Langevin moves at each temperature, >= 1; one block move comes on top.
        ess_threshold: resample when the effective sample size falls below this share of n, in (0, 1].
        target_acceptance: of the Langevin moves, in (0, 1].
        final_moves: most Langevin moves at the target itself, after the last temperature, >= 0: fewer are made where
            the population stays where it is. log Z stays what it was.
        compression: make every other Langevin move in compressed coordinates of this length, in units of `initial_std`;
            for densities whose scale varies by orders of magnitude (0.07 for a funnel).
        dtype: floating point type of the particles.
        device: where they live.

    Returns:
        Anchors, resampled and moved once more at the end: all states count alike.

    Raises:
        InputError: for a value out of range, a target without a differentiable log density, or when no particle is
            inside the support.

    Example:
        >>> from ebbflow.envs.spaces import Continuous
        >>> class Normal(Target):
        ...     def __init__(self):
        ...         super().__init__(Continuous(2))
        ...     def log_prob(self, x):
        ...         return -0.5 * (x - 3.0).square().sum(-1)
        >>> _ = torch.manual_seed(0)
        >>> anchors = annealed_smc(Normal(), 1000, initial_std=4.0, temperatures=10)
        >>> abs(anchors.log_z - 1.8379) < 0.1, anchors.energy_calls
        (True, 31000)
    """
    target.require_log_prob("annealed_smc")
    _check(
        n,
        temperatures,
        moves,
        final_moves,
        initial_std=initial_std,
        ess_threshold=ess_threshold,
        target_acceptance=target_acceptance,
        **({} if compression is None else {"compression": compression}),
    )
    if not dtype.is_floating_point:
        raise InputError(f"dtype: expected a floating point type, got {dtype}")
    calls = target.energy_calls, target.gradient_calls
    with torch.no_grad():
        x = initial_std * torch.randn(n, target.space.dim, dtype=dtype, device=device)
        energy, score = target.value_and_score(x)
        if bool((energy == -torch.inf).all()):
            raise InputError(
                f"initial_std: expected a Gaussian that meets the support of target {target.name!r}, got "
                f"{initial_std!r}: all {n} particles have log density -inf"
            )
        population = _Population(x, energy, score, torch.zeros_like(energy), torch.arange(n, device=device))
        path = Tempered(target, initial_std, beta=0.0)
        log_z, log_z_stderr = torch.zeros_like(energy[0]), torch.zeros_like(energy[0])
        dim = target.space.dim
        spaces = [Continuous(dim)]
        if compression is not None:
            spaces.append(Compressed(dim, compression * initial_std))
        log_steps, share = [torch.zeros((), dtype=torch.float64, device=device)] * len(spaces), 0.5
        ess_history: list[float] = []
        acceptance: list[Tensor] = []
        schedule = [(i / temperatures) ** 2 for i in range(1, temperatures + 1)]

        def langevin_moves(count: int, weight: Tensor) -> Tensor:
            """`count` moves at the temperature reached, in the spaces by turns; returns their mean acceptance."""
            stds = [_std(space.coordinates(population.x), weight, initial_std) for space in spaces]
            accepted = []
            for move in range(count):
                i = move % len(spaces)
                one, log_steps[i] = adapted_move(path, population, stds[i], log_steps[i], target_acceptance, spaces[i])
                accepted.append(one)
            return torch.stack(accepted).mean()

        while path.beta < 1.0:
            slope = population.energy - path.log_initial(population.x)
            beta = next(b for b in schedule if b > path.beta)
            if len(ess_history) < 10 * temperatures:
                beta = _bounded(path.beta, beta, population.log_weight, slope)
            before = population.log_weight.logsumexp(0)
            increment = (beta - path.beta) * slope
            population.log_weight = population.log_weight + increment
            log_z = log_z + population.log_weight.logsumexp(0) - before
            path.beta = beta
            weight = population.log_weight.softmax(0)
            ess = float(1.0 / (n * weight.square().sum()))
            ess_history.append(ess)
            last = beta >= 1.0
            if last:
                families = torch.zeros_like(weight).index_add_(0, population.ancestor, weight)
                log_z_stderr = (families - 1.0 / n).square().sum().sqrt()  # Chan & Lai 2013, arXiv 1310.1462
            if last or ess < ess_threshold:
                population.take(_systematic(weight, n))
                population.log_weight = torch.zeros_like(weight)
                weight = torch.full_like(weight, 1.0 / n)
            acceptance.append(langevin_moves(moves, weight))
            std = _std(population.x, weight, initial_std)
            excess = float(_block(path, population, std, share).mean()) - _BLOCK_ACCEPTANCE
            share = min(1.0, max(1e-3, share * math.exp(excess)))
        look, known = _FINAL_LOOK, None
        for done in range(0, final_moves, _FINAL_ROUND):
            if done == look:
                if known is not None and not _drifts(known, population.x):
                    break
                look, known = 2 * look, population.x
            langevin_moves(min(_FINAL_ROUND, final_moves - done), weight)
    return Anchors(
        states=population.x,
        log_reward=population.energy,
        log_z=float(log_z),
        log_z_stderr=float(log_z_stderr),
        ess_history=torch.tensor(ess_history, dtype=torch.float64),
        acceptance=torch.stack(acceptance).cpu(),
        energy_calls=target.energy_calls - calls[0],
        gradient_calls=target.gradient_calls - calls[1],
    )
