"""Mirror: the keys of a shard as tensors on a device, where exact search proposes rows.

The host's rows stay the truth. Rows that change are noted, and copied again before the next
search: whoever searches sees what was written before. A product there is a row's score but for a
bound, as in `memstore.index.exact`: proposed is what may be among the k best, and the host scores
it again, so that answers are the same to the bit wherever they were looked for.

Shapes: S queries, B rows of a block, W candidates.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from memstore.dtypes import BFLOAT16
from memstore.errors import DeviceUnavailable
from memstore.index.devices import MOST, WIDER, Room
from memstore.index.passing import Passing
from memstore.kernels.near import ROUNDING, bound
from memstore.memory import NO_SLOT, Array, Slots

BLOCK_QUERIES = 1_024
"""Queries multiplied at a time."""

PRODUCTS = 1 << 25
"""Products, or numbers of rows widened for them, that there are at a time."""

SCRATCH_BYTES = 8 * PRODUCTS
"""What a search takes beside the rows."""

COPIED = 1 << 23
"""Numbers copied at a time."""

SPARE = 4
"""A table that grows gets room for one row more in so many."""

TRUNCATED = 2.0**-10
"""What a number loses at most as TF32: ten binary digits are kept."""

PRECISIONS = {"highest": 0.0, "high": 2 * TRUNCATED, "medium": 2 * ROUNDING}
"""torch's setting for products of float32 → the share that rounding both factors may cost."""

logger = logging.getLogger(__name__)


