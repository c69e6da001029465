"""What docs/data.md tells is true: its Python runs, its commands parse, its numbers are those of the data."""

import re
import shlex
from pathlib import Path

import numpy
import pytest
from PIL import Image

from ebbflow.envs import Continuous, Tokens, get_target
from ebbflow.envs.registry import DATA
from ebbflow.trainers.cli import main

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Files of one's own, as the page names them."""
    monkeypatch.chdir(tmp_path)
    numpy.save("walks.npy", numpy.random.default_rng(0).normal(size=(50, 4)))
    Path("table.csv").write_text("a,b\n" + "".join(f"{i - 75},{75 - i}\n" for i in range(150)))
    Path("poem.txt").write_text("so much depends upon a red wheel barrow " * 30)
    Path("images").mkdir()
    for shade in range(4):
        Image.new("L", (5, 4), color=60 * shade).save(f"images/{shade}.png")


def test_the_examples_run():
    names: dict[str, object] = {}
    for code in blocks("python"):
        exec(compile(code, "data.md", "exec"), names)
    assert names["x"].shape == (256, 64) and len(names["few"].train_rows) == 200
    assert names["walks"].space == Continuous(16)
    assert names["poem"].space.length == 48 and names["icons"].space == Tokens(20, 2)
    assert len(names["table"].train_rows) == 100


def test_the_commands_name_targets(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "ebbflow.trainers.train.train",
        lambda config, out, **rest: asked.append(get_target(config.target, dim=config.dim)) or {"interrupted": 0},
    )
    commands = "".join(blocks("")).splitlines()
    for command in commands:
        assert main(shlex.split(command)[1:]) == 130
    assert [target.name for target in asked] == [command.split()[2] for command in commands]
    assert [target.space.shape for target in asked] == [(4,), (2,), (48,), (20,)]


@pytest.mark.parametrize("name", [name for name in DATA if name != "python-docs"])  # its words change with Python
def test_the_table_has_their_numbers(name):
    target = get_target(name)
    (row,) = (line.split(" | ") for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    assert row[2] == f"{len(target.train_rows):,} / {len(target.held_out):,}"
    if isinstance(target.space, Tokens):
        assert row[1] == f"{target.space.length} tokens of {target.space.vocabulary}"
    else:
        assert row[1].replace("²", "^2") == f"R^{target.space.dim}"
