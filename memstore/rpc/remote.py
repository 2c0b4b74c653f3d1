"""RemoteMemory: the verbs of a memory that a server has, as `Memory` says them.

Arguments become messages here, and replies results; `Calls` has the way to the server. What can be
checked without the rows is checked before it is sent, by the same code as embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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
from memstore.rpc import codec
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import ADMIN_SERVICE, MEMORY_SERVICE


class Calls(Protocol):
    """The way to a server."""

    def call(
        self, service: str, verb: str, message: Any, *, deadline_s: float | None, again: bool
    ) -> Any:
        """Sends a message and returns the reply; raises a `MemstoreError`.

        deadline_s: until then, or None for the way's own.  again: it may be sent more than once.
        """

    def next_request(self) -> RequestId:
        """A number that no mutation has had, for one that names none."""


class RemoteMemory:
    """A `Memory` that a server has."""

    def __init__(self, calls: Calls, name: str, config: MemoryConfig) -> None:
        self._calls = calls
        self._name = name
        self._config = config
        self._dtype = storage(config.dtype)

    @property
    def name(self) -> str:
        return self._name

    @property
    def config(self) -> MemoryConfig:
        return self._config

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
        message = pb.AppendRequest(
            memory=self._name,
            keys=self._stored("keys", keys, self._config.dim),
            values=self._stored("values", values, self._config.value_dim),
            records=self._table(records),
            step=checks.step_number(step),
        )
        reply = self._change("append", message, request_id, deadline_s)
        return codec.received("slots", reply.slots)

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
        message = pb.WriteRequest(
            memory=self._name,
            slots=codec.to_tensor(checks.slots(slots, unique=True)),
            keys=self._stored("keys", keys, self._config.dim),
            values=self._stored("values", values, self._config.value_dim),
            records=self._table(records),
            step=checks.step_number(step),
        )
        return _applied(self._change("write", message, request_id, deadline_s))

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
        slots_B = checks.slots(slots)
        message = pb.BlendRequest(
            memory=self._name,
            slots=codec.to_tensor(slots_B),
            weights=codec.to_tensor(
                checks.vector("weights", weights, dtype=counting(self._dtype), rows=len(slots_B))
            ),
            erase=self._counted("erase", erase, self._config.dim, len(slots_B)),
            add=self._counted("add", add, self._config.dim, len(slots_B)),
            step=checks.step_number(step),
            generations=_tenants(generations),
        )
        return _applied(self._change("blend", message, request_id, deadline_s))

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
        slots_B, config = checks.slots(slots), self._config
        message = pb.UpdateRequest(
            memory=self._name,
            slots=codec.to_tensor(slots_B),
            key_grads=self._counted("key_grads", key_grads, config.dim, len(slots_B)),
            value_grads=self._counted("value_grads", value_grads, config.value_dim, len(slots_B)),
            lr=None if lr is None else checks.rate(lr),
            generations=_tenants(generations),
        )
        return _applied(self._change("update", message, request_id, deadline_s))

    def touch(
        self,
        slots: SlotsLike,
        step: int,
        weights: Numbers | None = None,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        slots_B = checks.slots(slots)
        weights_B = None
        if weights is not None:
            rows = len(slots_B)
            weights_B = checks.vector("weights", weights, dtype="float64", rows=rows)
        message = pb.TouchRequest(
            memory=self._name,
            slots=codec.to_tensor(slots_B),
            step=checks.step_number(step),
            weights=None if weights_B is None else codec.to_tensor(weights_B),
        )
        return _applied(self._change("touch", message, request_id, deadline_s))

    def allocate(
        self,
        n: int,
        *,
        step: int | None = None,
        records: Records | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        message = pb.AllocateRequest(
            memory=self._name,
            n=_int64("n", n),
            step=checks.step_number(step),
            records=self._table(records),
        )
        reply = self._change("allocate", message, request_id, deadline_s)
        return codec.received("slots", reply.slots)

    def erase(
        self,
        slots: SlotsLike,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        slots_B = checks.slots(slots, unique=True)
        message = pb.EraseRequest(memory=self._name, slots=codec.to_tensor(slots_B))
        return _applied(self._change("erase", message, request_id, deadline_s))

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> SearchResult:
        message = self._search_message(queries, k, options)
        return codec.search_result_of(self._read("search", message))

    def gather(
        self,
        slots: SlotsLike,
        *,
        vectors: bool = True,
        columns: Sequence[str] = (),
        list_limit: int | None = None,
    ) -> Rows:
        slots_B = checks.slots(slots)
        # Equal slots are read once, and sent once.
        unique_U, places_B = np.unique(slots_B, return_inverse=True)
        message = pb.GatherRequest(
            memory=self._name,
            slots=codec.to_tensor(unique_U),
            without_vectors=not vectors,
            columns=columns,
            list_limit=None if list_limit is None else _int64("list_limit", list_limit),
        )
        rows = codec.rows_of(unique_U, self._read("gather", message))
        if np.array_equal(unique_U, slots_B):
            return rows
        return Rows(
            slots_B=slots_B,
            generations_B=rows.generations_B[places_B],
            keys_BD=None if rows.keys_BD is None else rows.keys_BD[places_B],
            values_BV=None if rows.values_BV is None else rows.values_BV[places_B],
            records=None if rows.records is None else rows.records.take(pa.array(places_B)),
        )

    def lookup(
        self,
        column: str,
        values: Sequence[Any] | Array,
        limit: int,
        cursor: SlotsLike | None = None,
    ) -> LookupResult:
        if column not in self._config.lookup:
            raise InvalidArgument(
                "the column cannot be looked up",
                got=repr(column),
                expected=f"among {list(self._config.lookup)}",
            )
        kind = self._config.schema.field(column).type
        item = kind.value_type if pa.types.is_list(kind) else kind
        asked = checks.column("lookup values", values, item).to_pylist()
        message = pb.LookupRequest(
            memory=self._name, column=column, limit=checks.positive("limit", limit)
        )
        if pa.types.is_string(item):
            message.texts.values.extend(asked)
        else:
            message.integers.values.extend(asked)
        if cursor is not None:
            message.cursor.CopyFrom(codec.to_tensor(checks.cursor(cursor, len(asked))))
        return codec.lookup_result_of(self._read("lookup", message))

    def reindex(self) -> None:
        message = pb.ReindexRequest(memory=self._name)
        self._calls.call(ADMIN_SERVICE, "reindex", message, deadline_s=None, again=False)

    def refresh(self, limit: int | None = None) -> Refreshed:
        message = pb.RefreshRequest(
            memory=self._name, limit=None if limit is None else checks.positive("limit", limit)
        )
        done = self._calls.call(ADMIN_SERVICE, "refresh", message, deadline_s=None, again=False)
        return Refreshed(
            encoded=done.encoded, drift_before=done.drift_before, drift_after=done.drift_after
        )

    def describe(self) -> Description:
        message = pb.DescribeRequest(memory=self._name)
        return codec.description_of(self._name, self._read("describe", message))

    def _search_message(self, queries: Array, k: int, options: SearchOptions) -> pb.SearchRequest:
        dtype = counting(self._dtype)
        queries_QD = checks.matrix("queries", queries, width=self._config.dim, dtype=dtype)
        return pb.SearchRequest(
            memory=self._name,
            queries=codec.to_tensor(queries_QD),
            k=_int64("k", k),
            options=codec.to_options(options),
        )

    def _read(self, verb: str, message: Any) -> Any:
        return self._calls.call(MEMORY_SERVICE, verb, message, deadline_s=None, again=True)

    def _change(
        self, verb: str, message: Any, request_id: RequestId | None, deadline_s: float | None
    ) -> Any:
        """Sends a mutation under a number, so that it may be sent again."""
        numbered = codec.to_request_id(request_id or self._calls.next_request())
        message.request_id.CopyFrom(numbered)
        return self._calls.call(MEMORY_SERVICE, verb, message, deadline_s=deadline_s, again=True)

    def _stored(self, name: str, value: Array | None, width: int | None) -> pb.Tensor | None:
        """Rows to keep, in the memory's dtype."""
        return None if value is None else _matrix(name, value, width, self._dtype)

    def _counted(
        self, name: str, value: Array | None, width: int | None, rows: int
    ) -> pb.Tensor | None:
        """So many rows to count with."""
        return None if value is None else _matrix(name, value, width, counting(self._dtype), rows)

    def _table(self, records: Records | None) -> bytes | None:
        if records is None:
            return None
        table = checks.records(records, self._config.schema, None)
        return None if table is None else codec.to_stream(table)


def _applied(reply: pb.AppliedReply) -> Applied:
    return Applied(applied=reply.applied, skipped=reply.skipped, delay_s=reply.delay_s)


def _matrix(
    name: str, value: Any, width: int | None, dtype: Any, rows: int | None = None
) -> pb.Tensor:
    if width is None:
        # The memory has no such part: the verb says so, whatever was given.
        return codec.to_tensor(np.empty((0, 0), np.float32))
    return codec.to_tensor(checks.matrix(name, value, width=width, dtype=dtype, rows=rows))


def _tenants(generations: SlotsLike | None) -> pb.Tensor | None:
    return None if generations is None else codec.to_tensor(checks.slots(generations))


def _int64(name: str, value: Any) -> int:
    """An integer that fits the message; whether it is in range the verb says."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        checks.positive(name, value)
    if not -MOST <= value <= MOST:
        raise InvalidArgument(f"{name} is out of range", got=repr(value), expected="64 bits")
    return int(value)


def text(name: str, value: Any) -> str:
    """A text that UTF-8 has; raises `InvalidArgument`."""
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:
        pass
    raise InvalidArgument(f"{name} is no text", got=repr(value)[:64], expected="a str of UTF-8")