class Table(Protocol):
    """The rows that there were at one moment, as they are now."""

    @property
    def keys_ND(self) -> Array: ...

    @property
    def alive_N(self) -> Array: ...

    def keys(self, rows_B: Slots) -> Array: ...


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Rows from `start` on: their keys `[R, D]` and which are there, bool `[R]`."""

    start: int
    keys_RD: Any
    alive_R: Any

    @property
    def end(self) -> int:
        return self.start + len(self.alive_R)


class Mirror:
    """The rows of one shard on a device, if they fit. One thread writes; any number propose."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._chunks: list[_Chunk] = []
        self._longest = 0.0
        self._closed = False
        # One search or copy at a time; and whoever notes a change waits for neither.
        self._using = threading.Lock()
        self._noting = threading.Lock()
        self._changed_N = np.zeros(0, np.bool_)
        self._changes = 0

    def changed(self, rows_B: Slots) -> None:
        """Notes rows that were written or erased, before readers are told that they were."""
        with self._noting:
            self._changed_N[rows_B[rows_B < len(self._changed_N)]] = True
            self._changes += 1

    def load(self, view: Callable[[], Table]) -> None:
        """Copies what is not there yet; raises `DeviceError`, and then the host searches on."""
        with self._using:
            self._closed = False
            self._open(view)

    def reopen(self) -> None:
        """Lets the next search try again to copy what did not fit."""
        self._closed = False

    def give_up(self) -> bool:
        """Gives the room back, until it is loaded or opened again; returns whether it had any."""
        with self._using:
            had = bool(self._chunks)
            self._close()
        return had

    def propose(
        self,
        queries_QD: Array,
        k: int,
        rows: int,
        view: Callable[[], Table],
        passing: Passing | None,
    ) -> tuple[Slots, Slots]:
        """A superset of the k best of each query among the first `rows` rows, int64 `[Q, C]`,
        `NO_SLOT` padded, and which queries are owed an answer by the host.

        view: gives the rows as they are when it is called.  passing: propose no other rows.
        """
        nothing = np.empty((len(queries_QD), 0), np.int64), np.arange(len(queries_QD))
        with self._using:
            if self._closed or k > MOST or not rows:
                return nothing
            try:
                self._open(view)
                with self._room.device.searching:
                    return self._propose(queries_QD, k, rows, passing)
            except (RuntimeError, DeviceUnavailable) as error:
                name = self._room.device.name
                logger.warning("%s has no answer, the host searches: %s", name, error)
                return nothing

    # Copying.

    def _open(self, view: Callable[[], Table]) -> None:
        try:
            if not self._chunks:
                self._room.device.check("exact")
            self._update(view)
        except (RuntimeError, DeviceUnavailable):
            self._close()
            raise

    def _close(self) -> None:
        had, self._closed = bool(self._chunks), True
        self._chunks, self._longest = [], 0.0
        with self._noting:
            self._changed_N = np.zeros(0, np.bool_)
        if had and self._room.device.place != "cpu":
            import torch

            # What torch keeps for itself faiss could not have.
            torch.cuda.empty_cache()

    def _update(self, view: Callable[[], Table]) -> None:
        # Noted first and read then: what changes in between is noted again.
        with self._noting:
            before, changes, self._changes = len(self._changed_N), self._changes, 0
            changed_R = np.flatnonzero(self._changed_N) if changes else np.empty(0, np.int64)
            self._changed_N[changed_R] = False
            table = view()
            size = len(table.alive_N)
            if size > before:
                self._changed_N = np.append(self._changed_N, np.zeros(size - before, np.bool_))
        held = self._chunks[-1].end if self._chunks else 0
        if size > held:
            self._chunks.append(self._chunk(held, size, table))
        step = max(1, COPIED // table.keys_ND.shape[1])
        for rows_R in (changed_R, np.arange(before, size)):
            for start in range(0, len(rows_R), step):
                self._put(rows_R[start : start + step], table)

    def _chunk(self, start: int, size: int, table: Table) -> _Chunk:
        import torch

        rows, width = max(size - start, start // SPARE), table.keys_ND.shape[1]
        needed = rows * (width * table.keys_ND.itemsize + 1)
        device, dtype = self._room.device, getattr(torch, table.keys_ND.dtype.name)

        def make() -> _Chunk:
            keys_RD = device.empty((rows, width), dtype)
            return _Chunk(start, keys_RD, device.empty((rows,), torch.bool).zero_())

        return self._room.fill(needed if start else needed + SCRATCH_BYTES, make)

    def _put(self, rows_B: Slots, table: Table) -> None:
        """Copies rows, rising, to where they stand."""
        import torch

        place = self._room.device.place
        keys_BD = _tensor(table.keys(rows_B)).to(place)
        alive_B = torch.from_numpy(table.alive_N[rows_B]).to(place)
        lengths_B = torch.linalg.vector_norm(keys_BD, dim=1, dtype=torch.float64)
        self._longest = max(self._longest, 1.001 * float(lengths_B.max()))
        for chunk in self._chunks:
            first, last = np.searchsorted(rows_B, [chunk.start, chunk.end]).tolist()
            if first < last:
                at = torch.from_numpy(rows_B[first:last] - chunk.start).to(place)
                chunk.keys_RD.index_copy_(0, at, keys_BD[first:last])
                chunk.alive_R.index_copy_(0, at, alive_B[first:last])

    # Searching.

    def _propose(
        self, queries_QD: Array, k: int, rows: int, passing: Passing | None
    ) -> tuple[Slots, Slots]:
        import torch

        allowed_N: Any = None
        if passing is not None:
            bits_N = np.unpackbits(passing.bits, count=rows, bitorder="little").view(np.bool_)
            allowed_N = torch.from_numpy(bits_N).to(self._room.device.place)
        slack_Q = bound(queries_QD, self._longest, _lost(queries_QD.dtype))
        # To a query of zeros all rows are equal: the host knows which.
        owed_Q = np.flatnonzero(queries_QD.any(axis=1))
        parts: list[tuple[Slots, Slots]] = []
        most, width = min(MOST, rows), min(k + max(22, k // 4), MOST, rows)
        while True:
            short: list[Slots] = []
            for start in range(0, len(owed_Q), BLOCK_QUERIES):
                some_S = owed_Q[start : start + BLOCK_QUERIES]
                near_SD, slack_S = queries_QD[some_S], slack_Q[some_S]
                rows_SW, all_S = self._nearest(near_SD, slack_S, k, width, rows, allowed_N)
                parts.append((some_S[all_S], rows_SW[all_S]))
                short.append(some_S[~all_S])
            owed_Q = np.concatenate([owed_Q[:0], *short])
            if not len(owed_Q) or width == most:
                break
            width = min(WIDER * width, most)
        widest = max((part.shape[1] for _, part in parts), default=0)
        found_QC = np.full((len(queries_QD), widest), NO_SLOT, np.int64)
        for some_S, part in parts:
            found_QC[some_S, : part.shape[1]] = part
        return found_QC, np.union1d(owed_Q, np.flatnonzero(~queries_QD.any(axis=1)))

    def _nearest(
        self, queries_SD: Array, slack_S: Array, k: int, width: int, rows: int, allowed_N: Any
    ) -> tuple[Slots, Array]:
        """Those of the `width` rows of highest product that may be among the k best, `NO_SLOT`
        for others, and whether all that may be are among them."""
        import torch

        place = self._room.device.place
        queries = torch.from_numpy(np.ascontiguousarray(queries_SD)).to(place)
        best_SW = torch.full((len(queries), width), -torch.inf, dtype=queries.dtype, device=place)
        rows_SW = torch.full((len(queries), width), NO_SLOT, device=place)
        step = max(1, PRODUCTS // max(queries.shape))
        for chunk in self._chunks:
            for first in range(chunk.start, min(chunk.end, rows), step):
                last = min(first + step, chunk.end, rows)
                block = slice(first - chunk.start, last - chunk.start)
                near_SB = queries @ chunk.keys_RD[block].to(queries.dtype).T
                allowed_B = chunk.alive_R[block] if allowed_N is None else allowed_N[first:last]
                near_SB.masked_fill_(~allowed_B, -torch.inf)
                top = torch.topk(near_SB, min(width, last - first), dim=1, sorted=False)
                rows_SW = torch.cat([rows_SW, top.indices + first], dim=1)
                top = torch.topk(torch.cat([best_SW, top.values], dim=1), width, dim=1)
                best_SW, rows_SW = top.values, rows_SW.gather(1, top.indices)
        slack = torch.from_numpy(slack_S).to(place)
        floor_S = best_SW[:, min(k, width) - 1] - 2 * slack
        last_S = best_SW[:, -1]
        rows_SW[(best_SW < floor_S[:, None]) | best_SW.isneginf()] = NO_SLOT
        all_S = (last_S < floor_S) | last_S.isneginf() | (width == rows)
        return rows_SW.cpu().numpy(), all_S.cpu().numpy()


def _lost(dtype: np.dtype[Any]) -> float:
    """The share that torch's products may cost, by how it is set to multiply now."""
    import torch

    if dtype == np.float64:
        return 0.0
    try:
        return PRECISIONS[torch.get_float32_matmul_precision()]
    except RuntimeError:  # set through its newer switches, which do not say it in one word
        return max(PRECISIONS.values())


def _tensor(rows_BD: Array) -> Any:
    import torch

    if rows_BD.dtype == BFLOAT16:
        return torch.from_numpy(rows_BD.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows_BD)
