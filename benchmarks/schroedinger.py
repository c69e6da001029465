"""Schrödinger bridges against entropic optimal transport: in closed form between normal laws, by Sinkhorn between data.

    python benchmarks/schroedinger.py run --rows benchmarks/results/schroedinger.jsonl
    python benchmarks/schroedinger.py table --rows benchmarks/results/schroedinger.jsonl
    python benchmarks/schroedinger.py floors
    python benchmarks/schroedinger.py figure --out docs/schroedinger.png

Three ways to train: `redrawn` (both policies at once, on paths drawn again between their ends), `at-once` (the same on
the policies' own paths) and `alternating` (their own paths, each policy while the other rests: iterative proportional
fitting). A row that is there (same case, T, method and seed) is not run again. One thread a run.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from rows import Row, group, read, run_missing
from tensordict import TensorDict
from torch import Tensor

from ebbflow.agents import BRIDGE, BridgeAgent, build_bridge_agent
from ebbflow.envs import Continuous, Target
from ebbflow.envs.data import Dataset, checkerboard, two_moons
from ebbflow.trainers.callbacks import Callback
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.figures.style import DESTRUCTION, DOTS, GENERATION
from ebbflow.trainers.metrics.entropic_plan import gaussian_cross_covariance, sinkhorn_plan
from ebbflow.trainers.metrics.transport import sinkhorn_divergence
from ebbflow.trainers.trainer import Trainer

HALF_STEP = 200  # iterations for which one policy rests
PAIRS = 20_000
SHOWN = ("cross_error", "cost", "exact_cost", "map_error", "divergence_t")


class Normal(Target):
    """Normal law with exact samples."""

    def __init__(self, mean: list[float], covariance: list[list[float]]) -> None:
        of = torch.tensor(covariance)
        super().__init__(Continuous(len(mean)), scale=float(of.diagonal().mean().sqrt()), name="normal")
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("covariance", of)
        self.register_buffer("root", torch.linalg.cholesky(of))

    def sample(self, n: int) -> Tensor:
        return self.mean + torch.randn(n, len(self.mean)) @ self.root.mT


class HalfSteps(Callback):
    """Destruction and generation learn by turns, `HALF_STEP` iterations each, destruction first."""

    def on_start(self, trainer: Trainer) -> None:
        self._let_learn(trainer)

    def on_iteration(self, trainer: Trainer, losses: TensorDict) -> None:
        self._let_learn(trainer)

    def _let_learn(self, trainer: Trainer) -> None:
        generation = trainer.iteration // HALF_STEP % 2 == 1
        for policy, parameters in trainer.agent.parameter_groups().items():
            for parameter in parameters:
                if policy in ("generation", "destruction"):
                    parameter.requires_grad_((policy == "generation") == generation)


def points_of_normal(n: int) -> Dataset:
    points = torch.tensor([0.5, 0.25]) + torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    return Dataset(points, points[:2], name="normal points")


def board(n: int) -> Dataset:
    points = 0.5 * checkerboard(2 * n).train_rows[:n]
    return Dataset(points, points[:2], name="board")


def moons(n: int) -> Dataset:
    points = two_moons(2 * n).train_rows[:n]
    return Dataset(points, points[:2], name="moons")


def case(name: str) -> tuple[Target, Target, float]:
    """Source, target and σ."""
    if name == "normal-1d":
        return Normal([-1.0], [[1.0]]), Normal([1.5], [[0.25]]), 1.0
    if name == "normal-2d":
        source = Normal([-1.0, 0.0], [[1.0, 0.6], [0.6, 0.8]])
        return source, Normal([1.0, 0.5], [[0.5, -0.3], [-0.3, 0.6]]), 1.0
    if name == "normal-to-moons":
        return points_of_normal(500), moons(500), 0.7
    return moons(500), board(500), 1.0


def train(name: str, steps: int, method: str, seed: int) -> tuple[BridgeAgent, float]:
    """The bridge that was learned, and CPU seconds."""
    source, target, sigma = case(name)
    torch.manual_seed(seed)
    normal = isinstance(source, Normal)
    config = replace(BRIDGE, width=16, depth=1, features=("raw",)) if normal else BRIDGE
    agent = build_bridge_agent(
        source.space,
        source=source,
        sigma=sigma,
        steps=steps,
        scale=max(source.scale, target.scale),
        config=config,
        redraw=method == "redrawn",
    )
    iterations = (600 if normal else 800) * (2 if method == "alternating" else 1)
    rate = {"rate": 1e-2 if normal else 5e-3}
    settings = {"iterations": iterations, "batch_size": 512 if normal else 256, "seed": seed, "threads": 1}
    settings |= {"generation_optimiser": rate, "destruction_optimiser": rate}
    trainer = Trainer(
        target, TrainConfig.from_dict(settings), [HalfSteps()] if method == "alternating" else [], agent=agent
    )
    begun = time.process_time()
    trainer.train()
    learned = trainer.evaluated_agent
    assert isinstance(learned, BridgeAgent)
    return learned, time.process_time() - begun


def covariance(x: Tensor, y: Tensor) -> Tensor:
    return (x - x.mean(0)).mT @ (y - y.mean(0)) / len(x)


def judged_in_closed_form(agent: BridgeAgent, source: Normal, target: Normal, sigma: float) -> Row:
    """Largest errors of any entry: of cross-covariances, and of means and covariances at the ends that are reached."""
    exact = gaussian_cross_covariance(source.covariance, target.covariance, sigma).float()
    x_0, x_t = agent.coupling(PAIRS)
    paths = agent.destroy(target.sample(PAIRS))["state"]
    y_0, y_t = paths[:, 0], paths[:, -1]

    def of_law(x: Tensor, law: Normal) -> float:
        return max(float((x.mean(0) - law.mean).abs().max()), float((covariance(x, x) - law.covariance).abs().max()))

    return {
        "cross": covariance(x_0, x_t).flatten().tolist(),
        "exact_cross": exact.flatten().tolist(),
        "cross_error": float((covariance(x_0, x_t) - exact).abs().max()),
        "cross_error_destruction": float((covariance(y_0, y_t) - exact).abs().max()),
        "law_error_t": of_law(x_t, target),
        "law_error_0": of_law(y_0, source),
        "cost": float((x_0 - x_t).square().sum(-1).mean()),
        "exact_cost": float(
            (source.mean - target.mean).square().sum() + (source.covariance + target.covariance - 2 * exact).trace()
        ),
    }


def judged_by_sinkhorn(agent: BridgeAgent, source: Dataset, target: Dataset, sigma: float) -> Row:
    """Against the plan between the points: cost, barycentric map E[x_T | x_0], and the laws at both ends."""
    x, y = source.train_rows, target.train_rows
    plan = sinkhorn_plan(x, y, sigma).float()
    mapped = plan @ y * len(x)
    draws = 200
    learned = agent.generate(draws * len(x), start=x.repeat_interleave(draws, 0))["state"][:, -1]
    reached = learned.unflatten(0, (len(x), draws))
    error = (reached.mean(1) - mapped).square().sum(-1).mean()
    within = reached.var(1).sum(-1).mean() / draws
    spread = (mapped - mapped.mean(0)).square().sum(-1).mean()
    back = agent.destroy(target.sample(len(y)))["state"][:, 0]
    return {
        "cost": float((x.repeat_interleave(draws, 0) - learned).square().sum(-1).mean()),
        "exact_cost": float((plan * torch.cdist(x, y).square()).sum()),
        "map_error": float((error / spread).sqrt()),
        "map_floor": float((within / spread).sqrt()),
        "divergence_t": sinkhorn_divergence(agent.coupling(len(y))[1], y),
        "divergence_0": sinkhorn_divergence(back, x),
    }


def work(key: Row) -> Row:
    agent, seconds = train(key["case"], key["steps"], key["method"], key["seed"])
    source, target, sigma = case(key["case"])
    torch.manual_seed(1)
    if isinstance(source, Normal) and isinstance(target, Normal):
        found = judged_in_closed_form(agent, source, target, sigma)
    else:
        assert isinstance(source, Dataset) and isinstance(target, Dataset)
        found = judged_by_sinkhorn(agent, source, target, sigma)
    return {"sigma": sigma} | found | {"cpu_seconds": seconds}


def run(rows: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Run what is missing, and append a row for each run."""
    torch.set_num_threads(1)
    redrawn = [("normal-1d", t) for t in (5, 10, 20)] + [("normal-2d", t) for t in (5, 10, 20)]
    redrawn += [(name, t) for name in ("normal-to-moons", "moons-to-board") for t in (10, 20)]
    cells = [(name, t, "redrawn") for name, t in redrawn]
    cells += [
        (*where, how) for where in (("normal-1d", 5), ("normal-to-moons", 10)) for how in ("at-once", "alternating")
    ]
    keys = [{"case": c, "steps": t, "method": how, "seed": seed} for seed in seeds for c, t, how in cells]
    run_missing(rows, keys, work, SHOWN)


