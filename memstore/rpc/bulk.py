"""Rows in bulk, from the client's side: `load` and `export`: tables of any kind, batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memstore import checks
from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.dtypes import BFLOAT16, storage
from memstore.errors import InvalidArgument, MemstoreError, WrongShape, WrongType
from memstore.memory import Array, RequestId, SlotsLike
from memstore.rpc import codec, columns, failures
from memstore.rpc.calls import LONG_DEADLINE_S
from memstore.rpc.columns import GENERATION, KEY, SLOT, VALUE
from memstore.rpc.target import LONGEST_S, Target
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import MEMORY_SERVICE, path_of

BATCH_BYTES = 2 << 20
"""About how much a batch holds."""

Batches: TypeAlias = (
    pa.Table | pa.RecordBatch | pa.RecordBatchReader | Iterable[pa.Table | pa.RecordBatch]
)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What `load` made. rows: how many.  first, last: their slots, one behind the other; −1 where
    there are none."""

    rows: int
    first: int
    last: int


class Loading:
    """A load that is under way: threads of gRPC make its messages and send them."""

    def __init__(self, load: Any, messages: Iterator[bytes], told: dict[str, Any]) -> None:
        self.failed: list[BaseException] = []
        """What making a message raised."""
        self.call = load.future(self._sound(messages), **told)

    def _sound(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        # gRPC's thread would log what is raised there, and tell nobody.
        try:
            yield from messages
        except GeneratorExit:  # nobody takes the rest
            raise
        except BaseException as error:  # noqa: BLE001 - the caller is told
            self.failed.append(error)


class Bulk:
    """The long streams of one client. Any thread may use it."""

    def __init__(
        self, channel: grpc.Channel, target: Target, also: Sequence[tuple[str, str]] = ()
    ) -> None:
        """also: metadata that go with every call."""
        self._target, self._metadata = target, [*target.metadata, *also]
        self._load = channel.stream_unary(
            path_of(MEMORY_SERVICE, "load"), None, pb.LoadReply.FromString
        )
        self._export = exporter(channel)

    def begin(self, messages: Iterator[bytes], deadline_s: float | None) -> Loading:
        """Begins a load, which `end` waits for."""
        with self._typed():
            return Loading(self._load, messages, self._told(deadline_s))

    def end(self, loading: Loading) -> Loaded:
        """Waits for the end of a load; raises what making one of its messages raised."""
        try:
            with self._typed():
                reply = loading.call.result()
        except MemstoreError:
            if loading.failed:
                raise loading.failed[0] from None
            raise
        finally:
            loading.call.cancel()
        return Loaded(rows=reply.rows, first=reply.first, last=reply.last)

    def _told(self, deadline_s: float | None) -> dict[str, Any]:
        return {"timeout": timeout_s(deadline_s), "metadata": self._metadata}

    def export(
        self, message: pb.ExportRequest, deadline_s: float | None
    ) -> Iterator[pa.RecordBatch]:
        """The batches, as they come; where nobody goes on reading them the call is ended."""
        with self._typed():
            call = self._export(message, **self._told(deadline_s))
        try:
            with self._typed():
                for reply in call:
                    yield columns.whole_batch(columns.from_batch(reply.batch))
        finally:
            call.cancel()

    @contextlib.contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise failures.from_call(error, self._target.address) from error
        except ValueError as error:
            if isinstance(error, MemstoreError):
                raise
            raise self._target.closed() from error


def exporter(channel: Any) -> Any:
    """What begins exports, over a channel of either kind."""
    return channel.unary_stream(
        path_of(MEMORY_SERVICE, "export"),
        lambda message: message.SerializeToString(),
        pb.ExportReply.FromString,
    )


def timeout_s(deadline_s: float | None) -> float:
    """Of a stream, in seconds; raises `InvalidArgument`."""
    left_s = Deadline(LONG_DEADLINE_S if deadline_s is None else deadline_s).left_s
    return min(left_s, LONGEST_S)


def messages(
    name: str,
    config: MemoryConfig,
    made: int,
    batches: Batches,
    step: int | None,
    request_id: RequestId | None,
) -> Iterator[bytes]:
    """The messages of a load; raises `InvalidArgument` on what the memory does not take.

    made: the number under which it was made; 0 is any.
    """
    schema = columns.schema_of(config)
    start: dict[str, Any] = {
        "memory": name,
        "step": checks.step_number(step),
        "request_id": codec.to_request_id(request_id),
        "made": made,
    }
    rows = 0
    for table in _tables(batches):
        fitted = fit(table, config)
        for part in _cut(fitted.cast(schema) if fitted.schema != schema else fitted):
            message = pb.LoadRequest(**start, batch=columns.to_batch(part))
            yield message.SerializeToString()
            start = {}
            rows += len(part)
    yield pb.LoadRequest(**start, rows=rows).SerializeToString()


def _tables(batches: Batches) -> Iterator[pa.Table]:
    whole = isinstance(batches, pa.Table | pa.RecordBatch)
    for batch in [batches] if whole else batches:
        if isinstance(batch, pa.RecordBatch):
            batch = pa.Table.from_batches([batch])
        if not isinstance(batch, pa.Table):
            raise WrongType(
                "rows have the wrong type",
                got=type(batch).__name__,
                expected="Arrow tables or record batches",
            )
        yield batch


def _cut(table: pa.Table) -> Iterator[pa.Table]:
    rows = max(1, BATCH_BYTES * len(table) // max(table.nbytes, 1))
    for first in range(0, len(table), rows):
        yield table.slice(first, rows)


def fit(table: pa.Table, config: MemoryConfig) -> pa.Table:
    """The columns that a memory takes, as it takes them; slot and generation are left out.

    Raises `WrongType`, `WrongShape`, `NotFinite` and `InvalidArgument` where it does not.
    """
    vectors = {} if config.encoding is not None else {KEY: config.dim, VALUE: config.value_dim}
    clash = sorted({KEY, VALUE, SLOT, GENERATION} & config.records.keys())
    if clash:
        raise InvalidArgument(
            "a record column has the name of another column", got=clash, hint="append the rows"
        )
    table = table.drop_columns([c for c in (SLOT, GENERATION) if c in table.schema.names])
    wanted = [*(name for name, width in vectors.items() if width), *config.records]
    if sorted(table.schema.names) != sorted(wanted):
        raise InvalidArgument(
            "rows have the wrong columns", got=table.schema.names, expected=wanted
        )
    arrays = [
        _vectors(name, table.column(name), width, config) if width else None
        for name, width in vectors.items()
    ]
    keys_BD, values_BV = (*arrays, None, None)[:2]
    records = None
    if config.records:
        records = checks.records(table.select([*config.records]), config.schema, len(table))
    return columns.table_of(keys_BD, values_BV, records)


def _vectors(name: str, column: pa.ChunkedArray, width: int, config: MemoryConfig) -> Array:
    """The rows of a column of lists of numbers, or of the bytes of bfloat16."""
    parts = [_part(name, chunk, width) for chunk in column.chunks]
    dtype = storage(config.dtype)
    rows_BX = np.concatenate(parts) if parts else np.empty((0, width), dtype)
    return checks.matrix(name, rows_BX, width=width, dtype=dtype)


def _part(name: str, chunk: pa.Array, width: int) -> Array:
    kind = chunk.type
    if chunk.null_count:
        raise InvalidArgument(f"column {name!r} holds nulls", expected="none")
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == BFLOAT16.itemsize * width:
        return columns.from_column(chunk)
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)):
        raise WrongType(
            f"column {name!r} has the wrong type", got=kind, expected=f"lists of {width} numbers"
        )
    lengths = pc.list_value_length(chunk)
    if len(chunk) and not (pc.min(lengths).as_py() == pc.max(lengths).as_py() == width):
        raise WrongShape(
            f"the lists of column {name!r} have the wrong length",
            got=f"{pc.min(lengths)} to {pc.max(lengths)}",
            expected=width,
        )
    items = chunk.flatten()
    if items.null_count:
        raise InvalidArgument(f"column {name!r} holds nulls", expected="none")
    numbers: Array = items.to_numpy(zero_copy_only=False)
    return numbers.reshape(len(chunk), width)


def request(
    name: str, slots: SlotsLike | None, vectors: bool, record_columns: Sequence[str] | None
) -> pb.ExportRequest:
    """What an export asks for.  record_columns: None is all."""
    message = pb.ExportRequest(memory=name, without_vectors=not vectors)
    if slots is not None:
        message.slots.CopyFrom(codec.to_tensor(checks.slots(slots)))
    if record_columns is not None:
        message.columns.extend(record_columns)
        message.without_records = not message.columns
    return message
