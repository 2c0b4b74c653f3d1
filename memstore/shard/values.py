"""Values of a record column, numbers or texts, that are sorted and then looked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memstore.kernels.texts import ranges
from memstore.memory import Slots


class Values(Protocol):
    """Values `[N]`."""

    def __init__(self, column: pa.Array) -> None: ...

    def __len__(self) -> int: ...

    def order(self) -> Slots:
        """The places of the values as they rise; equal ones stay in their order."""
        ...

    def take(self, places: Slots) -> Self: ...

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self: ...

    def ranges(self, asked: Self) -> tuple[Slots, Slots]:
        """Where among these, which rise, each that is asked begins, and where it ends."""
        ...


class Numbers:
    """Values of a column of int64."""

    def __init__(self, column: pa.Array) -> None:
        self._column_N = np.asarray(column.to_numpy(zero_copy_only=False), np.int64)

    def __len__(self) -> int:
        return len(self._column_N)

    def order(self) -> Slots:
        return np.argsort(self._column_N, kind="stable")

    def take(self, places: Slots) -> Numbers:
        return Numbers(pa.array(self._column_N[places]))

    @classmethod
    def joined(cls, parts: Sequence[Numbers]) -> Numbers:
        return cls(pa.array(np.concatenate([part._column_N for part in parts])))

    def ranges(self, asked: Numbers) -> tuple[Slots, Slots]:
        low_Q, high_Q = (
            np.searchsorted(self._column_N, asked._column_N, side) for side in ("left", "right")
        )
        return low_Q, high_Q


class Texts:
    """Values of a column of texts, in the order of their bytes, as Arrow lays them out."""

    def __init__(self, column: pa.Array) -> None:
        self._column = column.cast(pa.large_string())
        _, ends, data = self._column.buffers()
        first, count = self._column.offset, len(self._column)
        self._ends_N = np.frombuffer(ends or bytes(8), np.int64)[first : first + count + 1]
        self._bytes = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)

    def __len__(self) -> int:
        return len(self._column)

    def order(self) -> Slots:
        order: Slots = pc.array_sort_indices(self._column).to_numpy().astype(np.int64)
        return order

    def take(self, places: Slots) -> Texts:
        return Texts(self._column.take(pa.array(places)))

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        return cls(pa.concat_arrays([part._column for part in parts]))

    def ranges(self, asked: Texts) -> tuple[Slots, Slots]:
        order_Q = asked.order()
        rising = asked.take(order_Q)
        low_Q, high_Q = np.empty(len(order_Q), np.int64), np.empty(len(order_Q), np.int64)
        low_R, high_R = np.empty_like(low_Q), np.empty_like(high_Q)
        ranges(self._ends_N, self._bytes, rising._ends_N, rising._bytes, low_R, high_R)
        low_Q[order_Q], high_Q[order_Q] = low_R, high_R
        return low_Q, high_Q
