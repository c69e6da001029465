"""Optimisers of generation, destruction, log Z and flow: own rates, schedule and clipping; or one for both policies."""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from ..agents.policies import Policies
from .config import OptimiserConfig
from .ranks import ALONE, Ranks

__all__ = ["Optimisers"]

_KERNEL = {"foreach": False, "fused": True}  # one kernel, which leaves out an update by itself (`found_inf`)


def _schedule(config: OptimiserConfig, iterations: int) -> Any:
    def factor(iteration: int) -> float:
        warm = min(1.0, (iteration + 1) / (config.warmup + 1))
        if config.schedule == "constant":
            return warm
        if config.schedule == "exponential":
            return warm * config.decay**iteration
        return warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, iteration / iterations)))

    return factor


class Optimisers:
    """Adam per policy: rates, warm-up and decay, and clipping are each optimiser's own.

    A shared backbone belongs to the generation optimiser and receives the gradients of both losses. With a single
    optimiser, both policies take the rates of `generation`, and are clipped by the norm of their joint gradient. The
    network for log Z(c) of a conditional agent belongs to the optimiser of log Z, at its `table_rate`: a rate that
    suits one number is too fast for a network.

    An update whose loss or gradient is not finite is left out: parameters and moments stay as they are. The device
    decides that by itself, and the host does not wait to be told.

    Args:
        agent: whose parameters are trained.
        configs: rates, schedule and clipping of the optimisers `generation`, `destruction`, `log_z` and, for an agent
            with a state flow, `flow`.
        iterations: length of the run, over which the cosine schedule decays.
        single: one optimiser, `generation`, for both policies; `log_z` keeps its own.
        ranks: processes over which gradients are summed.

    Attributes:
        skipped: number of updates left out, a whole number on the parameters' device; to read it is to wait.
        skipped_in_a_row: of these, how many since the last one that was made, likewise.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs import Continuous
        >>> configs = dict.fromkeys(("generation", "destruction", "log_z"), OptimiserConfig())
        >>> optimisers = Optimisers(build_agent(Continuous(1), scale=1.0, steps=2), configs, iterations=10)
        >>> sorted(optimisers.optimisers)
        ['destruction', 'generation', 'log_z']
    """

    def __init__(
        self,
        agent: Policies,
        configs: Mapping[str, OptimiserConfig],
        iterations: int,
        *,
        single: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.configs = configs
        self.ranks = ranks
        parts = agent.parameter_groups()
        if single:
            parts |= {"generation": parts["generation"] + parts["destruction"], "destruction": []}
        tables = {id(p) for name, p in agent.named_parameters() if name.endswith("table")}
        tables |= {id(p) for p in parts["log_z"][1:]}

        def adam(parameters: list[nn.Parameter], config: OptimiserConfig) -> Adam:
            plain = [p for p in parameters if id(p) not in tables]
            table = [p for p in parameters if id(p) in tables]
            groups: list[dict[str, Any]] = [{"params": plain, "lr": config.rate}]
            if table:
                groups.append({"params": table, "lr": config.table_rate})
            return Adam(groups, betas=(config.beta1, config.beta2), **_KERNEL)

        self.optimisers = {name: adam(part, configs[name]) for name, part in parts.items() if part}
        self.schedulers = {
            name: LambdaLR(optimiser, _schedule(configs[name], iterations))
            for name, optimiser in self.optimisers.items()
        }
        self.skipped = torch.zeros((), dtype=torch.int64, device=next(agent.parameters()).device)
        self.skipped_in_a_row = self.skipped.clone()

    def step(self, loss: Tensor) -> None:
        """One update of everything from the gradient of `loss`; left out where it is not finite."""
        parameters = {
            name: [p for group in optimiser.param_groups for p in group["params"]]
            for name, optimiser in self.optimisers.items()
        }
        everything = [p for part in parameters.values() for p in part]
        for parameter in everything:
            parameter.grad = None
        loss.backward()
        self.ranks.sum_gradients(everything)
        norms = [
            torch.nn.utils.clip_grad_norm_(part, self.configs[name].clip_norm) for name, part in parameters.items()
        ]
        left_out = ~torch.stack([loss.detach(), *norms]).isfinite().all()
        self.skipped += left_out
        self.skipped_in_a_row.add_(1).mul_(left_out)
        found_inf = left_out.float()
        for name, optimiser in self.optimisers.items():
            optimiser.found_inf = found_inf  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
            optimiser.step()
            self.schedulers[name].step()

    def advance(self) -> None:
        """Take the rates of the next iteration, as `step` does; for who makes the updates in its place."""
        for name, optimiser in self.optimisers.items():
            scheduler = self.schedulers[name]
            scheduler.last_epoch += 1
            for group, base, factor in zip(
                optimiser.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
            ):
                group["lr"] = base * factor(scheduler.last_epoch)
            scheduler._last_lr = [group["lr"] for group in optimiser.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """State of all optimisers and schedules, as plain nested dicts of tensors and numbers."""
        return {
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "iteration": next(iter(self.schedulers.values())).last_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, optimiser in self.optimisers.items():
            saved = deepcopy(state["optimisers"][name])  # Adam would go on with the very tensors it is given
            groups = [group | _KERNEL for group in saved["param_groups"]]  # of this run, not of the saved one
            states = {int(k): v for k, v in saved["state"].items()}
            optimiser.load_state_dict({"state": states, "param_groups": groups})
            scheduler = self.schedulers[name]
            scheduler.last_epoch = state["iteration"]
            scheduler._last_lr = [group["lr"] for group in optimiser.param_groups]
