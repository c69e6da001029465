"""Settings that do not suit the target, refused in one line that names the field, its value and what was expected.

What a training would silently leave aside is refused as well, unless it says what happens anyway (no replay of data).
"""

import dataclasses
from typing import Any

from ..agents.references.continuous.catalogue import CONTINUOUS_REFERENCES
from ..agents.references.tokens.catalogue import TOKEN_REFERENCES
from ..envs.errors import InputError
from ..envs.spaces import Tokens
from ..envs.target import Target
from .config import TrainConfig
from .objectives.catalogue import OBJECTIVES, RANDOM_LEVEL

__all__ = ["refuse_unsuited", "refuse_with_transform"]

_UNUSED_OF_DATA = {
    "exploration": "of data no exploration is done",
    "replay": "of data nothing is remembered",
    "anchors": "of data there are no anchors",
}
_NONE = {  # values that say what is so of data anyway
    "exploration.scale": (1.0,),
    "replay.share": (0.0,),
    "anchors.share": (0.0,),
}


def refuse_unsuited(config: TrainConfig, target: Target, *, has_anchors: bool = False) -> None:
    """Raise an InputError for the first setting that does not suit the target.

    Args:
        config: settings without open ones, see `suited_config`.
        target: what is trained on.
        has_anchors: whether there are anchors of the user's own.

    Example:
        >>> from ebbflow.envs import get_target
        >>> refuse_unsuited(TrainConfig.from_dict({"exploration": {"scale": 2.0}}), get_target("two-moons"))
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: exploration.scale: of data no exploration is done; expected 1.5, the default, or
        1.0, got 2.0
    """
    tokens = isinstance(target.space, Tokens)
    if not target.has_log_prob:
        _refuse_of_data(config, target, has_anchors)
    elif tokens:
        _refuse_of_token_densities(config, has_anchors)
    if config.agent.destruction_schedule != "fixed" and (tokens or config.agent.reference in CONTINUOUS_REFERENCES):
        raise InputError(
            f"agent.destruction_schedule: {config.agent.reference} has no schedule to learn (only a bridge has); "
            f"expected fixed, got {config.agent.destruction_schedule}"
        )
    if config.proposal is not None and not (tokens and config.objective == RANDOM_LEVEL):
        raise InputError(
            f"proposal: expected none, for it is of random_level on masked tokens, got {config.proposal!r} with "
            f"{config.objective} on {'tokens' if tokens else 'numbers'}"
        )
    if config.proposal is not None and config.proposal not in TOKEN_REFERENCES:
        raise InputError(f"proposal: expected one of {sorted(TOKEN_REFERENCES)}, got {config.proposal!r}")
    if config.proposal == "mask_learned_order":
        raise InputError(
            "proposal: mask_learned_order by name has learned nothing; expected one without parameters, or pass a "
            "trained one to random_level_loss"
        )


def refuse_with_transform(config: TrainConfig, target: Target) -> None:
    """Raise an InputError for what `agent.reference`, a deterministic transform without densities, cannot do."""
    reference = config.agent.reference
    if target.has_log_prob or target.is_conditional:
        kind = "a log density" if target.has_log_prob else "contexts"
        raise InputError(
            f"agent.reference: {reference} is deterministic, has no likelihood and starts from what is left of data; "
            f"expected another one for target {target.name!r}, which has {kind}"
        )
    if config.objective not in (None, RANDOM_LEVEL):
        raise InputError(
            f"objective: expected random_level, the squared error of the guess, for {reference} is deterministic and "
            f"has no likelihood, got {config.objective}"
        )


def _refuse_of_data(config: TrainConfig, target: Target, has_anchors: bool) -> None:
    """What needs a log density."""
    if has_anchors:
        raise InputError(
            f"anchors: expected none for target {target.name!r}, which has samples of its own to learn from; to learn "
            "from yours, train on Dataset.split(samples)"
        )
    for field, policy in (("objective", "generation"), ("destruction_objective", "destruction")):
        name = getattr(config, field)
        if name in OBJECTIVES and policy not in OBJECTIVES[name].trains_on_data:
            fit = [one for one, kind in OBJECTIVES.items() if policy in kind.trains_on_data]
            fit += [RANDOM_LEVEL] if policy == "generation" else []
            raise InputError(
                f"{field}: {name} needs a log density, but target {target.name!r} has samples but no log density; "
                f"expected one of {sorted(fit)}"
            )
    _refuse_gradients(config, f"data have no log density, and target {target.name!r} no gradient of one")
    for group in _UNUSED_OF_DATA:
        value, usual = getattr(config, group), getattr(TrainConfig(), group)
        for one in dataclasses.fields(value):
            name, got, default = f"{group}.{one.name}", getattr(value, one.name), getattr(usual, one.name)
            if got != default and got not in _NONE.get(name, ()):
                also = "".join(f", or {none}" for none in _NONE.get(name, ()))
                raise InputError(f"{name}: {_UNUSED_OF_DATA[group]}; expected {default}, the default{also}, got {got}")


def _refuse_of_token_densities(config: TrainConfig, has_anchors: bool) -> None:
    """What needs a gradient, or a state flow."""
    for field in ("objective", "destruction_objective"):
        name = getattr(config, field)
        if name in OBJECTIVES and OBJECTIVES[name].needs_flow:
            fit = sorted(one for one, kind in OBJECTIVES.items() if "generation" in kind.trains and not kind.needs_flow)
            fit = [one for one in fit if one != "reverse_kl"]
            raise InputError(
                f"{field}: {name} needs a state flow, which policies of tokens do not have; expected one of {fit}"
            )
    searched = not has_anchors and config.anchors.samples is None and config.replay.share > 0
    wanted: dict[str, tuple[bool, str, Any]] = {
        "objective": (config.objective == "reverse_kl", "reverse_kl_log_derivative", config.objective),
        "anchors.share": (searched and config.anchors.share != 0.0, "0, or anchors.samples", config.anchors.share),
        "local_search.kind": (config.local_search.kind != "none", "none", config.local_search.kind),
        "exploration.drift": (config.exploration.drift != 0.0, "0", config.exploration.drift),
        "exploration.added": (config.exploration.added != 0.0, "0", config.exploration.added),
    }
    why = "tokens have no gradient and no noise to add to"
    for field, (needed, expected, got) in wanted.items():
        if needed:
            raise InputError(f"{field}: {why}; expected {expected}, got {got}")
    _refuse_gradients(config, why)


def _refuse_gradients(config: TrainConfig, why: str) -> None:
    """What an agent reads of the gradient of the log density."""
    if config.agent.langevin:
        raise InputError(f"agent.langevin: {why}; expected no, got yes")
    if "score" in config.agent.features:
        raise InputError(f"agent.features: {why}; expected no score, got {config.agent.features}")
    if config.agent.forward_looking:
        raise InputError(f"agent.forward_looking: {why}; expected no, got yes")
