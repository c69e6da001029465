"""Every objective, for each policy that it can train, beside VarGrad for the other policy; rows as they finish.

    python benchmarks/objectives.py --rows benchmarks/results/objectives.jsonl
    python benchmarks/quality.py table --rows benchmarks/results/objectives.jsonl

The recipe is that of `quality.py`, shorter; a row that is already there is not run again.
"""

import json
from pathlib import Path

import tyro
from quality import run

from ebbflow.trainers.objectives.catalogue import OBJECTIVES

OTHER = "vargrad"


def pairs() -> list[tuple[str, str]]:
    """Objectives of generation and destruction: each with the other policy's VarGrad, none twice."""
    both = {
        "generation": [(name, OTHER) for name, kind in OBJECTIVES.items() if "generation" in kind.trains],
        "destruction": [(OTHER, name) for name, kind in OBJECTIVES.items() if "destruction" in kind.trains],
    }
    return list(dict.fromkeys(both["generation"] + both["destruction"]))


def main(rows: Path, target: str = "gmm25", iterations: int = 1000, seeds: tuple[int, ...] = (0,)) -> None:
    for generation, destruction in pairs():
        settings = {"objective": generation, "destruction_objective": destruction, "iterations": iterations}
        run(rows, (target,), ("adaptive",), seeds, f"{generation} / {destruction}", json.dumps(settings))


if __name__ == "__main__":
    tyro.cli(main)
