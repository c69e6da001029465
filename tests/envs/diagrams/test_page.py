"""docs/diagrams.md shows what the package gives: mermaid text, tables, and Python that runs."""

import re
from pathlib import Path

import pytest

from ebbflow.envs.channels import Shuffle, account, gaussian_shuffle, variance_preserving
from ebbflow.envs.diagrams import EXAMPLES, get_example, information

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "diagrams.md").read_text(encoding="utf-8")
FINITE = [name for name in EXAMPLES if get_example(name).finite]


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def nats(*values):
    return [f"{abs(round(value, 4)):.4f}" for value in values]


def information_table(diagram):
    rows = [
        [f"`{step.name}`", *nats(step.entropy_before, step.created, step.destroyed, step.entropy_after)]
        for step in information(diagram)
    ]
    return table(["arrow", "H before", "+ created", "− destroyed", "= H after"], rows)


def shuffle_table():
    shuffle = Shuffle([[0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    books = account([0.5, 0.3, 0.2], [shuffle] * 25)
    rows = [
        [str(n), *nats(books.steps[n - 1].created, books.steps[n - 1].destroyed), f"{books.destruction_story[n]:.2e}"]
        for n in (1, 2, 3, 5, 10)
    ]
    return table(["n", "created in use n", "destroyed in use n", "I(A; X_n)"], rows)


def gaussian_table():
    rows = [
        [
            str(n),
            *nats(
                *(make(0.01).repeated(n).mutual_information(1.0) for make in (gaussian_shuffle, variance_preserving))
            ),
        ]
        for n in (1, 10, 100, 500, 1000)
    ]
    return table(["n", "variance exploding", "variance preserving"], rows)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_has_the_diagram(name):
    example = get_example(name)
    section = PAGE.split(f"### `{name}`: {example.name}\n")[1].split("\n## ")[0].split("\n### ")[0]
    assert f"```mermaid\n{example.to_mermaid()}\n```\n" in section
    assert not example.finite or information_table(example) in section


@pytest.mark.parametrize("expected", [shuffle_table, gaussian_table])
def test_the_page_has_the_table_of_a_long_chain(expected):
    assert expected() in PAGE, expected()


def test_the_python_of_the_page_runs(capsys):
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE):
        exec(compile(code, "diagrams.md", "exec"), names)
    assert "destroy, then generate: holds" in capsys.readouterr().out
    assert abs(names["loop"].created - names["loop"].destroyed) < 1e-12
