"""All figures of a run, drawn from the same paths and written as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ...agents.policies import Policies
from ...envs.data.labelled import LabelledDataset
from ...envs.spaces import Tokens
from ...envs.target import Target
from ..evaluation import check_agent, contexts_of_evaluation, looking_on
from .drawn import draw_paths
from .images import image_contexts_figure, image_paths_figure, image_samples_figure
from .orders import order_figure
from .paths import paths_figure
from .samples import samples_figure
from .sequences import sequence_paths_figure, sequence_samples_figure
from .training import training_figure
from .weights import weights_figure

__all__ = ["write_figures"]

_MOST_ROWS = 10  # contexts of which images are drawn


def write_figures(
    folder: Path,
    agent: Policies,
    target: Target,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> list[Path]:
    """Draw the figures of a run as PNG files.

    - `samples.png`: generated samples against the density (1 or 2 coordinates), or against exact samples, by pairs of
      coordinates and by marginals (more).
    - `training.png`: bounds, ESS and losses along the training; only if `metrics` hold any number.
    - `weights.png`: log-weights of generated and of destroyed paths; only for a target with a density.
    - `paths.png`: both policies step by step.
    - `order.png`: when each pixel is written, where the order of masking is learned.

    Of images and of tokens the first and the last show whole samples.

    Those of a conditional target are drawn at one context of its law; samples that are images, at each class that has
    any, or at some contexts.

    Args:
        folder: where to; made if it does not exist.
        agent: who is drawn.
        target: on the agent's device.
        metrics: rows with any of the keys `iteration`, `elbo`, `eubo`, `log_z` (nats), `ess`, `loss_generation`,
            `loss_destruction`; blanks and numbers that are not finite are left out.
        seed: seed of the paths drawn, >= 0.

    Returns:
        The files that were written.

    Raises:
        InputError: for a target of another dimension, a diverged agent, and what the density raises on samples.
        OSError: when a file cannot be written.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs.targets.mixtures import gmm25
        >>> target = gmm25()
        >>> agent = build_agent(target.space, scale=target.scale, steps=2)
        >>> [path.name for path in write_figures(Path("figures"), agent, target)]
        ['samples.png', 'weights.png', 'paths.png']
    """
    check_agent(agent, target)
    contexts = contexts_of_evaluation(agent, target, 1, seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shape: tuple[int, int] | None = getattr(target, "image_shape", None)
    rows = None if contexts is None or shape is None else _rows_of_contexts(agent, target, seed)
    with looking_on(agent, target, seed):
        one = (agent, target) if contexts is None else (agent.given(contexts[0]), target.given(contexts[0]))
        figures = _figures(*one, shape)
        if shape is not None and rows is not None:
            figures["samples"] = image_contexts_figure(agent, target, shape, rows)
        figures["training"] = training_figure(metrics or [], None if contexts is not None else target.log_z)
    written = []
    for name in ("samples", "training", "weights", "paths", "order"):
        figure = figures.get(name)
        if figure is not None:
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=130)
    return written


def _rows_of_contexts(agent: Policies, target: Target, seed: int) -> Tensor | None:
    """Contexts `[m, c]` to draw a row of images for: classes with samples, or some of the law in ascending order."""
    if isinstance(target, LabelledDataset):
        return target.contexts[target.labels.unique()[:_MOST_ROWS]].to(agent.log_z)
    drawn = contexts_of_evaluation(agent, target, _MOST_ROWS, seed)
    return None if drawn is None else drawn.unique(dim=0)


def _figures(agent: Policies, target: Target, shape: tuple[int, int] | None) -> dict[str, Figure | None]:
    """Those of the paths, by what a state is; of images of this shape."""
    if shape is not None:
        ordered = isinstance(target.space, Tokens) and agent.destruction.learned
        return {
            "samples": image_samples_figure(agent, target, shape),
            "paths": image_paths_figure(agent, target, shape),
            "order": order_figure(agent, target, shape) if ordered else None,
        }
    if isinstance(target.space, Tokens):
        return {
            "samples": sequence_samples_figure(agent, target),
            "weights": weights_figure(draw_paths(agent, target), target) if target.has_log_prob else None,
            "paths": sequence_paths_figure(agent, target),
        }
    drawn = draw_paths(agent, target)
    return {
        "samples": samples_figure(drawn, agent, target),
        "weights": weights_figure(drawn, target),
        "paths": paths_figure(drawn, target),
    }
