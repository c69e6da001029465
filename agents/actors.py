r"""Heads: from hidden vectors to Gaussian steps, as corrections of a reference process.

With r, s², the reference factor and variance of the step, y = x_{k+1}, x = x_k, and raw head outputs a, b, c (all zero
at initialisation, so that every form starts as the reference bit for bit):

    generation mean          g·x + √v·(a + λ_k·clip(√v·∇log R(x), ±1))     v: reference generation variance; λ: Langevin
    generation variance      v                              "fixed"
                             v · exp(L·tanh(b/L))           "learned"
    destruction mean         r·y                            "reference"
                             r·y − (1−r)·y·C·tanh(a)        "multiplicative"; r·y where s = 0
                             r·y + s·C·tanh(a)              "bounded_offset"
                             r·y + s·a                      "offset"
    destruction variance     s²                             "reference"
                             s² · (1 + C·tanh(b)), C < 1    "multiplicative"
                             s² · exp(C·tanh(b))            "log_bounded"
                             s² · exp(b)                    "free"

A step with s = 0 (the last one to a Dirac) has nothing to learn: every form leaves it deterministic at r·y.

With a *gain*, each mean that is learned has one more term, g·x·tanh(q·c) or r·y·tanh(q·c), with q² the step's share of
all steps' reference variance, so that c moves a state at a typical distance by c of the step's standard deviations. It
adds ten of them at most: a path that a wrong factor throws far out costs the ELBO more than all others together. A
Gaussian of width w seen through noise of width s has the mean x·w²/(w² + s²): where widths vary from place to place
(the neck of a funnel, the saddle of a double well) this factor is a smooth function of the place, which an offset
would have to multiply by x itself, to a precision of w.

Learned means may be held within a box, about where the density was found (`Reach`).

Source: arXiv 2506.01541 (adaptive destruction) and its code lineage; "offset"/"free" is the unconstrained form.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ..envs.errors import InputError
from .backbone import StepIndex
from .reach import Reach
from .readout import Readout
from .references.gaussian import GaussianReference
from .references.learned_schedule import LearnedSchedule
from .rows_innermost import as_columns

__all__ = [
    "DESTRUCTION_MEANS",
    "DESTRUCTION_VARIANCES",
    "DestructionHead",
    "DiracNormal",
    "GenerationHead",
    "gaussian_log_prob",
]

LOG_2PI = math.log(2.0 * math.pi)
_LARGEST_GAIN = 10.0  # standard deviations of the reference's step

MeanForm = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
DESTRUCTION_MEANS: dict[str, MeanForm | None] = {  # (raw, y, factor, std, bound) -> mean - factor * y, as a product
    "reference": None,
    "multiplicative": lambda raw, y, r, s, bound: (-2.0 * bound * s.sign() * (1.0 - r) * y, _half_tanh(raw + raw)),
    "bounded_offset": lambda raw, y, r, s, bound: (2.0 * bound * s, _half_tanh(raw + raw)),
    "offset": lambda raw, y, r, s, bound: (s, raw),
}
DESTRUCTION_VARIANCES: dict[str, Callable[[Tensor, float], Tensor] | None] = {  # (raw, bound) -> log correction
    "reference": None,
    "multiplicative": lambda raw, bound: (2.0 * bound * _half_tanh(raw + raw)).log1p(),
    "log_bounded": lambda raw, bound: 2.0 * bound * _half_tanh(raw + raw),
    "free": lambda raw, bound: raw,
}


def gaussian_log_prob(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log density of N(mean, exp(log_variance)) at `x`, summed over the last axis: `[..., dim] -> [...]`.

    Example:
        >>> gaussian_log_prob(torch.zeros(2), torch.zeros(2), torch.zeros(2))
        tensor(-1.8379)
    """
    away = x - mean
    terms = torch.addcmul(log_variance, away, away * (-log_variance).exp())
    total = terms.movedim(0, -1).sum(-2).movedim(-1, 0) if terms.ndim > 1 else terms.sum(-1)  # rows innermost
    return -0.5 * (total + x.shape[-1] * LOG_2PI)


