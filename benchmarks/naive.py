"""What an iteration costs beside the same training written as it commonly is, one network call a step and policy.

    python benchmarks/naive.py --batch 300 2000

`Naive` is that writing, kept as a reference to measure against: paths are sampled with the graph of the loss, both
policies call the network at every step, the time embedding is computed for every row, and log densities add up in a
Python loop. Everything else is the same as in the trainer it is compared with: features, network, heads and tables
(the weights are loaded from the agent's), the funnel, VarGrad of both policies, on-policy batches, no replay, no
exploration, no weight average. Losses and gradients are compared before anything is timed.

Both are timed in turns in one process on one thread; what counts is the processor's time of an iteration, the median
over the turns, as a ratio.
"""

import copy
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rows import commit
from torch import Tensor, nn
from torch.distributions import Normal

from ebbflow.agents.agent import Agent
from ebbflow.agents.config import AgentConfig
from ebbflow.envs.registry import get_target
from ebbflow.envs.target import Target
from ebbflow.trainers.config import ExplorationConfig, ReplayConfig, TrainConfig
from ebbflow.trainers.trainer import Trainer

ON_POLICY = TrainConfig(
    target="funnel",
    steps=20,
    iterations=1_000_000,  # of which few are done: the rates stay what they are
    threads=1,
    agent=AgentConfig(width=64, time_grid_power=2.0, reach=None),
    exploration=ExplorationConfig(scale=1.0),
    replay=ReplayConfig(share=0.0),
    residual_bound=None,
    average_decay=0.0,
)


class NaiveHead(nn.Module):
    """Linear map of the hidden vector, and a table on each coordinate's features: three numbers a coordinate."""

    def __init__(self, width: int, steps: int, dim: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3 * dim)
        self.table = nn.Parameter(torch.zeros(steps, dim, features, 3))

    def forward(self, hidden: Tensor, features: Tensor, k: int) -> tuple[Tensor, ...]:
        raw = self.linear(hidden).view(*features.shape[:2], 3)
        return (raw + torch.einsum("ndf,dfo->ndo", features, self.table[k])).unbind(-1)


