r"""The agent between two laws of which there are only samples: what is fully destroyed is a data set, too.

Generation starts from samples x_0 of a source, destruction from samples x_T of the target; the reference is Brownian
motion whose variance, from one end to the other, is σ². Of all path laws with these two laws at their ends, the one
nearest to the reference in KL is the Schrödinger bridge; its ends (x_0, x_T) are the entropic optimal transport plan

    argmin_π  E_π ½|x_0 − x_T|² + σ² KL(π ‖ source × target).

A path law is it if and only if it (1) has the two laws at its ends, (2) is Markov, and (3) is, given its ends, the
reference's Brownian bridge (arXiv 1308.0215). Two policies that are time reversals of each other have (1) and (2). For
(3) the states between the ends of every path that is learned from are drawn again from the reference (`redrawn`):
then generation learns by maximum likelihood from destroyed samples of the target, and destruction from generated paths
(TLM), both at once. Without that, each policy must be trained to its end while the other one rests, starting
from the reference (iterative proportional fitting, arXiv 2106.01357); both at once then find some bridge, not this one.

Sources: arXiv 2303.16852 (the projection), arXiv 2405.14449 (in discrete time), arXiv 2410.02601 (both ends fitted by
turns), arXiv 2409.09347 (at once).
"""

from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from ..envs.errors import InputError
from ..envs.spaces import Continuous
from .agent import Agent

__all__ = ["BridgeAgent", "Source"]


class Source(Protocol):
    """What a law is to the agent that starts from it: a data set, or any target that can sample."""

    space: Any
    scale: float

    def sample(self, n: int) -> Tensor:
        """`n` samples, `[n, dim]`."""


class BridgeAgent(Agent):
    """Generation from samples of a source, destruction back to them; best built by `build_bridge_agent`.

    The log density of the source is not known: log p_0 is counted as 0, as log R of data is, and log-ratios of paths
    cannot be compared. It learns by `maximum_likelihood`, and its destruction by `tlm`.

    Args:
        built: an agent whose parts these are; its reference is `brownian_motion`.
        source: where x_0 comes from.
        redraw: learn from paths whose inner states are drawn again from the reference, see `redrawn`.

    Raises:
        InputError: for a source of another dimension, of tokens, with contexts, or that cannot sample.

    Example:
        >>> from ebbflow.agents import build_bridge_agent
        >>> from ebbflow.envs.data import two_moons
        >>> agent = build_bridge_agent(Continuous(2), source=two_moons(500), sigma=1.0, steps=5)
        >>> x_0, x_T = agent.coupling(100)  # untrained: x_T is x_0 and noise
        >>> x_0.shape, bool(0.9 < (x_T - x_0).std() < 1.1)
        (torch.Size([100, 2]), True)
    """

    starts_from_samples: bool = True

    def __init__(self, built: Agent, source: Source, *, redraw: bool = True) -> None:
        if built.context_space is not None or getattr(source, "is_conditional", False):
            raise InputError("source: expected one without contexts, and an agent without")
        if not isinstance(source.space, Continuous) or source.space.shape != built.space.shape:
            raise InputError(f"source: expected samples of {built.space}, got one of {source.space}")
        if not getattr(source, "can_sample", True):
            raise InputError(f"source: expected one that can sample, got target {getattr(source, 'name', source)!r}")
        super().__init__(
            built.space,
            built.reference,
            built.features,
            built.backbone,
            built.generation,
            built.destruction,
            built.destruction_backbone,
        )
        self.source = source
        self.redraw = redraw

    def initial_state(self, n: int) -> Tensor:
        """`n` samples of the source, `[n, dim]`."""
        return self.source.sample(n).to(self.generation.factor)

    def log_initial(self, states: Tensor) -> Tensor:
        """0, for the density is not known, `[..., dim] -> [...]`."""
        return states.new_zeros(states.shape[:-1])

    def redrawn(self, paths: TensorDict) -> TensorDict:
        """Paths with the same ends, and Brownian bridges of the reference between them; as they are without `redraw`.

        Example:
            >>> from ebbflow.agents import build_bridge_agent
            >>> from ebbflow.envs.data import two_moons
            >>> agent = build_bridge_agent(Continuous(2), source=two_moons(500), sigma=1.0, steps=5)
            >>> paths = agent.generate(4)
            >>> same = agent.redrawn(paths)["state"] == paths["state"]
            >>> same.all(-1).all(0)
            tensor([ True, False, False, False, False,  True])
        """
        if not self.redraw:
            return paths
        state = paths["state"]  # [B, T+1, dim]
        times = state.new_tensor(self.times).unsqueeze(-1)  # [T+1, 1]
        steps = self.generation.variance.sqrt() * torch.randn_like(state[:, 1:])
        walk = steps.cumsum(1)  # σ W_t at t_1 … t_T
        inner = walk[:, :-1] - times[1:-1] * walk[:, -1:]
        inner = inner + torch.lerp(state[:, :1], state[:, -1:], times[1:-1])
        return paths.clone(recurse=False).set("state", torch.cat([state[:, :1], inner, state[:, -1:]], dim=1))

    def coupling(self, n: int) -> tuple[Tensor, Tensor]:
        """`n` pairs (x_0, x_T) of the generation policy, `[n, dim]` each: the transport plan, once it has learned.

        Where given states x_0 go: `agent.generate(len(x_0), start=x_0)["state"][:, -1]`; where x_T come from:
        `agent.destroy(x_T)["state"][:, 0]`.
        """
        states = self.generate(n)["state"]
        return states[:, 0], states[:, -1]
