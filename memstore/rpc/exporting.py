"""One export: the rows of a memory, or of some of its slots, batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from memstore import checks
from memstore.durable.checkpoints import base_of
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.errors import InvalidArgument, UnknownSlot
from memstore.memory import Array, Rows, Slots
from memstore.rpc import codec, columns
from memstore.rpc.v1 import memory_pb2 as pb

BATCH_BYTES = 2 << 20
"""About how much a batch holds."""

FIRST_ROWS, MOST_ROWS = 256, 1 << 16
"""Rows of the first batch, before it is known how long their records are; and of any."""


class Export:
    """Reads batch after batch; one thread at a time calls."""

    def __init__(
        self, memory: EmbeddedMemory | EncodedMemory, asked: pb.ExportRequest, most_bytes: int
    ) -> None:
        """most_bytes: that a batch may have.

        Raises `InvalidArgument` on an unknown column, `UnknownSlot` on a slot that is not there.
        """
        self._memory, self._base, self._most = memory, base_of(memory), most_bytes
        self._vectors = not asked.without_vectors
        names = memory.config.schema.names
        self._columns = [] if asked.without_records else [*asked.columns] or names
        memory.gather([], columns=self._columns)
        self._slots: Slots | None = None
        if asked.HasField("slots"):
            self._slots = checks.slots(codec.to_array("slots", asked.slots))
            self._base.check_known(self._slots)
        self.rows = 0
        """Of the last batch."""
        self._at, self._rows = 0, FIRST_ROWS
        self._end = self._base.next_slot if self._slots is None else len(self._slots)

    def next(self) -> bytes | None:
        """The next batch; None behind the last. An export has one at least, if an empty one."""
        while self._at < self._end or not self._at:
            slots_B = self._live(self._at, min(self._at + self._rows, self._end))
            if not len(slots_B) and self._at + self._rows < self._end:
                # Nobody is sent what is empty, and no thread looks for rows for long.
                self._at += self._rows
                self._rows = min(2 * self._rows, MOST_ROWS)
                continue
            data = self._batch(slots_B)
            if len(data) > self._most and self._rows > 1:
                self._rows = max(1, self._rows // 2)
                continue
            if len(data) > self._most:
                raise InvalidArgument(
                    "a row is longer than a message may be",
                    got=f"{len(data)} bytes in slot {slots_B[0]}",
                    expected=f"≤ {self._most}",
                    hint="leave columns out",
                )
            self.rows = len(slots_B)
            self._at = max(1, min(self._at + self._rows, self._end))
            fitting = int(self._rows * BATCH_BYTES / max(len(data), 1))
            self._rows = max(1, min(fitting, 4 * self._rows, MOST_ROWS))
            return data
        return None

    def end(self) -> None:
        """Nothing: it holds on to nothing."""

    def _live(self, first: int, last: int) -> Slots:
        if self._slots is None:
            slots_B: Slots = np.arange(first, last)
        else:
            slots_B = self._slots[first:last]
        return slots_B[self._base.alive(slots_B)]

    def _batch(self, slots_B: Slots) -> bytes:
        while True:
            try:
                rows = self._gathered(slots_B)
                return columns.to_batch(columns.exported(rows))
            except UnknownSlot:
                # Erased since it was looked at: then it is left out.
                alive_B: Array = self._base.alive(slots_B)
                slots_B = slots_B[alive_B]

    def _gathered(self, slots_B: Slots) -> Rows:
        given: dict[str, Any] = {"vectors": self._vectors, "columns": self._columns}
        return self._memory.gather(slots_B, **given)
