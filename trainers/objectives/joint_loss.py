r"""The losses of both policies, where each sees the other one through its target network.

With θ the online and θ' the target (exponentially averaged) parameters of generation, φ and φ' those of destruction,

    D_generation  = log p_0 + Σ log p→_θ  − log R − Σ log p←_φ'
    D_destruction = log p_0 + Σ log p→_θ' − log R − Σ log p←_φ.

An objective for each policy says what loss it takes of these terms, and which rows of a batch it may learn from. All
comes from one pass of the online networks and one gradient-free pass of the target networks (and one of each through
the path, for an objective that follows paths); one backward of the sum is enough, since heads are disjoint and a shared
backbone is trained by both, or by one. Source: arXiv 2506.01541, section on joint training.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, ParamSpec, Self, TypeVar, cast

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from torch import Tensor
from torchrl.objectives import LossModule

from ...agents.agent import Agent
from ...agents.compilation import begin_graphs, compiled
from ...agents.policies import PathLogProbs, Policies
from ...agents.recording import Recording
from ...buffers.context_groups import context_keys
from ...envs.errors import InputError
from ..ranks import ALONE, Ranks
from .context_centre import context_groups
from .path_objective import PathObjective, PathTerms, Rows
from .residual import Residual, weighted_mean

__all__ = ["SIDES", "JointLoss"]

P = ParamSpec("P")
R = TypeVar("R")

SIDES = ("both", "generation", "destruction", "none")


class JointLoss(LossModule):
    """Losses of generation, destruction, log Z and the state flow, on batches of trajectories.

    Args:
        agent: the agent to train; its parameters are `agent_params`.
        generation: the objective of the generation policy.
        destruction: the objective of the destruction policy; by default the same one.
        target_networks: which loss sees the other policy through its target network (`target_agent_params`, moved by
            TorchRL's `SoftUpdate`): "both", "generation", "destruction" or "none"; otherwise through its detached
            online value.
        trunk: whose loss trains a shared backbone: "both", "generation" or "destruction".
        residual: how residuals are counted, a key of `RESIDUALS`.
        residual_bound: their scale in nats; infinite for the plain squares. An attribute that may be changed later.
        compile: compile the passes of the networks, and their backward (`ebbflow.agents.compiled`).
        cuda_graphs: capture what is compiled as CUDA graphs, too, on a GPU; gradients are then written over by the next
            loss or rollout.
        ranks: processes whose rows a loss is of; each is given its own, and the gradients of all are to be summed.

    Attributes:
        use_targets: whether there are target networks.
        target_agent: the agent with their parameters, where there are some.
        objectives: the objective of each policy that has anything to learn, by the policy's name.
        on_policy_share: share of new paths that must be on-policy: 1 where all objectives need it, ½ where one does.
        needs_log_density: whether trajectories must hold the log density of the states between their ends.
        follows_paths: whether on-policy paths must be generated differentiably.

    In keys: a trajectory (`state`, `log_reward`, `score` where the agent reads it, `log_density` where its flow does),
    `origin` where an objective may not learn from every row, and optionally `weight` `[B]`, the importance correction
    of replay. A conditional agent reads `context` `[B, c]`; rows with equal ones are a group, and log Z is log Z(c).
    Paths of data may hold `sample` `[B]`, whole numbers: rows with the same one were destroyed from the same sample,
    and are a group.

    Out keys: `loss_generation`, `loss_destruction`, `loss_log_z`, `loss_flow`, all scalars (zero where there is nothing
    to learn, or no row to learn from), and `log_ratio`, the detached online D `[B]` from which new priorities are made.

    Raises:
        InputError: for an objective that cannot train its policy, or settings out of range.

    Example:
        >>> from ebbflow.agents import build_agent
        >>> from ebbflow.envs import get_target
        >>> from ebbflow.trainers.objectives import TrajectoryBalance, VarGrad
        >>> target = get_target("gmm25")
        >>> agent = build_agent(target.space, scale=target.scale, steps=3)
        >>> objective = JointLoss(agent, VarGrad(), TrajectoryBalance(), target_networks="none")
        >>> losses = objective(agent.generate(16, target))
        >>> (losses["loss_generation"] + losses["loss_destruction"]).backward()
        >>> losses["log_ratio"].shape
        torch.Size([16])
    """

    agent: Policies
    agent_params: TensorDictParams
    target_agent_params: TensorDictParams
    target_agent: Policies

    in_keys: ClassVar[list[str]] = ["state", "log_reward"]
    out_keys: ClassVar[list[str]] = ["loss_generation", "loss_destruction", "loss_log_z", "loss_flow", "log_ratio"]

    def __init__(
        self,
        agent: Policies,
        generation: PathObjective,
        destruction: PathObjective | None = None,
        *,
        target_networks: str = "both",
        trunk: str = "both",
        residual: str = "huber",
        residual_bound: float = math.inf,
        compile: bool = False,
        cuda_graphs: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.ranks = ranks
        self.objectives = {"generation": generation}
        if agent.destruction.learned:
            self.objectives["destruction"] = destruction or generation
        for policy, objective in self.objectives.items():
            _check_objective(objective, policy, agent)
        if target_networks not in SIDES:
            raise InputError(f"target_networks: expected one of {list(SIDES)}, got {target_networks!r}")
        if trunk not in SIDES[:3]:
            raise InputError(f"trunk: expected one of {list(SIDES[:3])}, got {trunk!r}")
        if trunk == "destruction" and generation.follows_paths:
            raise InputError(
                f"trunk: expected 'both' or 'generation' with {type(generation).__name__}, whose gradient runs through "
                "generation's trunk along the path, got 'destruction'"
            )
        self.residual = Residual(residual, residual_bound).kind
        self.residual_bound = float(residual_bound)
        self.trunk = trunk
        self.compiled = compile
        self.cuda_graphs = cuda_graphs
        self.target_networks = target_networks if agent.destruction.learned else "none"
        self.use_targets = self.target_networks != "none"
        self.needs_flow = any(objective.needs_flow for objective in self.objectives.values())
        self.needs_log_density = self.needs_flow and agent.flow is not None and agent.flow.forward_looking
        self.follows_paths = generation.follows_paths
        if agent.chunk is not None and (self.needs_flow or compile):
            other = "compile" if compile else "a state flow"
            raise InputError(f"chunk: expected None with {other}, got {agent.chunk!r}")
        on_policy = [objective.rows == "on_policy" for objective in self.objectives.values()]
        self.on_policy_share = 1.0 if all(on_policy) else 0.5 if any(on_policy) else 0.0
        self.convert_to_functional(agent, "agent", create_target_params=self.use_targets)
        self.hold_parameters()

    def hold_parameters(self) -> None:
        """Let the agent hold its parameters, and a copy of it those of the target networks, for as long as they live.

        It is called again when their tensors, or buffers, have become others.
        """
        self.agent_params.to_module(self.agent)
        if self.use_targets:
            # Where TorchRL has the agent, too, so that parameters are listed once.
            self.__dict__["target_agent"] = copy.deepcopy(self.agent)
            self._modules["target_agent_params"].to_module(self.target_agent)

    def _apply(self, *args: Any, **settings: Any) -> Self:
        super()._apply(*args, **settings)
        self.hold_parameters()
        return self

    @contextmanager
    def _agent_with(self, parameters: TensorDictBase) -> Iterator[Policies]:
        """The agent with these parameters."""
        if parameters is self.agent_params:
            yield self.agent
        elif parameters is self._modules.get("target_agent_params"):
            yield self.target_agent
        else:
            with parameters.to_module(self.agent):
                yield self.agent

    def forward(
        self,
        tensordict: TensorDictBase,
        places: Mapping[Rows, slice] | None = None,
        recording: Recording | None = None,
    ) -> TensorDict:
        """Losses of a batch of trajectories (class docstring).

        Args:
            tensordict: the trajectories.
            places: where the rows of each kind lie, from who has put them there. Otherwise they are looked up by their
                `origin`, and the host waits for that.
            recording: what the rollouts of all of them have computed, with the parameters as they are.

        Raises:
            InputError: for a recording of parameters that have changed since.
        """
        lagging = self.target_agent_params if self.use_targets else None
        return self.with_parameters(tensordict, self.agent_params, lagging, places, recording)

    def with_parameters(
        self,
        tensordict: TensorDictBase,
        parameters: TensorDictBase,
        lagging_parameters: TensorDictBase | None,
        places: Mapping[Rows, slice] | None = None,
        recording: Recording | None = None,
    ) -> TensorDict:
        """What `forward` gives, with these parameters of the agent and of its target networks in place of its own."""
        paths = tensordict.detach()  # only an objective that follows paths sees their graph
        read = _read(paths) if self.compiled else paths
        if self.cuda_graphs:
            begin_graphs()
        with self._agent_with(parameters) as agent:
            log_z = agent.log_z_given(paths.get("context", None))
            # There is nothing to learn in coordinates and features: computed once for all passes.
            if recording is not None:
                recording.check(cast(Agent, agent))
            u, features, online = self._pass(online_pass)(agent, read, self.trunk, recording)
            log_flow = None
            if self.needs_flow and features is not None:
                log_flow = agent.path_log_flow(paths, features, log_z.detach(), u)
        fixed = PathLogProbs(*(term.detach() for term in online))
        seen = {"generation": fixed, "destruction": fixed}  # what each policy's loss sees of the other policy
        if lagging_parameters is not None:
            with torch.no_grad(), self._agent_with(lagging_parameters) as agent:
                lagging = self._pass(lagging_pass)(agent, read, u, features)
            seen |= {policy: lagging for policy in seen if self._lags(policy)}

        group = self._groups(paths)
        everything = PathTerms(
            *fixed, paths["log_reward"], log_z.detach(), self._residual(), paths.get("weight", None), log_flow, group
        )
        now = replace(everything, log_flow=None if log_flow is None else log_flow.detach())
        terms = {
            "generation": replace(now, generation=online.generation, destruction=seen["generation"].destruction),
            "destruction": replace(now, generation=seen["destruction"].generation, destruction=online.destruction),
        }
        log_ratio = now.log_ratio
        losses = {name: torch.zeros_like(log_ratio[:1].sum()) for name in self.out_keys[:-1]}
        for policy, objective in self.objectives.items():
            rows = _allowed(objective, paths, places)
            given = terms[policy] if rows is None else terms[policy].of_rows(rows)
            if policy == "generation" and objective.follows_paths and len(given.initial):
                others = lagging_parameters if self._lags("generation") else None
                given = self._followed(tensordict if rows is None else tensordict[rows], given, parameters, others)
            given = given.of_all(self.ranks, even=rows is None)
            if len(given.initial) == 0:
                continue  # none in this batch, as before anything is remembered
            losses[f"loss_{policy}"] = objective.loss_of_paths(given)
        losses["loss_log_z"] = self._loss_log_z(log_z, now)
        if self.needs_flow:
            everything = everything.of_all(self.ranks, even=True)
        for objective in {objective for objective in self.objectives.values() if objective.needs_flow}:
            losses["loss_flow"] = losses["loss_flow"] + objective.loss_of_paths(everything)
        return TensorDict({**losses, "log_ratio": log_ratio}, batch_size=[])

    def _pass(self, function: Callable[P, R]) -> Callable[P, R]:
        return compiled(function, cuda_graphs=self.cuda_graphs) if self.compiled else function

    def _groups(self, paths: TensorDictBase) -> Tensor | None:
        """Which rows are compared with each other: those of a sample, which one rank has, or of a context."""
        sample = paths.get("sample", None)
        if sample is not None:
            return sample if self.ranks.size == 1 else sample * self.ranks.size + self.ranks.rank
        if self.ranks.size == 1 or paths.get("context", None) is None:
            return context_groups(paths)
        return context_keys(paths["context"])  # the same for the same context on any rank

    def _loss_log_z(self, log_z: Tensor, terms: PathTerms) -> Tensor:
        terms = terms.of_all(self.ranks, even=True)
        if log_z.ndim:
            (log_z,) = self.ranks.gather_rows([log_z], even=True)
        else:
            log_z = self.ranks.counted_once(log_z)
        if terms.group is None:
            return (log_z + weighted_mean(terms.log_ratio, terms.weight)).square()
        # The same gradient where nothing is bounded; a network does not get over outliers as one number does.
        return weighted_mean(terms.residual(log_z + terms.log_ratio), terms.weight)

    def _residual(self) -> Residual:
        return Residual(self.residual, self.residual_bound)

    def _lags(self, policy: str) -> bool:
        """Whether the loss of this policy sees the other one through its target network."""
        return self.target_networks in ("both", policy)

    def _followed(
        self,
        paths: TensorDictBase,
        terms: PathTerms,
        parameters: TensorDictBase,
        lagging_parameters: TensorDictBase | None,
    ) -> PathTerms:
        """Generation's terms of paths that carry a gradient: through log p→, the states, and log R of the last one.

        Destruction's parameters are numbers, as always, but its log densities are functions of the states.
        """
        if torch.is_grad_enabled() and not paths["state"].requires_grad:
            raise InputError("state: expected paths that carry a gradient, agent.generate(..., differentiable=True)")
        with self._agent_with(parameters) as agent:
            online = agent.path_log_probs(paths, policies="generation")
        other = parameters.data if lagging_parameters is None else lagging_parameters
        with self._agent_with(other) as agent:
            destruction = agent.path_log_probs(paths, policies="destruction").destruction
        return replace(
            terms,
            initial=online.initial,
            generation=online.generation,
            destruction=destruction,
            log_reward=paths["log_reward"],
        )


def online_pass(
    agent: Policies, paths: Mapping[str, Tensor], trunk: str, recording: Recording | None = None
) -> tuple[Tensor | None, Tensor | None, PathLogProbs]:
    """Coordinates, features and log densities of stored trajectories; in chunks nothing but these is kept."""
    if agent.chunk is not None:
        return None, None, agent.path_log_probs(paths, trunk=trunk)
    u = agent.space.coordinates(paths["state"])
    if recording is not None:
        features = recording.path_features(agent.space.dim)
        log_probs = cast(Agent, agent).path_log_probs(paths, coordinates=u, trunk=trunk, recording=recording)
        return u, features, log_probs
    features = agent.path_features(paths, u)
    return u, features, agent.path_log_probs(paths, features, coordinates=u, trunk=trunk)


def lagging_pass(
    agent: Policies, paths: Mapping[str, Tensor], u: Tensor | None, features: Tensor | None
) -> PathLogProbs:
    """Log densities of stored trajectories, whose coordinates and features are known, or None."""
    return agent.path_log_probs(paths, features, coordinates=u)


def _read(paths: TensorDictBase) -> dict[str, Tensor]:
    """What a policy reads of trajectories, as plain tensors: a TensorDict is compiled anew for other keys."""
    return {key: paths[key] for key in ("state", "score", "context") if paths.get(key, None) is not None}


def _allowed(
    objective: PathObjective, paths: TensorDictBase, places: Mapping[Rows, slice] | None
) -> Tensor | slice | None:
    """Positions of the rows that an objective may learn from; None for all."""
    if objective.rows == "any":
        return None
    if places is not None:
        return places[objective.rows]
    origin = paths.get("origin", None)
    if origin is None:
        raise InputError(
            f"{type(objective).__name__}: learns from {objective.rows} rows, and the trajectories have no `origin`"
        )
    # Looked up once: each tensor indexed by the mask itself would wait for the device.
    return objective.allowed(origin).nonzero().squeeze(-1)


def _check_objective(objective: PathObjective, policy: str, agent: Policies) -> None:
    field = "objective" if policy == "generation" else "destruction_objective"
    if not isinstance(objective, PathObjective):
        raise InputError(f"{field}: expected an objective, got {objective!r}")
    name = type(objective).__name__
    if policy not in objective.trains:
        raise InputError(f"{field}: expected one that trains {policy}, but {name} trains {objective.trains[0]} only")
    if objective.needs_flow and agent.flow is None:
        raise InputError(f"{field}: {name} needs an agent with a state flow, build_agent(..., flow=True)")
