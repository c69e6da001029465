r"""Trajectory likelihood maximisation (TLM), for destruction: −E_{p→} Σ log p←(x_k | x_{k+1}) on generated paths.

Destruction is taught to retrace how the generation policy came by its samples. Paths must be on-policy and are not
differentiated. Its gradient is that of the reverse KL with respect to destruction. Nothing ties it to the target: it
follows generation wherever that goes, so a slow destruction (target network, smaller rate) is advised, and with many
steps it tends to diverge. Sources: arXiv 2410.15474 (TLM); arXiv 2506.01541 (its instability at many steps).
"""

from typing import ClassVar

from torch import Tensor

from .path_objective import PathObjective, PathTerms, Rows
from .residual import weighted_mean

__all__ = ["TrajectoryLikelihood"]


class TrajectoryLikelihood(PathObjective):
    """Negative log-likelihood of destruction on on-policy paths.

    Example:
        >>> TrajectoryLikelihood.trains
        ('destruction',)
    """

    rows: ClassVar[Rows] = "on_policy"
    trains: ClassVar[tuple[str, ...]] = ("destruction",)
    trains_on_data: ClassVar[tuple[str, ...]] = ("destruction",)
    needs_likelihood_alone: ClassVar[bool] = True

    def loss_of_paths(self, terms: PathTerms) -> Tensor:
        """−E Σ log p←."""
        return -weighted_mean(terms.destruction.sum(-1), terms.weight)
