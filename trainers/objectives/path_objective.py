r"""The contract of an objective: a loss of what one policy sees of a batch of trajectories.

Each policy is trained by an objective of its own. It is given `PathTerms`, in which the log densities of the policy to
train carry its gradient and those of the other policy are numbers: so one formula serves both policies, and a new
objective is one function. What it needs it declares; `JointLoss` gives it that, and whoever makes the batches (the
trainer) asks the declarations whether its settings can.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...agents.origin import Origin
from ...buffers.context_groups import numbered
from ..ranks import Ranks
from .residual import Residual

__all__ = ["PathObjective", "PathTerms", "Rows"]

Rows = Literal["any", "on_policy", "destroyed"]
"""Which rows of a batch an objective may learn from: all; those that the generation policy, as it is now and not
widened, has generated; or those that the destruction policy has destroyed (see `Origin`)."""


@dataclass(frozen=True)
class PathTerms:
    """What one policy sees of B trajectories of T steps; log densities in nats.

    Attributes:
        initial: log p_0(x_0), `[B]`.
        generation: log p→ of each step, `[B, T]`; with gradient where generation is trained.
        destruction: log p← of each step, `[B, T]`; with gradient where destruction is trained.
        log_reward: log R(x_T), `[B]`.
        log_z: log Z, detached, broadcastable to `[B]`.
        residual: how residuals are counted.
        weight: importance correction of each row, `[B]`, or None for equal weights.
        group: which rows share a context, `[B]` (`context_groups`), or of data which were destroyed from the same
            sample; what is compared between rows is compared within a group, for log Z, or the unknown log density of
            the sample, differs from one to the next.
        log_flow: log F of x_1 … x_{T−1}, `[B, T-1]`, where the objective needs it; detached while a policy is trained.
    """

    initial: Tensor
    generation: Tensor
    destruction: Tensor
    log_reward: Tensor
    log_z: Tensor
    residual: Residual
    weight: Tensor | None = None
    log_flow: Tensor | None = None
    group: Tensor | None = None

    @property
    def log_ratio(self) -> Tensor:
        """D = log p_0 + Σ log p→ − log R − Σ log p←, `[B]`."""
        return self.initial - self.log_reward + self.generation.sum(-1) - self.destruction.sum(-1)

    @property
    def step_residuals(self) -> Tensor:
        """log F(x_k) + log p→ − log F(x_{k+1}) − log p← of each step, `[B, T]`; their sum over steps is D + log Z."""
        assert self.log_flow is not None, "an objective that reads the flow declares needs_flow"
        first = (self.initial + self.log_z).unsqueeze(-1)
        log_flow = torch.cat([first, self.log_flow, self.log_reward.unsqueeze(-1)], dim=-1)  # [B, T+1]
        return log_flow[:, :-1] + self.generation - log_flow[:, 1:] - self.destruction

    def of_rows(self, rows: Tensor | slice) -> "PathTerms":
        """The terms of some rows, given by their positions, as a slice, or by a mask `[B]`."""
        return replace(
            self,
            initial=self.initial[rows],
            generation=self.generation[rows],
            destruction=self.destruction[rows],
            log_reward=self.log_reward[rows],
            log_z=self.log_z.expand_as(self.initial)[rows],
            weight=None if self.weight is None else self.weight[rows],
            log_flow=None if self.log_flow is None else self.log_flow[rows],
            group=None if self.group is None else self.group[rows],
        )

    def of_all(self, ranks: Ranks, *, even: bool = False) -> "PathTerms":
        """The terms of the rows of all ranks, of which this rank's own carry their gradient.

        Args:
            ranks: the processes.
            even: whether all are known to have the same number of rows.
        """
        if ranks.size == 1:
            return self
        terms = replace(self, log_z=self.log_z.expand_as(self.initial))
        columns = {f.name: value for f in fields(terms) if isinstance(value := getattr(terms, f.name), Tensor)}
        everything: dict[str, Any] = dict(
            zip(columns, ranks.gather_rows(list(columns.values()), even=even), strict=True)
        )
        if self.group is not None:
            everything["group"] = numbered(everything["group"])  # no more groups than rows
        return replace(terms, **everything)


@dataclass(frozen=True)
class PathObjective(ABC):
    """Base of the objectives; fields of a subclass are its options.

    Class attributes:
        rows: which rows it may learn from.
        trains: which policies it can train.
        trains_on_data: which policies it can train where samples are all there is: log R is not known then, and the
            log-ratios of one sample's paths are all that can be compared (`PathTerms.group`).
        needs_likelihood_alone: whether it reads log densities of the policy that it trains, and nothing else.
        needs_flow: whether it needs the agent's state flow.
        follows_paths: whether the generation gradient runs through the path and the log reward (reparametrisation), so
            that on-policy rows must be generated differentiably.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs import get_target
        >>> from ebbflow.trainers.objectives import JointLoss, VarGrad
        >>> class MeanAbsolute(PathObjective):  # another loss takes one function
        ...     def loss_of_paths(self, terms):
        ...         return (terms.log_ratio + terms.log_z).abs().mean()
        >>> target = get_target("gmm25")
        >>> agent = build_agent(target.space, scale=target.scale, steps=3)
        >>> losses = JointLoss(agent, MeanAbsolute(), VarGrad(), target_networks="none")(agent.generate(16, target))
        >>> (losses["loss_generation"] + losses["loss_destruction"]).backward()
    """

    rows: ClassVar[Rows] = "any"
    trains: ClassVar[tuple[str, ...]] = ("generation", "destruction")
    trains_on_data: ClassVar[tuple[str, ...]] = ()
    needs_likelihood_alone: ClassVar[bool] = False
    needs_flow: ClassVar[bool] = False
    follows_paths: ClassVar[bool] = False

    @abstractmethod
    def loss_of_paths(self, terms: PathTerms) -> Tensor:
        """Scalar loss of the allowed rows, at least one of them."""

    def allowed(self, origin: Tensor) -> Tensor:
        """Mask `[B]` of the rows that this objective may learn from, by their `origin` `[B]`."""
        if self.rows == "on_policy":
            return origin == Origin.ON_POLICY
        return origin >= Origin.REPLAY if self.rows == "destroyed" else torch.ones_like(origin, dtype=torch.bool)
