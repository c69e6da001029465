"""The command line: what goes wrong is one line that names it, and what goes right leaves the promised files."""

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from ebbflow.envs import CallableTarget
from ebbflow.trainers.callbacks import read_metrics
from ebbflow.trainers.checkpoint import load_checkpoint
from ebbflow.trainers.cli import COMMANDS
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.objectives import OBJECTIVES, RANDOM_LEVEL

KEYS = {
    *("elbo", "elbo_stderr", "eubo", "eubo_stderr", "eubo_median", "sandwich_width"),
    *("log_z", "log_z_stderr", "true_log_z", "ess_reverse", "ess_forward", "khat"),
    *("sinkhorn", "mode_coverage", "energy_calls", "gradient_calls", "seconds"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where a finished run is kept; made by the first test that wants one."""
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("ebbflow.trainers.train.write_figures", lambda *_: None)


@pytest.fixture
def run(finished, ebbflow, flags, tmp_path):
    """A finished run at `run`, to be looked at or damaged."""
    if not finished.exists():
        assert ebbflow("train", "gmm25", *flags("--out", finished)).code == 0
    return shutil.copytree(finished, tmp_path / "run")


def strict(text):
    """JSON without NaN or Infinity, which it does not know."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"not JSON: {name}"))


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


# Mistakes -------------------------------------------------------------------------------------------------------------


MISTAKES = {
    "--steps -3": "steps: expected a whole number >= 1, got -3",
    "--batch-size 1": "batch_size: expected a whole number >= 2, got 1",
    "--seed -1": "seed: expected a whole number >= 0, got -1",
    f"--seed {2**64}": f"seed: expected a whole number below 2^63, got {2**64}",
    "--dim 3": "dim: target 'gmm25' has 2 coordinates, got 3",
    "--scale -1": "scale: expected a positive finite number, got -1.0",
    "--device frob": "device: expected one that torch can use here, got 'frob'",
    "--device cuda:99": "device: expected one that torch can use here, got 'cuda:99'",
    "--device meta": "device: expected one that torch can use here, got 'meta'",
    "--agent.reference x": "reference: expected one of ['bridge', ",
    "--agent.features raw x": "features: expected a choice of ['raw', ",
    "--agent.time-grid x": "time_grid: expected one of ['shrinking', 'uniform'], got 'x'",
    "--agent.width 0": "width: expected a whole number >= 1, got 0",
    "--agent.destruction-mean x": "destruction_mean: expected one of ",
    "--replay.priority x": "priority: expected one of importance_weight, loss, ",
    "--replay.share nan": "replay.share: expected a number between 0 and 1, got nan",
    "--objective x": f"objective: expected one of {sorted([*OBJECTIVES, RANDOM_LEVEL])}, got 'x'",
    "--destruction-objective x": f"destruction_objective: expected one of {sorted(OBJECTIVES)}, got 'x'",
    "--exploration.scale 0.5": "exploration.scale: expected a number >= 1, got 0.5",
    "--exploration.drift -1": "exploration.drift: expected a finite number >= 0, got -1.0",
    "--anchors.samples no.npy": "anchors.samples: expected a .npy file of numbers [n, dim], got 'no.npy' (",
    "--preset nope": "preset: expected one of [",
    "--preset=nope.json": "preset: expected one of [",
}


def test_running_out_of_memory_is_one_line(ebbflow, flags, tmp_path):
    found = ebbflow("train", "gmm25", *flags("--batch-size", str(10**15)))
    assert found.code == 1
    assert found.message.startswith("out of memory; try a smaller batch_size, ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", MISTAKES)
def test_a_wrong_setting_is_one_line(words, ebbflow, flags, tmp_path):
    found = ebbflow("train", "gmm25", *flags(*words.split()))
    assert found.code == 2
    assert found.message.startswith(MISTAKES[words])
    assert found.out == ""
    assert list(tmp_path.iterdir()) == []


TARGETS = {
    "gmm52": "target: unknown name 'gmm52'; did you mean gmm25",
    "manywell": "dim: target 'manywell' needs an even number of coordinates",
    "densities:fine": "dim: target 'densities:fine' is a function of states, so its number",
    "densities:other": "target 'densities:other': module densities has no attribute 'other'",
    "nowhere:fine": "target 'nowhere:fine': cannot import nowhere: ModuleNotFoundError",
    "densities.py:fine": "target 'densities.py:fine': expected a module, not a file; write densities:fine",
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_that_cannot_be_had_is_one_line(name, ebbflow, flags, densities, tmp_path):
    densities.fine = lambda x: -0.5 * x.square().sum(-1)
    found = ebbflow("train", name, *flags())
    assert found.code == 2
    assert found.message.startswith(TARGETS[name])
    assert list(tmp_path.iterdir()) == []


def test_no_target_is_one_line(ebbflow, flags):
    assert ebbflow("train", *flags()).message.startswith("target: expected a name, plugin or package.module:attribute")


def fails(x):
    raise ZeroDivisionError("what I divide by\nis zero")


DENSITIES = {
    "raises": (fails, "log_prob raised ZeroDivisionError: what I divide by is zero"),
    "NaN": (lambda x: x.sum(-1) * math.nan, "log_prob is nan for 16 of 16 states, first at x = ["),
    "+inf": (lambda x: x.sum(-1) * 0 + math.inf, "log_prob is inf for 16 of 16 states, first at x = ["),
    "a wrong shape": (lambda x: x, "log_prob of states [16, 2] must have shape [16], got [16, 2]"),
    "one number": (lambda x: x.sum(), "log_prob of states [16, 2] must have shape [16], got []"),
    "no tensor": (lambda x: 1.0, "log_prob of states [16, 2] must have shape [16], got float"),
    "whole numbers": (lambda x: x.sum(-1).long(), "log_prob must return floating point values, got torch.int64"),
    "-inf": (
        lambda x: x.sum(-1) * 0 - math.inf,
        "the log density is -inf, or below log_reward_floor = -1e+06, for all",
    ),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_that_cannot_be_used_is_one_line(name, ebbflow, flags, densities, tmp_path):
    density, message = DENSITIES[name]
    densities.mine = CallableTarget(density, 2, name="mine")
    found = ebbflow("train", "densities:mine", *flags("--dim", 2, "--anchors.share", 0))
    assert found.code == 2
    assert found.message.startswith(f"target 'mine': {message}")
    assert list(tmp_path.iterdir()) == []  # not even an empty runs/
    assert ebbflow("train", "densities:mine", *flags("--dim", 2)).code == 2  # in the search for anchors


def late(value, after):
    """A standard normal that returns `value` from some call on."""
    calls = 0

    def log_prob(x):
        nonlocal calls
        calls += 1
        return -0.5 * x.square().sum(-1) + (value if calls > after else 0.0)

    return log_prob


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("iteration", "kept"), [(2, None), (5, 3)])
def test_a_density_that_breaks_on_the_way(iteration, kept, value, ebbflow, flags, densities, tmp_path, monkeypatch):
    """Before the first checkpoint nothing is left; afterwards the checkpoint is, and can be gone on from."""
    monkeypatch.setattr("ebbflow.trainers.train.write_figures", lambda *_: None)
    densities.mine = late(value, iteration)
    words = flags("--dim", 2, "--anchors.share", 0, "--log-every", 100, "--out", "run")
    found = ebbflow("train", "densities:mine", *words)
    assert found.code == 2
    assert f"target 'log_prob': log_prob is {value} for " in found.message
    if kept is None:
        assert list(tmp_path.iterdir()) == []
    else:
        assert load_checkpoint(tmp_path / "run/checkpoint")[0]["counters"]["iteration"] == kept
        densities.mine = late(0.0, 0)
        assert ebbflow("resume", "run").code == 0


def test_a_training_that_diverges_is_one_line(ebbflow, flags, densities):
    densities.mine = late(1e30, 4)
    found = ebbflow("train", "densities:mine", *flags("--dim", 2, "--anchors.share", 0, iterations=40, log_every=100))
    assert found.code == 2
    assert found.message.startswith("training: the loss or its gradient was not finite for 20 iterations in a row")


@pytest.mark.parametrize(
    "words",
    ["train gmm25 --frob 3", "train gmm25 --steps many", "train gmm25 --replay.contents x", "frob", "", "resume"],
)
def test_what_cannot_be_parsed_is_told_and_fails(words, ebbflow, tmp_path):
    found = ebbflow(*words.split())
    assert found.code == 2
    assert found.out == ""
    assert "Traceback" not in found.err and "help" in found.err
    for word in words.split()[2:3]:
        assert word.lstrip("-") in found.err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(ebbflow, flags, finished, run):
    with pytest.raises(ValueError, match="steps: expected a whole number"):
        ebbflow("train", "gmm25", "--steps", -3, "--debug")
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(ValueError, match="ended before its first checkpoint"):
        ebbflow("resume", "run", "--debug")


# Presets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps: 3", "not valid JSON"),
        ('{"steps": 3', "not valid JSON"),
        ("[]", "must hold a table of settings, got list"),
        ('{"stepps": 3}', "unknown setting 'stepps'; known: agent, "),
        ('{"agent": {"steps": 3}}', "unknown setting 'agent.steps'; known: compression, depth, "),
        ('{"steps": "3"}', "steps: expected int, got '3'"),
        ('{"agent": {"features": [3]}}', "agent.features: expected str, got 3"),
        ('{"steps": 0}', "steps: expected a whole number >= 1, got 0"),
    ],
)
def test_an_unusable_preset_is_one_line(content, message, ebbflow, tmp_path):
    (tmp_path / "mine.json").write_text(content)
    found = ebbflow("train", "gmm25", "--preset", "mine.json")
    assert found.code == 2
    assert message in found.message
    assert [p.name for p in tmp_path.iterdir()] == ["mine.json"]


def test_the_config_of_a_run_reproduces_it(run, ebbflow, no_figures, tmp_path):
    assert ebbflow("train", "--preset", "run/config.json", "--out", "again").code == 0
    assert (tmp_path / "again/config.json").read_bytes() == (run / "config.json").read_bytes()
    one, other = (json.loads((tmp_path / p / "evaluation.json").read_text()) for p in ("run", "again"))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_flags_and_target_go_over_a_preset(ebbflow, settings, no_figures, tmp_path):
    preset = settings(agent={"tables": False}, anchors={"share": 0.0})
    (tmp_path / "mine.json").write_text(json.dumps(preset))
    words = ["--steps", 2, "--agent.width", 4, "--agent.tables", "--threads", 1]
    assert ebbflow("train", "gmm40", "--preset=mine.json", *words).code == 0
    found = TrainConfig.from_dict(json.loads((tmp_path / "runs/gmm40/config.json").read_text()))
    changes = {"target": "gmm40", "steps": 2, "threads": 1, "agent": {**preset["agent"], "width": 4, "tables": True}}
    assert found == TrainConfig.from_dict({**preset, **changes})


# Folders --------------------------------------------------------------------------------------------------------------


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_is_not_replaced_unasked(run, ebbflow, flags):
    before = tree(run)
    found = ebbflow("train", "gmm25", *flags("--out", "run"))
    assert found.code == 2
    assert found.message == "out: the run run exists; pass --overwrite, or go on with: ebbflow resume run"
    assert tree(run) == before


def test_overwrite_replaces_a_run_and_nothing_else(run, ebbflow, flags, no_figures):
    (run / "notes.txt").write_text("mine")
    assert ebbflow("train", "gmm25", *flags("--out", "run", "--overwrite", "--steps", 2)).code == 0
    assert json.loads((run / "config.json").read_text())["steps"] == 2
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "figures").exists()  # the old ones are gone; new ones are not drawn in this test


