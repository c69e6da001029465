"""Generative commutative diagrams: variables and the channels between them, drawn, run, and checked to commute.

An arrow is a procedure that can be called; a dashed edge claims that two variables have the same law. `check` runs the
arrows and holds the claims to account, exactly on finite spaces and by a two-sample test otherwise. Source: Noël,
*Destruction is a General Strategy to Learn Generation* (https://arxiv.org/abs/2605.30553).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "commutation": ["check", "information"],
        "diagram": ["SINGLETON", "Arrow", "Diagram", "Equal", "Lossless"],
        "examples": ["EXAMPLES", "get_example"],
        "mermaid": ["to_mermaid"],
        "report": ["CommutationError", "EdgeCheck", "Report"],
        "two_sample": ["TwoSample", "energy_test"],
    },
)
