"""Groups: what the trainers of one run do together. A lone one has nothing to do.

    Group()                     one trainer
    Trainers(Pace())            as many as torch.distributed has processes, all in step
    Trainers(Pace(4))           each its own updates, none more than 4 steps before the slowest

In step, the gradients of all are summed and each shard gets one update a step, so that a run is
the same for any number of trainers, to rounding. The dense weights are those of
DistributedDataParallel in either case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from memstore.errors import InvalidArgument
from memstore.kernels.group import group_equal
from memstore.memory import Array, Memory
from memstore.torch import Exchange, RowGradients


@dataclass(frozen=True)
class Pace:
    """How far trainers may be apart; raises `InvalidArgument`.

    staleness_steps: a step reads all that was learnt by others so many steps before, and perhaps
        what came since. prefetch: facts are proposed for the next batch while this one is learnt
        from, which takes one of these steps; trainers may be apart by the others.
    """

    staleness_steps: int = 0
    prefetch: bool = False

    def __post_init__(self) -> None:
        if self.apart_steps < 0:
            raise InvalidArgument(
                "prefetching reads what the step before has not changed yet",
                got=str(self),
                expected="staleness_steps ≥ 1, ≥ 0 without prefetching",
            )

    @property
    def apart_steps(self) -> int:
        """Steps by which a trainer may be before the slowest."""
        return self.staleness_steps - self.prefetch


class Group:
    """One trainer, which nobody waits for."""

    rank, size = 0, 1
    pace = Pace()
    exchange: Exchange | None = None
    """What a `RowOptimizer` does with its gradients first."""
    replaced = False
    """Whether others may take the place of its trainers, while one of these is still there."""

    def share(self, batch: int) -> slice:
        """Which questions of a batch are this trainer's."""
        if batch % self.size:
            raise InvalidArgument(
                "each trainer takes as many questions",
                got=f"a batch of {batch} for {self.size}",
                expected=f"a multiple of {self.size}",
            )
        own = batch // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the means over all trainers, where they meet."""
        return network

    def meets(self, step: int) -> bool:
        """Whether the dense weights are stepped in a step; else their gradients add up."""
        return True

    def alone(self, network: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """While it lasts, `parallel` networks do not meet."""
        return contextlib.nullcontext()

    def largest(self, number: int) -> int:
        """The largest that any trainer has, where they are in step."""
        return number

    def mean(self, *numbers: float) -> tuple[float, ...]:
        """The means over all trainers where they are in step: nobody passes before all came."""
        return numbers

    def first(self, number: int) -> int:
        """The number that the first trainer has."""
        return number

    def once(self, work: Callable[[], object]) -> None:
        """Has the first trainer do what is done once, while the others wait."""
        work()


class Trainers(Group):
    """The processes of `torch.distributed`, which is initialized."""

    replaced = True

    def __init__(self, pace: Pace = Pace()) -> None:
        self.rank, self.size, self.pace = dist.get_rank(), dist.get_world_size(), pace
        self._in_step = pace.apart_steps == 0
        self.exchange = self._summed if self._in_step else self._scaled

    def parallel(self, network: nn.Module) -> nn.Module:
        # Without weights of its own there is nothing to share but rows.
        learns = any(weight.requires_grad for weight in network.parameters())
        return DistributedDataParallel(network) if learns else network

    def meets(self, step: int) -> bool:
        # Who comes here first has sent `every` steps since the last time, which the others lack.
        every = max(1, self.pace.apart_steps)
        return (step + 1) % every == 0

    def alone(self, network: nn.Module) -> contextlib.AbstractContextManager[Any]:
        if isinstance(network, DistributedDataParallel):
            return network.no_sync()
        return contextlib.nullcontext()

    def largest(self, number: int) -> int:
        if not self._in_step:
            return number
        told = torch.tensor(number)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return int(told)

    def mean(self, *numbers: float) -> tuple[float, ...]:
        if not self._in_step:
            return numbers
        told = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(told)
        return tuple((told / self.size).tolist())

    def first(self, number: int) -> int:
        told = torch.tensor(number)
        dist.broadcast(told, 0)
        return int(told)

    def once(self, work: Callable[[], object]) -> None:
        dist.barrier()
        if self.rank == 0:
            work()
        dist.barrier()

    def _scaled(self, memory: Memory, grads: RowGradients) -> RowGradients:
        """What this trainer adds to the mean over all of them."""
        values = grads.values_BV
        return RowGradients(
            grads.slots_B,
            grads.keys_BD / self.size,
            None if values is None else values / self.size,
        )

    def _summed(self, memory: Memory, grads: RowGradients) -> RowGradients:
        """Sums over all trainers; each sends the sums for the shards that fall to it."""
        slots_B, rows_BW = _distinct(self._scaled(memory, grads))
        owner_B = slots_B % memory.config.shards % self.size
        order_B = np.argsort(owner_B, kind="stable")
        slots_B, rows_BW = slots_B[order_B], rows_BW[order_B]
        counts = torch.from_numpy(np.bincount(owner_B, minlength=self.size))
        coming = torch.empty_like(counts)
        dist.all_to_all_single(coming, counts)
        sizes = coming.tolist(), counts.tolist()
        slots = self._exchanged(slots_B, *sizes)
        rows = self._exchanged(rows_BW, *sizes)
        width = grads.keys_BD.shape[1]
        values = None if grads.values_BV is None else rows[:, width:]
        return RowGradients(slots, rows[:, :width], values)

    @staticmethod
    def _exchanged(rows_B: Array, coming: list[int], going: list[int]) -> Array:
        """Sends each trainer its rows, which stand in order of trainers; what came, likewise."""
        found = torch.empty((sum(coming), *rows_B.shape[1:]), dtype=torch.from_numpy(rows_B).dtype)
        dist.all_to_all_single(found, torch.from_numpy(rows_B), coming, going)
        exchanged: Array = found.numpy()
        return exchanged


def _distinct(grads: RowGradients) -> tuple[Array, Array]:
    """Each slot once, rising, with the sums of its gradients of keys and values side by side.

    Summed in the order of the slots given, as a memory does.
    """
    parts = [grads.keys_BD] if grads.values_BV is None else [grads.keys_BD, grads.values_BV]
    rows_BW = np.concatenate(parts, axis=1)
    if not len(grads.slots_B):
        return grads.slots_B, rows_BW
    groups = group_equal(grads.slots_B)
    order_B, starts_U = map(torch.from_numpy, (groups.order_B, groups.starts[:-1]))
    sums_UW = functional.embedding_bag(order_B, torch.from_numpy(rows_BW), starts_U, mode="sum")
    return groups.rows_U, sums_UW.numpy()
