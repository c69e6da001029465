"""What a rollout has computed of the states it visited, kept for the loss: no state passes through the trunk twice.

A rollout without gradient computes, of every state, its features and the hidden vectors of every layer. A loss of the
same parameters needs the same numbers, and its backward pass needs nothing else. They are written into buffers that
live as long as the training; the loss takes the hidden vectors from there, and their gradient, which is written out
here, is that of all states at once. For B trajectories of T steps in dim coordinates, with F features of each, and L
layers of width W, these are (dim · F + 2 L W) · (T + 1) · B numbers, those that a loss keeps for its backward anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ..envs.errors import InputError
from .backbone import Backbone
from .rows_innermost import sum_of_products

if TYPE_CHECKING:
    from .agent import Agent

__all__ = ["Recording"]


@dataclass(frozen=True)
class Recording:
    """Features and hidden vectors of all T + 1 states of B trajectories, rows innermost.

    Attributes:
        features: `[T+1, dim · F, B]`.
        layers: of each layer what goes into its activation, and what comes out of it, both `[T+1, width, B]`.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_agent
        >>> from ebbflow.envs import get_target
        >>> target = get_target("gmm25")
        >>> agent = build_agent(target.space, scale=target.scale, steps=3, config=AgentConfig(width=8))
        >>> recording = Recording.of_agent(agent, rows=5)
        >>> paths = agent.generate(5, target, recording=recording)
        >>> known = agent.path_log_probs(paths, recording=recording)
        >>> torch.allclose(known.generation, agent.path_log_probs(paths).generation, atol=1e-4)
        True
    """

    features: Tensor
    layers: Sequence[tuple[Tensor, Tensor]]
    _versions: list[int] = field(default_factory=list, repr=False)

    @staticmethod
    def suits(agent: object) -> bool:
        """Whether an agent's rollouts can be recorded: both of its heads read one `Backbone`."""
        return (
            type(getattr(agent, "backbone", None)) is Backbone
            and getattr(agent, "destruction_backbone", None) is None
            and getattr(getattr(agent, "destruction", None), "reads_state", False)
        )

    @classmethod
    def of_agent(cls, agent: "Agent", rows: int) -> Self:
        """Buffers for `rows` trajectories of this agent.

        Raises:
            InputError: for an agent that does not suit.
        """
        if not cls.suits(agent):
            raise InputError("recording: expected an agent whose generation and destruction heads read one Backbone")
        like = agent.backbone.embed_state.weight

        def buffer(size: int) -> Tensor:
            return torch.zeros(agent.steps + 1, size, rows, dtype=like.dtype, device=like.device)

        width, layers = agent.backbone.width, 1 + len(agent.backbone.layers)
        inputs = agent.backbone.embed_state.in_features
        return cls(buffer(inputs), [(buffer(width), buffer(width)) for _ in range(layers)])

    def rows(self, begin: int, end: int) -> Self:
        """The part of the trajectories from `begin` on and before `end`; written to it is written here."""
        layers = [(before[..., begin:end], after[..., begin:end]) for before, after in self.layers]
        return type(self)(self.features[..., begin:end], layers, self._versions)

    def at(self, k: int) -> list[Tensor]:
        """Where the numbers of states at grid point `k` go, each `[size, B]`: features, and of each layer both."""
        return [self.features[k], *(part[k] for layer in self.layers for part in layer)]

    # What the parameters were -------------------------------------------------------------------------------------

    def begin(self, backbone: Backbone) -> None:
        """Note that what follows is computed with the parameters as they are now."""
        self._versions[:] = [parameter._version for parameter in backbone.parameters()]

    def check(self, backbone: Backbone) -> None:
        """Raise an InputError if the parameters of the trunk have changed since."""
        if self._versions != [parameter._version for parameter in backbone.parameters()]:
            raise InputError("recording: expected rollouts of the parameters as they are; they have changed since")

    # For the loss -------------------------------------------------------------------------------------------------

    def path_features(self, dim: int) -> Tensor:
        """State features `[B, T+1, dim, F]`."""
        return self.features.unflatten(1, (dim, -1)).movedim(-1, 0)

    def hidden(self, backbone: Backbone, context: Tensor | None = None) -> Tensor:
        """Hidden vectors `[B, T+1, width]`, with the gradient of the parameters, and of the embeddings of contexts.

        Args:
            backbone: the trunk that has computed them.
            context: `backbone.context_embedding` of the contexts, `[B, 1, width]`; None without.
        """
        weights = [backbone.embed_state.weight, backbone.embed_state.bias + backbone.time_embedding()]
        for layer in backbone.hidden_layers():
            weights += [layer.weight, layer.bias]
        parts = [part for layer in self.layers for part in layer]
        return _Recorded.apply(backbone, context, len(weights), *weights, self.features, *parts).movedim(-1, 0)


class _Recorded(torch.autograd.Function):
    """The last hidden vectors as they are, as a function of what the trunk has computed them from."""

    @staticmethod
    def forward(ctx: Any, backbone: Backbone, context: Tensor | None, count: int, *tensors: Tensor) -> Tensor:
        ctx.backbone, ctx.count, ctx.conditional = backbone, count, context is not None
        ctx.save_for_backward(*tensors)
        return tensors[-1].view_as(tensors[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        weights, features, parts = tensors[: ctx.count], tensors[ctx.count], tensors[ctx.count + 1 :]
        of_layers: list[Tensor] = []
        layers = ctx.backbone.hidden_layers()
        gradient = torch.ops.aten.gelu_backward(gradient, parts[-2])
        for number in range(len(parts) // 2 - 1, 0, -1):
            layer = layers[number - 1]
            of_weight = sum_of_products(gradient, parts[2 * number - 1], layer.product)
            of_layers[:0] = [of_weight, gradient.sum((0, 2))]
            gradient = layer.product(weights[2 * number].T.expand(len(gradient), -1, -1), gradient)
            gradient = torch.ops.aten.gelu_backward(gradient, parts[2 * number - 2])
        of_embedding = [sum_of_products(gradient, features), gradient.sum(2)]
        of_context = gradient.sum(0).T.unsqueeze(1) if ctx.conditional else None
        return None, of_context, None, *of_embedding, *of_layers, *[None] * (1 + len(parts))
