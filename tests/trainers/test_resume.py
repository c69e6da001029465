"""Interrupted and resumed runs: to the same end, bit for bit on the CPU, whenever and however they were stopped."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ebbflow.envs import get_target
from ebbflow.trainers.callbacks import Callback, MetricsLogger, read_metrics
from ebbflow.trainers.checkpoint import load_checkpoint, save_checkpoint
from ebbflow.trainers.cli import main
from ebbflow.trainers.train import evaluate_run
from ebbflow.trainers.trainer import Trainer

CONFIGS = {
    "adaptive": {},
    "tempered": {"exploration": {"inverse_temperature": 0.1, "added": 0.5, "until": 0.8}},
    "prioritised paths": {"replay": {"priority": "loss", "beta": 0.5, "contents": "path", "capacity": 50}},
    "langevin": {
        "objective": "trajectory_balance",
        "agent": {"langevin": True, "features": ["raw", "score"], "shared_backbone": False},
    },
    "mala": {"local_search": {"kind": "mala", "every": 2, "states": 20, "anchors": 10, "moves": 2}},
    "ebb and flow": {
        "local_search": {"kind": "ebb_and_flow", "every": 3, "states": 20, "moves": 2},
        "exploration": {"drift": 0.5},
        "replay": {"contents": "path"},
    },
    "variance_preserving": {"agent": {"reference": "variance_preserving"}, "anchors": {"share": 0.0}},
    "generation only": {
        "agent": {"destruction_mean": "reference", "destruction_variance": "reference"},
        "target_rate": 0.0,
        "average_decay": 0.0,
    },
    "bfloat16": {"matmul_precision": "bfloat16", "average_decay": 0.0, "agent": {"depth": 2}},
    "double, no replay": {
        "dtype": "float64",
        "destruction_objective": "trajectory_balance",
        "replay": {"share": 0.0},
        "generation_optimiser": {"schedule": "constant"},
    },
}
PARTS = ("agent", "averaged", "target_networks", "optimisers", "replay", "anchors", "local_search", "random")


def differences(one, other, name=""):
    """Where two nested states differ by a bit, but for the time taken."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [name]
    if isinstance(one, dict):
        if not isinstance(other, dict) or {*map(str, one)} != {*map(str, other)}:
            return [f"{name} (keys)"]
        other = {str(key): value for key, value in other.items()}
        return [d for key in one if key != "seconds" for d in differences(one[key], other[str(key)], f"{name}/{key}")]
    if isinstance(one, (list, tuple)):
        if not isinstance(other, (list, tuple)) or len(one) != len(other):
            return [f"{name} (length)"]
        return [d for i, (a, b) in enumerate(zip(one, other, strict=True)) for d in differences(a, b, f"{name}/{i}")]
    return [] if one == other or (one != one and other != other) else [f"{name}: {one!r} and {other!r}"]


def run_differences(one: Path, other: Path):
    """Where the files of two finished runs differ."""
    states = [load_checkpoint(path / "checkpoint")[0] for path in (one, other)]
    rows = [read_metrics(path / "metrics.csv") for path in (one, other)]
    assert rows[0], "without rows there is nothing to compare"
    evaluations = [json.loads((path / "evaluation.json").read_text()) for path in (one, other)]
    return differences(*states, "state") + differences(*rows, "metrics") + differences(*evaluations, "evaluation")


# The trainer ----------------------------------------------------------------------------------------------------------


def trained(config, until=None):
    trainer = Trainer(get_target(config.target), config)
    trainer.train(until)
    return trainer