def table(rows: Path) -> None:
    """Two Markdown tables: against the closed form, and against Sinkhorn."""
    closed = (
        "cross_error",
        "cross_error_destruction",
        "law_error_t",
        "law_error_0",
        "cost",
        "exact_cost",
        "cpu_seconds",
    )
    points = ("cost", "exact_cost", "map_error", "map_floor", "divergence_t", "divergence_0", "cpu_seconds")
    for numbers, normal in ((closed, True), (points, False)):
        members = sorted(
            (row for row in read(rows) if ("cross_error" in row) == normal),
            key=lambda row: (row["method"] != "redrawn", row["case"], row["steps"]),
        )
        print("| case | T | method | seeds | " + " | ".join(name.replace("_", " ") for name in numbers) + " |")
        print("|---|---|---|---|" + "---|" * len(numbers))
        for one in group(members, {"case": "case", "steps": "T", "method": "method"}):
            cells = []
            for name in numbers:
                values = torch.tensor([row[name] for row in one.evaluations])
                mean, deviation = values.mean().item(), values.std().item() if len(values) > 1 else 0.0
                digits = 0 if name == "cpu_seconds" else 3
                still = "exact" in name or name == "cpu_seconds"
                cells.append(f"{mean:.{digits}f}" if still else f"{mean:.{digits}f} ± {deviation:.{digits}f}")
            print("| " + " | ".join([*(one.labels[k] for k in ("case", "T", "method", "seeds")), *cells]) + " |")
        print()


