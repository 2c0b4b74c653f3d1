"""KeylessMemory: an encoded memory whose keys are not stored, but summed whenever they are read.

A row keeps which part rows it is a sum of. What is as old as the last encoding is the index alone,
and a refresh has that take rows as they are now.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from memstore import checks
from memstore.dtypes import storage
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.kernels.half import narrow, wide
from memstore.memory import Array, Slots


class KeylessMemory(EncodedMemory):
    """The memory of sums that are made when they are read, in this process."""

    def __init__(self, base: EmbeddedMemory, memories: Mapping[str, EmbeddedMemory]) -> None:
        super().__init__(base, memories)
        for shard in base.shards:
            shard.rows.sum_keys(self._sum)

    @property
    def _encodes(self) -> bool:
        return self.config.index_config.sealed

    def replayed(self, slots: Slots) -> None:
        """Nothing: there are no keys that could be of parts whose steps are lost."""

    def _encode_again(self, slots: Slots, *, drifts: bool) -> int:
        if drifts:
            return len(slots)
        encoded = 0
        for slots_B in self._live(slots):
            self.base.admit()
            self.base.index_again(slots_B)
            encoded += len(slots_B)
        return encoded

    def _kept(self, records: pa.Table) -> Array:
        """Which part rows each is a sum of; raises where the sum is no key."""
        keys_BD = super()._kept(records)
        dtype = storage(self.config.dtype)
        checks.matrix("keys", keys_BD, width=self.config.dim, dtype=dtype)
        return np.stack([records[column].to_numpy() for column in sorted(self._parts)], axis=1)

    def _sum(self, named_BP: Slots) -> Array:
        """The keys of rows, by what these keep: `[B, P]`, a key column each, by name."""
        places = {column: place for place, column in enumerate(sorted(self._parts))}
        keys_BD: Array | None = None
        for column, part in self._parts.items():
            rows_BD = wide(part.summands(np.ascontiguousarray(named_BP[:, places[column]])))
            keys_BD = rows_BD if keys_BD is None else keys_BD + rows_BD
        assert keys_BD is not None
        return narrow(keys_BD, storage(self.config.dtype))
