"""The data sets that come with the project: what is in them, and that it is always the same."""

import builtins
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from ebbflow.envs import InputError, TextDataset, Tokens, get_target
from ebbflow.envs.registry import DATA


@pytest.mark.parametrize("name", DATA)
def test_every_one_is_in_the_docs_and_always_the_same(name):
    assert f"| `{name}` |" in (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    target, again = get_target(name), get_target(name)
    assert torch.equal(target.train_rows, again.train_rows) and torch.equal(target.held_out, again.held_out)
    assert target.sample(3).shape == (3, *target.space.shape)
    assert not target.has_log_prob


def test_digits_are_scikit_learns_in_every_form():
    grey, tokens, binary = (get_target(name) for name in ("digits", "digits-tokens", "digits-binary"))
    assert tokens.space == Tokens(64, 17) and binary.space == Tokens(64, 2) and tokens.image_shape == (8, 8)
    rows = torch.cat((tokens.train_rows, tokens.held_out))
    theirs = torch.as_tensor(load_digits().data).long()
    assert torch.equal(rows.unique(dim=0), theirs.unique(dim=0)) and len(rows) == 1797
    assert torch.equal((grey.held_out + 1) * 8, tokens.held_out.float())
    assert torch.equal(binary.held_out, (tokens.held_out >= 8).long())
    assert grey.scale == pytest.approx(grey.train_rows.std(0, unbiased=False).square().mean().sqrt().item(), rel=1e-5)


def test_dequantised_digits_are_the_levels_again():
    noisy, tokens = get_target("digits-dequantised"), get_target("digits-tokens")
    levels = ((noisy.held_out + 1) / noisy.level_width).floor().clamp(0, 16).long()
    assert torch.equal(levels, tokens.held_out)
    samples = noisy.sample(500)
    assert samples.min() >= -1 and samples.max() <= 1


def test_bits_of_dequantised_levels_are_what_the_docs_say():
    """Of a density that is flat over [−1, 1), every level costs log2(17) bits."""
    noisy = get_target("digits-dequantised")
    assert -math.log2(1 / 2) + math.log2(1 / noisy.level_width) == pytest.approx(math.log2(17))


def test_fewer_digits_are_the_same_digits_in_every_form():
    few, tokens = get_target("digits-50"), get_target("digits-tokens-50")
    assert torch.equal((few.train_rows + 1) * 8, tokens.train_rows.float()) and len(tokens.train_rows) == 50


def test_moons_lie_on_their_circles():
    points = torch.cat((get_target("two-moons").train_rows, get_target("two-moons").held_out))
    upper = points.norm(dim=-1) - 1
    lower = (points - torch.tensor([1.0, 0.5])).norm(dim=-1) - 1
    off = torch.where(upper.abs() < lower.abs(), upper, lower)
    assert 0.08 < off.std() < 0.11 and len(points) == 10_000
    assert points.mean(0).tolist() == pytest.approx([0.5, 0.25], abs=0.03)


def test_the_checkerboard_is_uniform_on_its_dark_squares():
    points = get_target("checkerboard").train_rows
    square = ((points + 4) / 2).floor().long()
    assert (square.sum(-1) % 2 == 0).all()
    counts = torch.bincount(square[:, 0] * 4 + square[:, 1])
    counts = counts[counts > 0]
    assert len(counts) == 8 and ((counts - 1000).square() / 1000).sum() < 24.3  # chi-square, 7 degrees: 0.1 %


def test_python_documents_itself():
    target = get_target("python-docs")
    assert isinstance(target, TextDataset) and target.space.length == 32
    assert len(target.train_rows) > 5 * len(target.held_out) > 2000
    assert any("statement" in text for text in target.decode_tokens(target.train_rows))
    assert get_target("python-docs", dim=8).space.length == 8


def test_what_is_missing_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith(("sklearn", "pydoc_data")):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        InputError, match=re.escape("scikit-learn is not installed; it comes with: pip install 'ebbflow[")
    ):
        get_target("digits-tokens")
    with pytest.raises(InputError, match="installed without pydoc_data"):
        get_target("python-docs")


def test_listing_imports_no_scikit_learn():
    code = (
        "import sys; from ebbflow.trainers.cli import main; main(['targets']); import ebbflow.envs.data; "
        "print([name for name in ('sklearn', 'torch') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "digits-tokens" in result.stdout and result.stdout.splitlines()[-1] == "[]"
