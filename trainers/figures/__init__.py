"""Figures of a run, a file per figure: samples, training curves, importance weights, and paths step by step; one that
compares runs, and one of a generative commutative diagram.

Blue is what was generated, orange what was destroyed, grey the truth, everywhere. Figures are drawn without pyplot, so
without display, backend or global state; drawing looks on and changes nothing, as evaluation does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "comparison": ["write_comparison"],
        "diagram": ["write_diagram"],
        "gallery": ["write_figures"],
    },
)
