r"""Maximum likelihood, for generation: −E Σ log p→(x_{k+1} | x_k) on paths destroyed from samples.

Where the samples are exact, its gradient is that of the forward KL, KL(π·p← ‖ p→), with respect to generation: what
trains a diffusion model on data. It covers every mode that the samples have, and learns from them alone: the density
is not asked. Remembered states of the agent's own count as samples, so that only with exact samples or anchors alone
(anchors.share 1) it is the forward KL itself. Sources: arXiv 2006.11239 (fixed destruction); arXiv 2506.01541.
"""

from typing import ClassVar

from torch import Tensor

from .path_objective import PathObjective, PathTerms, Rows
from .residual import weighted_mean

__all__ = ["MaximumLikelihood"]


class MaximumLikelihood(PathObjective):
    """Negative log-likelihood of generation on destroyed paths.

    Example:
        >>> MaximumLikelihood.trains, MaximumLikelihood.rows
        (('generation',), 'destroyed')
    """

    rows: ClassVar[Rows] = "destroyed"
    trains: ClassVar[tuple[str, ...]] = ("generation",)
    trains_on_data: ClassVar[tuple[str, ...]] = ("generation",)
    needs_likelihood_alone: ClassVar[bool] = True

    def loss_of_paths(self, terms: PathTerms) -> Tensor:
        """−E Σ log p→."""
        return -weighted_mean(terms.generation.sum(-1), terms.weight)