class NaivePolicies(nn.Module):
    """Adaptive policies over a bridge, called step by step; weights have the names of the agent's."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        width, dim, features = agent.backbone.width, agent.space.dim, agent.features.count
        self.reference, self.steps, self.dim = agent.reference, agent.steps, dim
        self.scale, self.length = agent.features.scale, agent.space.length
        self.register_buffer("frequencies", agent.features.frequencies, persistent=False)
        waves = 2 * agent.backbone.TIME_FREQUENCIES
        self.backbone = nn.ModuleDict(
            {
                "embed_time": nn.Sequential(nn.Linear(waves, width), nn.GELU(), nn.Linear(width, width)),
                "embed_state": nn.Linear(dim * features, width),
                "layers": nn.ModuleList(nn.Linear(width, width) for _ in agent.backbone.layers),
            }
        )
        self.generation = nn.ModuleDict({"readout": NaiveHead(width, self.steps, dim, features)})
        self.destruction = nn.ModuleDict({"readout": NaiveHead(width, self.steps, dim, features)})
        self.log_z = nn.Parameter(torch.zeros(()))
        self.to(agent.log_z.dtype)
        self.load_state_dict(agent.state_dict())

    def network(self, u: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """Hidden vector and features of the states at one time, which is embedded for every row."""
        v = 3.0 * torch.asinh(u / (3.0 * self.scale))
        angle = v.unsqueeze(-1) * self.frequencies
        features = torch.cat([(u / self.scale).unsqueeze(-1), v.unsqueeze(-1), angle.sin(), angle.cos()], dim=-1)
        times = u.new_full((len(u), 1), time)
        angle = times * torch.pi * torch.arange(1, 9, dtype=u.dtype)
        embedded = self.backbone["embed_time"](torch.cat([angle.sin(), angle.cos()], dim=-1))
        hidden = nn.functional.gelu(self.backbone["embed_state"](features.flatten(1)) + embedded)
        for layer in self.backbone["layers"]:
            hidden = nn.functional.gelu(layer(hidden))
        return hidden, features

    def generate(self, u: Tensor, k: int) -> Normal:
        """Law of x_{k+1} given x_k."""
        reference = self.reference
        hidden, features = self.network(u, reference.times[k])
        drift, variance, gain = self.generation["readout"](hidden, features, k)
        std = reference.generation_variance[k] ** 0.5
        unit = (reference.generation_variance[k] / sum(reference.generation_variance)) ** 0.5
        kept = reference.generation_factor[k] * u
        mean = kept + (kept * (unit * gain).tanh()).clamp(-10.0 * std, 10.0 * std) + std * drift
        return Normal(mean, std * (4.0 * (variance / 8.0).tanh()).exp(), validate_args=False)

    def destroy(self, u: Tensor, k: int) -> Normal:
        """Law of x_k given x_{k+1}, for k >= 1: the last step to the origin has no density."""
        reference = self.reference
        hidden, features = self.network(u, reference.times[k + 1])
        offset, variance, gain = self.destruction["readout"](hidden, features, k)
        std = reference.destruction_variance[k] ** 0.5
        unit = (reference.destruction_variance[k] / sum(reference.destruction_variance)) ** 0.5
        kept = reference.destruction_factor[k] * u
        mean = kept + std * 3.0 * offset.tanh() + (kept * (unit * gain).tanh()).clamp(-10.0 * std, 10.0 * std)
        return Normal(mean, std * (1.0 + 0.9 * variance.tanh()).sqrt(), validate_args=False)


class Naive:
    """Training as it is commonly written; see the module docstring.

    Args:
        agent: whose weights it begins with.
        target: the density.
        target_rate: rate of the target networks; 0 for none.
    """

    def __init__(self, agent: Agent, target: Target, target_rate: float) -> None:
        self.policies, self.target, self.target_rate = NaivePolicies(agent), target, target_rate
        self.lagging = copy.deepcopy(self.policies).requires_grad_(False) if target_rate > 0 else None
        policies = self.policies
        tables = [policies.generation["readout"].table, policies.destruction["readout"].table]
        special = {id(p) for p in (*tables, policies.log_z)}
        plain = [p for p in policies.parameters() if id(p) not in special]
        groups = [{"params": plain, "lr": 3e-3}, {"params": tables, "lr": 3e-3}, {"params": policies.log_z, "lr": 0.1}]
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def losses(self, n: int) -> tuple[Tensor, Tensor]:
        """VarGrad loss of both policies on `n` new paths, and their detached log-ratios."""
        policies, lagging = self.policies, self.lagging
        u = torch.zeros(n, policies.dim, dtype=policies.log_z.dtype)
        zeros = torch.zeros_like(u[:, 0])
        generation, destruction, generation_target, destruction_target = zeros, zeros, zeros, zeros
        volume = zeros
        for k in range(policies.steps):
            step = policies.generate(u, k)
            after = torch.addcmul(step.mean, step.stddev, torch.randn_like(u)).detach()
            x = policies.length * torch.sinh(after / policies.length)
            volume_after = 0.5 * (x / policies.length).square().log1p().sum(-1)
            generation = generation + step.log_prob(after).sum(-1) - volume_after
            if k > 0:
                destruction = destruction + policies.destroy(after, k).log_prob(u).sum(-1) - volume
            if lagging is not None:
                with torch.no_grad():
                    generation_target = (
                        generation_target + lagging.generate(u, k).log_prob(after).sum(-1) - volume_after
                    )
                    if k > 0:
                        back = lagging.destroy(after, k)
                        destruction_target = destruction_target + back.log_prob(u).sum(-1) - volume
            u, volume = after, volume_after
        log_reward = self.target.log_prob(x).clamp_min(-1e6)
        if lagging is None:
            generation_target, destruction_target = generation.detach(), destruction.detach()
        loss_generation = (generation - log_reward - destruction_target).var(unbiased=False)
        loss_destruction = (generation_target - log_reward - destruction).var(unbiased=False)
        log_ratio = (generation - log_reward - destruction).detach()
        return loss_generation + loss_destruction, log_ratio

    def step(self, n: int) -> None:
        """One iteration."""
        loss, log_ratio = self.losses(n)
        loss = loss + (self.policies.log_z + log_ratio.mean()).square()
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policies.parameters(), 1.0)
        self.optimiser.step()
        if self.lagging is not None:
            with torch.no_grad():
                for slow, fast in zip(self.lagging.parameters(), self.policies.parameters(), strict=True):
                    slow.lerp_(fast, self.target_rate)


def on_policy_trainer(batch: int, target_rate: float, **changes: object) -> Trainer:
    """The trainer that is compared, a few iterations in, so that no head is at zero."""
    config = replace(ON_POLICY, batch_size=batch, target_rate=target_rate, **changes)
    trainer = Trainer(get_target("funnel"), config)
    trainer.train(3)
    return trainer


def difference(trainer: Trainer, seed: int = 0) -> tuple[float, float]:
    """Largest relative difference of loss and of gradients between the trainer's and the naive, on the same noise."""
    size = trainer.config.batch_size
    naive = Naive(trainer.agent, trainer.target, 1.0 if trainer.target_update else 0.0)
    if naive.lagging is not None:
        targets = trainer.objective.target_agent_params.flatten_keys(".").to_dict()
        naive.lagging.load_state_dict(
            {name: value for name, value in targets.items() if name in trainer.agent.state_dict()}
        )
    torch.manual_seed(seed)
    losses = trainer.objective(trainer.new_paths.generate(size, trainer.exploration.widening_at(0.0)))
    total = losses["loss_generation"] + losses["loss_destruction"]
    parameters = dict(trainer.agent.named_parameters())
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    torch.manual_seed(seed)
    loss, _ = naive.losses(size)
    own = dict(naive.policies.named_parameters())
    others = torch.autograd.grad(loss, [own[name] for name in parameters], allow_unused=True)
    worst = max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
        for a, b in zip(gradients, others, strict=True)
        if a is not None and b is not None
    )
    return float(((total - loss).abs() / loss.abs()).detach()), worst