def taken_up(config, state):
    trainer = Trainer(get_target(config.target), config)
    trainer.load_state_dict(state)
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_taken_up_again_ends_as_if_never_stopped(name, tiny, tmp_path):
    config = tiny(**CONFIGS[name])
    straight = Trainer(get_target(config.target), config, [MetricsLogger(tmp_path / "straight.csv")])
    straight.train()

    metrics = MetricsLogger(tmp_path / "metrics.csv")
    first = Trainer(get_target(config.target), config, [metrics])
    first.train(until=5)
    save_checkpoint(tmp_path, first.state_dict(), config.to_dict())
    torch.rand(7)  # what happens in between does not matter
    second = Trainer(get_target(config.target), config, [MetricsLogger(tmp_path / "metrics.csv")])
    second.load_state_dict(load_checkpoint(tmp_path)[0])
    assert second.iteration == 5
    second.train()

    assert second.iteration == 12
    assert differences(straight.state_dict(), second.state_dict()) == []
    rows = [read_metrics(tmp_path / f) for f in ("straight.csv", "metrics.csv")]
    assert [row["iteration"] for row in rows[0]] == [2, 4, 6, 8, 10, 12]
    assert differences(*rows) == []
    assert differences(evaluate_run(straight), evaluate_run(second)) == []


@pytest.mark.parametrize("part", PARTS)
def test_no_part_of_the_state_can_be_left_out(part, tiny):
    """The comparison above would see it: with one part of another run, the continuation is another one."""
    settings = {"replay": {"priority": "loss"}, "local_search": {"kind": "mala", "every": 2, "states": 20, "moves": 2}}
    config = tiny(**settings)
    expected = trained(config).state_dict()
    state = trained(config, until=5).state_dict()
    assert differences(expected, taken_up(config, state).state_dict()) == []
    state = trained(config, until=5).state_dict()
    state[part] = trained(tiny(**settings, seed=1), until=5).state_dict()[part]
    assert differences(expected, taken_up(config, state).state_dict()) != []


def test_two_trainers_do_not_share_what_one_took_over(tiny):
    """In memory, too: the one that gave its state away and the one that took it go on independently."""
    config = tiny()
    giver = trained(config, until=5)
    taker = taken_up(config, giver.state_dict())
    torch.set_rng_state(trained(config, until=5).state_dict()["random"]["torch"])
    giver.train()
    assert differences(giver.state_dict(), taker.state_dict()) == []


def test_looking_on_changes_nothing(tiny, tmp_path):
    """Metrics, checkpoints and where they fall do not show in the result."""

    class Noisy(Callback):
        def on_iteration(self, trainer, losses):
            save_checkpoint(tmp_path, trainer.state_dict(), {})
            evaluate_run(trainer, samples=10)

    config = tiny()
    watched = Trainer(get_target("gmm25"), config, [MetricsLogger(), Noisy()])
    watched.train()
    assert differences(trained(config).state_dict(), watched.state_dict()) == []


def test_a_state_of_other_settings_is_refused(tiny):
    state = trained(tiny(), until=2).state_dict()
    for other in (tiny(steps=4), tiny(agent={"width": 9}), tiny(agent={"tables": False}), tiny(replay={"capacity": 9})):
        with pytest.raises(ValueError, match="checkpoint: does not fit this configuration"):
            taken_up(other, state)
    for broken in ({}, {**state, "optimisers": {}}, {**state, "counters": None}, {**state, "random": {"torch": 1}}):
        with pytest.raises(ValueError, match="checkpoint: does not fit this configuration"):
            taken_up(tiny(), broken)


# The command line -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They take most of the time of a tiny run, and nothing here looks at them."""
    monkeypatch.setattr("ebbflow.trainers.train.write_figures", lambda *_: None)


FINISHED: list[Path] = []


@pytest.fixture
def straight(ebbflow, flags, tmp_path, tmp_path_factory):
    """A finished run, never interrupted: a copy of one that is made once."""
    if not FINISHED:
        out = tmp_path_factory.mktemp("finished") / "run"
        assert ebbflow("train", "gmm25", *flags("--out", out)).code == 0
        FINISHED.append(out)
    return shutil.copytree(FINISHED[0], tmp_path / "straight")


def signal_at(monkeypatch, iteration, number):
    """Send this process a signal in the middle of an iteration."""
    step = Trainer.step

    def stepping(self):
        if self.iteration == iteration - 1:
            signal.raise_signal(number)
        return step(self)

    monkeypatch.setattr(Trainer, "step", stepping)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_resume_goes_on(number, straight, ebbflow, flags, monkeypatch, tmp_path):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        signal_at(patch, 5, number)
        stopped = ebbflow("train", "gmm25", *flags("--out", "run"))
    assert stopped.code == 130
    assert stopped.err.strip().endswith("interrupted after iteration 5, and saved; go on with: ebbflow resume run")
    assert stopped.out == ""
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (tmp_path / "run/evaluation.json").exists()

    resumed = ebbflow("resume", "run")
    assert resumed.code == 0 and resumed.err == "" and "run folder: run" in resumed.out
    assert run_differences(straight, tmp_path / "run") == []


