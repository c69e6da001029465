"""Pictures of images at contexts: a row for each class, and pictures where there are no samples at a context."""

import pytest
import torch
from matplotlib.image import imread

from ebbflow.envs import Annotated, Dataset, InputError, get_target
from ebbflow.envs.data import LabelledDataset
from ebbflow.trainers import TrainConfig, Trainer
from ebbflow.trainers.cli import main
from ebbflow.trainers.figures.gallery import write_figures
from ebbflow.trainers.figures.images import image_contexts_figure
from ebbflow.trainers.train import evaluate_run

TINY = {"iterations": 3, "batch_size": 16, "evaluation_samples": 40, "agent": {"width": 8}}


def stripes():
    """Images 2 × 3 of tokens, dark in one column, which is their class."""
    labels = torch.arange(60) % 3
    rows = torch.nn.functional.one_hot(labels, 3).unsqueeze(1).expand(-1, 2, -1).flatten(1)
    return LabelledDataset.split(rows, labels=labels, image_shape=(2, 3), name="stripes")


def trained(target, **settings):
    trainer = Trainer(target, TrainConfig.from_dict(TINY | settings))
    trainer.train()
    return trainer


def test_every_class_has_a_row_of_its_own():
    target = stripes()
    trainer = trained(target, iterations=150, average_decay=0.0, agent={"width": 32})
    torch.manual_seed(0)
    figure = image_contexts_figure(trainer.evaluated_agent, target, (2, 3), target.contexts)
    first, second = figure.axes
    assert [one.get_title() for one in figure.axes] == ["generated", "data"]
    assert [text.get_text() for text in first.get_yticklabels()] == ["0", "1", "2"]
    for axes, right in ((first, 0.9), (second, 1.0)):
        image = torch.as_tensor(axes.images[0].get_array().filled(-1.0))  # 3 rows of 8 images, and a line between
        tiles = torch.nn.functional.pad(image, (0, 1, 0, 1)).unflatten(0, (3, 3)).unflatten(2, (8, 4))
        columns = tiles[:, :2, :, :3].mean(1)  # [class, image, column]
        assert (columns.argmax(-1) == torch.arange(3).unsqueeze(-1)).double().mean() >= right


def test_a_class_without_samples_to_learn_from_has_no_row(tmp_path):
    full = stripes()
    few = full.labels > 0
    settings = {"held_out_labels": full.held_out_labels, "image_shape": (2, 3), "name": "stripes"}
    target = LabelledDataset(full.train_rows[few], full.held_out, labels=full.labels[few], **settings)
    trainer = trained(target)
    assert evaluate_run(trainer)["sinkhorn"] is not None
    assert "samples.png" in [path.name for path in write_figures(tmp_path, trainer.evaluated_agent, target)]


def test_pictures_and_numbers_at_a_number_that_never_comes_twice(tmp_path):
    rows = torch.rand(500, 4, generator=torch.Generator().manual_seed(0))
    levels = Dataset.split(rows, image_shape=(2, 2), level_width=0.1, name="grey")
    trainer = trained(Annotated(levels, lambda x: x.mean(-1)))
    found = evaluate_run(trainer)
    assert found["sinkhorn"] is None and found["bits_per_dimension"] is not None
    assert all(one["sinkhorn"] is None for one in found["contexts"])
    written = write_figures(tmp_path, trainer.evaluated_agent, trainer.target)
    assert [path.name for path in written] == ["samples.png", "paths.png"]
    assert all(imread(path).std() > 0.02 for path in written)


def test_classes_are_trained_on_by_name(tmp_path):
    pytest.importorskip("sklearn")
    assert get_target("digits-labelled-50").train_rows.shape == (50, 64)
    with pytest.raises(InputError, match="unknown name 'two-moons-labelled'"):
        get_target("two-moons-labelled")
    out = tmp_path / "run"
    short = ["--iterations", "2", "--batch-size", "8", "--agent.width", "8", "--evaluation-samples", "32"]
    assert main(["train", "digits-binary-labelled-50", *short, "--out", str(out)]) == 0
    assert (out / "figures" / "samples.png").exists()
    three = ",".join(str(int(i == 3)) for i in range(10))
    assert main(["sample", str(out), "--context", three, "-n", "4", "--out", str(tmp_path / "threes.npz")]) == 0
