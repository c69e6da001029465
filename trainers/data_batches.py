"""Batches of data: samples destroyed by the destruction policy as it is now, and no density anywhere.

Where an objective learns from the policy's own paths, as TLM does, its share of a batch is generated. log R is 0 for
all rows: the log density of the data is not known, and nothing that is compared between samples may depend on it.
"""

import torch
from tensordict import TensorDict

from ..agents.origin import Origin
from ..agents.policies import Policies
from ..envs.errors import InputError
from ..envs.spaces import Tokens
from ..envs.target import Target
from .config import TrainConfig
from .objectives.joint_loss import JointLoss
from .objectives.random_level import RandomLevel

__all__ = ["DataBatches"]


class DataBatches:
    """Draws the batches of a training on data.

    Args:
        agent: whose destruction policy takes samples apart.
        target: what has the samples, and no log density.
        config: batch size, and paths of each sample.
        objective: what the batches are for.

    Raises:
        InputError: for an objective that needs a log density.

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
        self, agent: Policies, target: Target, config: TrainConfig, objective: JointLoss | RandomLevel
    ) -> None:
        self.agent = agent
        self.target = target
        self.config = config
        self.objective = objective
        for policy, one in objective.objectives.items():
            if policy not in one.trains_on_data:
                target.require_log_prob(f"training {policy} by {type(one).__name__}")
        self.generated = round(config.batch_size * objective.on_policy_share)
        learned = any("destruction" in one.trains for one in objective.objectives.values())
        self.paths_per_sample = config.paths_per_sample if learned else 1
        if self.paths_per_sample > config.batch_size - self.generated:
            raise InputError(
                f"paths_per_sample: expected at most {config.batch_size - self.generated}, the rows of a batch that "
                f"are destroyed samples, got {config.paths_per_sample}"
            )

    def draw(self) -> TensorDict:
        """The next batch, of `batch_size` trajectories; for single levels, of samples alone, `[B, 1, ...]`."""
        n = self.config.batch_size - self.generated
        sample = torch.arange(n) // self.paths_per_sample
        if self.target.is_conditional:
            x, context = self.target.sample_pairs(int(sample[-1]) + 1)
            x, context = x[sample], self.target.check_context(context)[sample].to(self.agent.log_z)
        else:
            x, context = self.target.sample(int(sample[-1]) + 1)[sample], None
        x = checked(self.target, x).to(self.agent.log_z.device)
        if isinstance(self.objective, RandomLevel):
            columns = {"state": x.unsqueeze(1)} | ({} if context is None else {"context": context})
            return TensorDict(columns, batch_size=[n])
        zeros = self.agent.log_z.new_zeros(self.config.batch_size)
        paths = self.agent.destroy(x, None, zeros[:n], context=context)
        paths = Origin.DATA.mark(paths).set("sample", sample.to(x.device))
        if not self.generated:
            return paths
        contexts = None if context is None else self.target.sample_context(self.generated)
        new = self.agent.generate(self.generated, context=contexts).set("log_reward", zeros[n:])
        beyond = torch.arange(n, n + self.generated, device=x.device)  # each a group of its own
        return TensorDict.cat([paths, Origin.ON_POLICY.mark(new).set("sample", beyond)])


def checked(target: Target, x: torch.Tensor) -> torch.Tensor:
    """Samples of the target as its space has them.

    Raises:
        InputError: for samples of another shape, tokens that are none, and numbers that are not finite.

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
    if not bool(x.isfinite().all()):
        raise InputError(f"{field}: expected finite numbers, got {x[~x.isfinite()][0].item()}")
    return x