class DiracNormal(Independent):
    """Independent normal over the last axis in which a zero scale is a Dirac: sampled as `loc`, log density 0.

    Args:
        loc, scale: `[..., dim]`, in units of the state; scale >= 0.

    Example:
        >>> DiracNormal(torch.ones(3), torch.zeros(3)).sample()
        tensor([1., 1., 1.])
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(Normal(loc, scale, validate_args=False), 1, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparametrised sample; one standard normal number a coordinate, also where the scale is zero."""
        loc = self.base_dist.loc.expand(*sample_shape, *self.base_dist.loc.shape)
        noise = torch.randn(loc.shape, dtype=loc.dtype, device=loc.device)  # drawn row by row in any memory order
        return torch.addcmul(loc, self.base_dist.scale.expand_as(loc), noise)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density with respect to Lebesgue measure, and 0 on coordinates that are Diracs: `[...]`."""
        loc, scale = self.base_dist.loc, self.base_dist.scale
        dirac = scale == 0
        z = (value - loc) / torch.where(dirac, torch.ones_like(scale), scale)
        terms = -0.5 * (z.square() + LOG_2PI) - torch.where(dirac, torch.ones_like(scale), scale).log()
        return torch.where(dirac, torch.zeros_like(terms), terms).sum(-1)


def _column(values: Sequence[float]) -> Tensor:
    """Per-step numbers as `[T, 1]`, so that any StepIndex of them broadcasts against `[..., dim]`."""
    return torch.as_tensor(values, dtype=torch.get_default_dtype()).unsqueeze(-1)


def _half_tanh(x: Tensor) -> Tensor:
    """½·tanh(x/2), exactly 0 at 0; the factors are the callers', who multiply anyway.

    It is made of the logistic function, of which a CPU computes six in the time of one hyperbolic tangent.
    """
    return x.sigmoid() - 0.5


def _with_gain(mean: Tensor, raw: Tensor, kept: Tensor, std: Tensor, twice_unit: Tensor) -> Tensor:
    """A mean and what a gain adds to it, if it keeps `kept` of the state (module docstring)."""
    limit = 0.5 * _LARGEST_GAIN * std
    return torch.add(mean, (kept * _half_tanh(twice_unit * raw)).clamp(-limit, limit), alpha=2.0)


def _constants(factor: Tensor, variance: Tensor, gain_unit: Tensor) -> Tensor:
    """What each step reads: factor, standard deviation, log variance and 2 q, from `[..., dim]` to `[4, ..., dim, 1]`.

    They go with columns, and may be the same of all coordinates.
    """
    gain = (2.0 * gain_unit).expand_as(factor)
    return torch.stack([factor, variance.sqrt(), variance.log(), gain]).unsqueeze(-1)


def _constants_at(
    transition: StepIndex, constants: Tensor, scheduled: tuple[Tensor, Tensor, Tensor] | None
) -> tuple[Tensor, ...]:
    """The four `_constants` of transitions, or those made of what is `scheduled`; of one per row they go with the rows.

    Of a schedule only those that are read are made: the last destruction has no gradient of its standard deviation.
    """
    if scheduled is None:
        found = constants[:, transition]
    else:
        found = _constants(*(values[transition] for values in scheduled))
    if isinstance(transition, Tensor) and transition.ndim:
        found = found.squeeze(-1).movedim(1, -1)
    return found.unbind(0)


def _gain_units(variances: Sequence[float]) -> Tensor:
    """q of the module docstring for each step, `[T, 1]`; 0 where nothing moves."""
    total = sum(variances)
    return _column([math.sqrt(v / total) if v > 0 else 0.0 for v in variances])


class GenerationHead(nn.Module):
    """Gaussian generation step x_k → x_{k+1} as a learned correction of the reference (module docstring).

    Args:
        reference: the reference process.
        dim: state dimension.
        width: width of the hidden vectors that it reads.
        features: number of features of one coordinate.
        variance: `learned` or `fixed`.
        log_variance_bound: L, the largest |log(variance / reference variance)|, > 0 and finite.
        langevin: add the bounded Langevin drift; then `forward` needs the score.
        gain: let the mean have a gain.
        reach: hold means within a `Reach`, at first without end.
        tables: add the per-step, per-coordinate table.
        schedule: the destruction policy's learned schedule, whose reversal takes the reference's place.

    Raises:
        InputError: for an unknown variance form or a bound that is not positive and finite.

    Example:
        >>> from ebbflow.agents import TimeGrid
        >>> from ebbflow.agents.references import brownian_bridge
        >>> head = GenerationHead(brownian_bridge(TimeGrid.uniform(4), sigma=2.0), dim=2, width=8, features=3)
        >>> mean, log_variance = head(torch.randn(5, 8), torch.randn(5, 2, 3), torch.ones(5, 2), 0)
        >>> mean[0], log_variance.exp()[0]  # untrained, it is the reference: N(x, σ²Δ)
        (tensor([1., 1.], grad_fn=<SelectBackward0>), tensor([1., 1.], grad_fn=<SelectBackward0>))
    """

    factor: Tensor
    variance: Tensor
    gain_unit: Tensor
    constants: Tensor

    def __init__(
        self,
        reference: GaussianReference,
        dim: int,
        *,
        width: int,
        features: int,
        variance: str = "learned",
        log_variance_bound: float = 8.0,
        langevin: bool = False,
        gain: bool = True,
        reach: bool = False,
        tables: bool = True,
        schedule: LearnedSchedule | None = None,
    ) -> None:
        super().__init__()
        if variance not in ("learned", "fixed"):
            raise InputError(f"generation_variance: expected 'learned' or 'fixed', got {variance!r}")
        if not 0.0 < log_variance_bound < math.inf:
            raise InputError(f"log_variance_bound: expected a finite number > 0, got {log_variance_bound!r}")
        self.learned_variance = variance == "learned"
        self.gain = gain
        self.reach = Reach(dim) if reach else None
        self.bound = float(log_variance_bound)
        self.register_buffer("factor", _column(reference.generation_factor), persistent=False)
        self.register_buffer("variance", _column(reference.generation_variance), persistent=False)
        self.register_buffer("gain_unit", _gain_units(reference.generation_variance), persistent=False)
        self.register_buffer("constants", _constants(self.factor, self.variance, self.gain_unit), persistent=False)
        outputs = 1 + self.learned_variance + self.gain
        self.readout = Readout(width, dim, outputs, steps=reference.steps, features=features, tables=tables)
        self.langevin = nn.Parameter(torch.zeros(reference.steps, 1)) if langevin else None
        self._schedule = (schedule,)  # which is no part of this policy, but of the other one

    def forward(
        self,
        hidden: Tensor | None,
        features: Tensor | None,
        state: Tensor,
        transition: StepIndex,
        score: Tensor | None = None,
        raw: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean `[..., dim]` and log variance (broadcastable to it) of x_{k+1} given `state` = x_k on step `transition`.

        Hidden vectors are `[..., width]`, features `[..., dim, features]`, the score ∇log R(x_k) `[..., dim]`; the
        `raw` outputs, columns `[..., dim, outputs, B]` where a caller has them, take the place of both.

        Raises:
            InputError: when the drift needs the score and it is not given.
        """
        outputs = (self.readout(hidden, features, transition) if raw is None else raw).unbind(-2)
        (schedule,) = self._schedule
        scheduled = None
        if schedule is not None:
            variance = schedule.generation_variance()
            scheduled = self.factor.expand_as(variance), variance, self.gain_unit
        factor, std, log_variance, gain = _constants_at(transition, self.constants, scheduled)
        drift = outputs[0]
        if self.langevin is not None:
            if score is None:
                raise InputError("langevin: needs the gradient of the log density, and none was given")
            langevin = as_columns(self.langevin[transition], state.ndim)
            drift = drift + langevin * (std * score.movedim(0, -1)).clamp(-1.0, 1.0)
        mean = factor * state.movedim(0, -1)
        if self.gain:
            mean = _with_gain(mean, outputs[-1], mean, std, gain)
        mean = torch.addcmul(mean, std, drift)
        if self.reach is not None:
            mean = self.reach(mean)
        if self.learned_variance:
            half = _half_tanh(outputs[1] * (2.0 / self.bound))
            log_variance = torch.add(log_variance, half, alpha=2.0 * self.bound)
        return mean.movedim(-1, 0), log_variance.movedim(-1, 0)


