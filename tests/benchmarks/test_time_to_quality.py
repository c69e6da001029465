"""The time to quality ends when the bar is met twice in a row, and says so when it is not."""

import importlib
import json
from pathlib import Path

import pytest

SMALL = {"batch_size": 8, "iterations": 75, "agent": {"width": 8, "time_grid_power": 2.0}}
SMALL["anchors"] = {"count": 50, "temperatures": 5, "final_moves": 0}


@pytest.fixture
def benchmark(monkeypatch):
    """As for scripts that run beside each other."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    module = importlib.import_module("time_to_quality")
    monkeypatch.setattr(module, "SAMPLES", 50)
    return module


def test_the_first_of_two_looks_counts(benchmark, monkeypatch):
    monkeypatch.setitem(benchmark.BARS, "gmm25", 1e9)
    met = benchmark.work("gmm25", 0, SMALL)
    assert met["iterations"] == benchmark.EVERY
    assert met["seconds"] > met["search_seconds"] > 0.0 and met["width"] < 1e9
    assert met["energy_calls"] >= benchmark.EVERY * 4  # half of a batch of 8 is new


def test_a_bar_that_is_not_met_is_told(benchmark, monkeypatch):
    monkeypatch.setitem(benchmark.BARS, "gmm25", 0.0)
    assert benchmark.work("gmm25", 0, SMALL)["failed"].startswith("not met in 75 iterations: ")


def test_table(benchmark, tmp_path, capsys):
    row = {"name": "after", "target": "gmm25", "seconds": 8.0, "search_seconds": 2.0, "iterations": 300, "commit": "a"}
    row |= {"energy_calls": 1000, "gradient_calls": 900}
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row | {"seed": s, "seconds": 8.0 + s}) + "\n" for s in (0, 2)))
    benchmark.table(rows)
    assert "| gmm25 | after | 0, 2 | 9.0 ± 1.4 | 2.0 ± 0.0 | 300 ± 0 | 1,000 ± 0 |" in capsys.readouterr().out
