"""The studies of learned destruction run from end to end: rows, their table, and the picture of an order."""

from pathlib import Path

import pytest

pytest.importorskip("sklearn")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """As for scripts that run beside each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_orders_are_compared(tmp_path, monkeypatch, capsys):
    import destruction_order
    from rows import read

    monkeypatch.setattr(destruction_order, "SAMPLES", 32)
    path, orders = tmp_path / "rows.jsonl", ("raster", "learned from raster")
    for _ in range(2):  # the second time there is nothing left to run
        destruction_order.run(path, tmp_path / "pictures", orders=orders, seeds=(0,), iterations=2, samples=2)
    rows = {row["order"]: row for row in read(path)}
    assert len(read(path)) == 2 and tuple(rows) == orders
    assert rows["raster"]["ranks"] == [float(rank) for rank in range(1, 65)]
    assert all(0.9 < row["bits_per_dimension"] < 1.2 for row in rows.values())
    assert (tmp_path / "pictures" / "digits-binary-learned-from-raster-0.png").stat().st_size > 10_000
    destruction_order.table(path)
    assert "| digits-binary | learned from raster | 2 |" in capsys.readouterr().out


def test_noises_are_compared(tmp_path, monkeypatch, capsys):
    import destruction_noise
    from rows import read

    monkeypatch.setattr(destruction_noise, "SAMPLES", 32)
    path = tmp_path / "rows.jsonl"
    small = '{"batch_size": 16, "agent": {"width": 8}}'
    destruction_noise.run(path, targets=("two-moons",), steps=(2,), seeds=(0,), iterations=2, settings=small)
    assert [row["destruction"] for row in read(path)] == ["fixed", "learned"]
    assert all(row["skipped"] == 0 and 0.0 < row["bits_per_dimension"] < 5.0 for row in read(path))
    destruction_noise.table(path)
    assert "| defaults | two-moons | 2 | learned |" in capsys.readouterr().out
