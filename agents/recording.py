"""What a rollout has computed of the states it visited, kept for the loss: no state passes through the trunk twice.

A rollout without gradient computes, of every state, its features, the hidden vectors of every layer and what a head
reads of them; where it is recorded, it reads for both heads. A loss of the same parameters needs the same numbers, and
its backward pass needs nothing else. They are written into buffers that live as long as the training; the loss takes
the raw outputs of the heads from there, and their gradient, which is written out here, is that of all states at once.
For B trajectories of T steps in dim coordinates, with F features and O outputs of each, and L layers of width W, these
are (dim · (F + O) + 2 L W) · (T + 1) · B numbers, about those that a loss keeps for its backward anyway.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

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
    """Features, hidden vectors and raw outputs of all T + 1 states of B trajectories, rows innermost.

    Where all paths start alike, layers are known of x_0 of the first path only.

    Attributes:
        features: `[T+1, dim · F, B]`.
        layers: of each layer what goes into its activation, and what comes out of it, both `[T+1, width, B]`.
        raw: the raw outputs of both heads, as `JointReadout.read` gives them, `[T+1, dim, outputs, B]`.
        starts_alike: whether all paths have the same x_0.

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
    raw: Tensor
    starts_alike: bool = False
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

        def buffer(*sizes: int) -> Tensor:
            return torch.zeros(agent.steps + 1, *sizes, rows, dtype=like.dtype, device=like.device)

        width, layers = agent.backbone.width, 1 + len(agent.backbone.layers)
        inputs, dim = agent.backbone.embed_state.in_features, agent.space.dim
        raw = buffer(dim, len(agent.joint_readout().bias) // dim)
        buffers = [(buffer(width), buffer(width)) for _ in range(layers)]
        return cls(buffer(inputs), buffers, raw, agent.starts_alike)

    def rows(self, begin: int, end: int) -> Self:
        """The part of the trajectories from `begin` on and before `end`; written to it is written here."""
        layers = [(before[..., begin:end], after[..., begin:end]) for before, after in self.layers]
        features, raw = self.features[..., begin:end], self.raw[..., begin:end]
        return type(self)(features, layers, raw, self.starts_alike, self._versions)

    def at(self, k: int) -> list[Tensor]:
        """Where the numbers of states at grid point `k` go, each `[..., B]`: features, of each layer both, raw.

        There is one row of them where it is the same for all paths.
        """
        rows = slice(1) if self.starts_alike and k == 0 else slice(None)
        parts = self.features, *(part for layer in self.layers for part in layer), self.raw
        return [part[k, ..., rows] for part in parts]

    def repeat_start(self) -> None:
        """Copy what heads read, and have read, of an x_0 that is the same for all paths to the rows of all."""
        if self.starts_alike:
            for part in (self.features, self.raw):
                part[0, ..., 1:] = part[0, ..., :1]

    # What the parameters were -------------------------------------------------------------------------------------

    def begin(self, agent: "Agent") -> None:
        """Note that what follows is computed with the parameters as they are now."""
        self._versions[:] = _versions_of(agent)

    def check(self, agent: "Agent") -> None:
        """Raise an InputError if the parameters of trunk or heads have changed since."""
        if self._versions != _versions_of(agent):
            raise InputError("recording: expected rollouts of the parameters as they are; they have changed since")

    # For the loss -------------------------------------------------------------------------------------------------

    def path_features(self, dim: int) -> Tensor:
        """State features `[B, T+1, dim, F]`."""
        return self.features.unflatten(1, (dim, -1)).movedim(-1, 0)

    def outputs(self, agent: "Agent", context: Tensor | None = None, trunk: str = "both") -> tuple[Tensor, Tensor]:
        """Raw outputs of generation from x_0 … x_{T−1}, and of destruction from the states that have a density of it.

        Both are columns `[steps, dim, outputs, B]`, with the gradient of parameters and of the contexts' embeddings.

        Args:
            agent: whose rollouts these are.
            context: `backbone.context_embedding` of the contexts, `[B, 1, width]`; None without.
            trunk: whose outputs carry a gradient to the trunk: "both", "generation" or "destruction".
        """
        backbone, readout = agent.backbone, agent.joint_readout()
        weights = [backbone.embed_state.weight, backbone.embed_state.bias + backbone.time_embedding()]
        for layer in backbone.hidden_layers():
            weights += [layer.weight, layer.bias]
        weights += [readout.weight, readout.bias]
        parts = [part for layer in self.layers for part in layer]
        begin = 2 if agent.reference.is_dirac else 1
        settings = _Settings(backbone, readout.first, begin, trunk, len(weights), self.starts_alike)
        return _Recorded.apply(settings, context, readout.table, *weights, self.raw, self.features, *parts)


def _versions_of(agent: "Agent") -> list[int]:
    """How often each parameter was written to that what is recorded depends on."""
    read = agent.backbone, agent.generation.readout, agent.destruction.readout
    return [parameter._version for module in read if module is not None for parameter in module.parameters()]


class _Settings(NamedTuple):
    """What is no tensor.

    The trunk; generation's outputs; the first state that has a destruction; who trains the trunk; how many of the
    tensors are weights; whether x_0 is one row.
    """

    backbone: Backbone
    first: int
    begin: int
    trunk: str
    weights: int
    starts_alike: bool


class _Recorded(torch.autograd.Function):
    """The raw outputs as they are, as a function of what they were computed from."""

    @staticmethod
    def forward(
        ctx: Any, settings: _Settings, context: Tensor | None, table: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.settings, ctx.conditional, ctx.tabulated = settings, context is not None, table is not None
        raw = tensors[settings.weights]
        ctx.size = raw.shape
        ctx.save_for_backward(*tensors[: settings.weights], *tensors[settings.weights + 1 :])
        return raw[:-1, :, : settings.first], raw[settings.begin :, :, settings.first :]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        settings, tensors = ctx.settings, ctx.saved_tensors
        weights, features, parts = (
            tensors[: settings.weights],
            tensors[settings.weights],
            tensors[settings.weights + 1 :],
        )
        first, layers = settings.first, settings.backbone.hidden_layers()

        raw = features.new_zeros(ctx.size)
        raw[:-1, :, :first] = gradients[0]
        raw[settings.begin :, :, first:] = gradients[1]
        weight = weights[-2]
        if settings.trunk != "both":
            weight = weight.unflatten(0, ctx.size[1:3]).clone()
            weight[:, first:] *= settings.trunk == "destruction"
            weight[:, :first] *= settings.trunk == "generation"
            weight = weight.flatten(0, 1)

        def of(raw: Tensor, features: Tensor, parts: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
            """What each grid point has a gradient of its own of; what all have together; and that of the embedding."""
            gradient = raw.flatten(1, 2)
            own, joint = [], [sum_of_products(gradient, parts[-1]), gradient.sum((0, 2))]
            if ctx.tabulated:
                columns = features.unflatten(1, (ctx.size[1], -1)).flatten(0, 1)  # [points · dim, F, B]
                own.append(torch.bmm(raw.flatten(0, 1), columns.mT).unflatten(0, raw.shape[:2]))
            gradient = torch.bmm(weight.T.expand(len(gradient), -1, -1), gradient)
            for number in range(len(parts) // 2 - 1, 0, -1):
                gradient = _through_gelu(gradient, *parts[2 * number : 2 * number + 2])
                layer = layers[number - 1]
                joint[:0] = [sum_of_products(gradient, parts[2 * number - 1], layer.product), gradient.sum((0, 2))]
                gradient = layer.product(weights[2 * number].T.expand(len(gradient), -1, -1), gradient)
            gradient = _through_gelu(gradient, *parts[:2])
            return [gradient.sum(2), *own], [sum_of_products(gradient, features), *joint], gradient

        if settings.starts_alike:
            start = of(raw[:1].sum(-1, keepdim=True), features[:1, :, :1], [part[:1, :, :1] for part in parts])
            rest = of(raw[1:], features[1:], [part[1:] for part in parts])
            own = [torch.cat(both) for both in zip(start[0], rest[0], strict=True)]
            joint = [one + other for one, other in zip(start[1], rest[1], strict=True)]
            of_context = None
        else:
            own, joint, gradient = of(raw, features, parts)
            of_context = gradient.sum(0).T.unsqueeze(1) if ctx.conditional else None
        of_weights = [joint[0], own[0], *joint[1:]]
        of_table = own[1] if ctx.tabulated else None
        return None, of_context, of_table, *of_weights, *[None] * (2 + len(parts))


def _through_gelu(gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of y = x Φ(x), times Φ(x) + x φ(x)."""
    if not torch.compiler.is_compiling():
        return torch.ops.aten.gelu_backward(gradient, x)
    below = torch.where(x == 0.0, 0.5, y / x)  # half the time of the error function
    return gradient * (below + x * (x.square() * -0.5).exp() * (2.0 * math.pi) ** -0.5)
