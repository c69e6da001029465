"""Figures: every kind for every kind of target, with something on them, and nothing else changed by drawing them."""

import math

import matplotlib
import numpy
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from ebbflow.agents.architecture import AgentConfig, build_agent
from ebbflow.envs.errors import InputError
from ebbflow.envs.spaces import Continuous
from ebbflow.envs.target import Target
from ebbflow.envs.targets.callable import CallableTarget
from ebbflow.envs.targets.funnel import Funnel
from ebbflow.envs.targets.many_well import ManyWell
from ebbflow.envs.targets.mixtures import gmm25
from ebbflow.trainers.figures import samples, training
from ebbflow.trainers.figures.gallery import write_figures
from ebbflow.trainers.figures.style import DESTRUCTION, GENERATION, TRUTH, axis_limits, outside_remark

ROWS = [
    {
        "iteration": 10 * i,
        "elbo": -1000.0 / (i + 1),
        "eubo": 500.0 / (i + 1),
        "log_z": -1.0,
        "ess": i / 30,
        "loss_generation": 50.0 / (i + 1),
        "loss_destruction": 20.0 / (i + 1),
    }
    for i in range(30)
]


class Data(Target):
    """Samples without a density."""

    def __init__(self, dim):
        super().__init__(Continuous(dim), name="data")

    def sample(self, n):
        return torch.randn(n, self.space.dim)


def agent_for(target, steps=2, **settings):
    return build_agent(target.space, scale=target.scale, steps=steps, config=AgentConfig(width=8, **settings))


def share_of_colour(path, colour: str) -> float:
    """Share of the pixels in a hue near that of `colour`, however pale."""
    image = imread(path)[..., :3].reshape(-1, 3)
    assert image.shape[0] > 200_000 and image.std() > 0.02
    ink, tint = 1.0 - image, 1.0 - numpy.array(to_rgb(colour))
    length = numpy.linalg.norm(ink, axis=1)
    cosine = ink @ tint / numpy.maximum(length * numpy.linalg.norm(tint), 1e-9)
    return float(((length > 0.1) & (cosine > 0.995)).mean())


