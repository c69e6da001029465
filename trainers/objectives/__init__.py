"""Objectives: TorchRL loss modules over stored trajectories, with separate generation, destruction and log Z losses."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalogue": ["OBJECTIVES", "get_objective"],
        "path_objective": ["PathObjective"],
        "trajectory_balance": ["TrajectoryBalance"],
        "vargrad": ["VarGrad"],
    },
)