def test_an_unusable_new_run_does_not_cost_the_old_one(run, ebbflow, flags, densities):
    densities.mine = fails
    before = tree(run)
    assert ebbflow("train", "densities:mine", *flags("--dim", 2, "--out", "run", "--overwrite")).code == 2
    assert ebbflow("train", "gmm25", *flags("--steps", 0, "--out", "run", "--overwrite")).code == 2
    assert tree(run) == before


@pytest.mark.parametrize("content", [None, "{}", '{"name": "my-web-page", "target": "es2020"}', "broken {", "[1]"])
def test_what_is_not_a_run_is_never_overwritten(content, ebbflow, flags, tmp_path):
    """Others have a config.json and a folder figures/, too."""
    folder = tmp_path / "thesis"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures/one.png").write_text("mine")
    if content is not None:
        (folder / "config.json").write_text(content)
    before = tree(folder)
    for more in ([], ["--overwrite"]):
        found = ebbflow("train", "gmm25", *flags("--out", "thesis", *more))
        assert found.code == 2
        assert found.message == "out: thesis exists and is not a run folder; choose another"
    assert tree(folder) == before


def test_a_file_is_not_a_folder(ebbflow, flags, tmp_path):
    (tmp_path / "run").write_text("mine")
    assert ebbflow("train", "gmm25", *flags("--out", "run")).message == "out: expected a folder, got the file run"
    found = ebbflow("train", "gmm25", *flags("--out", "run/deeper"))
    assert found.code == 1 and "run/deeper" in found.message


