"""Objectives by name."""

from ...envs.errors import InputError
from .path_objective import PathObjective
from .trajectory_balance import TrajectoryBalance
from .vargrad import VarGrad

__all__ = ["OBJECTIVES", "get_objective"]

OBJECTIVES: dict[str, type[PathObjective]] = {"trajectory_balance": TrajectoryBalance, "vargrad": VarGrad}


def get_objective(name: str, field: str = "objective") -> type[PathObjective]:
    """Objective class by name; `field` is the setting that holds the name, for the message.

    Raises:
        InputError: for an unknown name.

    Example:
        >>> get_objective("vargrad").__name__
        'VarGrad'
    """
    if name not in OBJECTIVES:
        raise InputError(f"{field}: expected one of {sorted(OBJECTIVES)}, got {name!r}")
    return OBJECTIVES[name]
