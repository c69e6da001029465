"""Replay: what the agent has visited, drawn again by priority.

The store is TorchRL's `TensorDictReplayBuffer` over a `LazyTensorStorage` with this project's `PrioritySampler`, whose
module gives the probability and the weight of each row.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from ..agents.origin import Origin
from ..envs.errors import InputError, whole_number
from .context_groups import context_keys, draw_companions
from .priorities import get_priority
from .priority_sampler import PrioritySampler

__all__ = ["Replay", "columns_of_rows", "log_ratio_columns", "write_log_ratios", "write_rows"]

COLUMNS = ("state", "log_reward", "log_ratio", "known", "origin")

if "RL_LOGGING_LEVEL" not in os.environ:  # TorchRL announces every storage on standard output
    logging.getLogger("torchrl").setLevel(logging.WARNING)


def log_ratio_columns(log_ratio: Tensor) -> dict[str, Tensor]:
    """What is kept of D: `log_ratio`, 0 where it is not finite, and `known`, where it is.

    Example:
        >>> log_ratio_columns(torch.tensor([2.0, torch.nan]))
        {'log_ratio': tensor([2., 0.]), 'known': tensor([ True, False])}
    """
    known = log_ratio.isfinite()
    return {"log_ratio": torch.where(known, log_ratio, 0.0), "known": known}


def columns_of_rows(state: Tensor, log_reward: Tensor, log_ratio: Tensor, origin: Origin) -> dict[str, Tensor]:
    """Columns of rows to be remembered, of which those that no objective can learn from get the log reward −inf.

    Args:
        state: `[n, ...]`; one that is not finite becomes 0.
        log_reward: `[n]`, nats.
        log_ratio: D of each, `[n]`, nats; not finite where never evaluated.
        origin: where they come from.

    Example:
        >>> state = torch.tensor([[1.0], [torch.nan]])
        >>> columns_of_rows(state, torch.zeros(2), torch.ones(2), Origin.REPLAY)["log_reward"]
        tensor([0., -inf])
    """
    finite = state.flatten(1).isfinite().all(dim=1)
    good = finite & log_reward.isfinite()
    return {
        "state": torch.where(finite.view(-1, *[1] * (state.ndim - 1)), state, 0),
        "log_reward": torch.where(good, log_reward, -torch.inf),
        **log_ratio_columns(log_ratio),
        "origin": torch.full(log_reward.shape, int(origin), device=log_reward.device),
    }


def write_rows(columns: TensorDictBase, place: Tensor, rows: Mapping[str, Tensor]) -> None:
    """Write rows into `columns` at `place`, `[n]`, none of them twice.

    Example:
        >>> columns = TensorDict({"log_reward": torch.zeros(3)}, batch_size=[3])
        >>> write_rows(columns, torch.tensor([2, 0]), {"log_reward": torch.tensor([1.0, 2.0])})
        >>> columns["log_reward"]
        tensor([2., 0., 1.])
    """
    for name, values in rows.items():
        columns[name].index_copy_(0, place, values.to(columns[name].dtype))


def write_log_ratios(columns: TensorDict, place: Tensor, log_ratio: Tensor, slot: Tensor, slots: int) -> None:
    """Write newly evaluated D into the rows of `columns` at `place`; a row drawn twice gets the mean of its values.

    Args:
        columns: with `log_ratio` and `known`.
        place: positions of the rows, `[k]`.
        log_ratio: D of each, `[k]`, nats; a value that is not finite makes its row count as never evaluated.
        slot: a number below `slots` for each, `[k]`, the same for the same row: what repeated rows are known by.

    Example:
        >>> columns = TensorDict({"log_ratio": torch.zeros(3), "known": torch.zeros(3) > 0}, batch_size=[3])
        >>> place = torch.tensor([2, 2, 0])
        >>> write_log_ratios(columns, place, torch.tensor([1.0, 3.0, 5.0]), place, 3)
        >>> columns["log_ratio"]
        tensor([5., 0., 2.])
    """
    # Summed in double precision, so that the order in which a device adds cannot show in the result.
    value = log_ratio.detach().double()
    sums = torch.zeros(slots, dtype=torch.float64, device=value.device).index_add_(0, slot, value)
    counts = torch.zeros_like(sums).index_add_(0, slot, torch.ones_like(value))
    mean = (sums / counts)[slot].to(columns["log_ratio"].dtype)
    for name, column in log_ratio_columns(mean).items():
        columns[name][place] = column


class Replay:
    """A first-in-first-out memory of terminal states or whole paths, drawn by priority.

    With `contents="terminal"` a row is a final state x_T. It has no path: whoever draws it destroys it again with the
    current destruction policy (`agent.destroy(state)`), so that the path is never out of date. With
    `contents="path"` a row is the path x_0 … x_T as it was generated.

    Rows with log reward −inf (outside the support) are never drawn: no objective can learn from them. `extend` leaves
    them out; `write`, which does not wait to be told which they are, gives them places. Rows of a conditional target
    remember their `context`.

    Args:
        capacity: number of rows kept, >= 1; when full, the oldest rows are overwritten.
        priority: a name in `PRIORITIES`.
        uniform_mixture: share of uniform draws, in [0, 1].
        beta: exponent of the importance correction in `weight`, in [0, 1]; 0 leaves every weight 1.
        contents: "terminal" or "path".
        device: where the rows and priorities live.
        priority_options: options of that priority, for example `ess_fraction=0.5`.

    Raises:
        InputError: for a value out of range or an unknown name.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> replay = Replay(100, priority="loss", beta=1.0)
        >>> index = replay.extend(TensorDict({"state": torch.randn(8, 2), "log_reward": torch.zeros(8)}, batch_size=8))
        >>> drawn = replay.draw(4)
        >>> sorted(drawn.keys())
        ['index', 'log_ratio', 'log_reward', 'origin', 'state', 'weight']
        >>> replay.update(drawn["index"], torch.randn(4))
        >>> len(replay)
        8
    """

    def __init__(
        self,
        capacity: int,
        *,
        priority: str = "uniform",
        uniform_mixture: float = 0.1,
        beta: float = 0.0,
        contents: Literal["terminal", "path"] = "terminal",
        device: torch.device | str = "cpu",
        **priority_options: Any,
    ) -> None:
        whole_number("capacity", capacity, least=1)
        if contents not in ("terminal", "path"):
            raise InputError(f"contents: expected 'terminal' or 'path', got {contents!r}")
        self.capacity = capacity
        self.contents = contents
        self.device = torch.device(device)
        self._sampler = PrioritySampler(
            get_priority(priority, **priority_options), uniform_mixture=uniform_mixture, beta=beta
        )
        self._buffer = self._new_buffer()

    def _new_buffer(self) -> TensorDictReplayBuffer:
        storage = LazyTensorStorage(self.capacity, device=self.device)
        return TensorDictReplayBuffer(storage=storage, sampler=self._sampler)

    def __len__(self) -> int:
        """Number of rows that can be drawn; waits for the device, unlike `filled`."""
        return int(self._drawable().sum()) if self.filled else 0

    @property
    def filled(self) -> int:
        """Number of places in use; also rows outside the support may hold one."""
        return len(self._buffer.storage)

    def _columns(self) -> TensorDictBase:
        """A view of the rows in use: what is written to it is remembered."""
        return self._buffer.storage.get(slice(0, self.filled))

    def _drawable(self) -> Tensor:
        return self._columns()["log_reward"] > -torch.inf

    @property
    def cursor(self) -> int:
        """Position of the row that is written next."""
        return self._buffer.writer.state_dict()["_cursor"]

    @property
    def sampler(self) -> PrioritySampler:
        """What says which rows are drawn."""
        return self._sampler

    def move_to(self, columns: TensorDict) -> None:
        """Let the rows live in these `columns` from now on, which may be a part of larger ones.

        Args:
            columns: batch size `[capacity]`, with all that a row has.

        Example:
            >>> replay, two = Replay(4), TensorDict({"log_reward": torch.zeros(2, 4)}, batch_size=[2, 4])
            >>> for name, shape in (("state", (2, 4, 1)), ("log_ratio", (2, 4))):
            ...     two[name] = torch.zeros(shape)
            >>> two["known"], two["origin"] = torch.zeros(2, 4) > 0, torch.zeros(2, 4).long()
            >>> replay.move_to(two[1])
            >>> _ = replay.extend(TensorDict({"state": torch.ones(1, 1), "log_reward": torch.ones(1)}, batch_size=1))
            >>> len(replay), two["log_reward"].tolist()
            (1, [[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
        """
        n, cursor = self.filled, self.cursor
        if n:
            columns[:n].update_(self._columns().select(*columns.keys()))
        self._sampler._empty()
        self._buffer = self._new_buffer()
        storage = self._buffer.storage
        storage._storage, storage.initialized = columns, True
        self._note(n, cursor)

    def note_written(self, n: int) -> None:
        """Count `n` rows that were written to the columns from `cursor` on, around the end where it was reached."""
        self._note(min(self.capacity, self.filled + n), (self.cursor + n) % self.capacity)
        self._sampler.extend(torch.empty(0))

    def _note(self, n: int, cursor: int) -> None:
        self._buffer.storage._len = n
        self._buffer.writer.load_state_dict({"_cursor": cursor, "_write_count": n})

    @property
    def priorities(self) -> Tensor:
        """Unnormalised priorities of all places in use, up to date, `[N]`; 0 for a row outside the support."""
        self._sampler.refresh(self._buffer.storage)
        assert self._sampler.priorities is not None
        return self._sampler.priorities

    @property
    def probabilities(self) -> Tensor:
        """Probability of each place in use to be drawn, `[N]`, double precision."""
        return self._sampler.probabilities(self._buffer.storage)

    def share_of(self, origin: Origin) -> float:
        """Share of the remembered rows that come from `origin`; 0 when nothing is remembered."""
        return float(self.share_on_device(origin))

    def share_on_device(self, origin: Origin) -> Tensor:
        """What `share_of` says, a number on the device, which is not waited for."""
        if self.filled == 0:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        drawable = self._drawable()
        found = (self._columns()["origin"] == origin) & drawable
        return found.sum().double() / drawable.sum().clamp_min(1)

    # Remember -----------------------------------------------------------------------------------------------------

    def extend(self, batch: TensorDictBase, origin: Origin = Origin.REPLAY) -> Tensor:
        """Remember rows, overwriting the oldest when full; waits for the host once, to check the values.

        Args:
            batch: batch size `[B]`, with `state` (`[B, dim]` for terminal states, `[B, T+1, dim]` for paths),
                `log_reward` `[B]` in nats, the `context` `[B, c]` of a conditional target and, optionally, `log_ratio`
                `[B]` in nats. Rows without a finite `log_ratio`
                count as never evaluated: priorities that need it give them the largest priority present. More rows
                than the capacity: the last ones are kept.
            origin: where the rows come from: `REPLAY` for the policy's own, `LOCAL_SEARCH` for moved ones.

        Returns:
            Positions of the rows kept, `[<= B]`, to be used with `update`.

        Raises:
            InputError: on a missing key, a wrong shape, a non-finite state, or a NaN or +inf log reward.
        """
        rows = self._rows(batch)
        log_reward = rows["log_reward"]
        outside = log_reward == -torch.inf
        bad_reward = ~(log_reward.isfinite() | outside)
        bad_state = ~rows["state"].flatten(1).isfinite().all(dim=1)
        counts = torch.stack([outside.sum(), bad_reward.sum(), (bad_state & ~outside).sum()]).tolist()
        if counts[1]:
            raise InputError(f"log_reward: expected finite values or -inf, got NaN or +inf in {counts[1]} rows")
        if counts[2]:
            raise InputError(f"state: expected finite values, got NaN or infinity in {counts[2]} rows")
        if counts[0]:
            rows = rows[(~outside).nonzero().squeeze(-1)]
        return self._write(self._with_columns(rows, origin))

    def write(self, batch: TensorDictBase, origin: Origin = Origin.REPLAY, where: Tensor | None = None) -> Tensor:
        """Remember rows as `extend` does, without waiting for the device to say whether they are fine.

        Rows whose log reward is not finite, or whose state is not, hold places and are never drawn.

        Args:
            batch: as of `extend`.
            origin: as of `extend`.
            where: which rows to remember, `[B]` bool; None for all. The places of the others stay as they are, and
                those that nothing was in yet hold no row that can be drawn.

        Returns:
            Positions of the rows, `[<= B]`.

        Raises:
            InputError: on a missing key or a wrong shape.

        Example:
            >>> replay = Replay(10)
            >>> log_reward = torch.tensor([0.0, -torch.inf, torch.nan])
            >>> _ = replay.write(TensorDict({"state": torch.ones(3, 1), "log_reward": log_reward}, batch_size=3))
            >>> len(replay), replay.filled, replay.probabilities
            (1, 3, tensor([1., 0., 0.], dtype=torch.float64))
        """
        rows = self._rows(batch)
        if where is not None and (where.dtype != torch.bool or where.shape != rows.batch_size):
            expected = f"bool {list(rows.batch_size)}, one for each row"
            raise InputError(f"where: expected {expected}, got {list(where.shape)} of {where.dtype}")
        return self._write(self._with_columns(rows, origin), where)

    def _with_columns(self, rows: TensorDict, origin: Origin) -> TensorDict:
        return rows.update(columns_of_rows(rows["state"], rows["log_reward"], rows["log_ratio"], origin))

    def _write(self, rows: TensorDict, where: Tensor | None = None) -> Tensor:
        rows = rows[-self.capacity :]
        n, storage = len(rows), self._buffer.storage
        index = (torch.arange(n, device=self.device) + self.cursor) % self.capacity
        if n and not storage.initialized:
            columns = {name: column.new_zeros(self.capacity, *column.shape[1:]) for name, column in rows.items()}
            self.move_to(TensorDict(columns, batch_size=[self.capacity], device=self.device))
        if n:
            if where is not None:
                where, there = where[-self.capacity :], self._buffer.storage._storage[index]
                rows = rows.where(where, there.select(*rows.keys()))
                nothing = ~where & (index >= self.filled)
                rows["log_reward"] = torch.where(nothing, -torch.inf, rows["log_reward"])
            write_rows(self._buffer.storage._storage, index, rows)
            self.note_written(n)
        return index

    def _rows(self, batch: TensorDictBase) -> TensorDict:
        """The rows of a batch, whose shapes are as they are to be."""
        for key in ("state", "log_reward"):
            if batch.get(key, None) is None:
                raise InputError(f"replay batch: expected the key {key!r}, got {sorted(map(str, batch.keys()))}")
        state: Tensor = batch["state"].detach().to(self.device)
        log_reward: Tensor = batch["log_reward"].detach().to(self.device)
        ndim, shape = (2, "[B, dim]") if self.contents == "terminal" else (3, "[B, T+1, dim]")
        if state.ndim != ndim:
            raise InputError(f"state: expected shape {shape} for contents={self.contents!r}, got {list(state.shape)}")
        if self.filled and state.shape[1:] != self._columns()["state"].shape[1:]:
            here = list(self._columns()["state"].shape[1:])
            raise InputError(f"state: expected rows of shape {here} as remembered, got {list(state.shape[1:])}")
        if batch.get("log_ratio", None) is None:
            log_ratio: Tensor = torch.full_like(log_reward, torch.nan)
        else:
            log_ratio = batch["log_ratio"].detach().to(self.device)
        for key, value in (("log_reward", log_reward), ("log_ratio", log_ratio)):
            if value.shape != state.shape[:1]:
                raise InputError(f"{key}: expected shape [{state.shape[0]}], got {list(value.shape)}")
        columns = {"state": state, "log_reward": log_reward, "log_ratio": log_ratio}
        if batch.get("context", None) is not None:
            columns["context"] = self._checked_context(batch["context"].detach().to(self.device), len(state))
        if self.filled and ("context" in columns) != (self._columns().get("context", None) is not None):
            expected = "none as remembered" if "context" in columns else "one for each row as remembered"
            raise InputError(f"context: expected {expected}, got {'one' if 'context' in columns else 'none'}")
        return TensorDict(columns, batch_size=state.shape[:1], device=self.device)

    def _checked_context(self, context: Tensor, rows: int) -> Tensor:
        if context.ndim != 2 or context.shape[0] != rows:
            raise InputError(f"context: expected shape [{rows}, c], got {list(context.shape)}")
        return context

    def update(self, index: Tensor, log_ratio: Tensor) -> None:
        """Write the newly evaluated D of some rows; their priorities follow with the next draw.

        Args:
            index: positions, as drawn, `[k]`. A row drawn twice gets the mean of its values.
            log_ratio: D of each, `[k]`, nats; a value that is not finite makes its row count as never evaluated.

        Raises:
            InputError: if the two shapes differ or the memory is empty.
        """
        if index.ndim != 1 or index.shape != log_ratio.shape:
            raise InputError(f"log_ratio: expected shape {list(index.shape)} as index, got {list(log_ratio.shape)}")
        if self.filled == 0:
            raise InputError("replay: expected remembered rows to update, got an empty memory")
        columns = self._columns()
        index = index.to(self.device)
        write_log_ratios(columns, index, log_ratio.to(self.device), index, self.filled)
        self._sampler.mark_update(index)

    # Draw ---------------------------------------------------------------------------------------------------------

    def draw(self, n: int, contexts: int | None = None) -> TensorDict:
        """`n` remembered rows, drawn by priority with replacement from torch's global generator.

        Args:
            n: number of rows, >= 1.
            contexts: draw rows of at most so many contexts, an equal number of each; the probability of a row is the
                same. By default every row is drawn by itself.

        Returns:
            Batch size `[n]`: `state` (`[n, dim]` or `[n, T+1, dim]`), `log_reward` `[n]`, `log_ratio` `[n]` (0 where
            never evaluated), `origin` `[n]`, `context` `[n, c]` where remembered, `index` `[n]` for `update`, and
            `weight` `[n]`, the importance correction with mean 1. Where no row can be drawn (`len`), rows with log
            reward −inf.

        Raises:
            InputError: if nothing is remembered yet, for a number that is not >= 1, or for contexts where none are
                remembered.
        """
        whole_number("n", n, least=1)
        if self.filled == 0:
            raise InputError("replay: expected at least one remembered row to draw from, got an empty memory")
        if contexts is None:
            drawn = self._buffer.sample(n)
            keys = ("state", "log_reward", "log_ratio", "origin", "index", "weight", "context")
            return drawn.select(*keys, strict=False)
        columns = self._columns()
        if columns.get("context", None) is None:
            raise InputError("contexts: expected remembered rows with a context, got rows without")
        seeds = self._buffer.sample(min(n, whole_number("contexts", contexts, least=1)))["index"]
        keys_of_rows = context_keys(columns["context"])
        index = draw_companions(seeds, keys_of_rows, self._sampler.probabilities(self._buffer.storage), n)
        rows = columns[index].select("state", "log_reward", "log_ratio", "origin", "context")
        return rows.update({"index": index, "weight": self._sampler.weights_of(index)})

    # Save and restore ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor | int]:
        """Everything a bit-exact continuation needs: a flat dict of tensors and whole numbers.

        The tensors hold the rows in use only; `cursor` is the position that is written next.
        """
        state: dict[str, Tensor | int] = {"capacity": self.capacity, "cursor": self.cursor}
        if self.filled:
            state |= {key: column.clone() for key, column in self._columns().items() if key in (*COLUMNS, "context")}
            state["priorities"] = self.priorities.clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Take over what `state_dict` gave; the same generator state then draws the same rows, bit for bit.

        Raises:
            InputError: if the capacity, the contents or the shape of the states differ, or a field is missing.
        """
        for key in ("capacity", "cursor"):
            if key not in state:
                raise InputError(f"{key}: missing from the saved replay")
        if int(state["capacity"]) != self.capacity:
            raise InputError(f"capacity: expected {self.capacity} as this replay has, got {int(state['capacity'])}")
        rows = None
        if "state" in state:
            rows = self._saved_rows(state)
        self._sampler._empty()
        self._buffer = self._new_buffer()
        if rows is not None:
            self._write(rows)
            self._sampler.load_state_dict({"priorities": state["priorities"].to(self.device), "stale": 0})  # type: ignore[union-attr]
        self._note(self.filled, int(state["cursor"]))

    def load_shard(self, states: Sequence[Mapping[str, Any]], number: int, of: int) -> None:
        """Take over one part of `of` of what several replays together remember: every `of`-th row by age.

        Rows beyond the capacity are forgotten, the oldest first, and the priorities made again. The parts of all
        numbers 0 … `of` − 1 hold every row once, as far as their capacities reach.

        Args:
            states: what `state_dict` gave in each replay.
            number: which part.
            of: number of parts.

        Raises:
            KeyError: if a field is missing.

        Example:
            >>> replays = [Replay(4), Replay(4)]
            >>> for i, replay in enumerate(replays):
            ...     state = torch.full((3, 1), 1.0 * i)
            ...     _ = replay.extend(TensorDict({"state": state, "log_reward": torch.zeros(3)}, batch_size=3))
            >>> both = Replay(8)
            >>> both.load_shard([replay.state_dict() for replay in replays], 0, of=1)
            >>> len(both), both.state_dict()["state"].flatten()
            (6, tensor([0., 1., 0., 1., 0., 1.]))
        """
        parts, ages = [], []
        for state in states:
            if "state" not in state:
                continue  # of a replay that had remembered nothing
            n = len(state["state"])
            oldest = int(state["cursor"]) if n == int(state["capacity"]) else 0
            keys = (*COLUMNS, "context") if "context" in state else COLUMNS
            columns = {key: state[key].to(self.device).roll(-oldest, 0) for key in keys}
            parts.append(TensorDict(columns, batch_size=[n], device=self.device))
            ages.append(torch.arange(n - 1, -1, -1, device=self.device))
        self._sampler._empty()
        self._buffer = self._new_buffer()
        if not parts:
            return
        by_age = torch.cat(ages).argsort(descending=True, stable=True)
        rows = TensorDict.cat(parts)[by_age[number::of]][-self.capacity :]
        self._write(rows)

    def _saved_rows(self, state: Mapping[str, Tensor | int]) -> TensorDict:
        columns: dict[str, Tensor] = {}
        for key in (*COLUMNS, "priorities"):
            value = state.get(key)
            if not isinstance(value, Tensor):
                raise InputError(f"{key}: missing from the saved replay")
            columns[key] = value.to(self.device)
        n = columns["state"].shape[0]
        context = state.get("context")
        ndim = 2 if self.contents == "terminal" else 3
        if columns["state"].ndim != ndim:
            raise InputError(
                f"state: expected {ndim} dimensions for contents={self.contents!r}, got {list(columns['state'].shape)}"
            )
        if self.filled and columns["state"].shape[1:] != self._columns()["state"].shape[1:]:
            here = list(self._columns()["state"].shape[1:])
            raise InputError(f"state: expected rows of shape {here}, got {list(columns['state'].shape[1:])}")
        for key, value in columns.items():
            if key != "state" and value.shape != (n,):
                raise InputError(f"{key}: expected shape [{n}], got {list(value.shape)}")
        if not 1 <= n <= self.capacity or not 0 <= int(state["cursor"]) < self.capacity:
            raise InputError(
                f"cursor: expected 0 to {self.capacity - 1} with at most {self.capacity} rows, got {n} rows"
            )
        del columns["priorities"]
        if isinstance(context, Tensor):
            columns["context"] = self._checked_context(context.to(self.device), n)
        return TensorDict(columns, batch_size=[n], device=self.device)