@pytest.mark.parametrize("command", ["resume", "evaluate", "sample", "report"])
def test_a_missing_folder_is_one_line(command, ebbflow, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("nowhere", "empty"):
        found = ebbflow(command, folder)
        assert found.code == 2
        assert found.message == f"run: expected a run folder with a config.json, got '{folder}'"


# Damaged runs ---------------------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def from_elsewhere(path):
    save_file({"weight": torch.ones(3)}, path)


def of_other_settings(path):
    config = path.parents[1] / "config.json"
    config.write_text(config.read_text().replace('"steps": 3', '"steps": 4'))


def not_json(path):
    cut(path.parents[1] / "config.json")


def unknown_field(path):
    config = path.parents[1] / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "frob": 1}))


DAMAGES = {
    cut: "checkpoint run/checkpoint/state.safetensors: truncated or not a checkpoint (",
    from_elsewhere: "checkpoint run/checkpoint/state.safetensors: a safetensors file, but not one of this program's",
    of_other_settings: "checkpoint run/checkpoint: from another configuration: steps is 3 there and 4 in config.json",
    not_json: "run/config.json: not valid JSON (",
    unknown_field: "run/config.json: unknown setting 'frob'; known: ",
    Path.unlink: "run: run ended before its first checkpoint; start it again with: ebbflow train --preset",
}


