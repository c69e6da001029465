"""Small runs and an in-process command line for the tests of the trainers."""

import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest

from ebbflow.trainers.cli import main
from ebbflow.trainers.config import OPTIMISERS, TrainConfig

# Also what the tests count on is set here, so that the defaults can be tuned without them.
TINY = {
    "target": "gmm25",
    "steps": 3,
    "iterations": 12,
    "batch_size": 16,
    "log_every": 2,
    "checkpoint_every": 3,
    "evaluation_samples": 64,
    "objective": "vargrad",
    "target_rate": 0.05,
    "average_decay": 0.99,
    "agent": {
        "reference": "bridge",
        "time_grid_power": 2.0,  # no search for it
        "compression": 3.0,
        "width": 8,
        "depth": 1,
        "features": ["raw", "fourier"],
        "frequencies": [1.0, 2.0],
        "tables": True,
        "gain": True,
    },
    "exploration": {"scale": 1.5, "inverse_temperature": 1.0},
    "replay": {"share": 0.5, "contents": "terminal", "priority": "uniform"},
    "anchors": {"share": 0.5, "count": 40, "temperatures": 3, "moves": 1, "final_moves": 2},
    **{name: {"warmup": 2, "schedule": "cosine"} for name in OPTIMISERS},
    "destruction_optimiser": {"warmup": 2, "schedule": "cosine", "rate": 3e-3, "table_rate": 3e-3},
}


@pytest.fixture(scope="session")
def settings():
    """Nested plain settings of a tiny run, `settings(iterations=4, agent={"width": 4})`."""

    def make(**changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in TINY.items()}
        for name, value in changes.items():
            values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
        return values

    return make


@pytest.fixture
def tiny(settings):
    """Configuration of a tiny run, with changes as in `settings`."""
    return lambda **changes: TrainConfig.from_dict(settings(**changes))


@pytest.fixture
def tiny_of_data(settings):
    """As `tiny`, without the settings that data do not have."""
    absent = ("exploration", "replay", "anchors")
    return lambda **changes: TrainConfig.from_dict({k: v for k, v in settings(**changes).items() if k not in absent})


@pytest.fixture
def flags(settings):
    """The same as words of a command line, with flag-like changes behind them."""

    def words(values: dict[str, Any], prefix: str = "") -> list[str]:
        found: list[str] = []
        for name, value in values.items():
            if isinstance(value, dict):
                found += words(value, f"{prefix}{name}.")
            elif name != "target":
                items = value if isinstance(value, list) else [value]
                flag = f"--{prefix}{name}".replace("_", "-")
                found += [flag] if value is True else [flag, *map(str, items)]
        return found

    return lambda *more, **changes: [*words(settings(**changes)), *map(str, more)]


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one line of an error, which must be all there is on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("ebbflow: "), self.err
        return lines[0].removeprefix("ebbflow: ")


@pytest.fixture
def ebbflow(capsys, monkeypatch, tmp_path):
    """The command line, run in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # naming a module:attribute adds the folder

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def densities(monkeypatch):
    """Makes functions importable as `densities:NAME` for the command line."""
    module = types.ModuleType("densities")
    monkeypatch.setitem(sys.modules, "densities", module)
    return module