def floors(draws: int = 12) -> None:
    """Divergences between the points of each set and as many drawn from them, with replacement: where zero is."""
    for data in (moons(500), board(500), points_of_normal(500)):
        torch.manual_seed(0)
        found = [sinkhorn_divergence(data.sample(len(data.train_rows)), data.train_rows) for _ in range(draws)]
        values = torch.tensor(found)
        print(f"{data.name}: {values.mean():.3f} ± {values.std():.3f}, at most {values.max():.3f}")


def figure(out: Path, steps: int = 20) -> None:
    """Paths from one law to the other, and where each point goes on average: learned, and by Sinkhorn."""
    torch.set_num_threads(1)
    picture = Figure(figsize=(10.5, 7.0), layout="constrained")
    for line, name in zip(picture.subplots(2, 3), ("normal-to-moons", "moons-to-board"), strict=True):
        agent, _ = train(name, steps, "redrawn", seed=0)
        source, target, sigma = case(name)
        assert isinstance(source, Dataset) and isinstance(target, Dataset)
        x, y = source.train_rows, target.train_rows
        states = agent.generate(len(x), start=x)["state"]
        for k in range(0, len(x), 40):
            line[0].plot(*states[k].T, color="0.45", lw=0.7)
        line[0].set_title(f"{name.replace('-', ' ')}: paths, T = {steps}, σ = {sigma:g}", fontsize=10)
        reached = agent.generate(200 * len(x), start=x.repeat_interleave(200, 0))["state"][:, -1]
        learned = reached.unflatten(0, (len(x), 200)).mean(1)
        exact = sinkhorn_plan(x, y, sigma).float() @ y * len(x)
        for axes, mapped, title in ((line[1], learned, "learned"), (line[2], exact, "Sinkhorn")):
            for k in range(0, len(x), 2):
                axes.plot(*torch.stack([x[k], mapped[k]]).T, color="0.6", lw=0.5)
            axes.set_title(f"E[x_T | x_0], {title}", fontsize=10)
        ends = (states[:, -1], learned, exact)
        for axes, end in zip(line, ends, strict=True):
            axes.scatter(*x.T, color=DESTRUCTION, label="x_0", zorder=3, **DOTS)
            axes.scatter(*end.T, color=GENERATION, label="x_T", zorder=3, **DOTS)
            axes.set_aspect("equal")
            axes.sharex(line[0])
            axes.sharey(line[0])
        line[0].legend(fontsize=9, loc="upper right", markerscale=3).set_zorder(4)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(out, dpi=110)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table, "floors": floors, "figure": figure})
