"""The digits of latent-space sampling: files that the loaders read, and the documentation's lines run on them."""

import importlib
import re
from pathlib import Path

import matplotlib.image
import pytest
import torch

from ebbflow.envs import load_module

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def digits_gan(monkeypatch):
    """As for scripts that run beside each other."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra `sklearn`)")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("digits_gan")


def test_a_few_iterations_write_a_target(digits_gan, tmp_path):
    torch.manual_seed(0)
    classifier, accuracy = digits_gan.train_classifier(iterations=60)
    assert accuracy > 0.7
    generator = digits_gan.train_gan(iterations=5)
    digits_gan.save(classifier, torch.zeros(2, 64), tmp_path, "classifier")
    digits_gan.save(generator, torch.zeros(2, 64), tmp_path, "generator")
    z = torch.randn(5, digits_gan.LATENT)
    for name, module in (("Generator", generator), ("Classifier", classifier)):
        for suffix, code in (("pt", None), ("pt2", None), ("safetensors", f"digits_gan:{name}")):
            loaded = load_module(tmp_path / f"{name.lower()}.{suffix}", code=code)
            torch.testing.assert_close(loaded(z), module(z), rtol=0, atol=1e-5)
    target = digits_gan.digits_target(tmp_path, beta=1.0)
    classes = torch.eye(digits_gan.CLASSES)
    expected = target.prior.log_prob(z) + classifier(generator(z)).log_softmax(1)[:, 3]
    torch.testing.assert_close(target(z, classes[3]), expected, rtol=0, atol=1e-4)
    assert target.sample_context(7).sum(1).tolist() == [1.0] * 7


def test_the_split_is_fixed_and_pixels_are_scaled(digits_gan):
    x, y, held_out, _ = digits_gan.digits()
    assert x.shape == (1437, 64) and held_out.shape == (360, 64) and y.bincount().min() > 100
    assert (x.min(), x.max()) == (-1.0, 1.0)
    assert digits_gan.jittered(x).shape == x.shape
    assert torch.equal(x, digits_gan.digits()[0])


def test_a_grid_has_a_row_for_each_row(digits_gan, tmp_path):
    digits_gan.draw_grid(torch.full((2, 3, 64), -1.0), tmp_path / "grid.png")
    assert matplotlib.image.imread(tmp_path / "grid.png").shape[:2] == (2 * 9 * 3, 3 * 9 * 3)


def test_the_lines_of_the_documentation_run(digits_gan, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "digits_gan"
    folder.mkdir(parents=True)
    digits_gan.save(digits_gan.Generator().eval(), torch.zeros(2, 64), folder, "generator")
    digits_gan.save(digits_gan.Classifier().eval(), torch.zeros(2, 64), folder, "classifier")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "latent.md").read_text(), re.DOTALL | re.MULTILINE)
    few = '"iterations": 2, "batch_size": 8, "contexts_per_batch": 2, "steps": 5'
    assert '"steps": 10' in code
    names: dict[str, object] = {}
    exec(compile(code.replace('"steps": 10', few), "latent.md", "exec"), names)
    assert names["z"].shape == (16, 64) and names["images"].shape == (16, 64)
