"""What docs/reward.md tells is true: its Python runs, and its command lines are understood."""

import re
from pathlib import Path

from ebbflow.trainers import fit

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reward.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_examples_run():
    names: dict[str, object] = {}
    for code in PYTHON:
        quick = code.replace("iterations=500", "iterations=20, evaluation_samples=100")
        quick = quick.replace("iterations=1000", "iterations=200")
        exec(compile(quick, "reward.md", "exec"), names)
        if "pairs" in names and "usual" not in names:
            names["usual"] = names["exact"].acceptance
            assert names["fulfilled"] > 0.2 + names["usual"]
    assert names["potts"](names["best"]).mean() > 1.0 + names["potts"](names["potts"].sample(1000)).mean()
    assert fit(names["Palindromes"](), iterations=3, evaluation_samples=50).sample(2).shape == (2, 6)


def test_the_command_lines_are_understood(ebbflow):
    quick = ("--iterations", 2, "--batch-size", 8, "--evaluation-samples", 16)
    Path("mine.py").write_text(PYTHON[0])
    lines = re.findall(r"^ebbflow (train .*)$", PAGE, flags=re.MULTILINE)
    assert len(lines) == 5
    for i, line in enumerate(lines):
        words = re.sub(r"--(iterations|batch-size|out) \S+", "", line).split()
        run = ebbflow(*words, *quick, "--out", f"runs/{i}")
        assert run.code == 0, run.err
    figures = {path.name for path in Path("runs/0/figures").iterdir()}
    assert figures == {"samples.png", "weights.png", "paths.png"}  # too short for training.png
