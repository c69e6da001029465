"""Settings that are left open, chosen to suit the target: steps, objectives, the reference, anchors and rates.

| open setting          | of a density       | of data                                 | of data that are tokens  |
|-----------------------|--------------------|-----------------------------------------|--------------------------|
| steps                 | 5                  | 5                                       | what suits the reference |
| objective             | vargrad            | maximum_likelihood                      | random_level, or where   |
|                       |                    |                                         | destruction is learned   |
|                       |                    |                                         | maximum_likelihood       |
| destruction_objective | as the objective   | vargrad, among the paths of each sample | the same, where learned  |
| agent.reference       | bridge             | variance_preserving                     | mask_one_random          |
| anchors.share         | 0.75               | there are none                          | there are none           |
| rates of destruction  | 3e-3               | a tenth of generation's                 | 3e-3                     |

A density of tokens has the steps and the reference of tokens and the objective of a density; anchors only where there
are samples to take them from, for tokens have no gradient that could be searched along. What else needs a gradient is
refused. Numbers destroyed by `noise_preserving` or `noise_exploding` are guessed as tokens are: in 50 steps, by
random_level; and so are those that a deterministic transform destroys (`blur`, `pixelate`, `bijection`), in steps of
its own. The time grid of a density is matched to it, see `matched_grid`; where there is no gradient, its power is 2.
Destruction of an agent that starts from samples learns by tlm: log-ratios of its paths are not known; its rates are
those of a density. Other Gaussian destruction of data is learned slowly, or it runs ahead of generation
(benchmarks/results/destruction_noise.md).
"""

from dataclasses import replace

from ..agents.config import AgentConfig
from ..agents.policies import Policies
from ..agents.references.continuous.catalogue import (
    CONTINUOUS_REFERENCES,
    TRANSFORMS,
    get_continuous_reference,
)
from ..agents.references.tokens.catalogue import get_token_reference
from ..envs.errors import InputError
from ..envs.spaces import Tokens
from ..envs.target import Target
from .config import STEPS, OptimiserConfig, TrainConfig
from .unsuited import refuse_unsuited, refuse_with_transform

__all__ = ["suited_config"]

_ANCHORS = 0.75  # share of the remembered rows


def suited_config(
    config: TrainConfig, target: Target, agent: Policies | None = None, *, has_anchors: bool = False
) -> TrainConfig:
    """The settings with those of the module docstring filled in where they are open (None).

    Args:
        config: the settings.
        target: what is trained on.
        agent: an agent of the user's own, who then has the steps and the reference.
        has_anchors: whether there are anchors of the user's own.

    Raises:
        InputError: for a reference of tokens that is unknown, or that cannot take the given number of steps, and for
            what does not suit the target, see `unsuited`.

    Example:
        >>> from ebbflow.envs import get_target
        >>> config = suited_config(TrainConfig(), get_target("gmm25"))
        >>> config.steps, config.objective, config.agent.reference
        (5, 'vargrad', 'bridge')
    """
    data, tokens = not target.has_log_prob, isinstance(target.space, Tokens)
    levels = False if agent is None else agent.trains_levels
    steps, reference, power = config.steps, config.agent.reference, config.agent.time_grid_power
    if agent is not None:
        steps = agent.steps if steps is None else steps
    elif isinstance(target.space, Tokens):
        reference = reference or "mask_one_random"
        destruction = get_token_reference(reference, target.space, steps)
        steps, levels = destruction.steps, not destruction.learned
    elif reference in CONTINUOUS_REFERENCES:
        assert reference is not None
        if reference in TRANSFORMS:
            refuse_with_transform(config, target)
        image_shape = getattr(target, "image_shape", None)
        process = get_continuous_reference(reference, target.space, steps, target.scale, image_shape=image_shape)
        steps, levels = process.steps, True
    else:
        reference = reference or ("variance_preserving" if data else "bridge")
        steps = STEPS if steps is None else steps
    if reference in CONTINUOUS_REFERENCES and not data and config.objective != "random_level":
        raise InputError(
            f"agent.reference: {reference} learns from samples; expected another one for the density of "
            f"{target.name!r}, or objective random_level, which learns from its exact samples"
        )
    if data or tokens or reference in CONTINUOUS_REFERENCES:  # no gradient to match it by, or no use of it
        power = AgentConfig().time_grid_power if power is None else power
    objective, of_destruction = config.objective, config.destruction_objective
    if objective is None:
        objective = "vargrad" if not data else "random_level" if levels else "maximum_likelihood"
    if of_destruction is None and data and objective == "maximum_likelihood":
        of_destruction = "tlm" if agent is not None and agent.starts_from_samples else "vargrad"
    slowly = data and not tokens and not levels and not (agent is not None and agent.starts_from_samples)
    share = config.anchors.share
    if share is None and not data:
        share = 0.0 if tokens and not has_anchors and config.anchors.samples is None else _ANCHORS
    config = replace(
        config,
        steps=steps,
        objective=objective,
        destruction_objective=of_destruction,
        agent=replace(config.agent, reference=reference, time_grid_power=power),
        anchors=replace(config.anchors, share=share),
        destruction_optimiser=_with_rates(config, slowly),
    )
    refuse_unsuited(config, target, has_anchors=has_anchors)
    return config


def _with_rates(config: TrainConfig, slowly: bool) -> OptimiserConfig:
    """The optimiser of destruction with its open rates: those of others, or a tenth of generation's."""
    rates = {}
    for name in ("rate", "table_rate"):
        of_generation, own = (getattr(one, name) for one in (config.generation_optimiser, config.destruction_optimiser))
        usual = of_generation / 10.0 if slowly else getattr(OptimiserConfig(), name)
        rates[name] = usual if own is None else own
    return replace(config.destruction_optimiser, **rates)
