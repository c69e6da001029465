"""Checkpoint files: what comes back, what is refused, and what can never be executed or lost."""

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ebbflow.envs import InputError
from ebbflow.trainers.checkpoint import load_checkpoint, save_checkpoint, write_atomically

STATE = {
    "weights": {"a": torch.randn(3, 2), "b": torch.arange(4), "flag": torch.tensor(True)},
    "scalar": torch.tensor(1.5, dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "half": torch.randn(2).bfloat16(),
    "view": torch.randn(4, 3).T[1:, ::2],
    "parameter": torch.nn.Parameter(torch.randn(2)),
    "bytes": torch.get_rng_state(),
    "list": [1, {"deep": [torch.ones(1)]}, (0.9, 0.99)],
    "rate": 0.1 + 0.2,
    "whole": 10**17,
    "text": "ℓ/~",
    "yes": True,
    "nothing": None,
    "low": float("-inf"),
    3: {"0": torch.ones(2)},
}
CONFIG = {"steps": 5, "name": "é"}


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return other.dtype == one.dtype and torch.equal(one, other) and not other.requires_grad
    if isinstance(one, dict):
        return {str(k) for k in one} == set(other) and all(equal(v, other[str(k)]) for k, v in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_everything_comes_back(tmp_path):
    path = save_checkpoint(tmp_path / "deep/checkpoint", STATE, CONFIG)
    assert path == tmp_path / "deep/checkpoint/state.safetensors"
    state, config = load_checkpoint(tmp_path / "deep/checkpoint")
    assert config == CONFIG
    assert equal(STATE, state)
    assert not equal({**STATE, "rate": 0.3}, state)


def test_tensors_that_share_memory_come_back_apart(tmp_path):
    shared = torch.randn(3)
    save_checkpoint(tmp_path, {"one": shared, "other": shared, "part": shared[1:]}, {})
    state, _ = load_checkpoint(tmp_path)
    state["one"].zero_()
    assert torch.equal(state["other"], shared) and torch.equal(state["part"], shared[1:])


def test_what_is_neither_tensor_nor_plain_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint/agent/0: expected tensors and plain values, got PosixPath"):
        save_checkpoint(tmp_path, {"agent": [tmp_path]}, {})
    assert list(tmp_path.iterdir()) == []


# Files of others ------------------------------------------------------------------------------------------------------


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_missing_checkpoint_is_named(tmp_path):
    assert refusal(tmp_path / "no") == f"checkpoint: expected {tmp_path}/no/state.safetensors"
    (tmp_path / ".state.safetensors.7.tmp").write_bytes(b"")
    assert refusal(tmp_path) == f"checkpoint: expected {tmp_path}/state.safetensors"


def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path):
    path = save_checkpoint(tmp_path, STATE, CONFIG)
    whole = path.read_bytes()
    for size in {0, 1, 7, 8, 9, 100, *range(0, len(whole), len(whole) // 20), len(whole) - 1}:
        path.write_bytes(whole[:size])
        assert "truncated or not a checkpoint" in refusal(tmp_path)
    path.write_bytes(whole)
    assert equal(STATE, load_checkpoint(tmp_path)[0])


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"format": "ebbflow-checkpoint-0", "state": "{}", "config": "{}"},
    ],
)
def test_a_foreign_safetensors_file_is_refused(metadata, tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "state.safetensors", metadata)
    assert "not one of this program's checkpoints" in refusal(tmp_path)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"state": "{}"},
        {"state": "{", "config": "{}"},
        {"state": json.dumps({"x": {"__tensor__": "missing"}}), "config": "{}"},
        {"state": json.dumps({"x": {"__tensor__": ["weight"]}}), "config": "{}"},
    ],
)
def test_a_damaged_description_is_refused(metadata, tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "state.safetensors", {"format": "ebbflow-checkpoint-1", **metadata})
    assert "truncated or not a checkpoint" in refusal(tmp_path)


@pytest.mark.parametrize("dump", [lambda trap: pickle.dumps(trap), lambda trap: pickle.dumps({"agent": trap})])
def test_a_pickle_is_never_executed(dump, tmp_path):
    marker = tmp_path / "executed"
    data = dump(Trap(marker))
    (tmp_path / "state.safetensors").write_bytes(data)
    assert "truncated or not a checkpoint" in refusal(tmp_path)
    (tmp_path / "state.safetensors").unlink()
    for name in ("state.pt", "state.pkl", "state.safetensors.pt"):
        (tmp_path / name).write_bytes(data)
    assert "found only state.pkl, state.pt, state.safetensors.pt, which is not read (pickles never are)" in refusal(
        tmp_path
    )
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists()  # the trap was armed


def test_a_torch_file_is_never_executed(tmp_path):
    marker = tmp_path / "executed"
    torch.save({"agent": Trap(marker)}, tmp_path / "state.safetensors")
    assert "truncated or not a checkpoint" in refusal(tmp_path)
    assert not marker.exists()


# Atomic writes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_the_old_file_stays_whole_when_a_write_fails(name, monkeypatch, tmp_path):
    save_checkpoint(tmp_path, {"step": 1}, CONFIG)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space left") as caught:
            save_checkpoint(tmp_path, {"step": 2}, CONFIG)
    assert caught.value.filename == str(tmp_path / "state.safetensors")
    assert load_checkpoint(tmp_path) == ({"step": 1}, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_the_old_file_stays_whole_when_the_process_dies_while_writing(monkeypatch, tmp_path):
    """Half a new file lies beside the old one, is not read, and is gone after the next save."""
    save_checkpoint(tmp_path, {"step": 1}, CONFIG)
    leftover = tmp_path / ".state.safetensors.12345.tmp"
    leftover.write_bytes((tmp_path / "state.safetensors").read_bytes()[:50])
    assert load_checkpoint(tmp_path) == ({"step": 1}, CONFIG)
    save_checkpoint(tmp_path, {"step": 2}, CONFIG)
    assert load_checkpoint(tmp_path) == ({"step": 2}, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_new_file_appears_in_one_move_after_it_is_on_disk(monkeypatch, tmp_path):
    path = tmp_path / "note"
    path.write_bytes(b"old")
    order = []
    sync, move = os.fsync, os.replace

    def syncing(descriptor):
        order.append(("synced", os.fstat(descriptor).st_size, path.read_bytes()))
        sync(descriptor)

    def moving(source, destination):
        order.append(("moved", Path(source).read_bytes(), path.read_bytes()))
        move(source, destination)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", moving)
    write_atomically(path, b"newer")
    assert order == [("synced", 5, b"old"), ("moved", b"newer", b"old")]
    assert path.read_bytes() == b"newer"
