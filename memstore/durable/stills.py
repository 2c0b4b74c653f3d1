"""Stills: the rows of a memory as they were when a cut was made, read out of its files.

Nobody holds them in memory once more: keys and values are read block by block where they are asked
for; whether a row is there, and its generation, are kept, as is which record it has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from memstore import files, routing
from memstore.config import MemoryConfig
from memstore.dtypes import storage
from memstore.durable.checkpoints import Entry, config_of, shards_of
from memstore.memory import Array, Rows, Slots
from memstore.placement import Part
from memstore.shard import blocks, record_files, records

BLOCK = blocks.BLOCK_ROWS


class StillShard:
    """The rows of one shard, of its files, which stay as they are. Any thread may read."""

    def __init__(self, folder: Path, entry: Entry, config: MemoryConfig) -> None:
        """Raises `CorruptFile` where a file is not what it was."""
        self._folder, self._config = folder, config
        [name] = entry["rows"]
        files.check(folder / name, entry["rows"][name])
        self._directory = blocks.from_bytes((folder / name).read_bytes())
        self.rows = self._directory["keys"].rows
        self.alive_R = self._whole("alive").astype(bool)
        self.generations_R = self._whole("generation")
        self._line_R = np.full(self.rows, -1, np.int64)
        self._batches, self._starts = list[pa.RecordBatch](), [0]
        for _, rows_L, table in record_files.read(folder, entry["records"].get("files", {})):
            self._line_R[rows_L] = np.arange(len(rows_L)) + self._starts[-1]
            for batch in table.to_batches():
                self._batches.append(batch)
                self._starts.append(self._starts[-1] + batch.num_rows)

    def vectors(self, name: str, rows_B: Slots) -> Array:
        """Keys or values of some rows."""
        stored = self._directory[name]
        rows_BX = np.zeros((len(rows_B), *stored.shape[1:]), storage(self._config.dtype))
        block_B = rows_B // BLOCK
        for block in np.unique(block_B).tolist():
            at = np.flatnonzero(block_B == block)
            rows_BX[at] = self._block(stored, name, block)[rows_B[at] - block * BLOCK]
        return rows_BX

    def records(self, rows_B: Slots, columns: list[str]) -> pa.Table:
        """Record columns of some rows."""
        lines_B = self._line_R[rows_B]
        return records.take(self._batches, self._starts, lines_B, self._config.schema, columns)

    def _block(self, stored: blocks.Stored, name: str, block: int) -> Array:
        rows = min(BLOCK, stored.rows - block * BLOCK)
        shape = (rows, *stored.shape[1:])
        one = blocks.Stored(stored.dtype, shape, *(n_K[block : block + 1] for n_K in stored.blocks))
        read = np.zeros(shape, storage(self._config.dtype))
        blocks.read(self._folder, one, name, read)
        return read

    def _whole(self, name: str) -> Array:
        stored = self._directory[name]
        whole = np.zeros(stored.shape, stored.dtype)
        blocks.read(self._folder, stored, name, whole)
        return whole


class Still:
    """What a part has of a memory, as it was."""

    def __init__(self, folder: Path, entry: Entry, part: Part) -> None:
        """folder: of the memory.  entry: what the manifest of the cut has of it."""
        self.config, self.next_slot = config_of(entry), int(entry["next_slot"])
        self._shards = {
            number: StillShard(folder / f"shard-{number}", its, self.config)
            for number, its in shards_of(entry, part)
        }

    def gather(self, slots_B: Slots, *, vectors: bool, columns: list[str]) -> Rows:
        """Those of some slots that were there, in the order in which they are given.

        Raises `CorruptFile` where a file is not what it was.
        """
        shards = self.config.shards
        kept_B = np.zeros(len(slots_B), bool)
        generations_B = np.zeros(len(slots_B), np.int64)
        for number, shard in self._shards.items():
            at = np.flatnonzero(slots_B % shards == number)
            rows = slots_B[at] // shards
            there = rows < shard.rows
            at, rows = at[there], rows[there]
            kept_B[at], generations_B[at] = shard.alive_R[rows], shard.generations_R[rows]
        slots_B, generations_B = slots_B[kept_B], generations_B[kept_B]
        split = [(n, np.flatnonzero(slots_B % shards == n)) for n in self._shards]
        split = [(n, at) for n, at in split if len(at)]
        places = [at for _, at in split]

        def of(name: str, width: int | None) -> Array | None:
            if width is None or not vectors:
                return None
            parts = [self._shards[n].vectors(name, slots_B[at] // shards) for n, at in split]
            whole = np.empty((len(slots_B), width), storage(self.config.dtype))
            return routing.rejoined(places, parts, whole)

        records = None
        if columns:
            tables = [self._shards[n].records(slots_B[at] // shards, columns) for n, at in split]
            empty = self.config.schema.empty_table().select(columns)
            records = routing.rejoined_records(places, tables) if tables else empty
        return Rows(
            slots_B=slots_B,
            generations_B=generations_B,
            keys_BD=of("keys", self.config.dim),
            values_BV=of("values", self.config.value_dim),
            records=records,
        )
