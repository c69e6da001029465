"""`fit`: from a log density in Python to samples and log Z, in one call."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ..buffers.anchors import Anchors
from ..envs.errors import InputError
from ..envs.registry import get_target
from ..envs.target import Target
from ..envs.targets.callable import CallableTarget
from .anchor_search import placed
from .callbacks import Callback, MetricsLogger, NaNGuard, ProgressBar
from .config import TrainConfig
from .evaluation import sample_agent, warnings_of
from .train import evaluate_run
from .trainer import Trainer, device_of

__all__ = ["FitResult", "fit"]


@dataclass(frozen=True)
class FitResult:
    """A trained sampler and what is known of it.

    Attributes:
        trainer: the trainer, whose `evaluated_agent` is sampled from.
        evaluation: the numbers of evaluation.json.
        metrics: the live numbers along training, one dict a row.
    """

    trainer: Trainer
    evaluation: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def log_z(self) -> float:
        """Importance-weighted estimate of the log normalising constant, nats; of a conditional target the mean over the
        contexts of the evaluation, which lists them one by one under `contexts`."""
        return self.evaluation["log_z"]

    @property
    def log_z_stderr(self) -> float:
        """Its standard error, nats; only to be trusted where `warnings` is empty."""
        return self.evaluation["log_z_stderr"]

    @property
    def warnings(self) -> list[str]:
        """Reasons not to trust the result, one sentence each; empty where none was found."""
        return warnings_of(self.evaluation)

    def sample(self, n: int, context: Any = None) -> Tensor:
        """`n` independent samples of the generation policy, `[n, dim]`; of a conditional one at a `context` `[c]`."""
        return self._draw(n, context)["x"]

    def weighted_sample(self, n: int, context: Any = None) -> tuple[Tensor, Tensor]:
        """`n` samples `[n, dim]` with their log importance weights `[n]`, for unbiased estimates.

        The mean weight at a context `[c]` is an unbiased estimate of Z(c).

        Raises:
            InputError: of data, whose density is not known.
        """
        self.trainer.target.require_log_prob("weighted_sample")
        drawn = self._draw(n, context)
        return drawn["x"], drawn["log_weight"]

    def _draw(self, n: int, context: Any) -> dict[str, Tensor]:
        agent, target = self.trainer.evaluated_agent, self.trainer.target
        if context is not None:
            row = torch.as_tensor(context, dtype=self.trainer.dtype)
            agent, target = agent.given(row), target.given(row.to(self.trainer.device))
        return sample_agent(agent, target, n)

    def to_arviz(self, n: int = 1000, context: Any = None) -> Any:
        """An ArviZ InferenceData of `n` samples (group `posterior`, variable `x`, one chain) with log weights.

        Raises:
            InputError: when ArviZ is not installed.
        """
        from .export import to_arviz

        drawn = self._draw(n, context)
        return to_arviz(drawn["x"], drawn.get("log_weight"), self.evaluation)


def fit(
    log_prob: Callable[..., Tensor] | Target | str,
    *,
    dim: int | None = None,
    scale: float | None = None,
    config: TrainConfig | None = None,
    samples: Tensor | None = None,
    contexts: Tensor | None = None,
    progress: bool = False,
    **settings: Any,
) -> FitResult:
    """Train a few-step sampler of an unnormalised density.

    Args:
        log_prob: log density `[n, dim] -> [n]`, or a target, or a target's name.
        dim: number of coordinates; needed for a plain function.
        scale: typical length (about the standard deviation of a coordinate); 1 for a plain function.
        config: all settings; by default those of `TrainConfig()`.
        samples: samples of your own `[n, dim]` as anchors, for example of a Markov chain, instead of the search.
        contexts: for a plain function of states and contexts, `[n, dim], [n, c] -> [n]`: rows `[m, c]` to train on.
        progress: draw a progress bar, in a terminal or notebook.
        settings: fields of `TrainConfig` by name, for example `steps=5, iterations=2000, seed=0`; nested ones as a
            table of those to change, `agent={"width": 32}`, or as a whole, `agent=AgentConfig(width=32)`.

    Returns:
        A `FitResult`: `sample`, `log_z`, `log_z_stderr`, `warnings`, `to_arviz`.

    Raises:
        InputError: for settings or densities that cannot be used; the message names which and why.

    Example:
        >>> result = fit(lambda x: -0.5 * x.square().sum(-1), dim=2, steps=2, iterations=20, seed=0)
        >>> result.sample(3).shape
        torch.Size([3, 2])
        >>> abs(result.log_z - 1.8379) < 0.2  # log 2π
        True
    """
    values = (config or TrainConfig()).to_dict()
    for name, value in settings.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            value = values[name] | value
        values[name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    if dim is not None:
        values["dim"] = dim
    if scale is not None:
        values["scale"] = scale
    if isinstance(log_prob, str):
        target = get_target(log_prob, dim=dim, scale=scale)
    elif isinstance(log_prob, Target):
        target = get_target(log_prob, dim=dim)
    else:
        if dim is None:
            raise InputError("dim: needed for a plain log density, got None")
        target = CallableTarget(log_prob, dim, scale=1.0 if scale is None else scale, contexts=contexts)
    if contexts is not None and not isinstance(target, CallableTarget):
        raise InputError(f"contexts: target {target.name!r} has its own, or none; they are for a plain log density")
    values["target"] = target.name
    config = TrainConfig.from_dict(values, origin="fit")
    anchors = None
    if samples is not None and not target.has_log_prob:
        raise InputError(
            f"samples: expected none for target {target.name!r}, which has no log density to learn and samples of its "
            "own; to learn from yours, fit(Dataset.split(samples))"
        )
    if samples is not None:
        where = device_of(config), getattr(torch, config.dtype)
        anchors = Anchors.from_samples(target.to(*where), placed(target, _states(samples), *where))
    trainer = Trainer(target, config, anchors=anchors)
    metrics = MetricsLogger()
    callbacks: list[Callback] = [NaNGuard(), metrics]
    bar = ProgressBar(metrics) if progress else None
    trainer.callbacks = callbacks if bar is None else [*callbacks, bar]
    try:
        trainer.train()
    finally:
        if bar is not None:
            bar.stop()
    return FitResult(trainer, evaluate_run(trainer), metrics.rows)


def _states(samples: Any) -> Tensor:
    try:
        return torch.as_tensor(samples)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"samples: expected numbers [n, dim], got {type(samples).__name__} ({error})") from error