@pytest.mark.parametrize("command", ["resume", "evaluate", "sample", "report"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_run_is_one_line(damage, command, run, ebbflow):
    damage(run / "checkpoint/state.safetensors")
    before = tree(run)
    found = ebbflow(command, "run")
    assert found.code == 2
    assert found.message.startswith(DAMAGES[damage])
    assert tree(run) == before


def test_a_pickle_is_never_executed(run, ebbflow, flags, tmp_path):
    marker = tmp_path / "executed"
    state = run / "checkpoint/state.safetensors"
    state.write_bytes(pickle.dumps(Trap(marker)))
    assert "truncated or not a checkpoint" in ebbflow("resume", "run").message
    torch.save(Trap(marker), state)
    assert "truncated or not a checkpoint" in ebbflow("evaluate", "run").message
    state.rename(state.with_name("state.pt"))
    assert "found only state.pt, which is not read (pickles never are)" in ebbflow("sample", "run").message
    array = numpy.empty(1, dtype=object)
    array[0] = Trap(marker)
    numpy.save(tmp_path / "anchors.npy", array, allow_pickle=True)
    (tmp_path / "anchors.pkl").write_bytes(pickle.dumps(Trap(marker)))
    for name in ("anchors.npy", "anchors.pkl"):
        found = ebbflow("train", "gmm25", *flags("--anchors.samples", name, "--out", "new"))
        assert found.code == 2
        assert found.message.startswith(f"anchors.samples: expected a .npy file of numbers [n, dim], got '{name}'")
    assert not marker.exists() and not (tmp_path / "new").exists()
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists()  # the trap was armed


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "anchors.samples: expected a .npy file of numbers"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "anchors.samples: expected a .npy file of numbers"),
        (lambda path: path.write_bytes(b"PK\x03\x04 not a zip"), "anchors.samples: expected a .npy file of numbers"),
        (lambda path: path.mkdir(), "anchors.samples: expected a .npy file of numbers"),
        (lambda path: numpy.save(path, numpy.array([["a", "b"]])), "anchors.samples: expected a .npy file of numbers"),
        (lambda path: numpy.save(path, numpy.zeros((5, 3))), "states: expected a tensor [n >= 1, 2], got [5, 3]"),
        (lambda path: numpy.save(path, numpy.full((5, 2), numpy.nan)), "states: expected finite values, got NaN"),
    ],
)
def test_unusable_anchors_are_one_line(write, message, ebbflow, flags, tmp_path):
    write(tmp_path / "mine.npy")
    found = ebbflow("train", "gmm25", *flags("--anchors.samples", "mine.npy", "--out", "new"))
    assert found.code == 2
    assert found.message.startswith(message)
    assert not (tmp_path / "new").exists()


