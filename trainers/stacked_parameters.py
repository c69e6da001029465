"""The parameters of several runs as one matrix, a row for each run, and one update for all.

A run's own parameters, its target networks, its averaged weights and the state of its Adam are views of its row, so
that whoever looks at the run, or saves it, finds them where they always are. Columns are ordered by the optimisers'
groups: those of a group lie side by side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from .objectives.joint_loss import JointLoss
from .trainer import Trainer

__all__ = ["StackedParameters"]


class StackedParameters:
    """Parameters of S runs, and their update (module docstring).

    The update is that of `Optimisers`, with the rates, moments and clipping of each run, and like there the parameters
    and moments of a run whose loss or gradient is not finite are left as they are, without the host being told.

    Args:
        trainers: whose agents have parameters of the same names and shapes, in the same groups.

    Attributes:
        leaves: by name, the parameters of all runs, `[S, ...]`, which a gradient can be taken of.
        online: nested by module, `leaves` and the buffers of all agents, each `[S, ...]`.
        lagging: the same of the target networks; None where there are none.

    Example:
        >>> from ebbflow.envs import get_target
        >>> from ebbflow.trainers import TrainConfig
        >>> config = TrainConfig.from_dict({"agent": {"time_grid_power": 2.0}})
        >>> trainers = [Trainer(get_target("gmm25"), config) for _ in range(2)]
        >>> stacked = StackedParameters(trainers)
        >>> with torch.no_grad():
        ...     _ = trainers[1].agent.log_z.fill_(3.0)
        >>> stacked.leaves["log_z"]
        tensor([0., 3.], requires_grad=True)
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = list(trainers)
        first = self.trainers[0]
        names = {id(p): name for name, p in first.agent.named_parameters()}
        self._groups: list[tuple[str, int, slice]] = []  # optimiser, number of the group in it, columns
        self._parts: dict[str, tuple[slice, torch.Size]] = {}  # of each parameter
        stop = 0
        for optimiser_name, optimiser in first.optimisers.optimisers.items():
            for number, group in enumerate(optimiser.param_groups):
                start = stop
                for parameter in group["params"]:
                    self._parts[names[id(parameter)]] = slice(stop, stop + parameter.numel()), parameter.shape
                    stop += parameter.numel()
                self._groups.append((optimiser_name, number, slice(start, stop)))
        assert len(self._parts) == len(names), "every parameter has an optimiser"

        own: list[dict[str, Tensor]] = [dict(trainer.agent.named_parameters()) for trainer in self.trainers]
        self._matrices = {"online": self._stack(own)}
        self.leaves = {name: view.requires_grad_() for name, view in self._views("online").items()}
        buffers = [dict(trainer.agent.named_buffers()) for trainer in self.trainers]
        constant = {name: torch.stack([each[name] for each in buffers]) for name in buffers[0]}
        for s, each in enumerate(buffers):  # what is written to those of a run is written to the stack
            for name, buffer in each.items():
                buffer.data = constant[name][s]
        self.online = _nested(self.leaves | constant)
        self.lagging = None
        if first.objective.use_targets:
            targets = [trainer.objective.target_agent_params.flatten_keys(".") for trainer in self.trainers]
            self._matrices["lagging"] = self._stack([{n: t[n] for n in self._parts} for t in targets])
            self.lagging = _nested(self._views("lagging") | constant)
        if first.averaged is not None:
            modules: list[Any] = [trainer.averaged for trainer in self.trainers]
            self._matrices["averaged"] = self._stack([dict(one.module.named_parameters()) for one in modules])
        self._adopt_adam(own)
        self._adopt_skips()
        # Lists of tensors that were made before these were views are of no use any more.
        for trainer in self.trainers:
            if isinstance(trainer.objective, JointLoss):
                trainer.objective.hold_parameters()
            if trainer.target_update is not None:
                trainer.target_update.forget_tensors()

    # Views --------------------------------------------------------------------------------------------------------

    def _stack(self, tensors: Sequence[dict[str, Tensor]]) -> Tensor:
        """One matrix `[S, N]` of the tensors of each run, which become views of it."""
        rows = [torch.cat([each[name].detach().flatten() for name in self._parts]) for each in tensors]
        matrix = torch.stack(rows)
        for row, each in zip(matrix, tensors, strict=True):
            for name, (columns, shape) in self._parts.items():
                each[name].data = row[columns].view(shape)
        return matrix

    def _views(self, which: str) -> dict[str, Tensor]:
        matrix = self._matrices[which]
        return {name: matrix[:, columns].view(-1, *shape) for name, (columns, shape) in self._parts.items()}

    def _adopt_adam(self, own: Sequence[dict[str, Tensor]]) -> None:
        """The state of all Adams as matrices, with what they hold already."""
        like = self._matrices["online"]
        self._matrices |= {"exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}
        # Adam has one for each parameter.
        self._steps = torch.zeros(len(self.trainers), len(self._parts), device=like.device)
        for s, (trainer, parameters) in enumerate(zip(self.trainers, own, strict=True)):
            for step, (name, (columns, shape)) in zip(self._steps[s], self._parts.items(), strict=True):
                parameter = parameters[name]
                adam = self._adam_of(trainer, parameter)
                saved = adam.state.get(parameter, {})
                views: dict[str, Tensor] = {"step": step}
                for moment in ("exp_avg", "exp_avg_sq"):
                    views[moment] = self._matrices[moment][s, columns].view(shape)
                    if saved:
                        views[moment].copy_(saved[moment])
                if saved:
                    step.copy_(saved["step"])
                adam.state[parameter] = views

    def _adopt_skips(self) -> None:
        """The counts of left out updates as two rows, a column for each run."""
        optimisers = [trainer.optimisers for trainer in self.trainers]
        self._skips = torch.stack([torch.stack([o.skipped, o.skipped_in_a_row]) for o in optimisers], dim=1)
        for optimiser, (skipped, in_a_row) in zip(optimisers, self._skips.unbind(1), strict=True):
            optimiser.skipped, optimiser.skipped_in_a_row = skipped, in_a_row

    def _adam_of(self, trainer: Trainer, parameter: Tensor) -> Adam:
        for optimiser in trainer.optimisers.optimisers.values():
            if any(parameter is other for group in optimiser.param_groups for other in group["params"]):
                return optimiser
        raise AssertionError("every parameter has an optimiser")

    # The update ---------------------------------------------------------------------------------------------------

    def step(self, losses: Tensor) -> None:
        """One update of every run from the gradient of its loss `[S]`, left out where that is not finite.

        Optimisers, target networks and averages all move.
        """
        leaves = list(self.leaves.values())
        found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
        slopes = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]
        gradient = torch.cat([slope.reshape(len(losses), -1) for slope in slopes], dim=1)  # [S, N]
        columns = self._columns_of_optimisers()
        norms = torch.stack([gradient[:, part].norm(dim=1) for part in columns.values()], dim=1)  # [S, optimisers]
        made = torch.cat([losses.detach()[:, None], norms], dim=1).isfinite().all(dim=1)  # [S]
        with torch.no_grad():
            self._skips.add_(~made)
            self._skips[1].mul_(~made)
            self._steps.add_(made[:, None])
            self._adam(torch.where(made[:, None], gradient, 0.0), norms, made, list(columns))
            self._follow()
        for trainer in self.trainers:
            trainer.optimisers.advance()
            if trainer.averaged is not None:
                trainer.averaged.n_averaged += 1

    def _columns_of_optimisers(self) -> dict[str, slice]:
        found: dict[str, slice] = {}
        for name, _, part in self._groups:
            found[name] = slice(found[name].start if name in found else part.start, part.stop)
        return found

    def _adam(self, gradient: Tensor, norms: Tensor, made: Tensor, optimisers: list[str]) -> None:
        """Clip, and step as torch's Adam does, with the numbers of each run as columns `[S, 1]`.

        A run whose update is not made has a gradient of 0, and moves by 0 of everything.
        """
        online, mean, square = (self._matrices[name] for name in ("online", "exp_avg", "exp_avg_sq"))
        groups = [
            [trainer.optimisers.optimisers[o].param_groups[g] for o, g, _ in self._groups] for trainer in self.trainers
        ]
        numbers = [[[*group["betas"], group["lr"], group["eps"]] for group in own] for own in groups]
        largest = [[trainer.optimisers.configs[name].clip_norm for name in optimisers] for trainer in self.trainers]
        beta1, beta2, rates, eps = self._on_device(numbers, torch.float64).unbind(-1)  # [S, groups] each
        steps = self._steps.amax(dim=1, keepdim=True).clamp_min(1.0)  # of a first one that is left out: not used
        moves = made[:, None]
        table = torch.stack(
            [
                (1.0 - beta1) * moves,
                (1.0 - beta2) * moves,
                rates / (1.0 - beta1**steps) * moves,
                (1.0 - beta2**steps) ** -0.5,
                eps,
            ],
            dim=-1,
        ).to(online.dtype)  # [S, groups, 5]
        clip = (self._on_device(largest, norms.dtype) / (norms + 1e-6)).clamp(max=1.0)
        clip = torch.where(moves, clip, 0.0)  # the norm may not be a number
        for i, (name, _, part) in enumerate(self._groups):
            slow, fast, rate, correction, epsilon = table[:, i].unsqueeze(-1).unbind(1)  # [S, 1] each
            slope = gradient[:, part] * clip[:, optimisers.index(name), None]
            mean[:, part].lerp_(slope, slow)
            square[:, part].lerp_(slope.square(), fast)
            online[:, part].sub_(rate * mean[:, part] / (square[:, part].sqrt().mul_(correction).add_(epsilon)))

    def _on_device(self, numbers: Sequence[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(numbers, dtype=dtype).to(self._steps.device, non_blocking=True)

    def _follow(self) -> None:
        """Target networks and averages."""
        first, online = self.trainers[0], self._matrices["online"]
        if self.lagging is not None:
            self._matrices["lagging"].lerp_(online, first.config.target_rate)
        if first.averaged is not None:
            rates = [trainer.averaged.rate for trainer in self.trainers]  # type: ignore[union-attr]
            weight = self._on_device(rates, online.dtype)
            self._matrices["averaged"].lerp_(online, weight[:, None])


def _nested(flat: dict[str, Tensor]) -> dict[str, Any]:
    return TensorDict(flat).unflatten_keys(".").to_dict()
