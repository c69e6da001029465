"""A run folder: config.json, metrics.csv, evaluation.json, figures/*.png, checkpoint/."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..envs.errors import InputError
from .config import TrainConfig

__all__ = ["RunFolder", "flatten"]


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files.

    Args:
        path: the folder.

    Example:
        >>> RunFolder(Path("runs/gmm25")).metrics.name
        'metrics.csv'
    """

    path: Path

    @property
    def config(self) -> Path:
        """All settings."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """Live numbers, a row every `log_every` iterations."""
        return self.path / "metrics.csv"

    @property
    def evaluation(self) -> Path:
        """Final numbers."""
        return self.path / "evaluation.json"

    @property
    def figures(self) -> Path:
        """Folder of pictures."""
        return self.path / "figures"

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoint."""
        return self.path / "checkpoint"

    def check_free(self, *, overwrite: bool) -> None:
        """Raise an InputError unless a new run may be written here; only an earlier run is ever overwritten."""
        if self.path.is_file():
            raise InputError(f"out: expected a folder, got the file {self.path}")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not self.holds_run:
            raise InputError(f"out: {self.path} exists and is not a run folder; choose another")
        if not overwrite:
            raise InputError(
                f"out: the run {self.path} exists; pass --overwrite, or go on with: ebbflow resume {self.path}"
            )

    @property
    def holds_run(self) -> bool:
        """Whether config.json is a run's, perhaps of another version; many other programs have a file of that name."""
        try:
            values = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(values, dict) and {"target", "steps", "iterations", "agent"} <= set(values)

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint, whole or broken, is there to go on from."""
        return self.checkpoint.is_dir() and any(not p.name.startswith(".") for p in self.checkpoint.iterdir())

    def create(self, config: TrainConfig) -> None:
        """Start an empty run here, removing the files of an earlier one."""
        from .checkpoint import write_atomically

        self.remove()
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, (json.dumps(config.to_dict(), indent=2) + "\n").encode())

    def remove(self) -> None:
        """Remove the files of a run, and the folder if nothing else is in it."""
        for file in (self.config, self.metrics, self.evaluation):
            file.unlink(missing_ok=True)
        for folder in (self.figures, self.checkpoint):
            shutil.rmtree(folder, ignore_errors=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def load_config(self) -> TrainConfig:
        """Settings of the run.

        Raises:
            InputError: when this is no run folder, or its settings cannot be read.
        """
        if not self.config.is_file():
            inside = sorted(str(found.parent) for found in self.path.glob("*/config.json"))
            one_of = f", which holds run folders such as {inside[0]!r}" if inside else ""
            raise InputError(f"run: expected a run folder with a config.json, got {str(self.path)!r}{one_of}")
        try:
            values = json.loads(self.config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{self.config}: not valid JSON ({error})") from error
        return TrainConfig.from_dict(values, origin=str(self.config))

    def load_evaluation(self) -> dict[str, Any] | None:
        """The numbers of evaluation.json; None of a run not yet at its end, or where the file is broken."""
        try:
            evaluation = json.loads(self.evaluation.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return evaluation if isinstance(evaluation, dict) else None

    def load_state(self) -> tuple[dict[str, Any], TrainConfig]:
        """State and settings of the checkpoint, which must be of this run's settings.

        Raises:
            InputError: when the checkpoint is missing, broken, or of another configuration.
        """
        from .checkpoint import load_checkpoint

        config = self.load_config()
        if not self.has_checkpoint:
            raise InputError(
                f"run: {self.path} ended before its first checkpoint; start it again with: "
                f"ebbflow train --preset {self.config} --out {self.path} --overwrite"
            )
        state, saved = load_checkpoint(self.checkpoint)
        here, there = flatten(config.to_dict()), flatten(TrainConfig.from_dict(saved, "checkpoint").to_dict())
        for name, value in here.items():
            if there[name] != value:
                raise InputError(
                    f"checkpoint {self.checkpoint}: from another configuration: {name} is {there[name]!r} there and "
                    f"{value!r} in config.json"
                )
        return state, config


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name.

    Example:
        >>> flatten({"steps": 5, "agent": {"features": ("raw",)}})
        {'steps': 5, 'agent.features': ['raw']}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
