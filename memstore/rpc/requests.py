"""Requests: the verbs of a memory that a server has, each written once for every way there.

Arguments become messages here, and replies results. What can be checked without the rows is checked
before it is sent, by the same code as embedded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from memstore import checks
from memstore.config import MemoryConfig
from memstore.dtypes import counting, storage
from memstore.errors import InvalidArgument
from memstore.memory import (
    MOST,
    Applied,
    Array,
    Description,
    LookupResult,
    Numbers,
    Records,
    Refreshed,
    RequestId,
    Rows,
    SearchOptions,
    SearchResult,
    Slots,
    SlotsLike,
)
from memstore.rpc import codec, splice
from memstore.rpc.calls import LONG_DEADLINE_S, Request
from memstore.rpc.codec import AnyTensor
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import ADMIN_SERVICE, MEMORY_SERVICE

T = TypeVar("T")

FOUND_BYTES = 13
"""What a reply has of each slot that was found: it, its score, and what proposed it."""

REPEATED = 1 / 8
"""Of the slots of a gather: as many equal ones cost as much to send as to find and to place."""


class MemoryRequests:
    """The verbs of a memory, each of which gives its `Request`; they are told of in `Memory`."""

    def __init__(
        self,
        name: str,
        config: MemoryConfig,
        next_request: Callable[[], RequestId],
        made: int = 0,
    ) -> None:
        """next_request: numbers a mutation that was given no number.  made: the number under which
        the memory was made, for mutations to be of no other; 0 is any."""
        self.name, self.config, self.made = name, config, made
        self._next_request = next_request
        self._dtype = storage(config.dtype)

    def append(
        self,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Request[Slots]:
        message = splice.message(
            pb.AppendRequest,
            memory=self.name,
            keys=self._stored("keys", keys, self.config.dim),
            values=self._stored("values", values, self.config.value_dim),
            records=self._table(records),
            step=checks.step_number(step),
        )
        return self._change("append", message, _slots, request_id, deadline_s)

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
    ) -> Request[Applied]:
        message = splice.message(
            pb.WriteRequest,
            memory=self.name,
            slots=splice.tensor(checks.slots(slots, unique=True)),
            keys=self._stored("keys", keys, self.config.dim),
            values=self._stored("values", values, self.config.value_dim),
            records=self._table(records),
            step=checks.step_number(step),
        )
        return self._change("write", message, _applied, request_id, deadline_s)

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
    ) -> Request[Applied]:
        slots_B = checks.slots(slots)
        message = splice.message(
            pb.BlendRequest,
            memory=self.name,
            slots=splice.tensor(slots_B),
            weights=splice.tensor(
                checks.vector("weights", weights, dtype=counting(self._dtype), rows=len(slots_B))
            ),
            erase=self._counted("erase", erase, self.config.dim, len(slots_B)),
            add=self._counted("add", add, self.config.dim, len(slots_B)),
            step=checks.step_number(step),
            generations=_tenants(generations),
        )
        return self._change("blend", message, _applied, request_id, deadline_s)

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
    ) -> Request[Applied]:
        slots_B, config = checks.slots(slots), self.config
        message = splice.message(
            pb.UpdateRequest,
            memory=self.name,
            slots=splice.tensor(slots_B),
            key_grads=self._counted("key_grads", key_grads, config.dim, len(slots_B)),
            value_grads=self._counted("value_grads", value_grads, config.value_dim, len(slots_B)),
            lr=None if lr is None else checks.rate(lr),
            generations=_tenants(generations),
        )
        return self._change("update", message, _applied, request_id, deadline_s)

    def touch(
        self,
        slots: SlotsLike,
        step: int,
        weights: Numbers | None = None,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Request[Applied]:
        slots_B = checks.slots(slots)
        weights_B = None
        if weights is not None:
            rows = len(slots_B)
            weights_B = checks.vector("weights", weights, dtype="float64", rows=rows)
        message = pb.TouchRequest(
            memory=self.name,
            slots=codec.to_tensor(slots_B),
            step=checks.step_number(step),
            weights=None if weights_B is None else codec.to_tensor(weights_B),
        )
        return self._change("touch", message, _applied, request_id, deadline_s)

    def allocate(
        self,
        n: int,
        *,
        step: int | None = None,
        records: Records | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Request[Slots]:
        message = pb.AllocateRequest(
            memory=self.name,
            n=_int64("n", n),
            step=checks.step_number(step),
            records=self._table(records),
        )
        return self._change("allocate", message, _slots, request_id, deadline_s)

    def erase(
        self,
        slots: SlotsLike,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Request[Applied]:
        slots_B = checks.slots(slots, unique=True)
        message = pb.EraseRequest(memory=self.name, slots=codec.to_tensor(slots_B))
        return self._change("erase", message, _applied, request_id, deadline_s)

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> Request[SearchResult]:
        dtype = counting(self._dtype)
        queries_QD = checks.matrix("queries", queries, width=self.config.dim, dtype=dtype)
        message = splice.message(
            pb.SearchRequest,
            memory=self.name,
            queries=splice.tensor(queries_QD),
            k=_int64("k", k),
            options=codec.to_options(options),
        )
        size = len(queries_QD) * message.k * FOUND_BYTES
        return _read("search", message, codec.search_result_of, size)

    def gather(
        self,
        slots: SlotsLike,
        *,
        vectors: bool = True,
        columns: Sequence[str] = (),
        list_limit: int | None = None,
    ) -> Request[Rows]:
        slots_B = checks.slots(slots)
        asked_U, places_B = _asked_once(slots_B)
        message = splice.message(
            pb.GatherRequest,
            memory=self.name,
            slots=splice.tensor(asked_U),
            without_vectors=not vectors,
            columns=columns,
            list_limit=None if list_limit is None else _int64("list_limit", list_limit),
        )

        width = (self.config.dim + (self.config.value_dim or 0)) if vectors else 0
        row_bytes = asked_U.itemsize + width * self._dtype.itemsize
        decode = partial(codec.rows_of, slots_B, places_B)
        return _read("gather", message, decode, len(asked_U) * row_bytes)

    def lookup(
        self,
        column: str,
        values: Sequence[Any] | Array,
        limit: int,
        cursor: SlotsLike | None = None,
    ) -> Request[LookupResult]:
        if column not in self.config.lookup:
            raise InvalidArgument(
                "the column cannot be looked up",
                got=repr(column),
                expected=f"among {list(self.config.lookup)}",
            )
        kind = self.config.schema.field(column).type
        item = kind.value_type if pa.types.is_list(kind) else kind
        asked = checks.column("lookup values", values, item).to_pylist()
        message = pb.LookupRequest(
            memory=self.name, column=column, limit=checks.positive("limit", limit)
        )
        if pa.types.is_string(item):
            message.texts.values.extend(asked)
        else:
            message.integers.values.extend(asked)
        if cursor is not None:
            message.cursor.CopyFrom(codec.to_tensor(checks.cursor(cursor, len(asked))))
        return _read("lookup", message, codec.lookup_result_of)

    def reindex(self) -> Request[None]:
        message = pb.ReindexRequest(memory=self.name)
        return _whole("reindex", message, lambda _: None)

    def refresh(self, limit: int | None = None) -> Request[Refreshed]:
        message = pb.RefreshRequest(
            memory=self.name,
            limit=None if limit is None else checks.positive("limit", limit),
            made=self.made,
        )
        return _whole("refresh", message, refreshed)

    def describe(self) -> Request[Description]:
        message = pb.DescribeRequest(memory=self.name)
        return _read("describe", message, partial(codec.description_of, self.name))

    def _change(
        self,
        verb: str,
        message: Any,
        decode: Callable[[Any], T],
        request_id: RequestId | None,
        deadline_s: float | None,
    ) -> Request[T]:
        """A mutation under a number, so that it may be sent again."""
        message.request_id.CopyFrom(codec.to_request_id(request_id or self._next_request()))
        message.made = self.made
        return Request(MEMORY_SERVICE, verb, message, decode, deadline_s=deadline_s)

    def _stored(self, name: str, value: Array | None, width: int | None) -> AnyTensor | None:
        """Rows to keep, in the memory's dtype."""
        return None if value is None else _matrix(name, value, width, self._dtype)

    def _counted(
        self, name: str, value: Array | None, width: int | None, rows: int
    ) -> AnyTensor | None:
        """So many rows to count with."""
        return None if value is None else _matrix(name, value, width, counting(self._dtype), rows)

    def _table(self, records: Records | None) -> bytes | None:
        if records is None:
            return None
        table = checks.records(records, self.config.schema, None)
        return None if table is None else codec.to_stream(table)


