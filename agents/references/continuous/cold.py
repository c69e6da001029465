r"""Cold diffusion: destroy by a deterministic transform, and generate by guessing the sample and destroying the guess.

    destruction   x_k = D_k(x_T)
    generation    x_{k+1} = x_k − D_k(x̂_T) + D_{k+1}(x̂_T)       which forgives wrong guesses, or
                  x_{k+1} = D_{k+1}(x̂_T)                         which does not

Nothing is drawn: from one x_0 comes one sample, so that all variety there is must be in the law of x_0. A transform
down to a single point generates a single sample; what it learned restores partly destroyed ones.
Source: Bansal et al., https://arxiv.org/abs/2208.09392, algorithms 2 and 1; a "mash" of arXiv 2605.30553.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from ....envs.spaces import Continuous
from .linear_transform import LinearTransform

__all__ = ["ColdTransform"]


class ColdTransform(LinearTransform):
    """A deterministic destruction by matrices, and generation from guesses of the sample; see `blur` and `pixelate`.

    Args:
        space, matrices, centre, destroyed, scale: as of `LinearTransform`.
        forgiving: which of the two kinds of generation (module docstring).

    Raises:
        InputError: as `LinearTransform`.

    Example:
        >>> import torch
        >>> drop = [[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]  # step 1 keeps all, step 0 drops the second
        >>> reference = ColdTransform(Continuous(2), drop)
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> reference.sample_level(x, 0), reference.ranks
        (tensor([[3., 0.]]), [1, 2, 2])
        >>> reference.sample_reverse(x, reference.sample_level(x, 0), 0)  # by the right guess
        tensor([[3., 4.]])
        >>> reference.sample_destroyed(5)
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: destroyed: expected a law of x_0, got None: 1 of 2 directions of the data are
        left, whose law only the data know; give destroyed=reference.sample_level(data, 0)
    """

    def __init__(
        self,
        space: Continuous,
        matrices: Sequence[Any] | Tensor,
        *,
        centre: Tensor | None = None,
        destroyed: Tensor | Distribution | None = None,
        scale: float = 1.0,
        forgiving: bool = True,
    ) -> None:
        super().__init__(space, matrices, centre=centre, destroyed=destroyed, scale=scale)
        self.forgiving = forgiving

    def sample_reverse(self, guess: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """The guess, destroyed down to level k + 1, `[..., dim]`."""
        k = self._step(k, state)
        redone = self.sample_level(guess, k + 1)
        return state - self.sample_level(guess, k) + redone if self.forgiving else redone
