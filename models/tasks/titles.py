"""What entities are called, on disk: names and aliases by slot, memory-mapped.

Files of a folder: `titles.arrow` (`alias`, `entity`: int64 slot, `first`: whether it is the name
and no alias), and `rows.npy`, int64 [N], of each entity the row of its name, −1 where it has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from memstore.files import array_at
from memstore.memory import Slots
from models.tasks.knowledge import ALIAS_SCHEMA, Int64s, TaskDataError

SCHEMA = ALIAS_SCHEMA.append(pa.field("first", pa.bool_()))

TEXTS, ROWS = "titles.arrow", "rows.npy"


class Titles:
    """The names of a folder; what is looked at of them is read, and nothing else."""

    def __init__(self, folder: Path) -> None:
        """Raises `TaskDataError` where they are not there, or not whole."""
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(folder / TEXTS))).read_all()
            self._rows: Int64s = array_at(folder / ROWS)
        except (OSError, ValueError) as error:
            raise TaskDataError(
                f"{folder}: {error}", "names of entities", "delete the run, fit anew"
            ) from error

    @classmethod
    def keep(cls, folder: Path, batches: Iterable[pa.RecordBatch], entities: int) -> Titles:
        """Writes names of so many entities; of several of one the first is its name.

        batches: of `SCHEMA`, of which one at a time is held.
        """
        folder.mkdir(parents=True, exist_ok=True)
        rows_N = np.full(entities, -1, np.int64)
        begun = 0
        with pa.OSFile(str(folder / TEXTS), "wb") as file, pa.ipc.new_file(file, SCHEMA) as out:
            for batch in batches:
                out.write_batch(batch)
                entity_B = batch["entity"].to_numpy()
                at_B = np.flatnonzero(batch["first"].to_numpy(zero_copy_only=False))[::-1]
                at_B = at_B[rows_N[entity_B[at_B]] < 0]
                rows_N[entity_B[at_B]] = begun + at_B
                begun += len(batch)
        np.save(folder / ROWS, rows_N, allow_pickle=False)
        return cls(folder)

    def of(self, slots_B: Slots, otherwise: list[str]) -> list[str]:
        """The names of entities.  otherwise: what those are called that have none."""
        rows_B = self._rows[slots_B].tolist()
        texts = self._table["alias"]
        return [
            other if row < 0 else texts[row].as_py()
            for row, other in zip(rows_B, otherwise, strict=True)
        ]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All names and aliases, as `AliasIndex.streamed` takes them."""
        yield from self._table.to_batches()