def test_resume_can_itself_be_interrupted(straight, ebbflow, flags, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        signal_at(patch, 3, signal.SIGINT)
        assert ebbflow("train", "gmm25", *flags("--out", "run")).code == 130
    with monkeypatch.context() as patch:
        signal_at(patch, 8, signal.SIGINT)
        assert ebbflow("resume", "run").code == 130
    assert [row["iteration"] for row in read_metrics(tmp_path / "run/metrics.csv")] == [2, 4, 6, 8]
    assert ebbflow("resume", "run").code == 0
    assert run_differences(straight, tmp_path / "run") == []


def test_a_second_ctrl_c_stops_at_once_and_the_last_checkpoint_stays(straight, ebbflow, flags, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        signal_at(patch, 5, signal.SIGINT)
        signal_at(patch, 5, signal.SIGINT)
        stopped = ebbflow("train", "gmm25", *flags("--out", "run"))
    assert (stopped.code, stopped.message) == (130, "stopped")
    assert load_checkpoint(tmp_path / "run/checkpoint")[0]["counters"]["iteration"] == 3
    assert ebbflow("resume", "run").code == 0
    assert run_differences(straight, tmp_path / "run") == []


def test_ctrl_c_while_evaluating_loses_nothing(straight, ebbflow, flags, monkeypatch, tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        with monkeypatch.context() as patch:
            patch.setattr("ebbflow.trainers.train.evaluate", lambda *_, **__: signal.raise_signal(signal.SIGINT))
            stopped = ebbflow("train", "gmm25", *flags("--out", "run"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.code == 130
    assert stopped.err == "interrupted after iteration 12, and saved; go on with: ebbflow resume run\n"
    assert ebbflow("resume", "run").code == 0
    assert run_differences(straight, tmp_path / "run") == []


def test_resuming_a_finished_run_evaluates_it_again(straight, ebbflow):
    before = load_checkpoint(straight / "checkpoint")[0]
    metrics = (straight / "metrics.csv").read_bytes()
    evaluation = json.loads((straight / "evaluation.json").read_text())
    (straight / "evaluation.json").unlink()  # as if stopped while evaluating
    again = ebbflow("resume", "straight")
    assert again.code == 0 and "ELBO" in again.out
    assert differences(before, load_checkpoint(straight / "checkpoint")[0]) == []
    assert (straight / "metrics.csv").read_bytes() == metrics
    assert differences(evaluation, json.loads((straight / "evaluation.json").read_text())) == []


def test_a_real_ctrl_c_of_a_real_process(ebbflow, flags, tmp_path):
    """`python -m ebbflow.trainers.train` in another process, stopped from outside at a moment nobody chose."""
    (tmp_path / "sleepy_energy.py").write_text(
        "import os, time\n\n\ndef energy(x):\n"
        "    time.sleep(float(os.environ.get('NAP', 0)))\n    return -0.5 * x.square().sum(-1)\n"
    )
    words = ["sleepy_energy:energy", *flags("--dim", 2, "--threads", 1, "--anchors.share", 0), "--out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ebbflow.trainers.train", *words, "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NAP": "0.05"},
        cwd=tmp_path,
    )
    try:
        wait_for(lambda: len(read_metrics(tmp_path / "run/metrics.csv")) > 0, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    (line,) = err.splitlines()
    assert line.startswith("interrupted after iteration ") and line.endswith("go on with: ebbflow resume run")
    assert 2 <= load_checkpoint(tmp_path / "run/checkpoint")[0]["counters"]["iteration"] < 12

    assert ebbflow("resume", "run").code == 0
    assert ebbflow("train", *words, "straight").code == 0
    assert run_differences(tmp_path / "straight", tmp_path / "run") == []


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        if isinstance(process, subprocess.Popen):
            assert process.poll() is None, process.communicate()
        else:
            assert process.is_alive(), "ended too early"
        time.sleep(0.005)


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(ebbflow, flags, tmp_path):
    """Killed again and again while it saves after every iteration, the run still ends as it would have."""
    often = {"iterations": 80, "checkpoint_every": 1, "log_every": 1, "threads": 1}
    words = ["train", "gmm25", *flags(**often)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ebbflow.trainers.train"])
    generator = random.Random(0)
    path, reached = tmp_path / "run", []
    argv = [*words, "--out", str(path)]
    while len(reached) < 4:
        process = context.Process(target=main, args=(argv,))
        process.start()
        state = path / "checkpoint/state.safetensors"
        before = state.stat().st_mtime_ns if state.exists() else 0
        wait_for(lambda: state.exists() and state.stat().st_mtime_ns != before, process)  # noqa: B023
        time.sleep(0.02 * generator.random())
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(load_checkpoint(path / "checkpoint")[0]["counters"]["iteration"])
        argv = ["resume", str(path)]
    assert reached == sorted(reached) and reached[-1] < 80, reached
    assert ebbflow("resume", path).code == 0
    assert ebbflow(*words, "--out", tmp_path / "straight").code == 0
    assert run_differences(tmp_path / "straight", path) == []
    assert [p.name for p in (path / "checkpoint").iterdir()] == ["state.safetensors"]


def test_a_run_killed_before_its_first_checkpoint_says_how_to_start_again(straight, ebbflow, tmp_path):
    (straight / "checkpoint/state.safetensors").unlink()
    (straight / "checkpoint/.state.safetensors.1.tmp").write_bytes(b"cut short")
    refused = ebbflow("resume", "straight")
    assert refused.code == 2
    assert "straight ended before its first checkpoint; start it again with: ebbflow train" in refused.message
    (tmp_path / "straight").rename(tmp_path / "before")
    again = refused.message.partition("ebbflow train")[2].replace("straight/config.json", "before/config.json")
    assert ebbflow("train", *again.split()).code == 0
    assert read_metrics(straight / "metrics.csv")


# Disks ----------------------------------------------------------------------------------------------------------------


def full_disk(monkeypatch, after, name="fsync"):
    """Let the disk be full from some write on."""
    real, count = getattr(os, name), 0

    def write(*arguments):
        nonlocal count
        count += 1
        if count > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    monkeypatch.setattr(os, name, write)


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(name, straight, ebbflow, flags, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        full_disk(patch, after=3, name=name)  # config.json, metrics.csv, iteration 3
        failed = ebbflow("train", "gmm25", *flags("--out", "run"))
    assert failed.code == 1
    assert failed.message == "No space left on device (run/checkpoint/state.safetensors)"
    assert load_checkpoint(tmp_path / "run/checkpoint")[0]["counters"]["iteration"] == 3
    assert [p.name for p in (tmp_path / "run/checkpoint").iterdir()] == ["state.safetensors"]
    assert ebbflow("resume", "run").code == 0
    assert run_differences(straight, tmp_path / "run") == []


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_disk_full_from_the_start_leaves_nothing(after, ebbflow, flags, monkeypatch, tmp_path):
    full_disk(monkeypatch, after)
    failed = ebbflow("train", "gmm25", *flags("--out", "run"))
    assert failed.code == 1
    assert failed.message.startswith("No space left on device (run/")
    assert list(tmp_path.iterdir()) == []


def test_metrics_cut_short_are_written_again(straight, ebbflow, flags, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        signal_at(patch, 7, signal.SIGINT)
        assert ebbflow("train", "gmm25", *flags("--out", "run")).code == 130
    path = tmp_path / "run/metrics.csv"
    whole = path.read_bytes()
    header, *rows = whole.splitlines(keepends=True)
    path.write_bytes(header + rows[0] + rows[1] + rows[2][:20] + b"\xff\x00")  # rows of iterations 2 and 4 are left
    assert ebbflow("resume", "run").code == 0
    assert [row["iteration"] for row in read_metrics(path)] == [2, 4, 8, 10, 12]
    kept = [row for row in read_metrics(straight / "metrics.csv") if row["iteration"] != 6]
    assert differences(kept, read_metrics(path)) == []
