"""Checkpoints: one safetensors file, replaced in one move, that no reader can make execute anything.

All tensors of the trainer's state go under path-like names; numbers, flags and the nesting go as JSON into the file's
metadata, with the configuration. The file is written beside the old one, flushed to disk and renamed over it, so a
crash, a full disk or `kill -9` leaves the previous checkpoint whole. Pickles are never read.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..envs.errors import InputError

__all__ = ["load_checkpoint", "save_checkpoint", "write_atomically"]

FORMAT = "ebbflow-checkpoint-1"
FILE = "state.safetensors"
TENSOR = "__tensor__"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new one, whole, whatever happens in between.

    Raises:
        OSError: when the disk is full or the folder cannot be written; the old file is then as it was.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_atomically(path, b"kept")
        >>> path.read_text()
        'kept'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which file it was
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(folder: Path, state: dict[str, Any], config: dict[str, Any]) -> Path:
    """Save a trainer's state and configuration as `folder/state.safetensors`.

    Args:
        folder: created where missing; leftovers of killed writes in it are removed.
        state: nested dicts and lists of tensors, numbers, strings and None.
        config: the configuration, plain values.

    Returns:
        Path of the file.

    Raises:
        OSError: as `write_atomically`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = save_checkpoint(folder, {"weights": torch.ones(2), "iteration": 3}, {"steps": 5})
        >>> load_checkpoint(folder)
        ({'weights': tensor([1., 1.]), 'iteration': 3}, {'steps': 5})
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f".{FILE}.*.tmp"):
        leftover.unlink(missing_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _split(state, "", tensors)
    metadata = {"format": FORMAT, "state": json.dumps(skeleton), "config": json.dumps(config)}
    path = folder / FILE
    write_atomically(path, save(tensors, metadata))
    return path


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """State and configuration saved by `save_checkpoint`, on the CPU.

    Raises:
        InputError: when there is no checkpoint, or the file is truncated, foreign, or not of this format.
    """
    path = folder / FILE
    if not path.is_file():
        others = sorted(p.name for p in folder.glob("*") if not p.name.startswith(".")) if folder.is_dir() else []
        found = f"; found only {', '.join(others)}, which is not read (pickles never are)" if others else ""
        raise InputError(f"checkpoint: expected {path}{found}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(f"checkpoint {path}: a safetensors file, but not one of this program's checkpoints")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        skeleton, config = json.loads(metadata["state"]), json.loads(metadata["config"])
        return _join(skeleton, tensors), config
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"checkpoint {path}: truncated or not a checkpoint ({error})") from error


def _split(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Move the tensors of a nested value into `tensors`; returns what is left, ready for JSON."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {TENSOR: name}
    if isinstance(value, dict):
        return {str(key): _split(item, f"{name}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_split(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"checkpoint{name}: expected tensors and plain values, got {type(value).__name__}")


def _join(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value
