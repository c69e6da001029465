"""The network of a generation policy for continuous states: a state and its step in, a guess out."""

import torch
from torch import Tensor, nn

from ..envs.errors import InputError
from ..envs.spaces import Continuous
from .backbone import Backbone
from .features import StateFeatures
from .references.continuous.reference import ContinuousReference

__all__ = ["PointNetwork"]


class PointNetwork(nn.Module):
    """A backbone over features of the state, and the units in which the reference would have it work.

    The last layer starts at zero, so that an untrained network makes the reference's own linear guess.

    Args:
        reference: whose states and guesses it is for; only its space, its number of steps and its units are kept.
        width: hidden width, >= 1.
        depth: number of hidden layers, >= 1.
        context_space: the space of contexts, which the backbone embeds; None without any.

    Raises:
        InputError: for a reference that is not one of continuous states, and sizes that are no such whole numbers.

    Example:
        >>> from ebbflow.agents.references import geometric_noise
        >>> from ebbflow.agents.references.continuous import GaussianNoise
        >>> from ebbflow.envs import Continuous
        >>> reference = GaussianNoise(Continuous(2), geometric_noise(3, smallest=0.5, largest=2.0))
        >>> network = PointNetwork(reference, width=8)
        >>> network(torch.ones(5, 2), torch.tensor([0, 1, 1, 2, 2])).shape
        torch.Size([5, 2])
        >>> network(torch.ones(2), 1)  # untrained: x / (1 + σ²), the best guess for data N(0, 1)
        tensor([0.5000, 0.5000], grad_fn=<AddBackward0>)
    """

    gain: Tensor
    spread: Tensor
    scale: Tensor

    def __init__(
        self,
        reference: ContinuousReference,
        *,
        width: int = 128,
        depth: int = 2,
        context_space: Continuous | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(reference, ContinuousReference):
            raise InputError(f"reference: expected one of continuous states, got {reference!r}")
        dim, steps = reference.space.dim, reference.steps
        self.features = StateFeatures(["raw", "fourier"], scale=1.0, frequencies=[1.0, 2.0])
        self.backbone = Backbone(
            dim * self.features.count,
            [k / steps for k in range(steps + 1)],
            width=width,
            depth=depth,
            contexts=0 if context_space is None else context_space.dim,
        )
        self.out = nn.Linear(width, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        tables = {"gain": reference.guess_gain, "spread": reference.guess_spread, "scale": reference.state_scale}
        for name, table in tables.items():
            self.register_buffer(name, table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, state: Tensor, k: int | Tensor, context: Tensor | None = None) -> Tensor:
        """The guess `[..., dim]` from x_k `[..., dim]` at steps k, one for all or `[...]`; at contexts `[..., c]`."""
        gain, spread, scale = (table[k].unsqueeze(-1) for table in (self.gain, self.spread, self.scale))
        embedding = self.backbone.context_embedding(context)
        hidden = self.backbone(self.features(state / scale), k, None, embedding)
        return gain * state + spread * self.out(hidden)
