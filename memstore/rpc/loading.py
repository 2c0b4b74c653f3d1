"""One load: rows that come batch by batch, and are all there when it ends, or none.

    load = Load(store, memory, start, deadline)
    load.begin()
    load.put(data) …                     each may be called by another thread, one at a time
    reply = load.end(rows)               where any of them raises, load.give_up(error)

A request that comes again is not loaded again: its batches are only counted, and compared.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

from memstore.changing import LOADER
from memstore.deadline import Deadline
from memstore.durable.checkpoints import base_of
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.errors import InvalidArgument, Overloaded
from memstore.memory import NO_SLOT
from memstore.placement import check_made
from memstore.retries import Asked, Reply
from memstore.rpc import codec, columns
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.shard.requests import digesting
from memstore.store import Store

MOST_WAITS = 10
"""How often a batch waits in vain for rows to be sealed until the load is given up."""


class Load:
    """Appends the batches of one call, which nobody else may do meanwhile."""

    def __init__(
        self,
        store: Store,
        memory: EmbeddedMemory | EncodedMemory,
        start: pb.LoadRequest,
        deadline: Deadline,
    ) -> None:
        """deadline: of all of it, the wait for a checkpoint that is being made included."""
        self._memory, self._base = memory, base_of(memory)
        check_made(memory.name, start.made, self._base.made)
        self._schema = columns.schema_of(memory.config)
        self._step = codec.optional(start, "step")
        self._id = codec.request_id_of(start)
        self._digest = digesting(repr(self._step))
        self._loading = store.loading(memory.name, by=self, deadline_s=_left_s(deadline))
        self._rows, self._first, self._again = 0, NO_SLOT, False
        self._begun = False

    def begin(self) -> None:
        """Holds off all other mutations; raises as `Store.loading`."""
        self._loading.__enter__()
        self._begun = True
        if self._id is not None:
            windows = [shard.windows for shard in self._base.shards]
            self._again = any(each.has(self._id.client, self._id.number) for each in windows)
            if not self._again:
                self._base.known(self._asked())  # or it is too old

    def put(self, data: bytes, deadline: Deadline) -> int:
        """Appends a batch and returns how many rows it had; raises as `append`."""
        if self._id is not None:
            self._digest.update(len(data).to_bytes(8))
            self._digest.update(data)
        table = columns.from_batch(data, self._schema)
        if len(table) and not self._again:
            first = self._append(columns.parts_of(table, self._memory.config), deadline)
            self._first = first if self._first == NO_SLOT else self._first
        self._rows += len(table)
        return len(table)

    def _append(self, parts: columns.Parts, deadline: Deadline) -> int:
        LOADER.set(self)
        try:
            for waited in itertools.count(1):
                left_s = _left_s(deadline)
                try:
                    slots_B = self._memory.append(
                        *parts,
                        step=self._step,
                        deadline_s=left_s,
                    )
                    return int(slots_B[0])
                except Overloaded as error:
                    # What was loaded so far is worth waiting for.
                    if waited == MOST_WAITS or error.retry_after_s >= deadline.left_s:
                        raise
                    time.sleep(error.retry_after_s)
        finally:
            LOADER.set(None)
        raise AssertionError("it either returns or raises")

    def end(self, rows: int) -> pb.LoadReply:
        """Makes what was appended durable, and lets others go on.

        rows: how many there were to be; raises `InvalidArgument` where there were not, and what
        `Store.loading` raises where the disk does not take them.
        """
        if rows != self._rows:
            raise InvalidArgument(
                "not all of the load is there; nothing was loaded",
                got=f"{self._rows} rows",
                expected=f"{rows}, as its last message says",
            )
        self._note()
        self._begun = False
        self._loading.__exit__(None, None, None)
        last = self._first + self._rows - 1 if self._rows else NO_SLOT
        return pb.LoadReply(rows=self._rows, first=self._first, last=last)

    def give_up(self, error: BaseException) -> None:
        """Takes back what was appended, and lets others go on; after `end` it does nothing."""
        if self._begun:
            self._begun = False
            self._loading.__exit__(type(error), error, error.__traceback__)

    def _note(self) -> None:
        """Keeps the reply to the request, or finds the one that was kept."""
        asked = self._asked()
        if asked is None or not self._rows:
            return
        if self._again:
            self._first = self._base.known(asked).first(NO_SLOT)
            return
        count = self._rows
        self._base.note_answer(asked, Reply(count, asked=count, of=count, first=self._first))

    def _asked(self) -> Asked | None:
        return None if self._id is None else Asked(self._id, self._digest.digest())


def _left_s(deadline: Deadline) -> float | None:
    """As a verb takes it, which says itself where that is next to nothing."""
    return None if math.isinf(deadline.left_s) else max(deadline.left_s, 1e-9)


def checked_end(message: Any) -> int | None:
    """How many rows a load has, where this is its last message."""
    rows = codec.optional(message, "rows")
    if rows is not None and rows < 0:
        raise InvalidArgument("rows is out of range", got=rows, expected="≥ 0")
    return None if rows is None else int(rows)
