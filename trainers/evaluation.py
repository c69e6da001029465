"""Evaluation: how well an agent samples its target, as one flat dictionary with the keys of `evaluation.json`.

It looks on and changes nothing: random number generators, the target's call counters and the agent's training mode are
afterwards what they were. Exact samples depend on the seed alone, so that agents are judged on the same ones.

    elbo, elbo_stderr, eubo, eubo_stderr, eubo_median, sandwich_width   bounds of log Z (nats), see `metrics.sandwich`
    log_z, log_z_stderr, true_log_z                                     importance-weighted, and the truth (nats)
    ess_reverse, ess_forward, khat                                      see `metrics.weights`
    sinkhorn, sinkhorn_floor         squared state units, or tokens; the floor is what a second exact sample scores
    mode_coverage, mode_mass_error   see `metrics.coverage`
    zero_density_share               share of generated samples on which the density is zero
    samples                          how many paths were generated (and destroyed)
    log_likelihood, log_likelihood_stderr, bits_per_dimension, train_log_likelihood, train_bits_per_dimension
                                     of data, see `data_likelihood` (nats and bits; held-out samples, and trained on)
    anchor_log_z, anchor_log_z_stderr                                   what the search for anchors estimated (nats)
    energy_calls, gradient_calls, seconds                               cost of the training, as told by the caller

A conditional agent is evaluated at some contexts, and every number is the mean over them; in addition there is

    contexts                         of each context, the context itself and its own numbers

No key is ever absent; None is a number that is undefined. Strict JSON has no infinity: −inf, which an ELBO honestly is
when a generated sample hits a density of zero, is a float in Python and null in JSON, and `zero_density_share` > 0 then
tells it from an unknown one.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from ..agents.policies import Policies
from ..envs.errors import InputError, whole_number
from ..envs.target import Target
from .checkpoint import write_atomically
from .data_batches import checked
from .data_likelihood import LIKELIHOODS, likelihood_numbers
from .metrics.contexts import mean_over_contexts
from .metrics.coverage import mode_coverage, mode_mass_error, mode_shares
from .metrics.sandwich import sandwich
from .metrics.transport import sinkhorn_divergence
from .metrics.weights import ess_forward, ess_reverse, importance_log_z, pareto_khat
from .random_stream import RandomStream

__all__ = [
    "Evaluation",
    "as_json",
    "check_agent",
    "contexts_of_evaluation",
    "evaluate",
    "exact_samples",
    "live_log_weights",
    "live_numbers",
    "log_weights_of_destroyed",
    "looking_on",
    "numbers_of_log_weights",
    "sample_agent",
    "warnings_of",
    "write_evaluation",
]

Evaluation = dict[str, Any]  # float | int | None, and `contexts` a list of such

# Paths in a chunk, and numbers in their states, at most; networks take some hundred bytes for each of these numbers.
_PATHS_PER_CHUNK = 2_000
_NUMBERS_PER_CHUNK = 2_000_000

# Evaluation must not repeat the noise, nor the exact samples, of a training that was started from the same seed.
_STREAM = 0x0EBB_F10A

_SINKHORN_POINTS = 1_000
_LIVE_CONTEXTS = 8

# From where on a number is not to be trusted, or says so about others.
_WORST_KHAT = 0.7
_SMALLEST_ESS = 0.01
_WIDEST_SANDWICH = 10.0
_ANCHOR_DIFFERENCE = 1.0  # nats by which two estimates of log Z may differ, beside their errors
_OVERFITTED = 0.1  # bits per dimension by which held-out samples may take more than those trained on
_CONTRADICTION = 5.0  # standard errors by which the lower bound may lie above the upper one


@contextmanager
def looking_on(agent: Policies, target: Target | None, seed: int) -> Iterator[None]:
    """Gradient-free block with its own random numbers, after which nothing has changed.

    Restored: torch's generators (CPU, and the agent's device), NumPy's global generator, the target's call counters,
    and the training mode of the agent's modules, which is off inside.

    Args:
        agent: who is looked at.
        target: whose counters are restored, if any.
        seed: seed of the block's random numbers, >= 0.
    """
    device = agent.log_z.device
    calls = (target.energy_calls, target.gradient_calls) if target is not None else (0, 0)
    modes = [(module, module.training) for module in agent.modules()]
    numpy_state = numpy.random.get_state()
    with RandomStream(device, seed + _STREAM), torch.no_grad():
        try:
            numpy.random.seed((seed + _STREAM) % 2**32)
            agent.eval()
            yield
        finally:
            numpy.random.set_state(numpy_state)
            for module, training in modes:
                module.training = training
            if target is not None:
                target.energy_calls, target.gradient_calls = calls


def contexts_of_evaluation(agent: Policies, target: Target, n: int, seed: int = 0) -> Tensor | None:
    """`n` contexts `[n, c]` of the target's law, which depend on the seed alone; None of an unconditional target."""
    if not target.is_conditional:
        return None
    with looking_on(agent, target, seed):
        return target.check_context(target.sample_context(n)).detach().to(agent.log_z)


