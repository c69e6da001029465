"""Finding targets by name, as plugins and as package.module:attribute; and one line for whatever can go wrong."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebbflow.envs import CallableTarget, InputError, Target, get_target, list_targets
from ebbflow.envs.registry import BUILT_IN, list_families

MODULE = """
import torch
from ebbflow.envs import Continuous, CallableTarget, InputError, Target

class Bowl(Target):
    def __init__(self, dim):
        super().__init__(Continuous(dim), name="bowl")
    def log_prob(self, x):
        return -x.square().sum(-1)

class Fixed(Bowl):
    def __init__(self):
        super().__init__(3)

class Optional(Bowl):
    def __init__(self, dim=4):
        super().__init__(dim)

class Demanding(Bowl):
    def __init__(self, data, dim=4):
        super().__init__(dim)

class Breaking(Bowl):
    def __init__(self):
        raise RuntimeError("no luck\\nat all")

class Fussy(Bowl):
    def __init__(self, dim=4):
        raise InputError("dim: a bowl is fussy")

class NoTarget:
    pass

def log_density(x):
    return -x.abs().sum(-1)

def make():
    return Fixed()

def make_of(dim):
    return Bowl(dim)

def make_nothing():
    return 3

bowl = Bowl(2)
network = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0))
number = 3

class shelf:
    bowl = bowl