# Help and lists -------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands(ebbflow):
    found = ebbflow("--help")
    assert found.code == 0 and found.err == ""
    for name in COMMANDS:
        assert name in found.out
    assert list(COMMANDS) == ["train", "resume", "evaluate", "sample", "report", "compare", "bench", "targets"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, ebbflow):
    found = ebbflow(command, "--help")
    assert found.code == 0 and found.err == ""
    assert COMMANDS[command].__doc__.split(",")[0].rstrip(".") in " ".join(found.out.split())


def test_every_setting_explains_itself(ebbflow, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # one column
    text = ebbflow("train", "--help").out

    def settings(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from settings(value, f"{prefix}{name}.")
            elif name != "target":
                yield f"--{prefix}{name}".replace("_", "-")

    for flag in settings(TrainConfig().to_dict()):
        assert f" {flag} " in text or f" {flag}," in text, flag
        after = text.partition(f" {flag}")[2]
        explanation = after.partition("(default:")[0]
        assert len(explanation.split()) >= 3, flag


def test_targets_are_listed(ebbflow):
    found = ebbflow("targets")
    assert (found.code, found.err) == (0, "")
    for name in ("gmm25", "gmm25-narrow", "gmm40", "funnel", "manywell-32", "student-t-<d>", "ring<n>", "lgcp"):
        assert name in found.out


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_was_promised(run):
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    pictures = {name for name in names if name.startswith("figures/") and name.endswith(".png")}
    assert pictures
    assert names - pictures == {"config.json", "metrics.csv", "evaluation.json", "checkpoint/state.safetensors"}
    assert set(strict((run / "evaluation.json").read_text())) >= KEYS
    assert TrainConfig.from_dict(strict((run / "config.json").read_text())).target == "gmm25"
    assert len(read_metrics(run / "metrics.csv")) == 6


def test_a_finished_training_shows_its_numbers(ebbflow, flags, no_figures):
    found = ebbflow("train", "gmm25", *flags("--out", "strange [red] name"))
    assert (found.code, found.err) == (0, "")
    lines = found.out.splitlines()
    for label in ("ELBO", "EUBO", "EUBO − ELBO", "log Z (true)", "Pareto k̂", "modes covered", "energy calls"):
        assert any(line.strip().startswith(label) for line in lines), label
    assert any(line.startswith("not to be trusted: ") for line in lines)
    assert lines[-1] == "run folder: strange [red] name"
    assert max(len(line) for line in lines if "trusted" not in line) <= 80


def test_evaluate_prints_the_numbers_of_the_file(run, ebbflow):
    before = strict((run / "evaluation.json").read_text())
    found = ebbflow("evaluate", "run", "--json")
    assert (found.code, found.err) == (0, "")
    assert set(strict(found.out)) >= KEYS
    assert strict(found.out) == strict((run / "evaluation.json").read_text()) == before


def test_evaluate_with_another_seed_or_size(run, ebbflow):
    before = strict((run / "evaluation.json").read_text())
    found = strict(ebbflow("evaluate", "run", "--json", "--seed", 1, "--samples", 30).out)
    assert found["samples"] == 30 and found["elbo"] != before["elbo"]
    assert strict((run / "evaluation.json").read_text()) == found
    assert "ELBO" in ebbflow("evaluate", "run").out
    assert strict((run / "evaluation.json").read_text()) == before
    for words in (["--samples", 1], ["--seed", -1]):
        refused = ebbflow("evaluate", "run", *words)
        assert refused.code == 2 and refused.message.startswith(words[0].strip("-") + ": expected")


def test_evaluate_is_strict_json_also_with_infinite_numbers(ebbflow, flags, densities, no_figures):
    densities.mine = lambda x: torch.where(x[:, 0] > 0, -0.5 * x.square().sum(-1), -math.inf)
    assert ebbflow("train", "densities:mine", *flags("--dim", 2, "--out", "run")).code == 0
    found = strict(ebbflow("evaluate", "run", "--json").out)
    assert found["elbo"] is None and 0 < found["zero_density_share"] < 1


def test_evaluate_prints_json_and_nothing_else_in_a_process_of_its_own(run, tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "ebbflow.trainers.cli", "evaluate", "run", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert strict(found.stdout) == strict((run / "evaluation.json").read_text())


def test_samples_are_read_back(run, ebbflow, tmp_path):
    found = ebbflow("sample", "run", "-n", 9, "--out", "some/samples.npz", "--seed", 5)
    assert (found.code, found.err) == (0, "")
    assert found.out == "9 samples of dimension 2 in some/samples.npz\n"
    with numpy.load(tmp_path / "some/samples.npz") as file:
        x, log_weight = file["x"], file["log_weight"]
    assert x.shape == (9, 2) and log_weight.shape == (9,)
    assert numpy.isfinite(x).all() and numpy.isfinite(log_weight).all()

    def again(*words):
        assert ebbflow("sample", "run", *words).code == 0
        return numpy.load(tmp_path / "samples.npz")["x"]

    assert numpy.array_equal(again("-n", 9, "--seed", 5), x)
    assert not numpy.array_equal(again("--number", 9, "--seed", 6), x)
    assert again().shape == (1000, 2)


def test_samples_for_arviz_are_read_back(run, ebbflow, tmp_path):
    arviz = pytest.importorskip("arviz")
    assert ebbflow("sample", "run", "-n", 9, "--out", "samples.nc").code == 0
    data = arviz.from_netcdf(tmp_path / "samples.nc")
    assert data.posterior.attrs["true_log_z"] == 0.0  # the run's numbers travel along
    assert data.posterior["x"].shape == (1, 9, 2)
    assert numpy.isfinite(data.sample_stats["log_weight"].values).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", 0], "number: expected a whole number >= 1, got 0"),
        (["--seed", -1], "seed: expected a whole number from 0 to below 2^63, got -1"),
        (["--out", "samples.csv"], "out: expected a file name ending in .npz or .nc, got 'samples.csv'"),
        (["--out", "samples"], "out: expected a file name ending in .npz or .nc, got 'samples'"),
    ],
)
def test_samples_that_cannot_be_had_are_one_line(words, message, ebbflow, tmp_path):
    """Told before the run is even looked for."""
    found = ebbflow("sample", "nowhere", *words)
    assert (found.code, found.message) == (2, message)
    assert list(tmp_path.iterdir()) == []


def test_report_shows_and_draws_again(run, ebbflow):
    pictures = {path.name for path in (run / "figures").iterdir()}
    shutil.rmtree(run / "figures")
    found = ebbflow("report", "run")
    assert (found.code, found.err) == (0, "")
    assert "ELBO" in found.out and "run folder: run" in found.out
    assert {path.name for path in (run / "figures").iterdir()} == pictures


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{"), lambda path: path.write_text("[]")])
def test_report_without_an_evaluation_makes_one(damage, run, ebbflow, monkeypatch):
    monkeypatch.setattr("ebbflow.trainers.figures.gallery.write_figures", lambda *_: None)
    whole = ebbflow("report", "run").out
    damage(run / "evaluation.json")
    again = ebbflow("report", "run")
    assert (again.code, again.out) == (0, whole)
