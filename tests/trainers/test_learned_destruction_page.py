"""What docs/learned-destruction.md tells is true: its Python runs, its commands parse."""

import re
import shlex
import sys
from pathlib import Path

from ebbflow.trainers.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "learned-destruction.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def test_the_examples_run():
    names: dict[str, object] = {}
    for code in blocks("python"):
        exec(compile(code.replace("iterations=500", "iterations=150"), "learned-destruction.md", "exec"), names)
    paths, bound = names["paths"], names["bound"]
    assert paths["state"].shape == (400, 7, 6)
    assert -6 * 1.0986 + 1.0 < bound.item() < 0.0  # of six tokens of three it has learned something
    costs = names["wide_jumps"](paths)
    assert costs.shape == (400,) and costs.min() >= 0.5 - 1e-6 and costs.max() <= 2.5 + 1e-6


def test_the_commands_are_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("costs.py").write_text(blocks("python")[1])
    seen = []
    monkeypatch.setattr(
        "ebbflow.trainers.train.train", lambda config, out, **rest: seen.append(config) or {"interrupted": 0}
    )
    commands = "".join(blocks("")).splitlines()
    for command in commands:
        assert main(shlex.split(command)[1:]) == 130, command
    assert [config.path_cost for config in seen] == [None, None, "costs:wide_jumps"]
    assert {config.agent.reference for config in seen} == {"mask_learned_order", None}
