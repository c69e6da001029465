"""How target networks follow the networks that are trained."""

import torch
from torch import Tensor, nn
from torchrl.objectives import SoftUpdate

__all__ = ["TargetUpdate"]


class TargetUpdate(SoftUpdate):
    """TorchRL's `SoftUpdate`, with the tensors listed once: making the lists costs several times the update itself.

    Parameters must keep their tensors, as they do when an optimiser steps or a state is loaded into them.

    Args:
        loss_module: a loss with `agent_params` and `target_agent_params`, such as `JointLoss`.
        tau: the rate: target ← target + tau · (online − target).

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs import Continuous
        >>> from ebbflow.trainers.objectives import JointLoss, VarGrad
        >>> agent = build_agent(Continuous(1), scale=1.0, steps=2)
        >>> loss = JointLoss(agent, VarGrad())
        >>> update = TargetUpdate(loss, tau=0.25)
        >>> _ = agent.log_z.data.fill_(1.0)
        >>> update.step()
        >>> float(loss.target_agent_params["log_z"])
        0.25
    """

    _lists: tuple[list[Tensor], list[Tensor]] | None = None

    def forget_tensors(self) -> None:
        """List the tensors anew before the next step: parameters have got others."""
        self._lists = None

    def step(self) -> None:
        """Move the target networks once."""
        if self._lists is None:
            sources, targets = self._sources["agent_params"].data, self._targets["target_agent_params"].data
            learned = self._sources["agent_params"].items(True, True)  # constants stay as they are
            names = sorted((name for name, value in learned if isinstance(value, nn.Parameter)), key=str)
            self._lists = [sources[name] for name in names], [targets[name] for name in names]
        online, lagging = self._lists
        torch._foreach_lerp_(lagging, online, 1 - self.eps)
