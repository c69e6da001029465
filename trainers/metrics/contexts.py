"""From evaluations at single contexts to one evaluation of a conditional agent."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["mean_over_contexts"]

_TOTALS = ("samples",)


def mean_over_contexts(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean of every number over contexts; None where one is None.

    Counts are summed. Standard errors (`…_stderr`) are those of the mean, for independent evaluations at these very
    contexts: what other contexts would give is not in them.

    Example:
        >>> mean_over_contexts([{"elbo": 1.0, "elbo_stderr": 0.3, "samples": 5, "khat": None},
        ...                     {"elbo": 2.0, "elbo_stderr": 0.4, "samples": 5, "khat": 0.1}])
        {'elbo': 1.5, 'elbo_stderr': 0.25, 'samples': 10, 'khat': None}
    """
    means: dict[str, Any] = {}
    for key in evaluations[0]:
        values = [evaluation[key] for evaluation in evaluations]
        if any(value is None for value in values):
            means[key] = None
        elif key in _TOTALS:
            means[key] = sum(values)
        elif key.endswith("_stderr"):
            means[key] = math.sqrt(sum(value**2 for value in values)) / len(values)
        else:
            means[key] = sum(values) / len(values)
    return means
