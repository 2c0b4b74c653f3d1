"""SpreadEncodedMemory: an encoded memory over several servers, as who sums for all of them sees it.

Part rows are gathered from wherever they lie, each once, and summed here; sums and records go to
the servers of their slots. A refresh collects what drifted from all, and sums that anew.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

from memstore import checks
from memstore.batches import Pieces, worst
from memstore.changes import NOTHING, Change
from memstore.deadline import NO_DEADLINE, Deadline
from memstore.dtypes import storage
from memstore.encoded import WHOLE_SHARE
from memstore.errors import MemoryInUse, MemstoreError, UnknownSlot, Unreachable
from memstore.kernels.half import narrow
from memstore.memory import (
    MOST,
    Applied,
    Array,
    Description,
    Memory,
    Refreshed,
    RequestId,
    Rows,
    Slots,
    SlotsLike,
)
from memstore.retries import Asked
from memstore.spread.fan import all_of, insisted
from memstore.spread.held_encoded import PAGE, Begun, Drifted
from memstore.spread.memory import SpreadMemory
from memstore.sums import SummedMemory

SUM_BYTES = 1 << 22
"""Of new sums for one server at a time."""

TRIES = 3
"""Of a block of sums whose parts are erased while they are read."""

NOWHERE = -1
"""The epoch of a server that does not answer: what is put there would not be either."""


class EncodedPart(Protocol):
    """What a server has of an encoded memory, as `HeldEncodedMemory` says it."""

    def begin(self, first: bool) -> Begun: ...

    def drifted(self, column: str, after: int) -> Drifted: ...

    def renew(self) -> int: ...

    def used(self, column: str, rows_P: Slots) -> Slots: ...

    def naming(self, column: str, rows_P: Slots, after: int) -> tuple[Slots, Slots]: ...

    def put_again(
        self, slots_B: Slots, keys_BD: Array, named_BC: Slots, epoch: int, drifts: bool
    ) -> int: ...

    def note(self, column: str, rows_P: Slots, travel_P: Array, epoch: int) -> None: ...


class SpreadRows:
    """The rows of a memory on several servers, of which each is asked for once."""

    def __init__(self, memory: SpreadMemory) -> None:
        self.memory = memory
        self.name, self.config = memory.name, memory.config

    def gather(self, slots: SlotsLike) -> Rows:
        slots_B, back_B = np.unique(checks.slots(slots), return_inverse=True)
        rows = self.memory.gather(slots_B)
        assert rows.keys_BD is not None
        generations_B, keys_BD = rows.generations_B[back_B], rows.keys_BD[back_B]
        return replace(
            rows,
            slots_B=slots_B[back_B],
            generations_B=generations_B,
            keys_BD=keys_BD,
            values_BV=None,
        )

    def check_known(self, slots_B: Slots) -> None:
        """Raises `UnknownSlot` unless all are there."""
        self.memory.gather(np.unique(slots_B), vectors=False)

    def alive(self, slots_B: Slots) -> Array:
        """Which slots are there, bool `[B]`."""
        slots_U, back_B = np.unique(slots_B, return_inverse=True)
        return self.memory.alive(slots_U)[back_B]


class SpreadEncodedMemory(SummedMemory):
    """Sums for all servers. Of these one may refresh, and append where rows make room."""

    base: SpreadMemory
    _parts: Mapping[str, SpreadRows]
    next_slot = MOST

    def __init__(
        self,
        base: SpreadMemory,
        memories: Mapping[str, SpreadMemory],
        sides: Sequence[EncodedPart],
        leader: Memory | None = None,
    ) -> None:
        """sides: what each server of the base has.  leader: who refreshes; None does so here."""
        super().__init__(base, {name: SpreadRows(memory) for name, memory in memories.items()})
        self._sides, self._leader = sides, leader
        self._pieces, self._refreshing = Pieces(), threading.Lock()
        self._epochs: list[int] = []

    def describe(self) -> Description:
        return self.base.describe()

    def refresh(self, limit: int | None = None) -> Refreshed:
        if limit is not None:
            checks.positive("limit", limit)
        if self._leader is not None:
            return self._leader.refresh(limit)
        with self._refreshing:
            return self._refresh(limit)

    def _refresh(self, limit: int | None) -> Refreshed:
        drifted, epochs = self._drifted_now()
        drift = {column: of.drift_P for column, of in drifted.items()}
        before = max((float(drift_P.max(initial=0.0)) for drift_P in drift.values()), default=0.0)
        chosen = {column: of.slots_P for column, of in drifted.items()}
        if limit is not None:
            begun = self._pieces.going_on(chosen, drift, limit)
            chosen = begun or worst(chosen, drift, self._uses(chosen), limit)
        gone = {c: of.travel_P[np.isin(of.slots_P, chosen[c])] for c, of in drifted.items()}
        many = WHOLE_SHARE * max(self.base.describe().rows, 1)
        batch = self._pieces.next(chosen, gone, limit, self._naming, many)
        slots_B, named_BC = batch.found
        encoded = self._encode_again(slots_B, named_BC, epochs, batch.anew)
        if batch.rest is None:
            if batch.anew and self.config.index_config.kind not in ("none", "exact"):
                self.base.reindex()
            for column, rows_P in chosen.items():
                self._note(column, rows_P, batch.travel[column], epochs)
        self._pieces.done(chosen, batch)
        return Refreshed(
            encoded=encoded, drift_before=before, drift_after=self.describe().drift or 0.0
        )

    def _drifted_now(self) -> tuple[dict[str, Drifted], list[int]]:
        """What drifted, by key column, and the epochs in which it is summed anew.

        Travel is read before the epoch is renewed, and rows are after that: a step in between is
        summed and still counted. Where a server was started anew, steps may be lost that pieces
        were summed of, and that travel counts which was read before: all begins again.
        """
        while True:
            drifted = {column: self._drifted(column) for column in self._parts}
            epochs = self._each(lambda i, side: side.renew())
            known = epochs == [epoch + 1 for epoch in self._epochs]
            self._epochs = epochs
            if known:
                return drifted, epochs
            self._pieces = Pieces()

    def _put_new(
        self,
        records: pa.Table,
        step: int | None,
        request_id: RequestId | None,
        deadline_s: float | None,
    ) -> Slots:
        if self.config.capacity is not None and self._leader is not None:
            numbered: dict[str, Any] = {"request_id": request_id, "deadline_s": deadline_s}
            return self._leader.append(records=records, step=step, **numbered)
        rows = {"keys": None, "values": None, "records": records}
        facts = {"step": step, "count": len(records)}
        content = ("append", records, step)
        change = Change("append", NOTHING, rows, facts, content)
        return cast(Slots, self._summed(self.base.put_new, change, request_id, deadline_s))

    def _put_over(
        self,
        slots_B: Slots,
        records: pa.Table,
        step: int | None,
        request_id: RequestId | None,
        deadline_s: float | None,
    ) -> Applied:
        rows = {"keys": None, "values": None, "records": records}
        content = ("write", slots_B, records, step)
        change = Change("write", slots_B, rows, {"step": step}, content)
        return cast(Applied, self._summed(self.base.put_over, change, request_id, deadline_s))

    def _summed(
        self,
        put: Callable[[Change, Asked, Deadline, Sequence[int]], Any],
        change: Change,
        request_id: RequestId | None,
        deadline_s: float | None,
    ) -> Any:
        """Puts records under their sums: again where a refresh came in between."""
        asked, deadline = self.base.asked(change, request_id), Deadline(deadline_s)
        while True:
            epochs = self._begin()
            keys_BD = self._sums(change, asked, deadline)
            try:
                rows = {**change.rows, "keys": keys_BD}
                return put(replace(change, rows=rows), asked, deadline, epochs)
            except MemstoreError:
                with contextlib.suppress(MemstoreError):
                    if deadline.left_s and self._begin() != epochs:
                        continue
                raise

    def _sums(self, change: Change, asked: Asked, deadline: Deadline) -> Array:
        """The keys of a change, rounded to what is kept; of one that was done before, any."""
        records = change.rows["records"]
        assert isinstance(records, pa.Table)
        width, dtype = self.config.dim, storage(self.config.dtype)
        try:
            made_BD = self._checked_encoding(records)
        except UnknownSlot:
            # Whatever became of the parts since, it is told again.
            if not len(records) or self.base.done(asked, deadline) < len(records):
                raise
            return np.zeros((len(records), width), dtype)
        return checks.matrix("keys", made_BD, width=width, dtype=dtype, rows=len(records))

    def _begin(self) -> list[int]:
        """The epoch at each server, for sums whose rows are read from now on."""
        begun = self.base.fan([partial(side.begin, False) for side in self._sides])
        if isinstance(begun[0], Begun) and begun[0].empty:
            begun = all_of(self.base.fan([partial(side.begin, True) for side in self._sides]))
        for each in begun:
            if isinstance(each, MemstoreError) and not isinstance(each, Unreachable):
                raise each
        return [each.epoch if isinstance(each, Begun) else NOWHERE for each in begun]

    def _drifted(self, column: str) -> Drifted:
        """The part rows of a key column that drifted, rising, wherever they lie."""

        def of(_: int, side: EncodedPart) -> list[Drifted]:
            pages = [side.drifted(column, -1)]
            while len(pages[-1].slots_P) == PAGE:
                pages.append(side.drifted(column, int(pages[-1].slots_P[-1])))
            return pages

        pages = [page for pages in self._each(of) for page in pages]
        slots_P, drift_P, travel_P = (np.concatenate(arrays) for arrays in zip(*pages, strict=True))
        order = np.argsort(slots_P)
        return Drifted(slots_P[order], drift_P[order], travel_P[order])

    def _uses(self, rows: Mapping[str, Slots]) -> dict[str, Slots]:
        """Of how many slots each of some part rows is a part, by key column."""

        def of(column: str, rows_P: Slots) -> Slots:
            pages = [rows_P[start : start + PAGE] for start in range(0, len(rows_P), PAGE)]
            counts = [
                np.sum(self._each(lambda _, side: side.used(column, page)), axis=0)  # noqa: B023
                for page in pages
            ]
            return np.concatenate([NOTHING, *counts])

        return {column: of(column, rows_P) for column, rows_P in rows.items()}

    def _naming(self, chosen: Mapping[str, Slots]) -> tuple[Slots, Slots]:
        """The slots that any of the part rows is a part of, rising, and what each names."""
        slots = [NOTHING]
        named = [np.empty((0, len(self._parts)), np.int64)]
        for column, rows_P in chosen.items():
            for start in range(0, len(rows_P), PAGE):
                page = rows_P[start : start + PAGE]
                for found in self._each(partial(_all_naming, column, page)):
                    slots += [slots_B for slots_B, _ in found]
                    named += [named_BC for _, named_BC in found]
        slots_B, first_B = np.unique(np.concatenate(slots), return_index=True)
        return slots_B, np.concatenate(named)[first_B]

    def _encode_again(
        self, slots_B: Slots, named_BC: Slots, epochs: Sequence[int], drifts: bool
    ) -> int:
        row_bytes = self.config.dim * storage(self.config.dtype).itemsize
        block, encoded = max(1, SUM_BYTES // row_bytes) * len(self._sides), 0
        for start in range(0, len(slots_B), block):
            end = start + block
            made_BD, at = self._sums_of(named_BC[start:end])
            # A sum past the largest number of a narrow dtype is refused when it is appended;
            # parts that were trained that far since are no reason to refuse a refresh.
            keys_BD = narrow(made_BD, storage(self.config.dtype))
            slots, named = slots_B[start:end][at], named_BC[start:end][at]
            split = self.base.split(slots) if len(slots) else []
            calls = [
                partial(
                    self._sides[i].put_again, slots[on], keys_BD[on], named[on], epochs[i], drifts
                )
                for i, on in split
            ]
            encoded += sum(self._put_in(calls)) if calls else 0
        return encoded

    def _sums_of(self, named_BC: Slots) -> tuple[Array, Slots]:
        """The sums of part rows, of those places whose parts are all there, and these places."""
        for _ in range(TRIES):
            whole_B = np.ones(len(named_BC), bool)
            for named_B, part in zip(named_BC.T, self._parts.values(), strict=True):
                # A part erased under a fact leaves the fact as it was last encoded.
                whole_B &= part.alive(named_B)
            columns = [pa.array(named_B[whole_B]) for named_B in named_BC.T]
            with contextlib.suppress(UnknownSlot):
                records = pa.table(columns, names=list(self._parts))
                return self._encode(records), np.flatnonzero(whole_B)
        raise MemoryInUse(
            f"the parts of memory {self.name!r} are erased while they are summed anew",
            hint="refresh it again",
        )

    def _note(self, column: str, rows_P: Slots, travel_P: Array, epochs: Sequence[int]) -> None:
        """Tells the server of each part row that it was summed anew as of when it had gone so
        far."""
        calls = [
            partial(self._sides[i].note, column, rows_P[on], travel_P[on], epochs[i])
            for i, at in self._parts[column].memory.split(rows_P)
            for on in (at[start : start + PAGE] for start in range(0, len(at), PAGE))
        ]
        if calls:
            self._put_in(calls)

    def _put_in(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What calls that change several servers return, once none of them is held off."""
        return all_of(insisted(self.base.fan, calls, NO_DEADLINE))

    def _each(self, ask: Callable[[int, EncodedPart], Any]) -> list[Any]:
        """What each server says, all asked at once."""
        return all_of(self.base.fan([partial(ask, i, side) for i, side in enumerate(self._sides)]))


