"""State spaces: what a state is, and the one pure function that moves it.

A space owns the physics of a trajectory. Environments and the lean rollout call the same `transition`, so a new
state space is plugged in by overriding it.
"""

from dataclasses import dataclass

from torch import Tensor

from .errors import whole_number

__all__ = ["Continuous"]


@dataclass(frozen=True)
class Continuous:
    """Euclidean space R^dim; an action is the increment itself.

    Args:
        dim: number of coordinates, >= 1.

    Raises:
        InputError: if `dim` is not a whole number >= 1.

    Example:
        >>> import torch
        >>> space = Continuous(dim=2)
        >>> space.shape
        (2,)
        >>> space.transition(torch.zeros(3, 2), torch.ones(3, 2), step=0).shape
        torch.Size([3, 2])
    """

    dim: int

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, least=1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state, `(dim,)`."""
        return (self.dim,)

    def transition(self, state: Tensor, action: Tensor, step: int | Tensor) -> Tensor:
        """Next state `state + action`, `[..., dim]`; `step` does not matter in this space."""
        return state + action