"""
count = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """The name of a module in the current folder, which is not on the path beforehand."""
    name = f"written_targets_{next(count)}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return name


@pytest.fixture
def plugin(tmp_path, monkeypatch, module):
    """Installs an entry point of this name and value, as a distribution on the path."""

    def install(name: str, attribute: str) -> None:
        info = tmp_path / "some_targets-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-targets\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[ebbflow.targets]\n{name} = {module}:{attribute}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def message(spec, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        get_target(spec, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Built-in names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_targets())
def test_listed_names_are_found(name):
    target = get_target(name)
    assert target.name == name
    assert get_target(name, dim=target.space.shape[0]).space == target.space


@pytest.mark.parametrize(
    ("name", "dim", "expected"),
    [
        ("manywell-64", None, 64),
        ("manywell", 6, 6),
        ("funnel-3", None, 3),
        ("funnel", 7, 7),
        ("funnel", None, 10),
        ("manywell-narrow-4", None, 4),
        ("manywell-distorted", 6, 6),
        ("student-t-1", None, 1),
        ("gmm-wishart", 3, 3),
        ("banana-20", 20, 20),
        ("rosenbrock", 4, 4),
        ("lgcp-16", None, 16),
        ("lgcp-whitened", 9, 9),
        ("ring5", None, 2),
    ],
)
def test_families(name, dim, expected):
    assert get_target(name, dim=dim).space.dim == expected


@pytest.mark.parametrize("family", list_families())
def test_families_are_named_after_their_number(family):
    name = family.replace("<d>", "16").replace("<n>", "16").replace("<l>", "16")
    target = get_target(name)
    size = 64 if name.startswith("digits") else 2 if "<n>" in family else 16
    assert target.name == name and target.space.shape == (size,)


def test_every_built_in_density_is_in_the_docs(monkeypatch, tmp_path):
    text = (Path(__file__).resolve().parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
    assert [name for name in BUILT_IN if f"| `{name}` |" not in text] == []
    monkeypatch.chdir(tmp_path)
    Path("pines.csv").write_text("x,y\n0.5,0.5\n")
    names: dict[str, object] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    assert isinstance(names["blocks"], Target) and names["pines"]().counts.sum() == 1


@given(dim=st.integers(2, 200))
def test_families_take_what_fits(dim):
    assert get_target(f"funnel-{dim}").space.dim == dim
    if dim % 2 == 0:
        assert get_target(f"manywell-{dim}").space.dim == dim
    else:
        assert message(f"manywell-{dim}").startswith("dim: many-well needs an even number")


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("gmm25", {"dim": 3}, "dim: target 'gmm25' has 2 coordinates, got 3"),
        ("manywell-32", {"dim": 64}, "dim: target 'manywell-32' has 32 coordinates, got 64"),
        ("manywell", {}, "dim: target 'manywell' needs an even number of coordinates"),
        ("manywell-narrow", {}, "dim: target 'manywell-narrow' needs an even number of coordinates"),
        ("manywell-distorted-3", {}, "dim: many-well needs an even number"),
        ("funnel-1", {}, "dim: a funnel needs"),
        ("banana-1", {}, "dim: expected a whole number >= 2, got 1"),
        ("student-t-0", {}, "dim: expected a whole number >= 1, got 0"),
        ("lgcp-10", {}, "dim: expected a square number of cells, say 9 or 16, got 10"),
        ("ring1", {}, "modes: expected a whole number >= 2, got 1"),
        ("ring8", {"dim": 3}, "dim: target 'ring8' has 2 coordinates, got 3"),
        ("digits", {"dim": 3}, "dim: target 'digits' has 64 coordinates, got 3"),
        ("digits-tokens", {"dim": 3}, "dim: target 'digits-tokens' has 64 tokens, got 3"),
        ("digits-2000", {}, "unique: expected at most the 1438 samples that there are to learn from, got 2000"),
        ("python-docs-0", {}, "length: expected a whole number >= 1, got 0"),
        ("gmm25", {"dim": 0}, "dim: expected a whole number >= 1, got 0"),
        ("gmm25", {"dim": 2.0}, "dim: expected a whole number >= 1, got 2.0"),
        ("gmm25", {"scale": -1.0}, "scale: expected a positive finite length, got -1.0"),
        ("gmm25", {"scale": float("nan")}, "scale: expected a positive finite length, got nan"),
        ("gmm25", {"scale": "wide"}, "scale: expected a positive finite length, got 'wide'"),
    ],
)
def test_arguments_that_do_not_fit(name, arguments, expected):
    assert message(name, **arguments).startswith(expected)


def test_scale_takes_the_place_of_the_targets_own():
    assert get_target("gmm25", scale=2).scale == 2.0


@pytest.mark.parametrize(
    ("name", "close"), [("gmm52", "gmm25"), ("GMM25", "gmm25"), ("manywel-32", "manywell-32"), ("ring", "ring8")]
)
def test_unknown_names_get_suggestions(name, close):
    text = message(name)
    assert text.startswith(f"target: unknown name {name!r}; did you mean ") and close in text.split("?")[0]
    assert all(known in text for known in [*list_targets(), *list_families()])


def test_unknown_names_unlike_any():
    assert message("zzzzzzzz").startswith("target: unknown name 'zzzzzzzz'. Known: gmm25")
    assert message("").startswith("target: unknown name ''")


# package.module:attribute ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "dim", "expected"),
    [
        ("bowl", None, 2),
        ("bowl", 2, 2),
        ("shelf.bowl", None, 2),
        ("Bowl", 5, 5),
        ("Fixed", None, 3),
        ("Fixed", 3, 3),
        ("Optional", None, 4),
        ("Optional", 6, 6),
        ("make", None, 3),
        ("make_of", 7, 7),
        ("log_density", 8, 8),
        ("network", 2, 2),
    ],
)
def test_attributes(module, attribute, dim, expected):
    target = get_target(f"{module}:{attribute}", dim=dim, scale=1.5)
    assert isinstance(target, Target) and target.scale == 1.5
    assert target.space.dim == expected
    assert target(torch.zeros(2, expected)).shape == (2,)


@pytest.mark.parametrize(
    ("attribute", "dim", "expected"),
    [
        ("bowl", 3, "dim: target 'bowl' has 2 coordinates, got 3"),
        ("Fixed", 5, "dim: target 'bowl' has 3 coordinates, got 5"),
        ("Bowl", None, "dim: target '{m}:Bowl' needs a number of coordinates"),
        ("log_density", None, "dim: target '{m}:log_density' is a function of states, so its number"),
        ("number", None, "target '{m}:number': expected a Target, a factory of one or a log density, got int"),
        ("make_nothing", None, "target '{m}:make_nothing': expected it to build a Target, got int"),
        ("NoTarget", None, "target '{m}:NoTarget': expected it to build a Target, got NoTarget"),
        ("Demanding", None, "target '{m}:Demanding': cannot be built without data"),
        ("Breaking", None, "target '{m}:Breaking': cannot be built: RuntimeError: no luck"),
        ("Fussy", None, "dim: a bowl is fussy"),
        ("bowle", None, "target '{m}:bowle': module {m} has no attribute 'bowle'; did you mean bowl or Bowl?"),
        ("bowl.depth", None, "target '{m}:bowl.depth': module {m} has no attribute 'bowl.depth'"),
        ("", None, "target '{m}:': expected package.module:attribute"),
    ],
)
def test_attributes_that_do_not_fit(module, attribute, dim, expected):
    assert message(f"{module}:{attribute}", dim=dim).startswith(expected.format(m=module))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("raise ValueError('one\\ntwo')", "ValueError: one"),
        ("raise SystemExit", "SystemExit"),
        ("def", "SyntaxError: invalid syntax"),
    ],
)
def test_modules_that_cannot_be_imported(module, code, expected):
    name = f"broken_{module}"
    Path(f"{name}.py").write_text(code)
    assert message(f"{name}:x").startswith(f"target '{name}:x': cannot import {name}: {expected}")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("nowhere_to_be_found:x", "cannot import nowhere_to_be_found: ModuleNotFoundError"),
        (":x", "expected package.module:attribute"),
        ("mine/density.py:log_prob", "expected a module, not a file; write mine.density:log_prob"),
        ("..above:x", "cannot import ..above: TypeError"),
    ],
)
def test_module_names_that_do_not_fit(spec, expected):
    assert message(spec).startswith(f"target {spec!r}: {expected}")


def test_targets_and_functions_themselves():
    target = get_target("gmm25")
    assert get_target(target, dim=2) is target
    ring = get_target(lambda x: -x.square().sum(-1), dim=3)
    assert isinstance(ring, CallableTarget) and ring.space.dim == 3
    assert message(3).endswith("expected a Target, a factory of one or a log density, got int")
    assert message(lambda x: x).startswith("dim: ")


# Plugins --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("attribute", "dim", "expected"), [("bowl", None, 2), ("Fixed", None, 3), ("make_of", 6, 6)])
def test_plugins(plugin, module, attribute, dim, expected):
    plugin("punch", attribute)
    assert list_targets()["punch"] == f"plugin {module}:{attribute} of some-targets 1.2"
    assert get_target("punch", dim=dim).space.dim == expected
    assert "did you mean punch" in message("punsh")


def test_a_plugin_does_not_hide_a_built_in_target(plugin):
    plugin("gmm25", "bowl")
    assert get_target("gmm25").name == "gmm25"
    assert "Gaussians" in list_targets()["gmm25"]


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("missing", "cannot be loaded: AttributeError: "),
        ("Breaking", "cannot be built: RuntimeError: no luck"),
        ("number", "expected a Target, a factory of one or a log density, got int"),
    ],
)
def test_broken_plugins(plugin, module, attribute, expected):
    plugin("punch", attribute)
    assert message("punch").startswith(f"target plugin 'punch' ({module}:{attribute}): {expected}")
    assert "punch" in list_targets()  # a broken plugin breaks nothing but itself


def test_listing_needs_no_torch():
    code = "import sys; from ebbflow.envs import list_targets; list_targets(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
