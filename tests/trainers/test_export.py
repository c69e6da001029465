"""Samples as files of other software, read back by it."""

import builtins
import errno
import os

import numpy
import pytest
import torch

from ebbflow.envs import InputError
from ebbflow.trainers.export import check_ending, to_arviz, write_samples

X = torch.randn(7, 3, dtype=torch.float64)
LOG_WEIGHT = torch.randn(7, dtype=torch.float64)


def test_npz_is_read_back(tmp_path):
    path = tmp_path / "new/folder/samples.npz"
    write_samples(path, X, LOG_WEIGHT)
    with numpy.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == ["log_weight", "x"]
        assert numpy.array_equal(file["x"], X.numpy())
        assert numpy.array_equal(file["log_weight"], LOG_WEIGHT.numpy())
    assert [p.name for p in path.parent.iterdir()] == ["samples.npz"]


def test_nc_is_read_back(tmp_path):
    arviz = pytest.importorskip("arviz")
    path = tmp_path / "samples.nc"
    write_samples(path, X, LOG_WEIGHT, {"elbo": -1.5, "eubo": None, "samples": 7})
    data = arviz.from_netcdf(path)
    assert data.posterior["x"].shape == (1, 7, 3)
    assert numpy.array_equal(data.posterior["x"].values[0], X.numpy())
    assert numpy.array_equal(data.sample_stats["log_weight"].values[0], LOG_WEIGHT.numpy())
    assert data.posterior.attrs["elbo"] == -1.5 and data.posterior.attrs["samples"] == 7
    assert "eubo" not in data.posterior.attrs
    assert [p.name for p in tmp_path.iterdir()] == ["samples.nc"]


def test_arviz_sees_one_chain():
    arviz = pytest.importorskip("arviz")
    summary = arviz.summary(to_arviz(X, LOG_WEIGHT), kind="stats")
    assert summary["mean"].to_numpy() == pytest.approx(X.mean(0).numpy(), abs=1e-3)


@pytest.mark.parametrize("name", ["samples", "samples.csv", "samples.npy", "samples.npz.gz", "npz", "samples.NPZ"])
def test_other_endings_are_refused(name, tmp_path):
    for call in (lambda: check_ending(tmp_path / name), lambda: write_samples(tmp_path / name, X, LOG_WEIGHT)):
        with pytest.raises(InputError, match=r"out: expected a file name ending in .npz or .nc, got "):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["samples.npz", "samples.nc"])
def test_the_old_file_stays_when_the_new_one_cannot_be_written(name, tmp_path, monkeypatch):
    if name.endswith(".nc"):
        pytest.importorskip("arviz")
    path = tmp_path / name
    write_samples(path, X, LOG_WEIGHT)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        write_samples(path, X + 1, LOG_WEIGHT)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_without_arviz_the_way_to_get_it_is_told(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "arviz":
            raise ImportError("No module named 'arviz'")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'ebbflow\[arviz\]'"):
        to_arviz(X, LOG_WEIGHT)
