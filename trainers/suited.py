"""Settings that are left open, chosen to suit the target: steps, objectives and the reference.

| open setting          | of a density       | of data                                 | of data that are tokens  |
|-----------------------|--------------------|-----------------------------------------|--------------------------|
| steps                 | 5                  | 5                                       | what suits the reference |
| objective             | vargrad            | maximum_likelihood                      | random_level             |
| destruction_objective | as the objective   | vargrad, among the paths of each sample | nothing to learn         |
| agent.reference       | bridge             | variance_preserving                     | mask_one_random          |

Numbers destroyed by `noise_preserving` or `noise_exploding` are guessed as tokens are: in 50 steps, by random_level.
The time grid of a density is matched to it, see `matched_grid`; where there is no gradient, its power is 2.
"""

from dataclasses import replace

from ..agents.config import AgentConfig
from ..agents.policies import Policies
from ..agents.references.continuous.catalogue import CONTINUOUS_REFERENCES, get_continuous_reference
from ..agents.references.tokens.catalogue import get_token_reference
from ..envs.spaces import Tokens
from ..envs.target import Target
from .config import STEPS, TrainConfig

__all__ = ["suited_config"]


def suited_config(config: TrainConfig, target: Target, agent: Policies | None = None) -> TrainConfig:
    """The settings with those of the module docstring filled in where they are open (None).

    Args:
        config: the settings.
        target: what is trained on.
        agent: an agent of the user's own, who then has the steps and the reference.

    Raises:
        InputError: for a reference of tokens that is unknown, or that cannot take the given number of steps.

    Example:
        >>> from ebbflow.envs import get_target
        >>> config = suited_config(TrainConfig(), get_target("gmm25"))
        >>> config.steps, config.objective, config.agent.reference
        (5, 'vargrad', 'bridge')
    """
    data, tokens = not target.has_log_prob, isinstance(target.space, Tokens)
    steps, reference, power = config.steps, config.agent.reference, config.agent.time_grid_power
    if agent is not None:
        steps = agent.steps if steps is None else steps
    elif isinstance(target.space, Tokens):
        reference = reference or "mask_one_random"
        steps = get_token_reference(reference, target.space, steps).steps
    elif reference in CONTINUOUS_REFERENCES:
        assert reference is not None
        steps = get_continuous_reference(reference, target.space, steps, target.scale).steps
    else:
        reference = reference or ("variance_preserving" if data else "bridge")
        steps = STEPS if steps is None else steps
    if data or tokens:  # there is no gradient to match it by
        power = AgentConfig().time_grid_power if power is None else power
    levels = agent.trains_levels if agent is not None else tokens or reference in CONTINUOUS_REFERENCES
    objective, of_destruction = config.objective, config.destruction_objective
    if objective is None:
        objective = "vargrad" if not data else "random_level" if levels else "maximum_likelihood"
    if of_destruction is None and data and objective == "maximum_likelihood":
        of_destruction = "vargrad"
    return replace(
        config,
        steps=steps,
        objective=objective,
        destruction_objective=of_destruction,
        agent=replace(config.agent, reference=reference, time_grid_power=power),
    )
