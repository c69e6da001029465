"""The benchmarks' machinery: rows are run once and resumed, grids hold settings that exist, presets are the table's."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ebbflow.agents import build_agent
from ebbflow.envs import InputError, get_target
from ebbflow.trainers.config import TrainConfig, list_presets, load_preset
from ebbflow.trainers.objectives.catalogue import get_objective
from ebbflow.trainers.suited import suited_config
from ebbflow.trainers.trainer import Trainer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = {
    **{"iterations": 3, "batch_size": 8, "evaluation_samples": 16},
    **{"anchors.count": 20, "anchors.temperatures": 2, "anchors.final_moves": 2},
    **{"agent.width": 4, "agent.time_grid_power": 2.0},
}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """As for scripts that run beside each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_what_has_a_row_is_not_run_again(tmp_path, capsys):
    from rows import read, run_missing

    path = tmp_path / "deep/rows.jsonl"
    keys = [{"target": "a", "steps": 5, "seed": seed} for seed in range(3)]
    seen = []

    def work(key):
        seen.append(key["seed"])
        if key["seed"] == 1 and seen.count(1) == 1:
            raise KeyboardInterrupt
        return {"width": 2.0}

    with pytest.raises(KeyboardInterrupt):
        run_missing(path, keys, work, ["width"])
    with path.open("a") as file:
        file.write('{"target": "a", "se')  # killed in the middle of a line
        file.write("\n")
    run_missing(path, keys, work, ["width"])
    assert seen == [0, 1, 1, 2]
    assert [row["seed"] for row in read(path)] == [0, 1, 2]
    assert all(row["width"] == 2.0 and row["commit"] for row in read(path))
    assert "a 5 2 · width 2.000" in capsys.readouterr().out


def test_rows_without_steps_are_of_five(tmp_path):
    from rows import group, read

    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"target": "a", "seed": 0, "commit": "x"}\n{"target": "a", "seed": 0, "commit": "x", "steps": 10}\n'
    )
    assert [row["steps"] for row in read(path)] == [5, 10]
    assert [g.labels["T"] for g in group(read(path), {"steps": "T"})] == ["5", "10"]


def test_an_ablation_runs_resumes_and_tells_failures(tmp_path, capsys):
    from ablate import Grid, run, table
    from rows import read

    grid, rows = tmp_path / "grid.json", tmp_path / "rows.jsonl"
    breaking = {"iterations": 30, "generation_optimiser.rate": 1e38, "generation_optimiser.table_rate": 1e38}
    breaking["agent.reach"] = None  # which would hold the states that are to lead too far away
    changes = {"recipe": {}, "breaks": breaking, "short": {"steps": 2, "agent.tables": False}}
    changes["breaks at once"] = breaking | {"agent.compression": None}
    grid.write_text(json.dumps({"targets": ["gmm25"], "seeds": [0, 1], "base": TINY, "changes": changes}))
    run(grid, rows, seeds=(0,))
    before = rows.read_text()
    run(grid, rows, only=("recipe", "short"))
    assert rows.read_text().startswith(before)
    found = {(row["label"], row["seed"]): row for row in read(rows)}
    assert set(found) == {(label, 0) for label in changes} | {("recipe", 1), ("short", 1)}
    assert found["short", 0]["steps"] == 2 and json.loads(found["short", 1]["settings"])["agent"]["tables"] is False
    assert "too far away" in found["breaks", 0]["failed"]  # seen by the evaluation: no state is infinite
    assert "nan" in found["breaks at once", 0]["failed"] and found["breaks at once", 0]["failed_at"] < 30
    assert found["recipe", 1]["cpu_seconds"] > 0
    assert found["recipe", 0]["elbo"] != found["recipe", 1]["elbo"]
    capsys.readouterr()
    table(grid, rows)
    lines = [line.split(" | ")[:4] for line in capsys.readouterr().out.splitlines() if line.startswith("| gmm25")]
    assert lines == [
        ["| gmm25", "recipe", "5", "0, 1"],
        ["| gmm25", "breaks", "5", "0 (failed)"],
        ["| gmm25", "short", "2", "0, 1"],
        ["| gmm25", "breaks at once", "5", "0 (failed)"],
    ]
    assert len(Grid.load(grid).cases()) == 8