def _read(verb: str, message: Any, decode: Callable[[Any], T], reply_bytes: int = 0) -> Request[T]:
    return Request(MEMORY_SERVICE, verb, message, decode, reply_bytes=reply_bytes)


def _whole(verb: str, message: Any, decode: Callable[[Any], T]) -> Request[T]:
    """Work on a whole memory, which has no number."""
    return Request(ADMIN_SERVICE, verb, message, decode, again=False, deadline_s=LONG_DEADLINE_S)


def _slots(reply: pb.SlotsReply) -> Slots:
    return codec.received("slots", reply.slots)


def _applied(reply: pb.AppliedReply) -> Applied:
    return Applied(applied=reply.applied, skipped=reply.skipped, delay_s=reply.delay_s)


def refreshed(reply: pb.RefreshReply) -> Refreshed:
    """What a refresh did, of a reply."""
    return Refreshed(
        encoded=reply.encoded, drift_before=reply.drift_before, drift_after=reply.drift_after
    )


def _asked_once(slots_B: Slots) -> tuple[Slots, Slots | None]:
    """The slots to ask for, and where among them each slot is, or None where all stand as given.

    Equal ones are asked for once where they are more than a few: to find where each of them goes,
    and to copy all rows there, takes longer than to send some twice.
    """
    sorted_B = np.sort(slots_B)
    repeated = len(sorted_B) - np.count_nonzero(np.diff(sorted_B)) - 1
    if repeated <= REPEATED * len(slots_B):
        return slots_B, None
    unique_U, places_B = np.unique(slots_B, return_inverse=True)
    return unique_U, places_B


def _matrix(
    name: str, value: Any, width: int | None, dtype: Any, rows: int | None = None
) -> AnyTensor:
    if width is None:
        # The memory has no such part: the verb says so, whatever was given.
        return splice.tensor(np.empty((0, 0), np.float32))
    return splice.tensor(checks.matrix(name, value, width=width, dtype=dtype, rows=rows))


def _tenants(generations: SlotsLike | None) -> AnyTensor | None:
    return None if generations is None else splice.tensor(checks.slots(generations))


def _int64(name: str, value: Any) -> int:
    """An integer that fits the message; whether it is in range the verb says."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        checks.positive(name, value)
    if not -MOST <= value <= MOST:
        raise InvalidArgument(f"{name} is out of range", got=repr(value), expected="64 bits")
    return int(value)
