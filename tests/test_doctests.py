"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import io
import pkgutil

import pytest
import torch

PACKAGES = ("ebbflow.envs", "ebbflow.agents", "ebbflow.buffers", "ebbflow.trainers")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def module_names() -> list[str]:
    """All modules of the four packages, found on disk."""
    names = []
    for name in PACKAGES:
        package = importlib.import_module(name)
        names.append(name)
        names += [found.name for found in pkgutil.walk_packages(package.__path__, prefix=f"{name}.")]
    return names


def examples(module_name: str) -> list[doctest.DocTest]:
    """The docstrings of one module that hold at least one example."""
    module = importlib.import_module(module_name)
    return [test for test in doctest.DocTestFinder().find(module, module_name) if test.examples]


def failures(tests: list[doctest.DocTest]) -> str:
    """What went wrong in these docstrings, each run from the same seed; empty if nothing did."""
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    for test in tests:
        torch.manual_seed(0)
        runner.run(test, out=report.write)
    return report.getvalue()


@pytest.mark.parametrize("name", module_names())
def test_examples_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    wrong = failures(examples(name))
    assert not wrong, wrong


def test_a_wrong_example_is_reported():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "planted", None, 0)
    assert "Expected:\n    3\nGot:\n    2" in failures([wrong])


def test_examples_are_found():
    with_examples = [name for name in module_names() if examples(name)]
    assert {"ebbflow.envs.errors", "ebbflow.envs.spaces", "ebbflow.envs.target"} <= set(with_examples)
    assert len(with_examples) >= 10
