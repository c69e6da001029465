"""Many runs by the command line: ordinary run folders, interrupted and resumed together or one by one."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch

from ebbflow.trainers.callbacks import Callback, read_metrics
from ebbflow.trainers.checkpoint import load_checkpoint
from ebbflow.trainers.many_runs import ManyRuns


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("ebbflow.trainers.train.write_figures", lambda *_: None)


def signal_at(monkeypatch, iteration):
    """Press Ctrl-C in the middle of an iteration of all runs."""
    plain = ManyRuns.step

    def step(runs):
        if runs.iteration == iteration - 1:
            signal.raise_signal(signal.SIGINT)
        return plain(runs)

    monkeypatch.setattr(ManyRuns, "step", step)


def assert_like(one, other):
    """Two run folders of the same run: settings, and all that its last checkpoint holds, to rounding."""
    assert json.loads((one / "config.json").read_text()) == json.loads((other / "config.json").read_text())
    (state, _), (expected, _) = (load_checkpoint(folder / "checkpoint") for folder in (one, other))
    for name, value in expected["agent"].items():
        torch.testing.assert_close(state["agent"][name], value, rtol=1e-9, atol=1e-9)
    for name in ("iteration", "energy_calls", "gradient_calls", "skipped"):
        assert state["counters"][name] == expected["counters"][name]
    assert torch.equal(state["random"]["torch"], expected["random"]["torch"])


def test_every_run_has_a_folder_like_that_of_the_run_alone(ebbflow, flags, tmp_path):
    words = flags(dtype="float64", iterations=4)
    done = ebbflow("train", "gmm25", *words, "--runs", 3, "--seed", 5, "--out", "many")
    assert done.code == 0, done.err
    folders = [tmp_path / "many" / f"seed-{seed}" for seed in (5, 6, 7)]
    assert sorted((tmp_path / "many").iterdir()) == folders
    assert "5, 6, 7" in done.out and "run folders: many/seed-*" in done.out
    assert ebbflow("train", "gmm25", *words, "--seed", 6, "--out", "alone").code == 0
    assert_like(folders[1], tmp_path / "alone")
    rows, expected = (read_metrics(folder / "metrics.csv") for folder in (folders[1], tmp_path / "alone"))
    assert [row["iteration"] for row in rows] == [2, 4]
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"seconds"}:
            assert row[name] == (None if other[name] is None else pytest.approx(other[name], rel=1e-6)), name
    evaluation, other = (json.loads((f / "evaluation.json").read_text()) for f in (folders[1], tmp_path / "alone"))
    assert evaluation["elbo"] == pytest.approx(other["elbo"], rel=1e-6)
    assert ebbflow("evaluate", folders[2], "--json").code == 0
    table = ebbflow("compare", "many", "--json")
    assert table.code == 0 and len(json.loads(table.out)) == 1


def test_ctrl_c_saves_all_and_they_go_on_together_or_alone(ebbflow, flags, tmp_path):
    words = flags(dtype="float64", iterations=6, checkpoint_every=100)
    assert ebbflow("train", "gmm25", *words, "--runs", 2, "--out", "whole").code == 0
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 3)
        stopped = ebbflow("train", "gmm25", *words, "--runs", 2, "--out", "many")
    assert stopped.code == 130
    assert stopped.err.strip().endswith("interrupted after iteration 3, and saved; go on with: ebbflow resume many")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    for seed in range(2):
        assert load_checkpoint(tmp_path / "many" / f"seed-{seed}" / "checkpoint")[0]["counters"]["iteration"] == 3
    assert ebbflow("resume", "many").code == 0
    for seed in range(2):
        assert_like(tmp_path / "many" / f"seed-{seed}", tmp_path / "whole" / f"seed-{seed}")
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 3)
        assert ebbflow("train", "gmm25", *words, "--runs", 2, "--out", "many", "--overwrite").code == 130
    assert ebbflow("resume", "many/seed-1").code == 0
    assert_like(tmp_path / "many" / "seed-1", tmp_path / "whole" / "seed-1")
    apart = ebbflow("resume", "many")
    assert apart.code == 2 and "[3, 6]" in apart.message and "ebbflow resume many/seed-0" in apart.message


def test_mistakes_are_named_and_leave_nothing(ebbflow, flags, tmp_path):
    words = flags(iterations=2)
    assert "runs: expected a whole number >= 1, got 0" in ebbflow("train", "gmm25", *words, "--runs", 0).message
    refused = ebbflow("train", "gmm25", *words, "--runs", 2, "--objective", "reverse_kl", "--out", "many")
    assert refused.code == 2 and "objective: " in refused.message
    assert not (tmp_path / "many").exists()
    assert ebbflow("train", "gmm25", *words, "--out", "one").code == 0
    inside = ebbflow("train", "gmm25", *words, "--runs", 2, "--out", "one")
    assert inside.code == 2 and "got the run one" in inside.message
    assert ebbflow("train", "gmm25", *words, "--runs", 2, "--out", "many").code == 0
    again = ebbflow("train", "gmm25", *words, "--runs", 2, "--out", "many")
    assert again.code == 2 and "out: the run many/seed-0 exists" in again.message
    fewer = ebbflow("train", "gmm25", *words, "--runs", 1, "--out", "many", "--overwrite")
    assert fewer.code == 2 and "without runs of other seeds, got many, which holds many/seed-1" in fewer.message
    judged = ebbflow("evaluate", "many")
    assert judged.code == 2 and judged.message.endswith("got 'many', which holds run folders such as 'many/seed-0'")


def test_an_error_of_one_run_names_its_seed_and_leaves_no_empty_folders(ebbflow, flags, tmp_path, monkeypatch):
    class Fails(Callback):
        def on_iteration(self, trainer, losses):
            if trainer.config.seed == 1:
                from ebbflow.envs.errors import InputError

                raise InputError("training: the loss was not finite")

    monkeypatch.setattr("ebbflow.trainers.train_many.NaNGuard", Fails)
    failed = ebbflow("train", "gmm25", *flags(iterations=4, checkpoint_every=100), "--runs", 2, "--out", "many")
    assert failed.code == 2 and "seed 1: training: the loss was not finite" in failed.message
    assert not list((tmp_path / "many").glob("*"))


def test_the_page_tells_what_runs():
    page = (Path(__file__).parents[2] / "docs" / "scaling-out.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "ManyRuns" in block]
    for written, quick in (("iterations=600", "iterations=2"), ("batch_size=64", "batch_size=8")):
        assert written in code
        code = code.replace(written, quick)
    tiny = "first = replace(first, anchors=replace(first.anchors, share=0.0), agent=replace(first.agent, width=8))\n"
    names = {}
    exec(code.replace("rates =", f"{tiny}rates ="), names)
    assert len(names["agents"]) == 3 and names["runs"].iteration == 2
