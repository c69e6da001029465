"""Draws rows of a replay by priority: one cumulative sum and one binary search, without host synchronisation.

Row i of N is drawn with probability

    P_i = (1 − u) · p_i / Σ p + u / N,        u = uniform mixture,

and carries the weight w_i = (1 / (N P_i))^β, divided by its mean under P over the whole memory. So the weights have
mean 1 in expectation, and at β = 1 the mean of w·f over a draw is an unbiased estimate of the plain mean of f over
the memory (arXiv 1511.05952 divides by the maximum instead).

Rows with log reward −inf hold a place and are no part of all this: N does not count them, and their P is 0. (Where
there are no others, all are drawn alike: a device that finds nothing to draw cannot say so without being waited for.)

TorchRL's own prioritised sampler needs a compiled extension, and its segment trees cannot do priorities that depend on
all rows at once.
"""

from typing import Any

import torch
from torch import Tensor
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from ..envs.errors import InputError
from .priorities import Priority

__all__ = ["PrioritySampler", "draw_probabilities", "draw_table", "priorities_of_rows"]


def _share(field: str, value: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.0 <= value <= 1.0:
        raise InputError(f"{field}: expected a number between 0 and 1, got {value!r}")
    return float(value)


def priorities_of_rows(priority: Priority, log_reward: Tensor, log_ratio: Tensor, known: Tensor) -> Tensor:
    """Unnormalised priorities `[N]` of rows by their columns `[N]`, see `Priority`; 0 for rows that may not be drawn.

    Example:
        >>> from ebbflow.buffers.priorities import get_priority
        >>> log_reward = torch.tensor([0.0, -torch.inf])
        >>> priorities_of_rows(get_priority("uniform"), log_reward, torch.zeros(2), torch.zeros(2) > 0)
        tensor([1., 0.])
    """
    drawable = log_reward > -torch.inf
    return torch.where(drawable, priority(log_reward, log_ratio, known & drawable), 0.0)


def draw_probabilities(priorities: Tensor, uniform_mixture: float, drawable: Tensor | None = None) -> Tensor:
    """P of rows with these unnormalised priorities, `[N] -> [N]`, double precision; sums to 1.

    Args:
        priorities: `[N]`, >= 0; 0 for rows that may not be drawn.
        uniform_mixture: share of uniform draws.
        drawable: which rows may be drawn, `[N]` bool; None for all.

    Example:
        >>> draw_probabilities(torch.tensor([3.0, 1.0]), uniform_mixture=0.5)
        tensor([0.6250, 0.3750], dtype=torch.float64)
    """
    weight = priorities.double()
    total = weight.sum()
    even = torch.ones_like(weight) if drawable is None else (drawable | ~drawable.any()).double()
    even = even / even.sum()
    # No priority left (all underflowed): draw uniformly rather than always the same row.
    share = torch.where(total > 0, weight / total, even)
    return (1.0 - uniform_mixture) * share + uniform_mixture * even


def draw_table(
    priorities: Tensor, drawable: Tensor | None = None, *, uniform_mixture: float, beta: float
) -> tuple[Tensor, Tensor]:
    """What rows are drawn by, both `[N]`: cumulative probabilities, in double precision, and weights.

    Example:
        >>> draw_table(torch.tensor([3.0, 1.0]), uniform_mixture=0.0, beta=0.0)
        (tensor([0.7500, 1.0000], dtype=torch.float64), tensor([1., 1.]))
    """
    probability = draw_probabilities(priorities, uniform_mixture, drawable)
    n = probability.shape[0]
    # A row that is never drawn needs no weight; the clamp keeps it finite.
    weights = (n * probability.clamp_min(torch.finfo(torch.float64).tiny)) ** -beta
    return probability.cumsum(0), (weights / (probability * weights).sum()).to(torch.get_default_dtype())


class PrioritySampler(Sampler):
    """Draws rows of a TorchRL storage by priority, with replacement and without host synchronisation.

    Rows need the columns `log_reward`, `log_ratio` and `known` (see `Priority`). `extend` and `mark_update` mark
    the priorities as out of date; the next draw recomputes them all, once.

    Args:
        priority: the rule.
        uniform_mixture: share u of uniform draws, in [0, 1].
        beta: exponent β of the importance correction, in [0, 1]; 0 makes every weight 1.

    Raises:
        InputError: for a share or exponent outside [0, 1].

    Example:
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from ebbflow.buffers.priorities import get_priority
        >>> sampler = PrioritySampler(get_priority("reward"), uniform_mixture=0.0, beta=0.0)
        >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4), sampler=sampler)
        >>> columns = {"log_reward": torch.tensor([0.0, -1e9]), "log_ratio": torch.zeros(2), "known": torch.ones(2) > 0}
        >>> _ = buffer.extend(TensorDict(columns, batch_size=2))
        >>> buffer.sample(3)["index"]
        tensor([0, 0, 0])
    """

    def __init__(self, priority: Priority, *, uniform_mixture: float = 0.1, beta: float = 0.0) -> None:
        self.priority = priority
        self.uniform_mixture = _share("uniform_mixture", uniform_mixture)
        self.beta = _share("beta", beta)
        self._empty()

    def _empty(self) -> None:
        self.priorities: Tensor | None = None  # [N], unnormalised
        self._stale = True
        self._cumulative: Tensor | None = None  # [N], double
        self._weights: Tensor | None = None  # [N]

    def add(self, index: int) -> None:
        """Note that a row was written."""
        self._stale = True

    def extend(self, index: Tensor) -> None:
        """Note that rows were written."""
        self._stale = True

    def mark_update(self, index: int | Tensor, *, storage: Storage | None = None) -> None:
        """Note that a column of some rows has changed."""
        self._stale = True

    def update_priority(
        self, index: int | Tensor, priority: float | Tensor, *, storage: Storage | None = None
    ) -> dict | None:
        """Set the priorities of single rows by hand, `[k]`; they hold until a row is next written or updated.

        Raises:
            InputError: if there are no priorities yet and no storage to compute them from.
        """
        if self.priorities is None or self._stale:
            if storage is None:
                raise InputError("priorities: nothing has been drawn yet; pass the storage to compute them first")
            self.refresh(storage)
        assert self.priorities is not None
        self.priorities[index] = torch.as_tensor(
            priority, dtype=self.priorities.dtype, device=self.priorities.device
        ).clamp_min(0.0)
        self._cumulative = None
        return None

    def refresh(self, storage: Storage) -> None:
        """Recompute the priorities of all rows, if any row has changed since the last time."""
        if self._stale or self.priorities is None:
            columns = storage.get(slice(0, len(storage)))
            self.priorities = priorities_of_rows(
                self.priority, columns["log_reward"], columns["log_ratio"], columns["known"]
            )
            self._stale = False
            self._cumulative = None

    def probabilities(self, storage: Storage) -> Tensor:
        """Probability P of each row to be drawn, `[N]`, double precision; sums to 1."""
        self.refresh(storage)
        assert self.priorities is not None
        return draw_probabilities(self.priorities, self.uniform_mixture, _drawable(storage))

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Indices `[batch_size]` of rows drawn with replacement, and their importance `weight` `[batch_size]`."""
        if len(storage) == 0:
            raise InputError("replay: expected at least one remembered row to draw from, got an empty memory")
        self.refresh(storage)
        if self._cumulative is None or self._weights is None:
            assert self.priorities is not None
            self._cumulative, self._weights = draw_table(
                self.priorities, _drawable(storage), uniform_mixture=self.uniform_mixture, beta=self.beta
            )
        uniform = torch.rand(batch_size, dtype=torch.float64, device=self._cumulative.device) * self._cumulative[-1]
        index = torch.searchsorted(self._cumulative, uniform, right=True).clamp_(max=self._cumulative.shape[0] - 1)
        return index, {"weight": self._weights[index]}

    def weights_of(self, index: Tensor) -> Tensor:
        """Importance weights `[k]` of rows at positions `index`, as the last `sample` gave them to the rows it drew.

        Raises:
            InputError: before the first `sample`.
        """
        if self._weights is None:
            raise InputError("weight: expected after a draw, got none yet")
        return self._weights[index]

    def state_dict(self) -> dict[str, Any]:
        """The priorities, as they stand."""
        return {} if self.priorities is None else {"priorities": self.priorities.clone(), "stale": int(self._stale)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over priorities saved by `state_dict`."""
        self._empty()
        if "priorities" in state_dict:
            self.priorities = state_dict["priorities"].clone()
            self._stale = bool(state_dict["stale"])

    def dumps(self, path: Any) -> None:
        """Not offered; a replay is saved through `Replay.state_dict`."""
        raise NotImplementedError("save a replay through Replay.state_dict")

    def loads(self, path: Any) -> None:
        """Not offered; a replay is restored through `Replay.load_state_dict`."""
        raise NotImplementedError("restore a replay through Replay.load_state_dict")


def _drawable(storage: Storage) -> Tensor:
    return storage.get(slice(0, len(storage)))["log_reward"] > -torch.inf
