r"""Destroy by Gaussian noise, as a Markov chain: diffusion, in the tables of any linear-Gaussian process.

    step        x_k     | x_{k+1}  ~ N(f_k x_{k+1}, w_k)
    level       x_k     | x_T      ~ N(a_k x_T, v_k)                        a_T = 1, v_T = 0
    posterior   x_{k+1} | x_k, x_T ~ N((v_{k+1} f_k x_k + w_k a_{k+1} x_T) / v_k,  ṽ_k),     ṽ_k = v_{k+1} w_k / v_k
    generation  x_{k+1} | x_k      ~ the mean of the posterior at a guess x̂_T of x_T, and a variance u_k

u_k is the generation variance of the process, which is exact for data N(0, s²), or ṽ_k, which is exact for a single
point; where ṽ_k is 0, in the last step, it is the former. The guess is of x_T, or of the noise z in x_k = a_k x_T +
√v_k z, which is the same said otherwise: x̂_T = (x_k − √v_k ẑ) / a_k. Of the likelihood bound, everything but the
squared error of x̂_T is closed.
Sources: Ho et al., https://arxiv.org/abs/2006.11239 (variance preserving); https://arxiv.org/abs/1907.05600
(exploding); https://arxiv.org/abs/2605.30553.
"""

import math

import torch
from torch import Tensor

from ....envs.channels.gaussian import GaussianChannel
from ....envs.errors import InputError
from ....envs.spaces import Continuous
from ...actors import gaussian_log_prob
from ..gaussian import GaussianReference
from .reference import ContinuousReference, at

__all__ = ["GaussianNoise"]


