"""The example of latent-space sampling writes files that the loaders read, and draws what it says."""

import importlib
from pathlib import Path

import matplotlib.image
import pytest
import torch

from ebbflow.envs import load_module

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def digits_gan(monkeypatch):
    """The script as a module, as from the repository's root."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra `sklearn`)")
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("examples.digits_gan")


def test_a_few_iterations_write_a_target(digits_gan, tmp_path):
    torch.manual_seed(0)
    classifier, accuracy = digits_gan.train_classifier(iterations=60)
    assert accuracy > 0.7
    generator = digits_gan.train_gan(iterations=5)
    digits_gan.save(classifier, torch.zeros(2, 64), tmp_path, "classifier")
    digits_gan.save(generator, torch.zeros(2, 64), tmp_path, "generator")
    z = torch.randn(5, digits_gan.LATENT)
    for name, module in (("Generator", generator), ("Classifier", classifier)):
        for suffix, code in (("pt", None), ("pt2", None), ("safetensors", f"examples.digits_gan:{name}")):
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
