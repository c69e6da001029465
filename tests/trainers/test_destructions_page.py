"""What docs/destructions.md tells is true: its Python runs, and its table is what the code computes."""

import re
from pathlib import Path

import torch

from ebbflow.agents.references import continuous, tokens

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "destructions.md").read_text(encoding="utf-8")
QUICK = {r"range\((2000|500)\)": "range(150)", r"two_moons\(5000\)": "two_moons(500)"}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_examples_run_and_the_table_is_theirs(capsys):
    names: dict[str, object] = {}
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(examples) == 5
    for code in examples:
        for pattern, quick in QUICK.items():
            code = re.sub(pattern, quick, code)
        exec(compile(code, "destructions.md", "exec"), names)
    assert "a bijection destroys nothing" in capsys.readouterr().out
    x, y, image = names["x"], names["y"], names["image"]
    assert x.shape == y.shape == (1000, 2) and image.shape == (100, 8, 8)
    assert torch.cat([x, y]).isfinite().all() and 0.5 < x.std() < 1.5 and 0.5 < y.std() < 1.5
    assert names["bound"].nats > -2.5  # of a normal law of the same width: -2.8
    for name, levels in names["kept"].items():
        (line,) = re.findall(rf"^\| {name} \| \d+ directions.*$", PAGE, flags=re.MULTILINE)
        stated = [cell.removesuffix("s").removesuffix(" direction") for cell in cells(line)[1:]]
        computed = [str(level.directions) if level.directions else f"{level.nats / 64:.3f}" for level in levels]
        assert stated == computed[::-1], name


def test_every_reference_is_in_the_table():
    table = PAGE.split("## Which there are")[1].split("\n\n")[1]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)", cells(line)[0])}
    builders = {"mask_last", "blur", "pixelate", "variance_preserving", "geometric_noise", "brownian_bridge"}
    concrete = {
        name
        for package in (tokens, continuous)
        for name in package.__all__
        if isinstance(getattr(package, name), type)
        and hasattr(getattr(package, name), "sample_level")
        and not getattr(package, name).__abstractmethods__
    }
    assert concrete - {"ColdTransform"} == named - builders  # which blur and pixelate are
    assert builders <= named