class GaussianNoise(ContinuousReference):
    """Destroys by a linear-Gaussian process (module docstring).

    A process that ends in the Dirac at 0 has no density in the last step of destruction, k = 0, nor has p_0: both count
    as 0, for they cancel. So does the level k = T, which is the sample itself.

    Args:
        space: the space, of dimension dim.
        process: factors and variances, of `variance_preserving(grid, sigma)`, `geometric_noise(steps)` (exploding), ….
        scale: standard deviation of a coordinate of the data, about; the guess of an untrained network is best for it.
        guess: "sample" for guesses of x_T, "noise" for guesses of z.
        variance: of generation, "process" or "posterior" (module docstring).

    Raises:
        InputError: for a space that is not continuous, settings out of range, guesses of a noise from which the sample
            does not follow (a_k = 0), and for steps and levels out of range.

    Example:
        >>> from ebbflow.agents import TimeGrid
        >>> from ebbflow.agents.references import variance_preserving
        >>> reference = GaussianNoise(Continuous(2), variance_preserving(TimeGrid.shrinking(20), sigma=1.0))
        >>> x = torch.ones(5, 2)
        >>> reference.sample_level(x, 0).shape  # x_0: hardly anything of x is left
        torch.Size([5, 2])
        >>> float(reference.log_prob_step(torch.zeros(2), torch.zeros(2), 0)) > -2.0
        True
    """

    def __init__(
        self,
        space: Continuous,
        process: GaussianReference,
        *,
        scale: float = 1.0,
        guess: str = "sample",
        variance: str = "process",
    ) -> None:
        super().__init__(space, process.steps, scale)
        if variance not in ("process", "posterior"):
            raise InputError(f"variance: expected 'process' or 'posterior', got {variance!r}")
        if guess not in ("sample", "noise"):
            raise InputError(f"guess: expected 'sample' or 'noise', got {guess!r}")
        self.process = process
        self.guess = guess
        levels = torch.tensor([process.level(k) for k in range(self.steps + 1)], dtype=torch.float64)
        self.level_factor, self.level_variance = levels.unbind(-1)  # a, v: [T+1]
        a, v, before = self.level_factor, self.level_variance[:-1], self.level_variance[1:]
        # With x_{k+1} and x_T: the mean of a step of destruction is step_state · x_{k+1} + step_sample · x_T.
        self.step_state = torch.tensor(process.destruction_factor, dtype=torch.float64)  # f
        self.step_sample = torch.zeros_like(v)
        self.step_variance = torch.tensor(process.destruction_variance, dtype=torch.float64)  # w
        dirac = v == 0.0  # x_0 = 0 says nothing: the posterior is the level
        self.posterior_state = torch.where(dirac, 0.0, before * self.step_state / v)
        self.posterior_sample = torch.where(dirac, a[1:], self.step_variance * a[1:] / v)
        self.posterior_variance = torch.where(dirac, before, before * self.step_variance / v)  # ṽ
        self.reverse_variance = torch.tensor(process.generation_variance, dtype=torch.float64)  # u
        if variance == "posterior":
            last = torch.arange(self.steps) == self.steps - 1
            self.reverse_variance = torch.where(last, self.reverse_variance, self.posterior_variance)
        if guess == "noise" and bool(((a[:-1] == 0.0) | dirac).any()):
            raise InputError("guess: expected 'sample' for a process that ends in a single point, got 'noise'")
        self._scale_guesses()

    def _scale_guesses(self) -> None:
        """The best guess for data N(0, scale²), and how far from it the sample lies, from the reversed channel."""
        a, v = self.level_factor[:-1], self.level_variance[:-1]
        best = [
            GaussianChannel(float(gain), float(noise)).reversed(0.0, self.scale**2)
            if gain or noise
            else GaussianChannel(0.0, self.scale**2)
            for gain, noise in zip(a, v, strict=True)
        ]
        gain = torch.tensor([one.gain for one in best], dtype=torch.float64)
        spread = torch.tensor([one.variance for one in best], dtype=torch.float64).sqrt()
        self.state_scale = (a.square() * self.scale**2 + v).sqrt()
        self.state_scale = torch.where(self.state_scale > 0.0, self.state_scale, 1.0)
        if self.guess == "noise":
            gain, spread = (1.0 - a * gain) / v.sqrt(), a * spread / v.sqrt()
        self.guess_gain, self.guess_spread = gain, spread

    # Guesses --------------------------------------------------------------------------------------------------------

    def guessed_sample(self, guess: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """x̂_T `[..., dim]`: the guess, or (x_k − √v_k ẑ) / a_k of a guessed noise."""
        k = self._step(k, state)
        if self.guess == "sample":
            return guess
        a, v = at(self.level_factor, k, state), at(self.level_variance, k, state)
        return (state - v.sqrt() * guess) / a

    def guessed_noise(self, guess: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """ẑ `[..., dim]`: the guess, or (x_k − a_k x̂_T) / √v_k of a guessed sample."""
        k = self._step(k, state)
        if self.guess == "noise":
            return guess
        a, v = at(self.level_factor, k, state), at(self.level_variance, k, state)
        return (state - a * guess) / v.sqrt()

    # Destruction ----------------------------------------------------------------------------------------------------

    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """f_k x_{k+1} and noise, `[..., dim]`."""
        return self.sample_step_given(following, torch.zeros_like(following), k)

    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """log N(x_k; f_k x_{k+1}, w_k) `[...]`."""
        return self.log_prob_step_given(state, following, torch.zeros_like(following), k)

    def sample_step_given(self, following: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """x_k `[..., dim]`; x_T does not matter to a Markov chain."""
        k = self._step(k, following)
        mean = at(self.step_state, k, following) * following + at(self.step_sample, k, following) * sample
        return mean + at(self.step_variance, k, following).sqrt() * torch.randn_like(mean)

    def log_prob_step_given(self, state: Tensor, following: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """log density of x_k `[...]`; 0 where the step is certain."""
        k = self._step(k, following)
        mean = at(self.step_state, k, following) * following + at(self.step_sample, k, following) * sample
        return _log_prob(state, mean, at(self.step_variance, k, following))

    def mean_log_prob_step(self, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """−(dim / 2)(1 + log 2π w_k) `[...]`, minus the entropy of a step."""
        return -self._entropy(self._step(k, state), state).expand(state.shape[:-1])

    def sample_level(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """a_k x_T + √v_k z, `[..., dim]`."""
        k = self._level(k, sample)
        mean = at(self.level_factor, k, sample) * sample
        return mean + at(self.level_variance, k, sample).sqrt() * torch.randn_like(mean)

    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """log N(x_k; a_k x_T, v_k) `[...]`; 0 at k = T."""
        k = self._level(k, sample)
        return _log_prob(state, at(self.level_factor, k, sample) * sample, at(self.level_variance, k, sample))

    def sample_destroyed(self, n: int) -> Tensor:
        """Draws of N(0, initial_std²), `[n, dim]`, in torch's default dtype."""
        return self.process.initial_std * torch.randn(n, self.space.dim)

    def log_prob_destroyed(self, state: Tensor) -> Tensor:
        """log N(x_0; 0, initial_std²) `[...]`; 0 of the Dirac."""
        return _log_prob(state, torch.zeros_like(state), state.new_full((1,), self.process.initial_std**2))

    def mean_log_prob_destroyed(self, sample: Tensor) -> Tensor:
        """Its mean over x_0 given x_T = `sample`, `[...]`, closed."""
        if self.process.is_dirac:
            return self.log_prob_destroyed(sample)
        a, v = float(self.level_factor[0]), float(self.level_variance[0])
        return self.log_prob_destroyed(a * sample) - 0.5 * self.space.dim * v / self.process.initial_std**2

    # Generation -----------------------------------------------------------------------------------------------------

    def reverse_mean(self, sample: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """Mean of x_{k+1} given x_k = `state` and x_T = `sample`, or a guess of it, `[..., dim]`."""
        k = self._step(k, state)
        return at(self.posterior_state, k, state) * state + at(self.posterior_sample, k, state) * sample

    def sample_reverse(self, guess: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """The mean at the guess and noise of variance u_k, `[..., dim]`."""
        mean = self.reverse_mean(self.guessed_sample(guess, state, k), state, k)
        return mean + at(self.reverse_variance, self._step(k, state), state).sqrt() * torch.randn_like(mean)

    def log_prob_reverse(self, guess: Tensor, following: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """log N(x_{k+1}; the mean at the guess, u_k) `[...]`."""
        mean = self.reverse_mean(self.guessed_sample(guess, state, k), state, k)
        return _log_prob(following, mean, at(self.reverse_variance, self._step(k, state), state))

    def mean_log_prob_reverse(
        self, guess: Tensor, sample: Tensor, following: Tensor, state: Tensor, k: int | Tensor
    ) -> Tensor:
        """Its mean over x_{k+1} given x_k and x_T, `[...]`: at the posterior's mean, less (dim / 2) ṽ_k / u_k."""
        expected = self.log_prob_reverse(guess, self.reverse_mean(sample, state, k), state, k)
        return expected - self._excess(self._step(k, state), state)

    def known_term(self, k: int | Tensor) -> Tensor:
        """`mean_log_prob_reverse` of the right guess plus the entropy of the step, `[...]`."""
        like = self.step_variance.to(torch.as_tensor(k).device, torch.get_default_dtype())
        k = self._step(k, like)
        u = at(self.reverse_variance, k, like).squeeze(-1)
        return self._entropy(k, like) - self._excess(k, like) - 0.5 * self.space.dim * (2.0 * math.pi * u).log()

    @property
    def level_law(self) -> Tensor | None:
        """Nine tenths in proportion to what the error of the best guess costs at each step, for data N(0, scale²).

        Steps near the sample cost by far the most. None where there are no densities.
        """
        if not self.has_density:
            return None
        a, v = self.level_factor[:-1], self.level_variance[:-1]
        left = torch.where(a.square() + v > 0.0, v / (a.square() * self.scale**2 + v), 1.0)  # of the data's variance
        cost = self.posterior_sample.square() * left / self.reverse_variance
        return 0.9 * cost / cost.sum() + 0.1 / self.steps

    def _entropy(self, k: Tensor, like: Tensor) -> Tensor:
        w = at(self.step_variance, k, like).squeeze(-1)
        nats = 0.5 * self.space.dim * (1.0 + (2.0 * math.pi * torch.where(w > 0.0, w, 1.0)).log())
        return torch.where(w > 0.0, nats, 0.0)

    def _excess(self, k: Tensor, like: Tensor) -> Tensor:
        """(dim / 2) ṽ_k / u_k: what the spread of x_{k+1} given x_k and x_T takes from a log density."""
        return 0.5 * self.space.dim * (at(self.posterior_variance / self.reverse_variance, k, like)).squeeze(-1)


def _log_prob(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(x; mean, variance) `[...]` with variances `[..., 1]`; 0 where the variance is."""
    certain = variance == 0.0
    density = gaussian_log_prob(x, mean, torch.where(certain, 1.0, variance).log())
    return torch.where(certain.squeeze(-1), 0.0, density)
