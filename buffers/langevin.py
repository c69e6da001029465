r"""Markov chains side by side, their Metropolis test, and the one Langevin move (MALA) of this project.

With step h, preconditioner S = diag(s²) and U = log π, a move proposes

    y ~ N(x + ½ h² S·c(x)·∇U(x),  h² S),        accepted with probability min(1, π(y) q(x | y) / (π(x) q(y | x))).

c(x) clips the drift to a length of 2√d standard deviations, in the proposal and in its reverse alike, so that the test
stays exact on steep densities (truncated MALA, Roberts & Tweedie 1996, "Exponential convergence of Langevin
distributions and their discrete approximations"). Step sizes vary at random by chain, which helps where the scale of
the density varies from place to place. Moves can be made in the coordinates u of a `Compressed` space as well, where
the density has the volume |dx/du| as another factor: a step is then a length near the origin and a share of |x| far
from it, so that one step size serves where scales differ by orders of magnitude (a funnel's neck and mouth). The
acceptance of 0.574 that steps are adapted to is optimal for MALA in many dimensions (Roberts & Rosenthal 1998).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..envs.spaces import Continuous
from ..envs.target import Target

__all__ = ["Chains", "Tempered", "adapted_move", "langevin_move"]

_STEP_JITTER = 0.5  # standard deviation of log step size over chains


@dataclass
class Chains:
    """States `x [n, dim]` with the target's log density `[n]` and its gradient `[n, dim]`.

    Example:
        >>> chains = Chains(torch.zeros(2, 1), torch.zeros(2), torch.zeros(2, 1))
        >>> chains.replace(torch.tensor([True, False]), torch.ones(2, 1), torch.ones(2), torch.ones(2, 1))
        >>> chains.energy
        tensor([1., 0.])
    """

    x: Tensor
    energy: Tensor
    score: Tensor

    def replace(self, where: Tensor, x: Tensor, energy: Tensor, score: Tensor) -> None:
        """Take over the rows in which `where` `[n]` is true."""
        self.x = torch.where(where[:, None], x, self.x)
        self.score = torch.where(where[:, None], score, self.score)
        self.energy = torch.where(where, energy, self.energy)


@dataclass
class Tempered:
    """The density log π_β = (1 − β)·log N(0, initial_std² I) + β·log R that moves leave alone; R itself at β = 1.

    Example:
        >>> from ebbflow.envs import get_target
        >>> Tempered(get_target("gmm25"), initial_std=1.0, beta=0.5).log_prob(torch.zeros(1, 2), torch.zeros(1))
        tensor([-0.9189])
    """

    target: Target
    initial_std: float = 1.0
    beta: float = 1.0
    context: Tensor | None = None

    def value_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The target's log density `[n]` and its gradient `[n, dim]`, at each chain's own `context` `[n, c]` if any."""
        return self.target.value_and_score(x, self.context)

    def log_initial(self, x: Tensor) -> Tensor:
        """Log density of the initial Gaussian, `[n]`."""
        constant = x.shape[-1] * math.log(self.initial_std * math.sqrt(2.0 * math.pi))
        return -0.5 * (x / self.initial_std).square().sum(dim=-1) - constant

    def log_prob(self, x: Tensor, energy: Tensor) -> Tensor:
        """log π_β `[n]`, given the target's log density `energy` there."""
        return (1.0 - self.beta) * self.log_initial(x) + self.beta * energy

    def score(self, x: Tensor, score: Tensor) -> Tensor:
        """∇log π_β `[n, dim]`, given the target's `score` there."""
        bound = 1e15  # keeps squares finite in single precision; the drift is clipped far below anyway
        slope = (1.0 - self.beta) * (-x / self.initial_std**2) + self.beta * score
        return slope.nan_to_num(posinf=bound, neginf=-bound).clamp(-bound, bound)

    def accept(self, chains: Chains, y: Tensor, energy: Tensor, score: Tensor, correction: Tensor) -> Tensor:
        """Metropolis test of proposals `y`; `correction` is log q(y→x) − log q(x→y). Returns the acceptance `[n]`."""
        log_ratio = self.log_prob(y, energy) - self.log_prob(chains.x, chains.energy) + correction
        # Outside the support: never go there. (−inf minus −inf is NaN, hence the explicit test.)
        log_ratio = torch.where(energy == -torch.inf, -torch.inf, log_ratio.nan_to_num(nan=-torch.inf, posinf=0.0))
        probability = log_ratio.clamp(max=0.0).exp()
        chains.replace(torch.rand_like(probability) < probability, y, energy, score)
        return probability


def langevin_move(
    density: Tempered, chains: Chains, std: Tensor, log_step: float | Tensor, space: Continuous | None = None
) -> Tensor:
    """One MALA move of all `chains`, in place (module docstring); one energy and one gradient call a chain.

    Args:
        density: what it leaves alone.
        chains: `n` of them.
        std: the preconditioner s `[dim]`, the unit of steps, in the coordinates of the `space`.
        log_step: log of the median step h; a tensor `[]` where it is adapted, so that nothing waits for it.
        space: in whose coordinates it is made; by default the states themselves.

    Returns:
        The acceptance probability of each chain, `[n]`.

    Example:
        >>> from ebbflow.envs import get_target
        >>> target = get_target("gmm25")
        >>> x = target.sample(10)
        >>> langevin_move(Tempered(target), Chains(x, *target.value_and_score(x)), torch.ones(2), log_step=-1.0).shape
        torch.Size([10])
    """
    x = chains.x
    n, d = x.shape
    space = Continuous(d) if space is None else space
    median = log_step.exp() if isinstance(log_step, Tensor) else math.exp(log_step)
    step = median * (_STEP_JITTER * torch.randn(n, 1, dtype=x.dtype, device=x.device)).exp()
    limit = 2.0 * math.sqrt(d)

    def mean(x: Tensor, score: Tensor) -> Tensor:
        drift = step * space.score(x, density.score(x, score)) * std  # [n, d], twice the drift in units of the noise
        clip = (limit / drift.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp(max=1.0)
        return space.coordinates(x) + 0.5 * step * std * clip * drift

    def log_density(y: Tensor, mean: Tensor) -> Tensor:
        return -0.5 * ((space.coordinates(y) - mean) / (step * std)).square().sum(dim=-1)

    forward = mean(x, chains.score)
    y = space.from_coordinates(forward + step * std * torch.randn_like(x))
    energy, score = density.value_and_score(y)
    correction = log_density(x, mean(y, score)) - log_density(y, forward)
    correction = correction + space.log_volume(y) - space.log_volume(x)
    return density.accept(chains, y, energy, score, correction)


def adapted_move(
    density: Tempered,
    chains: Chains,
    std: Tensor,
    log_step: Tensor,
    target_acceptance: float,
    space: Continuous | None = None,
) -> tuple[Tensor, Tensor]:
    """A `langevin_move`, its mean acceptance, and the log step of the next one, which follows it (Robbins–Monro).

    Both are numbers `[]` in double precision on the chains' device, which is not waited for.

    Example:
        >>> from ebbflow.envs import get_target
        >>> target = get_target("gmm25")
        >>> x = target.sample(10)
        >>> chains = Chains(x, *target.value_and_score(x))
        >>> acceptance, log_step = adapted_move(Tempered(target), chains, torch.ones(2), torch.zeros(()), 0.574)
        >>> bool(log_step == acceptance - 0.574)
        True
    """
    acceptance = langevin_move(density, chains, std, log_step, space).mean().double()
    return acceptance, log_step + (acceptance - target_acceptance)
