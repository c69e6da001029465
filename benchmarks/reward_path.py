r"""A reward credited to the path that was followed, or to a redrawn one: learning curves on a small sequence task.

    python benchmarks/reward_path.py run --rows benchmarks/results/reward_path.jsonl
    python benchmarks/reward_path.py table --rows benchmarks/results/reward_path.jsonl
    python benchmarks/reward_path.py draw --rows benchmarks/results/reward_path.jsonl --out reward_path.png

The task is a Potts chain of 6 tokens out of 3 under random masking, learned by reverse_kl_log_derivative from new paths
alone; a stronger coupling is a sharper reward, and a network of width 2 cannot make its guesses agree between orders.

    followed   the advantage and the score of the path that generation took (`reward_path: followed`)
    redrawn    both of another path to the same sample, drawn by destroying it (`reward_path: redrawn`)
    credited   the advantage of the path that was followed, and the score of the redrawn one

Everything reported is exact: the chain has 729 sequences and 4,096 states with masks, over which the generated law is
summed.
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy
import torch
import tyro
from matplotlib.figure import Figure
from rows import Row, group, read, run_missing, write_table
from tensordict import TensorDict

from ebbflow.agents import DenoisingAgent
from ebbflow.envs.targets import PottsChain
from ebbflow.trainers import TrainConfig, Trainer
from ebbflow.trainers.new_paths import NewPaths

matplotlib.use("Agg")

POSITIONS = {"followed": "#1f6f9f", "redrawn": "#c8553d", "credited": "#7a6a9f"}
CASES = ((1.0, 64), (3.0, 64), (1.0, 2), (3.0, 2))  # coupling, width
MOMENTS = (0, 5, 10, 20, 30, 40, 50, 75, 100, 150, *range(200, 801, 100))
SETTINGS: dict[str, Any] = {
    "objective": "reverse_kl_log_derivative",
    "iterations": MOMENTS[-1],
    "batch_size": 64,
    "average_decay": 0.0,
    "exploration": {"scale": 1.0},
    "replay": {"share": 0.0},
    "generation_optimiser": {"rate": 3e-3, "warmup": 20},
}
NUMBERS = ("path_kl", "sample_kl", "expected_reward", "reward_gap", "calls_to_tenth")


class Credited(NewPaths):
    """Redrawn paths whose log-ratio D is that of the path which was followed: its advantage, and their score."""

    def collect(self, n: int, *args: Any, **kwargs: Any) -> TensorDict:
        """`n` paths, whose log R makes up for the difference."""
        followed = super().collect(n, *args, **kwargs)
        redrawn = self.agent.destroy(followed["state"][:, -1], None, followed["log_reward"])
        with torch.no_grad():
            change = self.agent.log_ratio(redrawn) - self.agent.log_ratio(followed)
        redrawn["log_reward"] = redrawn["log_reward"] + change
        return redrawn.set("origin", followed["origin"])


@torch.no_grad()
def exact_numbers(agent: DenoisingAgent, target: PottsChain) -> dict[str, float]:
    """What generation makes of the chain, summed over all states: nats.

    `path_kl` is log Z − ELBO, the divergence between paths; `sample_kl` that between the laws of their ends;
    `expected_reward` the mean log R of what is generated.
    """
    states, length, mask = agent.reference.all_states(), agent.space.length, agent.space.mask
    place = (mask + 1) ** torch.arange(length - 1, -1, -1)  # of each position in the number of a state
    left = (states != mask).sum(-1)
    law = torch.zeros(len(states), dtype=torch.float64)
    law[(states == mask).all(-1)] = 1.0
    log_ratio = 0.0
    for k in range(length):
        here = (left == k).nonzero().squeeze(-1)
        state = states[here]
        log_prob = agent.reference.joint_log_prob(agent.guess(state, k), state, k).double()  # [n, length, vocabulary]
        joint = law[here, None, None] * log_prob.exp()
        destruction = -torch.tensor(k + 1.0).double().log()
        log_ratio += torch.where(joint > 0, joint * (log_prob - destruction), 0.0).sum()
        step = (torch.arange(mask) - mask) * place[:, None]  # [length, vocabulary]: from a mask to a token
        following = here[:, None, None] + step
        possible = joint > 0
        law.index_add_(0, following[possible], joint[possible])
    samples = left == length
    generated, log_reward = law[samples], target.log_prob(states[samples]).double()
    assert target.log_z is not None
    reward = float((generated * log_reward).sum())
    truth = (log_reward - target.log_z).exp()
    return {
        "path_kl": float(log_ratio) - reward + target.log_z,
        "sample_kl": float((torch.xlogy(generated, generated) - generated * log_reward).sum()) + target.log_z,
        "expected_reward": reward,
        "reward_gap": float((truth * log_reward).sum()) - reward,
    }


def work(key: Row) -> Row:
    """One training, and its curves."""
    settings = SETTINGS | {"seed": key["seed"], "threads": 1, "agent": {"width": key["width"], "depth": 2}}
    settings["reward_path"] = "redrawn" if key["path"] == "redrawn" else "followed"
    target = PottsChain(6, 3, coupling=key["coupling"])
    trainer = Trainer(target, TrainConfig.from_dict(settings))
    assert isinstance(trainer.agent, DenoisingAgent)
    if key["path"] == "credited":
        trainer.new_paths = Credited(trainer.agent, trainer.target, trainer.config, trainer.new_paths.objective)
    curves: dict[str, list[float]] = {}
    for iteration in MOMENTS:
        trainer.train(until=iteration)
        found = {"energy_calls": float(trainer.energy_calls), **exact_numbers(trainer.agent, target)}
        for name, value in found.items():
            curves.setdefault(name, []).append(round(value, 5))
    below = [calls for calls, kl in zip(curves["energy_calls"], curves["path_kl"], strict=True) if kl < 0.1]
    last = {name: values[-1] for name, values in curves.items()}
    return last | {"calls_to_tenth": below[0] if below else None, "seconds": trainer.seconds, "curves": curves}


def run(rows: Path, seeds: int = 5) -> None:
    """Run what is missing, seed by seed."""
    keys = [
        {"coupling": coupling, "width": width, "path": position, "seed": seed}
        for seed in range(seeds)
        for coupling, width in CASES
        for position in POSITIONS
    ]
    run_missing(rows, keys, work, ("path_kl", "sample_kl", "expected_reward", "seconds"))


def table(rows: Path, out: Path | None = None) -> None:
    """Markdown table, mean ± sd over seeds."""
    order = list(POSITIONS)
    found = sorted(read(rows), key=lambda row: (-row["width"], row["coupling"], order.index(row["path"])))
    heading = (
        "# A reward credited to the path followed, or to a redrawn one\n\n"
        f"Command: `python benchmarks/reward_path.py run --rows {rows}`, then `... table`. "
        f"After {SETTINGS['iterations']:,} iterations of {SETTINGS['batch_size']} paths; "
        "nats; `path_kl` = log Z − ELBO, `sample_kl` = KL(generated ‖ density), `reward_gap` = mean log R of "
        "the density − that of what is generated, `calls_to_tenth` = energy calls until path_kl < 0.1, of "
        "the runs (number) that came so far. All are exact sums. "
        'Rows of f2c6c32 and 5e0078e+ are of the commit "Generate at a condition", before it was rebased.\n\n'
    )
    groups = group(found, {"coupling": "coupling", "width": "width", "path": "path"})
    for one in groups:
        seeds, code = one.labels.pop("seeds"), one.labels.pop("commit")
        for name in NUMBERS:
            values = [row[name] for row in one.evaluations if row[name] is not None]
            digits = 0 if name.startswith("calls") else 3
            shown = (
                f"{numpy.mean(values):,.{digits}f} ± {numpy.std(values, ddof=1):,.{digits}f}"
                if len(values) > 1
                else "–"
            )
            one.labels[name] = shown + (f" ({len(values)})" if 1 < len(values) < len(one.evaluations) else "")
        one.labels.update(seeds=seeds, commit=code)
    write_table(groups, (), out, heading)


def draw(rows: Path, out: Path) -> None:
    """Curves against energy calls: the mean over seeds, and every seed."""
    found = read(rows)
    shown = {
        "path_kl": "reverse KL of paths,\nlog Z − ELBO (nats)",
        "reward_gap": "mean log R of the density −\nthat of samples (nats)",
    }
    figure = Figure(figsize=(4.2 * len(CASES), 6.4), layout="constrained")
    grid = figure.subplots(len(shown), len(CASES), sharex=True, squeeze=False)
    for column, (coupling, width) in enumerate(CASES):
        for line, (name, label) in enumerate(shown.items()):
            axes = grid[line, column]
            for position, colour in POSITIONS.items():
                key = (coupling, width, position)
                runs = [row["curves"] for row in found if (row["coupling"], row["width"], row["path"]) == key]
                if not runs:
                    continue
                calls = [count / 1000 for count in runs[0]["energy_calls"]]
                for curves in runs:
                    axes.plot(calls, curves[name], color=colour, lw=0.7, alpha=0.4)
                middle = torch.tensor([curves[name] for curves in runs]).mean(0)
                axes.plot(calls, middle.tolist(), color=colour, lw=2.2, label=f"{position} (mean of {len(runs)})")
            axes.set_ylabel(label)
            axes.grid(alpha=0.25)
            if name == "path_kl":
                axes.set_yscale("log")
                axes.set_title(f"coupling {coupling:g}, width {width}", fontsize=10)
                axes.legend(fontsize=9)
            else:
                axes.set_yscale("symlog", linthresh=0.1)
                axes.axhline(0.0, color="black", lw=0.8)
                axes.set_xlabel("energy calls (thousands)")
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table, "draw": draw})
