"""Several replays drawn from and written to at once: one set of operations for all, and not one for each.

The rows of S replays live in one set of columns `[S, capacity, ...]`, of which each replay has its part: what is
written here is in the replays, and the other way round. A row is known by its *place*, s · capacity + its position in
replay s.
"""

from collections.abc import Sequence
from functools import partial

import torch
from tensordict import TensorDict
from torch import Tensor

from ..agents.origin import Origin
from ..envs.errors import InputError
from .priority_sampler import PrioritySampler, draw_table, priorities_of_rows
from .replay import Replay, columns_of_rows, write_log_ratios, write_rows

__all__ = ["ManyReplays"]


class ManyReplays:
    """Draws from and writes to several replays at once; each is as if it had been used by itself.

    Args:
        replays: of unconditional targets, with the same capacity, contents and device.

    Raises:
        InputError: where these differ.

    Example:
        >>> replays = [Replay(100), Replay(100)]
        >>> many = ManyReplays(replays)
        >>> many.write(torch.randn(2, 8, 1), torch.zeros(2, 8), torch.zeros(2, 8), [8, 8])
        >>> place, weight = many.draw([torch.rand(3).double(), torch.rand(5).double()])
        >>> [len(p) for p in place], many.columns["state"].flatten(0, 1)[place[1]].shape
        ([3, 5], torch.Size([5, 1]))
        >>> len(replays[1])
        8
    """

    def __init__(self, replays: Sequence[Replay]) -> None:
        self.replays = list(replays)
        first = self.replays[0]
        for name in ("capacity", "contents", "device"):
            values = [getattr(replay, name) for replay in self.replays]
            if any(value != values[0] for value in values):
                raise InputError(f"replay.{name}: expected the same in all, got {sorted(set(map(str, values)))}")
        self.capacity, self.device = first.capacity, first.device
        self._columns: TensorDict | None = None
        for replay in self.replays:
            if replay.filled and self._columns is None:
                saved = replay.state_dict()
                assert isinstance(saved["state"], Tensor) and isinstance(saved["log_reward"], Tensor)
                self._allocate(saved["state"], saved["log_reward"])

    @property
    def columns(self) -> TensorDict:
        """The rows of all, batch size `[S, capacity]`.

        Raises:
            InputError: before anything is remembered.
        """
        if self._columns is None:
            raise InputError("replay: expected at least one remembered row, got empty memories")
        return self._columns

    def _allocate(self, state: Tensor, log_reward: Tensor) -> None:
        """Make the columns for rows like these, `[n, ...]` and `[n]`, and move the replays there."""
        size = (len(self.replays), self.capacity)
        blank = log_reward.new_zeros(size)
        columns = {
            "state": state.new_zeros(*size, *state.shape[1:]),
            "log_reward": blank,
            "log_ratio": blank.clone(),
            "known": torch.zeros_like(blank, dtype=torch.bool),
            "origin": torch.zeros_like(blank, dtype=torch.int64),
        }
        self._columns = TensorDict(columns, batch_size=size, device=self.device)
        for replay, part in zip(self.replays, self._columns.unbind(0), strict=True):
            replay.move_to(part)

    def draw(self, uniform: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Rows drawn by priority, as `Replay.draw` does.

        Args:
            uniform: for each replay, one random number in [0, 1) for each row to draw, `[n]`, double precision.

        Returns:
            For each replay the places `[n]` of its rows, and their weights `[n]`.
        """
        alike: dict[tuple[object, ...], list[int]] = {}
        for s, (replay, numbers) in enumerate(zip(self.replays, uniform, strict=True)):
            if len(numbers):
                alike.setdefault((replay.filled, len(numbers), _rule(replay.sampler)), []).append(s)
        nothing = torch.zeros(0, dtype=torch.long, device=self.device)
        places = [nothing] * len(self.replays)
        weights = [torch.zeros(0, device=self.device)] * len(self.replays)
        for members in alike.values():
            # What is to be drawn from depends on all rows, whose number must be the same for all that go together.
            sampler, n = self.replays[members[0]].sampler, self.replays[members[0]].filled
            rows = self.columns[:, :n]
            every = len(members) == len(self.replays)
            chosen = self._on_device(members)
            rule = [rows[name] if every else rows[name][chosen] for name in ("log_reward", "log_ratio", "known")]
            priorities = torch.vmap(partial(priorities_of_rows, sampler.priority))(*rule)
            table = partial(draw_table, uniform_mixture=sampler.uniform_mixture, beta=sampler.beta)
            cumulative, weight = torch.vmap(table)(priorities, rule[0] > -torch.inf)
            numbers = torch.stack([uniform[s] for s in members]) * cumulative[:, -1:]
            index = torch.searchsorted(cumulative, numbers, right=True).clamp_(max=n - 1)
            first = self.capacity * chosen[:, None]
            for s, place, own in zip(
                members, (index + first).unbind(0), weight.gather(1, index).unbind(0), strict=True
            ):
                places[s], weights[s] = place, own
        return places, weights

    def update(self, place: Tensor, log_ratio: Tensor) -> None:
        """Write the newly evaluated D `[k]` of the rows at `place` `[k]`, as `Replay.update` does."""
        rows = max(replay.filled for replay in self.replays)  # repeated ones are looked up among the rows in use
        slot = place.div(self.capacity, rounding_mode="floor") * rows + place % self.capacity
        write_log_ratios(self.columns.flatten(0, 1), place, log_ratio, slot, len(self.replays) * rows)
        for replay in self.replays:
            replay.sampler.mark_update(0)

    def write(self, state: Tensor, log_reward: Tensor, log_ratio: Tensor, counts: Sequence[int]) -> None:
        """Remember the first `counts[s]` rows of each replay's `[n]`, as `Replay.write` does.

        Args:
            state: `[S, n, ...]`.
            log_reward, log_ratio: `[S, n]`, nats.
            counts: how many rows of each replay are any.
        """
        if self._columns is None:
            self._allocate(state[0], log_reward[0])
        n = state.shape[1]
        if n > self.capacity or any(count != n for count in counts):
            for s, count in enumerate(counts):
                rows = {
                    "state": state[s, :count],
                    "log_reward": log_reward[s, :count],
                    "log_ratio": log_ratio[s, :count],
                }
                self.replays[s].write(TensorDict(rows, batch_size=[count]))
            return
        columns = columns_of_rows(
            state.detach().flatten(0, 1), log_reward.detach().flatten(), log_ratio.detach().flatten(), Origin.REPLAY
        )
        cursors = self._on_device([replay.cursor for replay in self.replays])[:, None]
        position = (cursors + torch.arange(n, device=self.device)) % self.capacity
        first = self.capacity * torch.arange(len(self.replays), device=self.device)[:, None]
        write_rows(self.columns.flatten(0, 1), (position + first).flatten(), columns)
        for replay in self.replays:
            replay.note_written(n)

    def _on_device(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers).to(self.device, non_blocking=True)


def _rule(sampler: PrioritySampler) -> tuple[object, ...]:
    return sampler.priority, sampler.uniform_mixture, sampler.beta