def _all_naming(column: str, rows_P: Slots, _: int, side: EncodedPart) -> list[tuple[Slots, Slots]]:
    """All pages of what a server has."""
    pages = [side.naming(column, rows_P, -1)]
    while len(pages[-1][0]) == PAGE:
        pages.append(side.naming(column, rows_P, int(pages[-1][0][-1])))
    return pages


class AskingMemory(SpreadMemory):
    """An encoded memory as clients see it: who sums is a server, what is read is asked of each."""

    def __init__(self, *args: Any, server: Memory, **given: Any) -> None:
        """server: does what takes sums, and refuses what encoded memories do not have."""
        super().__init__(*args, **given)
        self._server = server

    def append(self, *args: Any, **kwargs: Any) -> Slots:
        return self._server.append(*args, **kwargs)

    def write(self, *args: Any, **kwargs: Any) -> Applied:
        return self._server.write(*args, **kwargs)

    def blend(self, *args: Any, **kwargs: Any) -> Applied:
        return self._server.blend(*args, **kwargs)

    def update(self, *args: Any, **kwargs: Any) -> Applied:
        return self._server.update(*args, **kwargs)

    def allocate(self, *args: Any, **kwargs: Any) -> Slots:
        return self._server.allocate(*args, **kwargs)

    def refresh(self, limit: int | None = None) -> Refreshed:
        return self._server.refresh(limit)