def test_a_wrong_setting_stops_an_ablation_before_it_begins(tmp_path):
    from ablate import Grid, run

    grid = tmp_path / "grid.json"
    grid.write_text(json.dumps({"targets": ["gmm25"], "base": TINY, "changes": {"a": {}, "b": {"agent.widht": 3}}}))
    with pytest.raises(InputError, match=r"unknown setting 'agent.widht'"):
        run(grid, tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()
    for wrong in ("{", '{"targets": []}', '{"frob": 1, "targets": [], "changes": {}}'):
        grid.write_text(wrong)
        with pytest.raises(InputError, match="expected JSON with targets, changes"):
            Grid.load(grid)


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("ablations/*.json")), ids=lambda path: path.name)
def test_every_change_of_a_grid_can_be_run_and_changes_something(path):
    from ablate import Grid
    from quality import configure

    configs = {}
    for key, settings in Grid.load(path).cases():
        if key["seed"] == 0:
            target = get_target(key["target"])
            config = suited_config(configure(key, settings), target)
            configs[key["target"], key["label"]] = config
            agent = config.agent
            if agent.time_grid_power is None:  # which a training chooses
                agent = replace(agent, time_grid_power=2.0)
            build_agent(target.space, scale=target.scale, steps=config.steps, config=agent)
            for name in (config.objective, config.destruction_objective or config.objective):
                get_objective(name)
    assert len(configs) == len(set(map(str, configs.values())))  # no two changes are the same


def test_the_budget_of_a_training_is_matched():
    """With what a training does spend, with its search for the time grid and without final moves."""
    from smc import RECIPE, budgets, energy_calls

    changes = {"iterations": 40, "anchors": {"count": 200, "temperatures": 50, "final_moves": 30}}
    for agent in ({"width": 4}, {"width": 4, "time_grid_power": 2.0}):
        config = TrainConfig.from_dict({**changes, "agent": agent})
        trainer = Trainer(get_target("gmm25"), config)
        trainer.train()
        final = 200 * 30
        assert trainer.anchors.energy_calls == energy_calls(*budgets(config)["the anchors"], config) + final
        for name in ("a training, in temperatures", "a training, in particles"):
            assert energy_calls(*budgets(config)[name], config) == pytest.approx(trainer.energy_calls - final, rel=0.02)
    assert budgets()["the anchors"] == (RECIPE.anchors.count, RECIPE.anchors.temperatures)
    assert TrainConfig() == RECIPE


def test_annealed_smc_is_judged_by_the_metrics_of_the_evaluation(monkeypatch):
    import smc

    monkeypatch.setattr(smc, "budgets", lambda: {"small": (400, 10)})
    row = smc.run_one({"target": "manywell-32", "budget": "small", "seed": 0})
    assert row["energy_calls"] == row["gradient_calls"] >= smc.energy_calls(400, 10)  # more: steps are shortened
    assert abs(row["log_z"] - row["true_log_z"]) < 20.0 and 0.0 <= row["worst_right_mass_error"] <= 1.0
    quality = next(json.loads(line) for line in (BENCHMARKS / "results/quality.jsonl").open() if "manywell-32" in line)
    assert row["sinkhorn_floor"] == pytest.approx(quality["sinkhorn_floor"], rel=1e-4)  # the very same exact samples


def test_presets_are_the_rows_of_the_table(monkeypatch, tmp_path):
    """What `quality.py presets` writes is what is there, and what the benchmark runs by that name."""
    import quality

    monkeypatch.setattr(quality, "PRESETS", tmp_path)
    quality.presets()
    written = {path.stem: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert len(written) == len(quality.TARGETS) * len(quality.STEPS) * len(quality.VARIANTS)
    assert set(written) <= set(list_presets())
    for name, settings in written.items():
        target, steps, variant = re.fullmatch(r"(.+)-t(\d+)-(\w+)", name).groups()
        assert set(settings) <= {"target", "steps", "iterations", "threads", "agent"}
        key = {"target": target, "steps": int(steps), "variant": variant, "seed": 0}
        assert load_preset(name) == quality.configure(key, {})
