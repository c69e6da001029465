"""Batches of data: samples destroyed by the destruction policy as it is now, and no density anywhere.

Where an objective learns from the policy's own paths, as TLM does, its share of a batch is generated. The log density
of the data is not known, and nothing that is compared between samples may depend on it: log R is 0 for all rows, or the
cost of the path where the user has given one. Since D = log p_0 + Σ log p→ − log R − Σ log p←, its mean over destroyed
paths is then

    E [D] = likelihood bound − E [cost],

and that is what a learned destruction is trained to raise: it trades nats of the bound for what a path costs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from ..agents.origin import Origin
from ..agents.policies import Policies
from ..envs.errors import InputError
from ..envs.spaces import Tokens
from ..envs.target import Target
from .config import TrainConfig
from .objectives.joint_loss import JointLoss
from .objectives.path_objective import Rows
from .objectives.random_level import RandomLevel

__all__ = ["DataBatches", "PathCost"]

PathCost = Callable[[TensorDict], Tensor]
"""What trajectories cost, in nats, `[B]`; of `state` `[B, T+1, *space.shape]`, x_T last. It has no gradient."""


class DataBatches:
    """Draws the batches of a training on data.

    Args:
        agent: whose destruction policy takes samples apart.
        target: what has the samples, and no log density.
        config: batch size, and paths of each sample.
        objective: what the batches are for.
        cost: what a path costs, for destruction to avoid (module docstring); by default nothing.

    Raises:
        InputError: for an objective that needs a log density, or of an agent that starts from samples one that needs
            the log-ratios of paths; and for a cost where no destruction is learned, or none by log-ratios.

    Example:
        >>> from ebbflow.envs import Continuous, Target
        >>> from ebbflow.trainers import Trainer
        >>> class Noise(Target):
        ...     def sample(self, n):
        ...         return torch.randn(n, 2)
        >>> trainer = Trainer(Noise(Continuous(2)), TrainConfig(batch_size=8, paths_per_sample=4))
        >>> batch = trainer.data.draw()
        >>> batch["state"].shape, batch["sample"]
        (torch.Size([8, 6, 2]), tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    """

    def __init__(
        self,
        agent: Policies,
        target: Target,
        config: TrainConfig,
        objective: JointLoss | RandomLevel,
        cost: PathCost | None = None,
    ) -> None:
        self.agent = agent
        self.target = target
        self.config = config
        self.objective = objective
        self.cost = cost
        for policy, one in objective.objectives.items():
            if policy not in one.trains_on_data:
                target.require_log_prob(f"training {policy} by {type(one).__name__}")
            if agent.starts_from_samples and not one.needs_likelihood_alone:
                field, takes = (
                    ("objective", "maximum_likelihood") if policy == "generation" else ("destruction_objective", "tlm")
                )
                raise InputError(
                    f"{field}: expected {takes}, for the agent starts from samples and log-ratios of its paths are not "
                    f"known, got {type(one).__name__}"
                )
        for field, expected in (("local_search.kind", "none"), ("reward_path", "followed")):
            if config.lookup(field) != expected:
                got = config.lookup(field)
                raise InputError(f"{field}: expected {expected!r}, for data have no log density, got {got!r}")
        self.generated = round(config.batch_size * objective.on_policy_share)
        # By comparing the paths of a sample, as objectives of log-ratios do and likelihoods alone do not.
        learned = not agent.starts_from_samples and any(
            "destruction" in one.trains and not one.needs_likelihood_alone for one in objective.objectives.values()
        )
        if cost is not None and not learned:
            raise InputError("path_cost: expected none, for there is no destruction to learn what to avoid")
        self.paths_per_sample = config.paths_per_sample if learned else 1
        rows = config.batch_size - self.generated
        if self.paths_per_sample > rows and config.paths_per_sample == TrainConfig().paths_per_sample:
            least = config.paths_per_sample * (2 if self.generated else 1)
            raise InputError(
                f"batch_size: expected at least {least}, for the {config.paths_per_sample} paths of a sample "
                f"(paths_per_sample) that a learned destruction compares, got {config.batch_size}"
            )
        if self.paths_per_sample > rows:
            raise InputError(
                f"paths_per_sample: expected at most {rows}, the rows of a batch that are destroyed samples, got "
                f"{config.paths_per_sample}"
            )

    @property
    def places(self) -> dict[Rows, slice] | None:
        """Where in a batch the rows of each kind lie; None of single levels, which have one kind alone."""
        if isinstance(self.objective, RandomLevel):
            return None
        n = self.config.batch_size - self.generated
        return {"any": slice(None), "destroyed": slice(n), "on_policy": slice(n, None)}

    def draw(self) -> TensorDict:
        """The next batch, of `batch_size` trajectories; for single levels, of samples alone, `[B, 1, ...]`."""
        n = self.config.batch_size - self.generated
        samples = -(-n // self.paths_per_sample)
        context = None
        if self.target.is_conditional:
            x, context = self.target.sample_pairs(samples)
            context = self._repeated(self.target.check_context(context)).to(self.agent.log_z)
        else:
            x = self.target.sample(samples)
        x = self._repeated(x)
        x = checked(self.target, x).to(self.agent.log_z.device, non_blocking=True)
        x = x.to(self.agent.log_z) if x.is_floating_point() else x
        if isinstance(self.objective, RandomLevel):
            columns = {"state": x.unsqueeze(1)} | ({} if context is None else {"context": context})
            return TensorDict(columns, batch_size=[n])
        zeros = self.agent.log_z.new_zeros(self.config.batch_size)
        paths = self.agent.redrawn(self.agent.destroy(x, None, zeros[:n], context=context))
        sample = torch.arange(n, device=x.device) // self.paths_per_sample
        paths = Origin.DATA.mark(paths).set("sample", sample)
        if not self.generated:
            return self._with_cost(paths)
        contexts = None if context is None else self.target.sample_context(self.generated)
        new = self.agent.redrawn(self.agent.generate(self.generated, context=contexts)).set("log_reward", zeros[n:])
        beyond = torch.arange(n, n + self.generated, device=x.device)  # each a group of its own
        return self._with_cost(TensorDict.cat([paths, Origin.ON_POLICY.mark(new).set("sample", beyond)]))

    def _repeated(self, rows: Tensor) -> Tensor:
        """As many rows as paths are to be destroyed from them."""
        return rows.repeat_interleave(self.paths_per_sample, dim=0)[: self.config.batch_size - self.generated]

    def _with_cost(self, paths: TensorDict) -> TensorDict:
        """The paths with their costs as log R."""
        if self.cost is None:
            return paths
        with torch.no_grad():
            cost = self.cost(paths)
        if not isinstance(cost, Tensor) or cost.shape != paths.batch_size or not bool(cost.isfinite().all()):
            got = list(cost.shape) if isinstance(cost, Tensor) else type(cost).__name__
            raise InputError(f"path_cost: expected finite numbers {list(paths.batch_size)}, one a path, got {got}")
        return paths.set("log_reward", cost.to(paths["log_reward"]))


def checked(target: Target, x: torch.Tensor) -> torch.Tensor:
    """Samples of the target as its space has them.

    Raises:
        InputError: for samples of another shape, tokens that are none, and numbers that are not finite (the last two,
            where checks are deferred, in `target.checks.look`).

    Example:
        >>> from ebbflow.envs import get_target
        >>> checked(get_target("gmm25"), torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """
    field = f"samples of target {target.name!r}"
    if isinstance(target.space, Tokens):
        return target.space.check(field, x)
    if x.shape[1:] != target.space.shape or not x.is_floating_point():
        raise InputError(
            f"{field}: expected floating point numbers [n, {target.space.dim}], got {list(x.shape)} of {x.dtype}"
        )
    target.checks.check(~x.isfinite().all(dim=1), [x], _NotFinite(field))
    return x


@dataclass(frozen=True)
class _NotFinite:
    """The error of samples that are not finite."""

    field: str

    def __call__(self, failed: int, total: int, row: Tensor) -> InputError:
        return InputError(f"{self.field}: expected finite numbers, got {row[~row.isfinite()][0].item()}")