def sample_agent(
    agent: Policies, target: Target | None = None, n: int = 1_000, chunk: int | None = None
) -> dict[str, Tensor]:
    """Generated samples and, given a density, their log importance weights.

    Of a conditional agent, pass `agent.given(context)` and `target.given(context)`.

    Random numbers come from torch's global generator, and the target counts its calls.

    Args:
        agent: who samples.
        target: the density; needed by an agent that reads scores.
        n: number of samples, >= 1.
        chunk: how many paths are held in memory at a time, >= 1; by default what fits into some hundred megabytes.

    Returns:
        `x`, `[n, dim]`, and, if the target has a log density, `log_weight` = −D, `[n]` (nats); on the agent's device.

    Raises:
        InputError: on numbers out of range, a target of another dimension, an agent that has diverged (its parameters
            or log-weights are not finite), and what the density itself raises.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs.targets.mixtures import gmm25
        >>> target = gmm25()
        >>> agent = build_agent(target.space, scale=target.scale, steps=2)
        >>> {key: list(value.shape) for key, value in sample_agent(agent, target, n=10).items()}
        {'x': [10, 2], 'log_weight': [10]}
    """
    check_agent(agent, target)
    whole_number("samples", n, least=1)
    density = target if target is not None and target.has_log_prob else None
    states, log_weights = [], []
    with torch.no_grad():
        for size in _sizes(n, _chunk(agent, chunk)):
            paths = agent.generate(size, density)
            states.append(paths["state"][:, -1].clone())  # a view would keep whole paths in memory
            if density is not None:
                log_weights.append(-agent.log_ratio(paths))
    columns = {"x": torch.cat(states)}
    if log_weights:
        columns["log_weight"] = _checked_generated(torch.cat(log_weights))
    return columns


def exact_samples(agent: Policies, target: Target, n: int) -> Tensor:
    """`n` exact samples of the target, `[n, dim]`, in the agent's dtype (tokens: int64) and on its device."""
    # In parts of a fixed size, so that the samples depend on the random numbers alone.
    parts = [checked(target, target.sample(size).detach()) for size in _sizes(n, _PATHS_PER_CHUNK)]
    x = torch.cat(parts).to(agent.log_z.device)
    return x.to(agent.log_z) if x.is_floating_point() else x


def log_weights_of_destroyed(agent: Policies, target: Target, x: Tensor, chunk: int | None = None) -> Tensor:
    """Log-weights −D, `[n]` (nats), of paths destroyed from samples `x`, `[n, dim]`, without gradient.

    Raises:
        InputError: if a log-weight is NaN, and what the density itself raises.
    """
    with torch.no_grad():
        parts = [-agent.log_ratio(agent.destroy(part, target)) for part in x.split(_chunk(agent, chunk))]
    return _checked(torch.cat(parts), "destroyed")


