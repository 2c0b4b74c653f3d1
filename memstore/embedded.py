"""EmbeddedMemory: the verbs in this process, checked at the boundary and handed to the shards."""

from __future__ import annotations

from pathlib import Path

from memstore.changes import Changes
from memstore.changing import ChangeableMemory
from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.errors import Unsupported
from memstore.memory import (
    Applied,
    Array,
    Numbers,
    Records,
    Refreshed,
    RequestId,
    Slots,
    SlotsLike,
)
from memstore.meter import metered
from memstore.placement import WHOLE, Part
from memstore.retries import Asked


@metered
class EmbeddedMemory(ChangeableMemory):
    """The embedded `Memory`: checks a call at the boundary, then hands each shard its part."""

    def __init__(
        self,
        name: str,
        config: MemoryConfig,
        next_slot: int = 0,
        folder: Path | None = None,
        part: Part = WHOLE,
    ) -> None:
        """folder: where the rows lie that `storage="mapped"` keeps out of memory.
        part: which of its shards are here."""
        super().__init__(name, config, next_slot, folder, part)
        self.changes = Changes(name, config)

    def append(
        self,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        change = self.changes.append(keys, values, records, step)
        asked, deadline = Asked.of(request_id, *change.content), Deadline(deadline_s)
        rows = change.rows["keys"], change.rows["values"], change.rows["records"]
        return self.put_new(change.facts["count"], *rows, change.facts["step"], asked, deadline)

    def write(
        self,
        slots: SlotsLike,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        change = self.changes.write(slots, keys, values, records, step)
        return self.do(change, Asked.of(request_id, *change.content), Deadline(deadline_s))

    def blend(
        self,
        slots: SlotsLike,
        weights: Numbers,
        erase: Array,
        add: Array,
        *,
        step: int | None = None,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        change = self.changes.blend(slots, weights, erase, add, step, generations)
        return self.do(change, Asked.of(request_id, *change.content), Deadline(deadline_s))

    def update(
        self,
        slots: SlotsLike,
        key_grads: Array | None = None,
        value_grads: Array | None = None,
        lr: float | None = None,
        *,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        change = self.changes.update(slots, key_grads, value_grads, lr, generations)
        return self.do(change, Asked.of(request_id, *change.content), Deadline(deadline_s))

    def touch(
        self,
        slots: SlotsLike,
        step: int,
        weights: Numbers | None = None,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        change = self.changes.touch(slots, step, weights)
        return self.do(change, Asked.of(request_id, *change.content), Deadline(deadline_s))

    def allocate(
        self,
        n: int,
        *,
        step: int | None = None,
        records: Records | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        change = self.changes.allocate(n, step, records)
        return self.hand_out(change, Asked.of(request_id, *change.content), Deadline(deadline_s))

    def erase(
        self,
        slots: SlotsLike,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        change = self.changes.erase(slots)
        return self.do(change, Asked.of(request_id, *change.content), Deadline(deadline_s))

    def reindex(self) -> None:
        self._check_open()
        for shard in self.shards:
            shard.reindex()

    def refresh(self, limit: int | None = None) -> Refreshed:
        raise Unsupported(
            f"memory {self._name!r} is not encoded", hint="only sums of parts can be refreshed"
        )