CASES = {
    "one dimension": (lambda: CallableTarget(lambda x: -0.5 * x[:, 0] ** 2, dim=1), {}),
    "one dimension, samples, no density": (lambda: Data(1), {}),
    "mixture": (gmm25, {}),
    "two dimensions, no samples": (lambda: CallableTarget(lambda x: -x.square().sum(-1), dim=2), {}),
    "two dimensions, no density": (lambda: Data(2), {}),
    "three dimensions": (lambda: Funnel(3), {"steps": 1}),
    "funnel, score features": (Funnel, {"features": ("raw", "score")}),
    "many-well": (ManyWell, {"steps": 20, "reference": "variance_preserving"}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_figure_shows_what_it_should(name, tmp_path):
    make, settings = CASES[name]
    target = make()
    metrics = ROWS if name == "mixture" else None
    paths = {
        path.stem: path for path in write_figures(tmp_path / "new", agent_for(target, **settings), target, metrics)
    }
    expected = ["samples"] + ["training"] * bool(metrics) + ["weights"] * target.has_log_prob + ["paths"]
    assert list(paths) == expected
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(f"{key}.png" for key in expected)
    assert share_of_colour(paths["samples"], GENERATION) > 0.005
    assert share_of_colour(paths["paths"], GENERATION) > 0.005
    assert share_of_colour(paths["paths"], DESTRUCTION) > 0.005
    if target.can_sample:
        assert share_of_colour(paths["samples"], TRUTH) > 0.005
    if "weights" in paths:
        assert share_of_colour(paths["weights"], GENERATION) > 0.003
        assert (share_of_colour(paths["weights"], DESTRUCTION) > 0.003) == target.can_sample
    if "training" in paths:
        assert share_of_colour(paths["training"], GENERATION) > 0.001
        assert share_of_colour(paths["training"], DESTRUCTION) > 0.001


def test_drawing_changes_nothing(tmp_path):
    target = gmm25()
    agent = agent_for(target)
    target.energy_calls, target.gradient_calls = 3, 4
    torch_state, numpy_state = torch.get_rng_state(), numpy.random.get_state()
    settings = dict(matplotlib.rcParams)
    write_figures(tmp_path, agent, target, ROWS)
    assert pyplot.get_fignums() == [] and dict(matplotlib.rcParams) == settings
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(numpy.array_equal(a, b) for a, b in zip(numpy.random.get_state(), numpy_state, strict=True))
    assert (target.energy_calls, target.gradient_calls) == (3, 4)
    assert agent.training and all(parameter.grad is None for parameter in agent.parameters())
    torch.rand(10)
    write_figures(tmp_path, agent, target, ROWS)  # the same again, over the old ones
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    write_figures(tmp_path, agent, target, seed=1)
    assert (tmp_path / "samples.png").read_bytes() != first["samples.png"]


def test_densities_that_are_zero_or_undefined_in_places(tmp_path):
    half = CallableTarget(lambda x: torch.where(x[:, 0] > 0, -x.square().sum(-1), -math.inf), dim=2, name="half")
    assert len(write_figures(tmp_path, agent_for(half), half)) == 3
    nowhere = CallableTarget(lambda x: torch.full_like(x[:, 0], -math.inf), dim=1, name="nowhere")
    assert len(write_figures(tmp_path, agent_for(nowhere), nowhere)) == 3
    # NaN beyond 50, where no sample of this agent comes but a picture could.
    corners = CallableTarget(lambda x: (50.0 - x[:, 0]).log() - x.square().sum(-1), dim=2, scale=8.0)
    value = samples._log_density(corners, agent_for(corners), numpy.array([[0.0, 0.0], [60.0, 0.0]]))
    assert value[0] == pytest.approx(math.log(50.0)) and value[1] == -math.inf


def test_an_agent_that_cannot_be_drawn_is_named(tmp_path):
    agent = agent_for(gmm25())
    with pytest.raises(InputError, match="funnel"):
        write_figures(tmp_path, agent, Funnel())
    with torch.no_grad():
        agent.destruction.readout.linear.weight.fill_(math.inf)
    with pytest.raises(InputError, match="not finite"):
        write_figures(tmp_path, agent, gmm25())
    assert list(tmp_path.iterdir()) == []


# Training curves ------------------------------------------------------------------------------------------------------


def test_curves_take_what_is_a_number():
    rows = [
        {"iteration": "0", "elbo": "-5.5", "eubo": ""},  # as read from a CSV file
        {"iteration": 10, "elbo": math.nan, "eubo": None},
        {"iteration": 20, "elbo": -math.inf},
        {"iteration": 30, "elbo": -1.0},
    ]
    iterations, values = training._curve(rows, "elbo")
    assert iterations.tolist() == [0.0, 30.0] and values.tolist() == [-5.5, -1.0]
    assert len(training._curve(rows, "eubo")[0]) == 0


@pytest.mark.parametrize("metrics", [None, [], [{}], [{"iteration": 0, "elbo": math.nan, "ess": "", "seconds": 3.0}]])
def test_nothing_to_draw_is_no_figure(metrics):
    assert training.training_figure(metrics or [], 0.0) is None


@pytest.mark.parametrize(
    ("keys", "true_log_z", "panels"),
    [
        (("elbo", "eubo", "log_z", "ess", "loss_generation", "loss_destruction"), 0.0, 3),
        (("elbo",), None, 1),
        (("elbo", "log_z", "ess"), None, 2),
        (("loss_destruction",), None, 1),
    ],
)
def test_a_panel_for_each_kind_of_number_there_is(keys, true_log_z, panels):
    rows = [{key: row[key] for key in ("iteration", *keys)} for row in ROWS]
    figure = training.training_figure(rows, true_log_z)
    assert len(figure.axes) == panels
    drawn = {line.get_label() for axes in figure.axes for line in axes.lines}
    assert ("ELBO" in drawn, "EUBO" in drawn) == ("elbo" in keys, "eubo" in keys)
    assert ("generation" in drawn, "destruction" in drawn) == ("loss_generation" in keys, "loss_destruction" in keys)
    figure.savefig("/dev/null", format="png")


def test_bounds_are_drawn_as_distances_from_log_z():
    figure = training.training_figure([{"iteration": 5, "elbo": 160.0, "eubo": 170.0}], 164.0)
    heights = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert heights["ELBO"] == [-4.0] and heights["EUBO"] == [6.0]
    assert figure.axes[0].lines[0].get_marker() == "o"  # a single row is still seen


def test_losses_that_are_not_positive(tmp_path):
    figure = training.training_figure([{"loss_generation": value} for value in (3.0, -2.0, 0.0)], None)
    assert figure.axes[0].get_yscale() == "symlog"
    figure.savefig(tmp_path / "losses.png")


# Axes -----------------------------------------------------------------------------------------------------------------


def test_limits_hold_the_truth_and_are_not_squeezed_by_outliers():
    truth, generated = numpy.linspace(-1.0, 1.0, 1001), numpy.full(1001, 1e6)
    low, high = axis_limits(truth, generated)
    assert low < -0.99 and 0.99 < high < 4.0
    low, high = axis_limits(numpy.zeros(10))
    assert low < 0.0 < high


def test_what_lies_outside_is_counted():
    points = numpy.array([[0.0, 0.0], [2.0, 0.0], [0.0, 9.0], [0.0, 0.5]])
    assert outside_remark(points, (-1.0, 1.0), (-1.0, 1.0)) == " (50.0% off the axes)"
    assert outside_remark(points, (-9.0, 9.0), (-9.0, 9.0)) == ""
    assert outside_remark(numpy.array([-math.inf, 0.0]), (-1.0, 1.0)) == " (50.0% off the axes)"
