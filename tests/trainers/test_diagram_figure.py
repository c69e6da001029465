"""The figure of a diagram: every box, label and kind of line is there, and boxes do not lie on one another."""

import itertools

import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ebbflow.envs.channels import Cypher, Identity, Mash, Product
from ebbflow.envs.diagrams import EXAMPLES, Arrow, Diagram, Equal, get_example
from ebbflow.trainers.figures import write_diagram
from ebbflow.trainers.figures.diagram import diagram_figure
from ebbflow.trainers.figures.diagram_layout import place_boxes
from ebbflow.trainers.figures.style import DESTRUCTION, GENERATION, TRUTH

RED = "#c0143c"


def lines(figure, style="-"):
    """Colours of the lines of one style: solid arrows "-", dashed edges "--"."""
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    dashed = [patch.get_linestyle() not in ("-", "solid") for patch in patches]
    return [to_hex(p.get_edgecolor()) for p, d in zip(patches, dashed, strict=True) if d == (style == "--")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_drawn_with_all_its_boxes_and_names(name, tmp_path):
    diagram = get_example(name)
    figure = diagram_figure(diagram)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {" × ".join(box) for box in diagram.boxes} | {arrow.label for arrow in diagram.arrows} <= set(texts)
    assert len([p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]) == len(diagram.boxes)
    assert len(lines(figure, "--")) == sum(isinstance(edge, Equal) for edge in diagram.edges)
    figure.canvas.draw()
    extents = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(figure.bbox.contains(*corner) for box in extents for corner in (box.min, box.max))
    write_diagram(tmp_path / "diagram.png", diagram)
    assert imread(tmp_path / "diagram.png").std() > 0.02


@pytest.mark.parametrize("name", EXAMPLES)
def test_boxes_have_places_of_their_own_and_arrows_lead_on(name):
    diagram = get_example(name)
    places = place_boxes(diagram)
    assert len(set(places.values())) == len(places) == len(diagram.boxes)
    for first, second in itertools.combinations(diagram_figure(diagram).axes[0].patches, 2):
        if isinstance(first, FancyBboxPatch) and isinstance(second, FancyBboxPatch):
            assert not first.get_window_extent().overlaps(second.get_window_extent())
    assert all(places[arrow.ends[0]][0] != places[arrow.ends[1]][0] for arrow in diagram.arrows)


def test_colours_say_what_is_created_and_destroyed():
    law = [0.5, 0.3, 0.2]
    diagram = Diagram(
        "colours",
        {"A": law, "B": None, "C": None, "coin": None},
        [Arrow("A", "B", Mash([0, 1, 1])), Arrow("A", "C", Identity(3)), Arrow("A", ("A", "coin"), Product(3, law))],
    )
    assert [colour for colour in lines(diagram_figure(diagram)) if colour != "#b8b8b8"] == [
        DESTRUCTION,
        TRUTH,
        GENERATION,
    ]


def test_what_fails_is_red():
    edges = [Arrow("A", "B", Cypher([1, 2, 0])), Equal("A", "B")]
    diagram = Diagram("wrong", {"A": [0.5, 0.3, 0.2], "B": None}, edges)
    figure = diagram_figure(diagram, diagram.check())
    assert lines(figure, "--") == [RED] and RED not in lines(figure)
    assert "fails" in [text.get_text() for text in figure.axes[0].texts]
    assert RED not in lines(diagram_figure(diagram), "--")
