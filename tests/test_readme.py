"""What README tells is true: its Python runs, and its commands and flags exist."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from ebbflow.trainers.cli import main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
QUICK = {r"iterations=\d+": "iterations=3", r"sample\(1000\)": "sample(10)"}


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
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


def test_commands_are_known(tmp_path, monkeypatch, capsys):
    """The words of every command parse: what fails is at most the run that is not there."""
    assert len(commands()) >= 7
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ebbflow.trainers.train.train", lambda config, out, **rest: {"interrupted": 0})
    (tmp_path / "mine.py").write_text(blocks("python")[0])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for command in commands():
        code = main(shlex.split(command)[1:])
        error = capsys.readouterr().err
        if command.startswith("ebbflow train"):
            assert code == 130 and "interrupted" in error, command
        elif command != "ebbflow targets":
            assert code == 2 and "runs/gmm25" in error, command


def test_a_wrong_flag_would_be_noticed():
    with pytest.raises(SystemExit):
        main(["train", "gmm25", "--no-such-flag", "1"])
