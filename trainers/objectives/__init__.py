"""Objectives: the loss of each policy on stored trajectories, one file each, and the TorchRL loss module of both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "catalogue": ["OBJECTIVES", "RANDOM_LEVEL", "get_objective"],
        "detailed_balance": ["DetailedBalance"],
        "joint_loss": ["JointLoss"],
        "maximum_likelihood": ["MaximumLikelihood"],
        "path_objective": ["PathObjective", "PathTerms"],
        "proposal": ["order_weights"],
        "random_level": ["RandomLevel", "random_level_loss"],
        "residual": ["Residual"],
        "reverse_kl": ["ReverseKL"],
        "reverse_kl_log_derivative": ["ReverseKLLogDerivative"],
        "sub_trajectory_balance": ["SubTrajectoryBalance"],
        "trajectory_balance": ["TrajectoryBalance"],
        "trajectory_likelihood": ["TrajectoryLikelihood"],
        "vargrad": ["VarGrad"],
    },
)
