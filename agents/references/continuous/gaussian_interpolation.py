r"""Destroy by interpolating between sample and noise: the levels of diffusion without its Markov chain.

    level       x_k     | x_T      ~ N(a_k x_T, v_k)              as of the chain, whatever η
    posterior   x_{k+1} | x_k, x_T ~ N(a_{k+1} x_T + √(v_{k+1} − η² ṽ_k) · (x_k − a_k x_T) / √v_k,  η² ṽ_k)
    step        x_k | x_{k+1}, x_T ~ N(a_k x_T + √(v_k (v_{k+1} − η² ṽ_k)) / v_{k+1} · (x_{k+1} − a_{k+1} x_T),
                                       η² ṽ_k v_k / v_{k+1})

With α_k = a_k² = 1 − v_k that is x_k = √α_k x_T + √(1 − α_k) z. At η = 1 it is the Markov chain, with ṽ_k the variance
of its posterior. At η = 0 one noise z serves all levels of a path: a step of destruction, but for the first one that
draws z, is certain given x_T, and so is all of generation given the guess; there are no densities. What is learned at
one η serves all others, for the levels are the same, and so is the guess.
Source: Song et al., https://arxiv.org/abs/2010.02502 (DDIM), equations 6, 7 and 12; https://arxiv.org/abs/2605.30553.
"""

from typing import ClassVar

import torch
from torch import Tensor

from ....envs.errors import InputError
from ....envs.spaces import Continuous
from ..gaussian import GaussianReference
from .gaussian_noise import GaussianNoise

__all__ = ["GaussianInterpolation"]


class GaussianInterpolation(GaussianNoise):
    """Interpolates between sample and noise (module docstring).

    Args:
        space: the space, of dimension dim.
        process: factors and variances of the Markov chain whose levels it has; its levels below T all have noise.
        eta: η, from 0 (one noise for all levels) to 1 (the Markov chain).
        scale: standard deviation of a coordinate of the data, about.
        guess: "sample" for guesses of x_T, "noise" for guesses of z.

    Raises:
        InputError: as `GaussianNoise`, for an `eta` out of range, for a process that ends in the Dirac at 0, and, of
            η = 0, whenever a density of a step is asked for.

    Example:
        >>> from ebbflow.agents import TimeGrid
        >>> from ebbflow.agents.references import variance_preserving
        >>> process = variance_preserving(TimeGrid.shrinking(20), sigma=1.0)
        >>> reference = GaussianInterpolation(Continuous(2), process, eta=0.0)
        >>> x = torch.ones(2)
        >>> path = [reference.sample_level(x, 19)]
        >>> for k in reversed(range(19)):
        ...     path.append(reference.sample_step_given(path[-1], x, k))
        >>> noise = torch.stack([reference.guessed_noise(x, state, 19 - j) for j, state in enumerate(path)])
        >>> bool((noise - noise[0]).abs().max() < 1e-4)  # the same one at all levels
        True
    """

    markov: ClassVar[bool] = False

    def __init__(
        self,
        space: Continuous,
        process: GaussianReference,
        *,
        eta: float = 1.0,
        scale: float = 1.0,
        guess: str = "sample",
    ) -> None:
        if process.is_dirac:
            raise InputError("process: expected one that ends in noise, got one that ends in the Dirac at 0")
        super().__init__(space, process, scale=scale, guess=guess, variance="posterior")
        if not 0.0 <= eta <= 1.0:
            raise InputError(f"eta: expected a number from 0 to 1, got {eta!r}")
        self.eta = float(eta)
        self.has_density = self.eta > 0.0
        a, v, before = self.level_factor, self.level_variance[:-1], self.level_variance[1:]
        spread = eta**2 * self.posterior_variance
        first = before == 0.0  # k = T − 1: noise is drawn, and x_{k+1} = x_T says nothing more than x_T
        self.posterior_state = ((before - spread) / v).sqrt()
        self.posterior_sample = a[1:] - self.posterior_state * a[:-1]
        self.posterior_variance = spread
        self.step_state = torch.where(first, 0.0, self.posterior_state * v / before)
        self.step_sample = a[:-1] - self.step_state * a[1:]
        self.step_variance = torch.where(first, v, spread * v / before)
        self.reverse_variance = torch.where(first, eta**2 * self.reverse_variance, spread)

    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """Not without x_T: this destruction is no Markov chain, see `sample_step_given`."""
        raise InputError("sample: expected x_T, for this destruction is no Markov chain: sample_step_given")

    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """Not without x_T: this destruction is no Markov chain, see `log_prob_step_given`."""
        raise InputError("sample: expected x_T, for this destruction is no Markov chain: log_prob_step_given")

    def log_prob_step_given(self, state: Tensor, following: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """log density of x_k given x_{k+1} and x_T, `[...]`."""
        self._need_density()
        return super().log_prob_step_given(state, following, sample, k)

    def mean_log_prob_step(self, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """Minus the entropy of a step, `[...]`."""
        self._need_density()
        return super().mean_log_prob_step(sample, following, state, k)

    def log_prob_reverse(self, guess: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """log density of x_{k+1} `[...]`."""
        self._need_density()
        return super().log_prob_reverse(guess, following, state, k)

    def _need_density(self) -> None:
        if not self.has_density:
            raise self._no_density("a step at eta = 0, which is deterministic")