def medians(works: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median processor seconds of each piece of work, in turns of four, of which the first brings its data back."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            work()
            for _ in range(3):
                begun = time.process_time()
                work()
                if turn >= 1:
                    times[name].append(time.process_time() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(batch: int, target_rate: float, turns: int) -> dict[str, float]:
    """Median processor seconds of an iteration of each implementation; and the seconds that compiling took."""
    trainer = on_policy_trainer(batch, target_rate)
    begun = time.perf_counter()
    compiled = on_policy_trainer(batch, target_rate, compile=True)
    seconds = time.perf_counter() - begun
    for each in (trainer, compiled):
        loss, gradient = difference(each)
        assert max(loss, gradient) < 1e-2, f"not the same work: loss off by {loss:.1e}, gradients by {gradient:.1e}"
    naive = Naive(trainer.agent, trainer.target, target_rate)
    works: dict[str, Callable[[], object]] = {
        "naive": lambda: naive.step(batch),
        "eager": trainer.step,
        "compiled": compiled.step,
    }
    return medians(works, turns) | {"compiling": seconds}


def run(
    batch: Annotated[tuple[int, ...], tyro.conf.arg(help="batch sizes")] = (300, 2000),
    turns: Annotated[int, tyro.conf.arg(help="timed iterations of each implementation")] = 15,
    out: Annotated[Path | None, tyro.conf.arg(help="write the table to this file instead of the terminal")] = None,
) -> None:
    """Compare an iteration's processor time with the naive implementation's."""
    lines = [
        f"torch {torch.__version__}, {platform.machine()}, commit {commit()}; {turns} turns, one thread.",
        "",
        "| batch | target networks | naive, ms | eager, ms | compiled, ms | naive / eager | naive / compiled "
        "| first 3 iterations with compilation, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in batch:
        for rate in (0.0, 0.05):
            seconds = compare(size, rate, turns)
            naive, eager, compiled, first = seconds.values()
            lines.append(
                f"| {size} | {'on' if rate else 'off'} | {1e3 * naive:.1f} | {1e3 * eager:.1f} | {1e3 * compiled:.1f} "
                f"| {naive / eager:.2f} | {naive / compiled:.2f} | {first:.0f} |"
            )
            print(lines[-1], flush=True)
    if out is not None:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(run)
