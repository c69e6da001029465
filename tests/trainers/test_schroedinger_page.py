"""What docs/schroedinger.md tells is true: its Python runs, and finds the plan's cost."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "schroedinger.md").read_text(encoding="utf-8")


def test_the_examples_run(capsys):
    names: dict[str, object] = {}
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(examples) == 2
    for code in examples:
        exec(compile(code.replace('"iterations": 800', '"iterations": 60'), "schroedinger.md", "exec"), names)
    assert names["x_0"].shape == names["x_T"].shape == (1000, 2)
    assert names["there"].shape == names["back"].shape == (5, 2)
    assert names["c"].item() == pytest.approx(0.2071, abs=1e-4)
    assert names["cost"].item() == pytest.approx(names["exact"].item(), rel=0.4)  # independent ends: twice as much
    assert "cost" in capsys.readouterr().out