class DestructionHead(nn.Module):
    """Gaussian destruction step x_{k+1} → x_k as a learned correction of the reference (module docstring).

    Args:
        reference: the reference process.
        dim: state dimension.
        width: width of the hidden vectors that it reads.
        features: number of features of one coordinate.
        mean: a key of `DESTRUCTION_MEANS`.
        variance: a key of `DESTRUCTION_VARIANCES`.
        mean_bound, variance_bound: the C of the bounded forms, > 0 (and < 1 for the multiplicative variance).
        gain: let a learned mean have a gain.
        reach: hold learned means within a `Reach`, at first without end.
        tables: add the per-step, per-coordinate table.
        schedule: a learned schedule, which takes the reference's place; the corrections are corrections of it.

    Raises:
        InputError: for unknown forms and bounds out of range.

    Example:
        >>> from ebbflow.agents import TimeGrid
        >>> from ebbflow.agents.references import brownian_bridge
        >>> head = DestructionHead(brownian_bridge(TimeGrid.uniform(2), sigma=2.0), dim=2, width=8, features=3)
        >>> mean, log_variance = head(torch.randn(5, 8), torch.randn(5, 2, 3), torch.ones(5, 2), 1)
        >>> mean[0], log_variance.exp()[0]  # untrained, it is the reference: N(y / 2, σ² / 4)
        (tensor([0.5000, 0.5000], grad_fn=<SelectBackward0>), tensor([1., 1.], grad_fn=<SelectBackward0>))
    """

    factor: Tensor
    variance: Tensor
    gain_unit: Tensor
    constants: Tensor

    def __init__(
        self,
        reference: GaussianReference,
        dim: int,
        *,
        width: int,
        features: int,
        mean: str = "bounded_offset",
        variance: str = "multiplicative",
        mean_bound: float = 3.0,
        variance_bound: float = 0.9,
        gain: bool = True,
        reach: bool = False,
        tables: bool = True,
        schedule: LearnedSchedule | None = None,
    ) -> None:
        super().__init__()
        if mean not in DESTRUCTION_MEANS:
            raise InputError(f"destruction_mean: expected one of {sorted(DESTRUCTION_MEANS)}, got {mean!r}")
        if variance not in DESTRUCTION_VARIANCES:
            raise InputError(f"destruction_variance: expected one of {sorted(DESTRUCTION_VARIANCES)}, got {variance!r}")
        if not 0.0 < mean_bound < math.inf:
            raise InputError(f"mean_bound: expected a finite number > 0, got {mean_bound!r}")
        if not 0.0 < variance_bound < (1.0 if variance == "multiplicative" else math.inf):
            raise InputError(
                "variance_bound: expected a finite number > 0 (and < 1 for the multiplicative form), "
                f"got {variance_bound!r}"
            )
        self.mean_form, self.variance_form = DESTRUCTION_MEANS[mean], DESTRUCTION_VARIANCES[variance]
        self.mean_bound, self.variance_bound = float(mean_bound), float(variance_bound)
        self.register_buffer("factor", _column(reference.destruction_factor), persistent=False)
        self.register_buffer("variance", _column(reference.destruction_variance), persistent=False)
        self.gain = gain and self.mean_form is not None
        self.reach = Reach(dim) if reach and self.mean_form is not None else None
        self.register_buffer("gain_unit", _gain_units(reference.destruction_variance), persistent=False)
        self.register_buffer("constants", _constants(self.factor, self.variance, self.gain_unit), persistent=False)
        self.schedule = schedule
        self.readout = None
        if self.mean_form is not None or self.variance_form is not None:
            self.readout = Readout(width, dim, 2 + self.gain, steps=reference.steps, features=features, tables=tables)

    @property
    def learned(self) -> bool:
        """Whether there is anything to learn."""
        return self.reads_state or self.schedule is not None

    @property
    def reads_state(self) -> bool:
        """Whether there is a correction, which reads hidden vectors and features."""
        return self.readout is not None

    def forward(
        self,
        hidden: Tensor | None,
        features: Tensor | None,
        state: Tensor,
        transition: StepIndex,
        raw: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean `[..., dim]` and log variance (broadcastable) of x_k given `state` = x_{k+1} on step `transition` = k.

        Hidden vectors are `[..., width]`, features `[..., dim, features]`, both of x_{k+1}; they may be None where
        nothing is learned, or where a caller has the `raw` outputs, columns `[..., dim, outputs, B]`. A deterministic
        step has log variance −inf.
        """
        scheduled = None if self.schedule is None else (*self.schedule.destruction(), self.gain_unit)
        factor, std, log_variance, gain = _constants_at(transition, self.constants, scheduled)
        columns = state.movedim(0, -1)
        mean = factor * columns
        if self.readout is not None:
            outputs = (self.readout(hidden, features, transition) if raw is None else raw).unbind(-2)
            kept = mean
            if self.mean_form is not None:
                mean = torch.addcmul(mean, *self.mean_form(outputs[0], columns, factor, std, self.mean_bound))
            if self.gain:
                mean = _with_gain(mean, outputs[-1], kept, std, gain)
            if self.reach is not None:
                mean = self.reach(mean)
            if self.variance_form is not None:
                log_variance = log_variance + self.variance_form(outputs[1], self.variance_bound)
        return mean.movedim(-1, 0), log_variance.movedim(-1, 0)