def evaluate(
    agent: Policies,
    target: Target,
    *,
    samples: int = 10_000,
    chunk: int | None = None,
    seed: int = 0,
    contexts: Tensor | int = 16,
    require_eubo: bool = False,
    anchor_log_z: float | None = None,
    anchor_log_z_stderr: float | None = None,
    energy_calls: int | None = None,
    gradient_calls: int | None = None,
    seconds: float | None = None,
) -> Evaluation:
    """Evaluate an agent on its target; the keys are those of the module docstring, in that order.

    Args:
        agent: who is judged, on any device and in any floating point dtype.
        target: on the same device. Without exact samples, what needs them is None; without a log density, all bounds
            and weights are.
        samples: number of generated and of destroyed paths, >= 2; of data, of samples whose likelihood is estimated,
            and at most 1,000 of them are generated.
        chunk: how many paths are held in memory at a time, >= 1, by default what fits into some hundred megabytes;
            changes the random numbers of the paths, not what is estimated.
        seed: seed of the evaluation, >= 0.
        contexts: of a conditional target, the contexts to evaluate at, `[m, c]`, or how many to draw from its law (with
            the seed); they share the samples.
        require_eubo: raise where the EUBO cannot be had, instead of returning None.
        anchor_log_z, anchor_log_z_stderr: estimate of the search that found the anchors, passed on.
        energy_calls, gradient_calls, seconds: cost of the training, passed on as they are.

    Raises:
        InputError: on numbers out of range, a target of another dimension, a diverged agent, `require_eubo` without
            exact samples or density, and what the density itself raises.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_agent
        >>> from ebbflow.envs.targets.mixtures import GaussianMixture
        >>> target = GaussianMixture([[0.0, 0.0]], std=2.0)
        >>> plain = AgentConfig(compression=None)  # a Brownian bridge is exact for this one
        >>> agent = build_agent(target.space, scale=2.0, steps=3, config=plain)
        >>> evaluation = evaluate(agent, target, samples=100)
        >>> abs(round(evaluation["sandwich_width"], 3)), round(evaluation["ess_reverse"], 3)
        (0.0, 1.0)
    """
    check_agent(agent, target)
    whole_number("samples", samples, least=2)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed: expected a whole number in [0, 2^32), got {seed!r}")
    if require_eubo:
        target.require_sample("EUBO")
        target.require_log_prob("EUBO")
    cost = {"energy_calls": energy_calls, "gradient_calls": gradient_calls, "seconds": seconds}
    if target.is_conditional:
        rows = contexts if isinstance(contexts, Tensor) else contexts_of_evaluation(agent, target, contexts, seed)
        assert rows is not None
        each = max(2, samples // len(rows))
        found = [
            evaluate(agent.given(row), target.given(row), samples=each, chunk=chunk, seed=(seed + i) % 2**32)
            for i, row in enumerate(target.check_context(rows), start=1)
        ]
        listed = [{"context": row.tolist()} | one for row, one in zip(rows, found, strict=True)]
        means = mean_over_contexts(found)
        if not target.has_log_prob:  # of all held-out samples, each at its own context, and not of these contexts alone
            with looking_on(agent, target, seed):
                means |= likelihood_numbers(agent, target, samples)
        return means | cost | {"contexts": listed}
    exact: Tensor | None = None
    destroyed: Tensor | None = None
    judged = samples
    if not target.has_log_prob:  # what is left to learn from generated samples is their distance from the data
        samples = min(samples, _SINKHORN_POINTS)
    with looking_on(agent, target, seed):
        if target.can_sample:
            exact = exact_samples(agent, target, samples)
            second = exact_samples(agent, target, min(samples, _SINKHORN_POINTS))
            if target.has_log_prob:
                destroyed = log_weights_of_destroyed(agent, target, exact, chunk)
        generated = sample_agent(agent, target, samples, chunk)
        x, log_weight = generated["x"], generated.get("log_weight")
        shares = mode_shares(target, x)
        likelihoods: dict[str, float | None] = dict.fromkeys(LIKELIHOODS)
        if not target.has_log_prob and target.can_sample:
            likelihoods = likelihood_numbers(agent, target, judged)
        masses = target.mode_masses
    between = target.space.embedding
    log_z, log_z_stderr = (None, None) if log_weight is None else importance_log_z(log_weight)
    return {
        **sandwich(log_weight, destroyed),
        "log_z": log_z,
        "log_z_stderr": log_z_stderr,
        "true_log_z": target.log_z,
        "ess_reverse": None if log_weight is None else ess_reverse(log_weight),
        "ess_forward": None if destroyed is None else ess_forward(destroyed, target.log_z),
        "khat": None if log_weight is None else pareto_khat(log_weight),
        "sinkhorn": None if exact is None else sinkhorn_divergence(between(x), between(exact), points=_SINKHORN_POINTS),
        "sinkhorn_floor": None
        if exact is None
        else sinkhorn_divergence(between(second), between(exact), points=_SINKHORN_POINTS),
        "mode_coverage": mode_coverage(shares, masses),
        "mode_mass_error": mode_mass_error(shares, masses),
        "zero_density_share": None if log_weight is None else (log_weight == -math.inf).double().mean().item(),
        "samples": samples,
        **likelihoods,
        "anchor_log_z": anchor_log_z,
        "anchor_log_z_stderr": anchor_log_z_stderr,
        **cost,
    }


def live_numbers(agent: Policies, target: Target, samples: int, *, seed: int = 0) -> dict[str, float | None]:
    """`elbo`, `eubo` (nats) and `ess` (reverse) from a few paths in one chunk, cheap enough to watch a training by.

    Of data, which have none of these, `bits_per_dimension` and `train_bits_per_dimension`.

    Args:
        agent: who is watched.
        target: without exact samples the EUBO is None.
        samples: number of generated and of destroyed paths, >= 2.
        seed: seed of the paths, >= 0.

    Raises:
        InputError: as `evaluate`.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs.targets.funnel import Funnel
        >>> target = Funnel(3)
        >>> list(live_numbers(build_agent(target.space, scale=3.0, steps=2), target, samples=64))
        ['elbo', 'eubo', 'ess']
    """
    check_agent(agent, target)
    if not target.has_log_prob:
        whole_number("samples", samples, least=2)
        with looking_on(agent, target, seed):
            found = likelihood_numbers(agent, target, samples, most=samples)
        return {name: found[name] for name in ("bits_per_dimension", "train_bits_per_dimension")}
    contexts = contexts_of_evaluation(agent, target, _LIVE_CONTEXTS)
    if contexts is not None:  # the same ones every time, so that their log Z does not make noise
        each = max(2, samples // _LIVE_CONTEXTS)
        rows = [live_numbers(agent.given(c), target.given(c), each, seed=seed + i) for i, c in enumerate(contexts)]
        return mean_over_contexts(rows)
    return numbers_of_log_weights(**live_log_weights(agent, target, samples, seed=seed))


def live_log_weights(agent: Policies, target: Target, samples: int, *, seed: int = 0) -> dict[str, Tensor]:
    """What `live_numbers` are made of, on the agent's device: log-weights −D of paths, `[samples]` (nats).

    Args:
        agent, target, samples, seed: as of `live_numbers`; a density without contexts.

    Returns:
        `generated` and, where the target has exact samples, `destroyed`; they may hold NaN.

    Raises:
        InputError: for a number of samples that is not >= 2, and what the density raises.
    """
    whole_number("samples", samples, least=2)
    found = {}
    with looking_on(agent, target, seed):
        if target.can_sample:
            paths = agent.destroy(exact_samples(agent, target, samples), target)
            found["destroyed"] = -agent.log_ratio(paths)
        found["generated"] = -agent.log_ratio(agent.generate(samples, target))
    return found


def numbers_of_log_weights(generated: Tensor, destroyed: Tensor | None = None) -> dict[str, float | None]:
    """`elbo`, `eubo` (nats) and `ess` of the log-weights of generated paths and of paths destroyed from exact samples.

    Raises:
        InputError: if a log-weight is NaN, or that of a generated path infinite: the agent has diverged.

    Example:
        >>> numbers_of_log_weights(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 4.0]))
        {'elbo': -1.0, 'eubo': 2.5, 'ess': 1.0}
    """
    if destroyed is not None:
        _checked(destroyed, "destroyed")
    bounds = sandwich(_checked_generated(generated), destroyed)
    return {"elbo": bounds["elbo"], "eubo": bounds["eubo"], "ess": ess_reverse(generated)}


def warnings_of(evaluation: Evaluation) -> list[str]:
    """What in an evaluation is not to be trusted, in plain sentences, each naming its number; empty if nothing is.

    Takes what `evaluate` returned as well as what was read back from JSON.

    Example:
        >>> warnings_of({"eubo": 1.0, "khat": 0.93, "mode_coverage": 1.0})
        ['khat = 0.93 is above 0.7: the importance weights are too heavy-tailed for log_z and its error to be trusted.']
    """
    found = []
    of_data = evaluation.get("train_log_likelihood") is not None
    # A sampler of data whose likelihood is not known has a distance from the data, and no weights.
    of_data |= evaluation.get("sinkhorn") is not None and evaluation.get("zero_density_share", 0.0) is None

    def number(key: str) -> float:
        value = evaluation.get(key)
        return math.nan if value is None else float(value)  # every comparison with NaN is false

    if number("zero_density_share") > 0:
        found.append(
            f"elbo is -inf: zero_density_share = {number('zero_density_share'):.2g} of the generated samples lie "
            "where the density is zero."
        )
    elif evaluation.get("elbo") is None and "elbo" in evaluation and not of_data:
        found.append("elbo is unknown: without a log density there are no bounds, weights or log Z.")
    difference = abs(number("log_z") - number("anchor_log_z"))
    error = math.hypot(number("log_z_stderr"), number("anchor_log_z_stderr"))
    if difference > _ANCHOR_DIFFERENCE + (0.0 if math.isnan(error) else _CONTRADICTION * error):
        found.append(
            f"log_z = {number('log_z'):.3g} and the anchors' anchor_log_z = {number('anchor_log_z'):.3g} contradict "
            "each other: the policy or the search for anchors has missed some of the mass."
        )
    if number("khat") > _WORST_KHAT:
        found.append(
            f"khat = {number('khat'):.2f} is above {_WORST_KHAT}: the importance weights are too heavy-tailed for "
            "log_z and its error to be trusted."
        )
    if number("ess_reverse") < _SMALLEST_ESS:
        found.append(
            f"ess_reverse = {number('ess_reverse'):.2g} is below {_SMALLEST_ESS}: a few generated samples carry nearly "
            "all the weight, so log_z and its error are not to be trusted."
        )
    if number("ess_forward") < _SMALLEST_ESS:
        found.append(
            f"ess_forward = {number('ess_forward'):.2g} is below {_SMALLEST_ESS}: generation rarely or never goes "
            "where some of the exact samples are."
        )
    if evaluation.get("eubo") is None and not of_data:
        found.append("eubo is unknown: without exact samples, no other number can exclude that modes were missed.")
    width = number("sandwich_width")
    if width > _WIDEST_SANDWICH:
        found.append(
            f"sandwich_width = {width:.3g} nats is above {_WIDEST_SANDWICH:g}: generation and destruction are far from "
            "each other's reversal, and modes may be missed."
        )
    chance = math.hypot(number("elbo_stderr"), number("eubo_stderr"))  # unknown where a bound is infinite
    if width < -1e-3 - (0.0 if math.isnan(chance) else _CONTRADICTION * chance):
        found.append(
            f"sandwich_width = {width:.3g} nats is below zero by more than chance: the exact samples and the log "
            "density do not belong to each other."
        )
    learned, known = number("bits_per_dimension"), number("train_bits_per_dimension")
    nats, error = number("log_likelihood"), number("log_likelihood_stderr")
    chance = _CONTRADICTION * abs(error * learned / nats) if error * nats else 0.0  # bits for nats; NaN where unknown
    if learned - known > _OVERFITTED + (0.0 if math.isnan(chance) else chance):
        found.append(
            f"bits_per_dimension = {learned:.3g} of held-out samples is {learned - known:.2g} above that of those "
            "trained on: they were learned by heart."
        )
    if number("mode_coverage") < 1:
        found.append(
            f"mode_coverage = {number('mode_coverage'):.3g} is below 1: some known modes hold less than a quarter of "
            "their true mass among the samples."
        )
    return found


def as_json(evaluation: Evaluation) -> str:
    """The evaluation as strict JSON; what is not finite is null (module docstring).

    Example:
        >>> print(as_json({"elbo": float("-inf"), "samples": 10}))
        {
          "elbo": null,
          "samples": 10
        }
    """
    return json.dumps(_finite(evaluation), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_evaluation(path: str | Path, evaluation: Evaluation) -> None:
    """Write the evaluation as JSON, all or nothing: whoever reads `path` finds the old file or the whole new one.

    Raises:
        OSError: if the folder does not exist or cannot be written; what was there before stays.
    """
    write_atomically(Path(path), f"{as_json(evaluation)}\n".encode())


def _sizes(n: int, chunk: int) -> list[int]:
    return [min(chunk, n - done) for done in range(0, n, chunk)]


def _chunk(agent: Policies, chunk: int | None) -> int:
    if chunk is None:
        numbers = (agent.steps + 1) * agent.space.width
        return max(1, min(_PATHS_PER_CHUNK, _NUMBERS_PER_CHUNK // numbers))
    return whole_number("chunk", chunk, least=1)


def check_agent(agent: Policies, target: Target | None) -> None:
    """Raise an InputError for an agent with parameters that are not finite, or of another space than the target's."""
    if target is not None and target.space.shape != agent.space.shape:
        raise InputError(f"target {target.name!r} has states in {target.space}, but the agent's are in {agent.space}")
    if target is not None and target.context_space != agent.free_context_space:
        raise InputError(
            f"target {target.name!r} has contexts in {target.context_space}, but the agent's are in "
            f"{agent.free_context_space}"
        )
    for name, parameter in agent.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise InputError(f"agent: parameter {name} is not finite; its training has diverged")


def _checked(log_weight: Tensor, what: str) -> Tensor:
    if bad := int(log_weight.isnan().sum()):
        raise InputError(f"agent: the log-weights of {bad} of {len(log_weight)} {what} paths are NaN")
    return log_weight


def _checked_generated(log_weight: Tensor) -> Tensor:
    # Of a path that was drawn, the density is never zero: unless it went to where coordinates are held.
    if beyond := int((_checked(log_weight, "generated") == torch.inf).sum()):
        raise InputError(
            f"agent: {beyond} of {len(log_weight)} generated paths lead too far away; its training has diverged"
        )
    return log_weight
