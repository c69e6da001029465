r"""Sampling in the latent space of a generator: latents whose image is rewarded.

    π(z | c) ∝ p(z) · exp(β · r(G(z), c)),        Z(c) = E_{z ~ p}[exp(β · r(G(z), c))]  for a normalised prior p,

with a prior p (usually N(0, I)), a generator G, a reward r, a context c (a class, a prompt) and an inverse temperature
β: section 4.4 of arXiv 2506.01541. With r(x, c) = log p(c | x), a classifier's, and β = 1 this is Bayes' posterior of
z given the class.

Where the reward is bounded, r ≤ b, rejection sampling is exact: a draw of the prior is kept with probability
exp(β · (r − b)). It costs exp(β·b) / Z(c) rewards a sample, and is the reference that a sampler is held to.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..spaces import Continuous
from ..target import Target
from .mixtures import GaussianMixture

__all__ = ["ClassReward", "LatentTarget"]

_MOST_ROUNDS = 100_000  # proposals for one sample: with acceptance rates below this, rejection is no way to sample


class ClassReward(nn.Module):
    """r(x, c) = Σ_k c_k · log p(k | x): the log-probability that a classifier gives to the class c; never above 0.

    Args:
        classifier: images to logits, `[n, ...] -> [n, classes]`.

    Example:
        >>> reward = ClassReward(nn.Linear(4, 3))
        >>> reward(torch.zeros(5, 4), torch.eye(3)[[0, 1, 2, 0, 1]]).shape
        torch.Size([5])
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Rewards `[n]` of images `[n, ...]` for classes `[n, classes]`, one-hot or a distribution."""
        return (context * self.classifier(x).log_softmax(-1)).sum(-1)


class LatentTarget(Target):
    """The tilted prior of a generator's latents (module docstring).

    Generator and reward are frozen, in evaluation mode, and move with the target. Rejection sampling evaluates them
    too, so `sample` counts its proposals as energy calls.

    Args:
        prior: number of latent coordinates for N(0, I), or a target with a log density (and samples, for `sample`).
        generator: latents to images, or to anything that the reward reads, `[n, dim] -> [n, ...]`.
        reward: images to rewards in nats, `[n, ...] -> [n]`; with `contexts`, images and contexts to rewards,
            `[n, ...], [n, c] -> [n]`.
        beta: inverse temperature β >= 0.
        contexts: `[m, c]`, contexts to train on, each as likely as any other; without them the target has no context.
        reward_bound: b >= r(x, c) for all x and c, where known; then `sample` is exact.
        name: what messages and reports call it.

    Raises:
        InputError: for arguments out of range; when evaluated, if generator or reward give another shape, or when
            sampled, a reward is above its bound or none of 100,000 proposals was accepted.

    Example:
        >>> generator = nn.Linear(8, 4)
        >>> target = LatentTarget(8, generator, lambda x: -x.square().sum(-1), beta=2.0, reward_bound=0.0)
        >>> target(torch.zeros(5, 8)).shape, target.sample(3).shape, target.energy_calls >= 8
        (torch.Size([5]), torch.Size([3, 8]), True)
        >>> classes = LatentTarget(8, generator, ClassReward(nn.Linear(4, 3)), contexts=torch.eye(3), reward_bound=0.0)
        >>> classes.given(torch.eye(3)[0]).sample(2).shape
        torch.Size([2, 8])
    """

    contexts: Tensor | None

    def __init__(
        self,
        prior: int | Target,
        generator: Callable[[Tensor], Tensor],
        reward: Callable[..., Tensor],
        beta: float = 1.0,
        *,
        contexts: Tensor | None = None,
        reward_bound: float | None = None,
        name: str = "latent",
    ) -> None:
        if not isinstance(prior, Target):
            prior = GaussianMixture(torch.zeros(1, Continuous(prior).dim), std=1.0)
        prior.require_log_prob("prior")
        for field, value in (("generator", generator), ("reward", reward)):
            if not callable(value):
                raise InputError(f"{field}: expected a torch module or a function, got {type(value).__name__}")
        if not 0.0 <= beta < math.inf:
            raise InputError(f"beta: expected a finite number >= 0, got {beta!r}")
        if reward_bound is not None and not math.isfinite(reward_bound):
            raise InputError(f"reward_bound: expected a finite number or None, got {reward_bound!r}")
        if contexts is not None and (contexts.ndim != 2 or not len(contexts) or not bool(contexts.isfinite().all())):
            raise InputError(f"contexts: expected finite values of shape [m, c], got shape {list(contexts.shape)}")
        space = None if contexts is None else Continuous(contexts.shape[1])
        super().__init__(prior.space, scale=prior.scale, name=name, context_space=space)
        self.register_buffer("contexts", None if contexts is None else contexts.detach().clone(), persistent=False)
        self.prior = prior
        self.generator = generator
        self.reward = reward
        self.beta = float(beta)
        self.reward_bound = reward_bound
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "LatentTarget":
        """Stay in evaluation mode: a batch normalisation that sees the batch would make no density."""
        super().train(False)
        return self

    def reward_of(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """r(G(z), c) of latents `[n, dim]` and contexts `[n, c]`: `[n]`, nats; not counted.

        Raises:
            InputError: if generator or reward give another shape than they should.
        """
        x = self.generator(z)
        if not isinstance(x, Tensor) or x.ndim < 1 or len(x) != len(z):
            raise InputError(f"generator: expected a tensor [{len(z)}, ...] of {len(z)} latents, got {_what(x)}")
        value = self.reward(x) if context is None else self.reward(x, context)
        if not isinstance(value, Tensor) or value.shape != z.shape[:1]:
            raise InputError(f"reward: expected a tensor [{len(z)}] for {len(z)} latents, got {_what(value)}")
        return value

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(z) + β · r(G(z), c) of latents `x`, `[..., dim] -> [...]`, with a context `[..., c]` beside each."""
        z = x.reshape(-1, self.space.dim)
        rows = None if context is None else context.reshape(-1, context.shape[-1])
        return (self.prior.log_prob(z) + self.beta * self.reward_of(z, rows)).reshape(x.shape[:-1])

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """`n` exact samples by rejection, `[n, dim]`, one for each of the contexts `[n, c]`.

        Raises:
            InputError: without a `reward_bound`, or with one that is too low, or too high to ever accept.
        """
        if self.reward_bound is None:
            return super().sample(n)
        pending = torch.arange(n)
        latents = self.prior.sample(n)
        rounds = 0
        with torch.no_grad():
            while len(pending):
                if rounds == _MOST_ROUNDS:
                    raise InputError(
                        f"target {self.name!r}: none of {rounds:,} proposals was accepted for {len(pending)} of {n} "
                        f"samples; try a reward_bound below {self.reward_bound:g}, or beta below {self.beta:g}"
                    )
                rounds += 1
                z = latents[pending] if rounds == 1 else self.prior.sample(len(pending))
                rows = None if context is None else context[pending.to(context.device)].to(z)
                excess = self.reward_of(z, rows) - self.reward_bound
                self.energy_calls += len(z)
                if bool((excess > 1e-4).any()):
                    raise InputError(
                        f"reward_bound: expected {self.reward_bound:g} or less from every reward, got "
                        f"{float(excess.max()) + self.reward_bound:g}"
                    )
                latents[pending] = z
                accepted = torch.rand_like(excess).log() < self.beta * excess
                pending = pending[~accepted.cpu()]
        return latents

    def sample_context(self, n: int) -> Tensor:
        """`n` of the contexts, drawn uniformly with replacement, `[n, c]`."""
        if self.contexts is None:
            return super().sample_context(n)
        return self.contexts[torch.randint(len(self.contexts), (n,), device=self.contexts.device)]

    @property
    def can_sample(self) -> bool:
        """Whether rejection sampling is possible: the reward has a bound, and the prior has samples."""
        return self.reward_bound is not None and self.prior.can_sample


def _what(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
