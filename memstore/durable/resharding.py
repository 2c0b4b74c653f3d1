"""Resharding: the same memories, cut into other numbers of shards.

Slots stay what they are, and so does all that belongs to one: its row, optimizer state, usage,
generation and record. Indices are built anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from memstore.contents import encoded
from memstore.durable.joining import given_out, own_travels
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.index import saving
from memstore.memory import Array
from memstore.placement import FIRST_TURN, WHOLE, Part
from memstore.retries import settled
from memstore.shard.shard import Shard
from memstore.shard.usage import NEVER
from memstore.store import Store

AT_A_TIME = 65_536
"""Rows that are copied together."""


def reshard(source: Path, target: Path, counts: Mapping[str, int], part: Part = WHOLE) -> None:
    """Makes a store at `target` of that at `source`, which stays.

    counts: the number of shards of each memory.  part: makes that part of several alone. Both are
    in memory at once.
    """
    with Store(source, read_only=True) as before, Store(target, part=part) as after:
        made: dict[str, EmbeddedMemory | EncodedMemory] = {}
        plain: dict[str, EmbeddedMemory] = {}
        facts: dict[str, EncodedMemory] = {}
        for name in before.list():
            memory = before.memory(name)
            if not part.shards(counts[name]):
                continue
            if isinstance(memory, EncodedMemory):
                facts[name] = memory
            elif isinstance(memory, EmbeddedMemory):
                made[name] = plain[name] = _empty(memory, counts[name], after)
                _fill(memory, plain[name], after)
        for name, memory in facts.items():
            base = _empty(memory.base, counts[name], after)
            # Before it is filled: keys that are not stored are summed by it.
            made[name] = again = encoded(base, plain)
            _fill(memory.base, base, after)
            columns = memory.config.encoding_config.key
            travels = {
                column: own_travels(travel_P, counts[columns[column]], part)
                for column, travel_P in memory.encoded_at.items()
            }
            again.loaded(travels, memory.refreshed)
        after.adopt(made, made=FIRST_TURN)


def _empty(before: EmbeddedMemory, count: int, store: Store) -> EmbeddedMemory:
    """A memory in so many shards, or what a store has of it, without rows."""
    config = dataclasses.replace(before.config, shards=count)
    return store.empty(before.name, config, before.next_slot, store.path)


def _fill(before: EmbeddedMemory, after: EmbeddedMemory, store: Store) -> None:
    """Fills it with the rows of what it is made of."""
    windows = settled([shard.windows for shard in before.shards], after.config.shards)
    if store.part != WHOLE:
        windows[0] = given_out(windows[0], windows)
    for shard in after.shards:
        _rows(before, shard)
        _records(before, shard)
        shard.windows = windows[shard.number]
        live_R = shard.rows.live_rows()
        saving.load(shard.index, store.path, {}, shard.index.version.number, live_R)
        if after.config.index_config.sealed and len(live_R):
            shard.reindex()


def _rows(before: EmbeddedMemory, shard: Shard) -> None:
    """Fills the rows of a shard with those of the slots that are its own from now on."""
    count, shards = before.config.shards, shard.config.shards
    arrays = [source.rows.arrays() for source in before.shards]
    last = max((s.rows.size - 1) * count + s.number for s in before.shards)
    slots_R = np.arange(shard.number, last + 1, shards)
    home_R, row_R = slots_R % count, slots_R // count
    kinds = {
        name: (array.dtype, (len(slots_R), *array.shape[1:]))
        for part in arrays
        for name, array in part.items()
    }

    def read(name: str, out: Array, told: Callable[[int, int], None]) -> None:
        if name == "priority":
            out[:] = NEVER
        for source, part in zip(before.shards, arrays, strict=True):
            if name in part:
                at_R = np.flatnonzero((home_R == source.number) & (row_R < source.rows.size))
                for first in range(0, len(at_R), AT_A_TIME):
                    some_R = at_R[first : first + AT_A_TIME]
                    source.rows.want(row_R[some_R], name)
                    out[some_R] = part[name][row_R[some_R]]
                    told(int(some_R[0]), int(some_R[-1]) + 1)

    shard.rows.restore(kinds, read, max(source.rows.version for source in before.shards))


def _records(before: EmbeddedMemory, shard: Shard) -> None:
    """Gives a shard the records of its rows."""
    count, shards = before.config.shards, shard.config.shards
    for source in before.shards if before.config.records else ():
        rows = source.rows.live_rows()
        slots = rows * count + source.number
        here = slots % shards == shard.number
        if here.any():
            shard.records.put(slots[here] // shards, source.records.save(rows[here]))
