"""What README tells is true: its Python runs, and its commands and flags exist."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from ebbflow.envs import InputError
from ebbflow.trainers.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CONDITIONAL = (ROOT / "docs" / "conditional.md").read_text()
QUICK = {r"iterations=\d+": "iterations=3", r"sample\(1000\)": "sample(10)"}


def blocks(language: str, text: str = README) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def commands() -> list[str]:
    lines = "".join(blocks("")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith("ebbflow ")]


def test_the_python_examples_run():
    names: dict[str, object] = {}
    examples = blocks("python")
    assert len(examples) >= 3
    for code in examples:
        for pattern, quick in QUICK.items():
            code = re.sub(pattern, quick, code)
        exec(compile(code, "README.md", "exec"), names)
    assert names["x"].shape == (10, 2)


def test_a_conditional_target_takes_the_lines_it_says(tmp_path, monkeypatch, capsys):
    names: dict[str, object] = {}
    definition, *rest = blocks("python", CONDITIONAL)
    few = (
        "seed=0, evaluation_samples=32, evaluation_contexts=2, anchors={'count': 32, 'contexts': 2, 'temperatures': 5}"
    )
    small = {r"sample\(1000,": "sample(10,", "seed=0": few}
    for code in (definition, *rest):
        for pattern, quick in (QUICK | small).items():
            code = re.sub(pattern, quick, code)
        exec(compile(code, "conditional.md", "exec"), names)
    assert names["x"].shape == (10, 2)
    (tmp_path / "family.py").write_text(definition)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    train, sample, _ = "".join(blocks("", CONDITIONAL)).splitlines()
    small = "--batch-size 8 --contexts-per-batch 2 --anchors.count 32 --anchors.contexts 2 --evaluation-samples 32"
    assert main(shlex.split(f"{train.replace('2000', '3')} {small}")[1:]) == 0
    assert main(shlex.split(sample)[1:]) == 0, capsys.readouterr().err


def test_commands_are_known(tmp_path, monkeypatch, capsys):
    """The words of every command parse: what fails is at most the run that is not there."""
    assert len(commands()) >= 7
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ebbflow.trainers.train.train", lambda config, out, **rest: {"interrupted": 0})
    monkeypatch.setattr("ebbflow.trainers.train_many.train_many", lambda config, runs, out, **rest: {"interrupted": 0})

    def not_now(target, **settings):
        raise InputError(f"{target} would be measured")

    monkeypatch.setattr("ebbflow.trainers.bench.measure", not_now)
    (tmp_path / "mine.py").write_text(blocks("python")[0])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for command in commands():
        code = main(shlex.split(command)[1:])
        error = capsys.readouterr().err
        if command.startswith("ebbflow train"):
            assert code == 130 and "interrupted" in error, command
        elif command.startswith("ebbflow bench"):
            assert code == 2 and ("would be measured" in error or "got 'here.json'" in error), command
        elif command != "ebbflow targets":
            assert code == 2 and "runs/gmm25" in error, command


def test_a_wrong_flag_would_be_noticed():
    with pytest.raises(SystemExit):
        main(["train", "gmm25", "--no-such-flag", "1"])
