r"""One training over several processes: each has its share of the trajectories, all have the same parameters.

    rows of rank r ─▶ log densities [B/N, T] ─ gather ─▶ the loss of all B rows ─ backward ─▶ gradient by own rows ─ sum

Every rank evaluates the networks on its own rows alone, and then the same scalar loss of the rows of all ranks, of
which only its own carry a gradient. The sum of these gradients over ranks is the gradient of that loss: whatever the
objective compares between rows (VarGrad's mean, a robust centre, the groups of a context, importance weights, log Z) is
taken over all of them, and no objective has to know. What travels is a few numbers per row and step, and the gradient.

`DistributedDataParallel` is not used: it hooks the parameters of a module's forward, and here the losses call the
networks through functional parameters, several times. One sum of all gradients, between backward and clipping, is exact
for any way the networks are called. After it all ranks hold the same gradient and the same loss, so that they clip,
update, or skip an update together, without a word.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy
import torch
import torch.distributed as distributed
from torch import Tensor

from ..envs.errors import InputError
from .config import TrainConfig

__all__ = ["ALONE", "Ranks"]

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # a search by the first rank may be long; a process that ends closes its connections


@dataclass(frozen=True)
class Ranks:
    """The processes of one training, as one of them sees them; all methods but `share_of` must be called by all.

    A process alone talks to nobody: every method then gives back what it was given.

    Attributes:
        rank: which one this is, from 0.
        size: how many there are.

    Example:
        >>> Ranks().main, Ranks(rank=1, size=2).main
        (True, False)
        >>> Ranks(rank=1, size=2).share_of(TrainConfig(batch_size=256)).batch_size
        128
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> "Ranks":
        """The processes that `torchrun` has started, connected: gloo between CPUs, NCCL between GPUs.

        A process with a GPU takes the one of its LOCAL_RANK. Without a launcher: alone.
        """
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() or int(os.environ["WORLD_SIZE"]) == 1:
            return ALONE
        if not distributed.is_initialized():
            gpus = torch.cuda.is_available() and distributed.is_nccl_available()
            if gpus:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
            distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def main(self) -> bool:
        """Whether this is the process that searches, writes files and speaks."""
        return self.rank == 0

    def share_of(self, config: TrainConfig, *, conditional: bool = False) -> TrainConfig:
        """Settings of one rank's share of a training: of its batch, its memory, and what a local search moves.

        Args:
            config: of the whole training.
            conditional: whether the target has contexts, which are then shared too.

        Raises:
            InputError: for what cannot be split evenly, and for one GPU named for all.
        """
        if self.size == 1:
            return config
        if ":" in config.device:
            raise InputError(
                f"device: expected cpu or cuda with {self.size} processes, each of which takes its own, "
                f"got {config.device!r}"
            )
        for name, needed in (("batch_size", True), ("contexts_per_batch", conditional)):
            if needed and getattr(config, name) % self.size:
                raise InputError(
                    f"{name}: expected a multiple of the {self.size} processes it is split over, "
                    f"got {getattr(config, name)}"
                )
        search = config.local_search
        return replace(
            config,
            batch_size=config.batch_size // self.size,
            contexts_per_batch=max(1, config.contexts_per_batch // self.size),
            replay=replace(config.replay, capacity=math.ceil(config.replay.capacity / self.size)),
            local_search=replace(
                search, states=math.ceil(search.states / self.size), anchors=math.ceil(search.anchors / self.size)
            ),
        )

    def seed(self, seed: int, iteration: int = 0) -> int:
        """Seed of this rank's own random stream from that of the training, from this iteration on."""
        sequence = numpy.random.SeedSequence(seed, spawn_key=(self.rank, iteration))
        return int(sequence.generate_state(1, numpy.uint64)[0] >> numpy.uint64(1))

    # Numbers and objects ------------------------------------------------------------------------------------------

    def totals(self, *numbers: int) -> list[int]:
        """Sums of whole numbers over ranks."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.int64)
        distributed.all_reduce(sums)
        return sums.tolist()

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first rank, for all; an InputError or OSError there is raised by all."""
        if self.size == 1:
            return make()
        made: list[Any] = [None, None]
        if self.main:
            try:
                made = [make(), None]
            except (InputError, OSError) as error:
                made = [None, error]
        distributed.broadcast_object_list(made, src=0)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def to_main(self, own: T) -> list[T]:
        """What each rank has, on the first rank and in their order; nothing on the others."""
        if self.size == 1:
            return [own]
        everything: list[Any] | None = [None] * self.size if self.main else None
        distributed.gather_object(own, everything, dst=0)
        return everything or []

    # Tensors ------------------------------------------------------------------------------------------------------

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first rank."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)

    def gather_rows(self, columns: Sequence[Tensor], *, even: bool = False) -> list[Tensor]:
        """Tensors `[n, ...]` with the rows of all ranks, in their order; only this rank's own carry their gradient.

        Args:
            columns: with the same number of rows, which may be another one on another rank.
            even: whether it is known to be the same on all ranks.
        """
        if self.size == 1:
            return list(columns)
        n = len(columns[0])
        sizes = [n] * self.size if even else self._everywhere(n)
        if max(sizes) == 0:
            return list(columns)
        # As bytes, so that numbers of any kind travel together.
        widths = [math.prod(column.shape[1:]) for column in columns]
        parts = [
            column.detach().reshape(n, width).contiguous().view(torch.uint8)
            for column, width in zip(columns, widths, strict=True)
        ]
        packed = torch.cat(parts, dim=1)
        packed = torch.cat([packed, packed.new_zeros(max(sizes) - n, packed.shape[1])])
        received = [torch.empty_like(packed) for _ in range(self.size)]
        distributed.all_gather(received, packed)
        bounds = [part.shape[1] for part in parts]
        split = [rows[:size].split(bounds, dim=1) for rows, size in zip(received, sizes, strict=True)]
        gathered = []
        for i, column in enumerate(columns):
            rows = [
                of_rank[i]
                .clone(memory_format=torch.contiguous_format)
                .view(column.dtype)
                .reshape(-1, *column.shape[1:])
                for of_rank in split
            ]
            rows[self.rank] = column
            gathered.append(torch.cat(rows))
        return gathered

    def _everywhere(self, number: int) -> list[int]:
        own = torch.tensor([number])
        numbers = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(numbers, own)
        return torch.cat(numbers).tolist()

    def counted_once(self, value: Tensor) -> Tensor:
        """A value that all ranks hold and put into the same loss: its gradient is counted once in their sum."""
        return value if self.size == 1 else value.detach() + (value - value.detach()) / self.size

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its sum over ranks; a parameter without one on all ranks stays without.

        Which ones have none the hosts tell each other, so that none waits for its device.
        """
        if self.size == 1:
            return
        counts = self.totals(*(int(p.grad is not None) for p in parameters))
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        distributed.all_reduce(flat)
        sums = flat.split([p.numel() for p in parameters])
        for p, total, count in zip(parameters, sums, counts, strict=True):
            p.grad = total.view_as(p) if count else None


ALONE = Ranks()
"""A training in one process."""
