"""Objectives by name."""

from dataclasses import fields
from typing import Any

from ...envs.errors import InputError
from .detailed_balance import DetailedBalance
from .maximum_likelihood import MaximumLikelihood
from .path_objective import PathObjective
from .reverse_kl import ReverseKL
from .reverse_kl_log_derivative import ReverseKLLogDerivative
from .sub_trajectory_balance import SubTrajectoryBalance
from .trajectory_balance import TrajectoryBalance
from .trajectory_likelihood import TrajectoryLikelihood
from .vargrad import VarGrad

__all__ = ["OBJECTIVES", "RANDOM_LEVEL", "get_objective"]

RANDOM_LEVEL = "random_level"
"""The objective that learns from single levels, and not from paths: `RandomLevel` takes the place of `JointLoss`."""

OBJECTIVES: dict[str, type[PathObjective]] = {
    "trajectory_balance": TrajectoryBalance,
    "vargrad": VarGrad,
    "detailed_balance": DetailedBalance,
    "sub_trajectory_balance": SubTrajectoryBalance,
    "reverse_kl": ReverseKL,
    "reverse_kl_log_derivative": ReverseKLLogDerivative,
    "tlm": TrajectoryLikelihood,
    "maximum_likelihood": MaximumLikelihood,
}


def get_objective(name: str, field: str = "objective", **options: Any) -> PathObjective:
    """Objective by name.

    Args:
        name: a key of `OBJECTIVES`.
        field: the setting that holds the name, for the message.
        options: settings of objectives; each takes those that it has.

    Raises:
        InputError: for an unknown name or an option out of range.

    Example:
        >>> get_objective("sub_trajectory_balance", subtb_lambda=0.9)
        SubTrajectoryBalance(subtb_lambda=0.9)
    """
    if name not in OBJECTIVES:
        known = sorted([*OBJECTIVES, *([RANDOM_LEVEL] if field == "objective" else [])])
        raise InputError(f"{field}: expected one of {known}, got {name!r}")
    kind = OBJECTIVES[name]
    return kind(**{option.name: options[option.name] for option in fields(kind) if option.name in options})
