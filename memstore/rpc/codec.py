"""Between the messages of the wire and the arrays, tables and options of the verbs.

What comes in is checked for being what it says: a tensor for its bytes, a table for its offsets.
What it may be for a verb is checked by the verb, as of any other call.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from memstore import filters
from memstore.config import MemoryConfig
from memstore.errors import InvalidArgument, MemstoreError, WrongShape, WrongType
from memstore.filters import Filter
from memstore.memory import (
    MOST,
    Array,
    Description,
    JobDescription,
    LookupResult,
    RequestId,
    Rows,
    SearchOptions,
    SearchResult,
    ShardDescription,
)
from memstore.rpc import arrow, splice
from memstore.rpc.v1 import memory_pb2 as pb

T = TypeVar("T")

AnyTensor: TypeAlias = pb.Tensor | splice.Tensor

USUAL = SearchOptions()


def to_tensor(array: Array) -> pb.Tensor:
    array = np.ascontiguousarray(array)
    return pb.Tensor(dtype=splice.NAMES[array.dtype], shape=array.shape, data=array.tobytes())


def to_array(name: str, tensor: AnyTensor) -> Array:
    """The numbers of a tensor, where they lie: not to be written to.

    Raises `WrongType` on an unknown dtype, `WrongShape` where its bytes are not those of its shape.
    """
    dtype, shape, data = splice.DTYPES.get(tensor.dtype), tuple(tensor.shape), tensor.data
    if dtype is None and not tensor.dtype and not shape:
        raise InvalidArgument(f"{name} are missing", expected="a tensor")
    if dtype is None:
        raise WrongType(
            f"{name} have an unknown dtype",
            got=repr(tensor.dtype),
            expected=f"one of {[*splice.DTYPES]}",
        )
    if len(shape) > 2 or min(shape, default=0) < 0:
        raise WrongShape(f"{name} have no such shape", got=shape, expected="one length, or two")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise WrongShape(
            f"{name} are not of the shape that they say",
            got=f"{len(data)} bytes",
            expected=f"{math.prod(shape) * dtype.itemsize} for {tensor.dtype} {shape}",
        )
    bits = np.uint8 if dtype == np.bool_ else dtype
    try:
        array: Array = np.frombuffer(data, bits).reshape(shape)
    except ValueError as error:  # lengths too large for any array, one of them 0
        raise WrongShape(f"{name} have no such shape", got=shape, expected="lengths") from error
    return array != 0 if dtype == np.bool_ else array


def received(name: str, tensor: AnyTensor) -> Array:
    """A copy of the numbers of a tensor, the caller's own, as an embedded memory gives it."""
    return to_array(name, tensor).copy()


def given(message: Any, name: str) -> Array | None:
    """The tensor in a field of a message, or None where it is left out."""
    return to_array(name, getattr(message, name)) if message.HasField(name) else None


def optional(message: Any, name: str) -> Any:
    """The value of an optional field, or None where it is left out."""
    return getattr(message, name) if message.HasField(name) else None


def to_stream(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def to_table(data: bytes | None) -> pa.Table | None:
    """Reads an Arrow IPC stream of whoever; raises `WrongType` where it is none."""
    if data is None:
        return None
    try:
        if any(map(arrow.is_compressed, pa.ipc.MessageReader.open_stream(pa.py_buffer(data)))):
            raise WrongType(
                "records are compressed: nobody knows how much they are before they are unpacked",
                expected="an Arrow IPC stream without compression",
            )
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            for field in reader.schema:
                _check_plain(field)
            table = reader.read_all()
        table.validate(full=True)
    except MemstoreError:
        raise
    except arrow.UNREADABLE as error:
        raise WrongType(
            "records are no Arrow IPC stream", got=f"{len(data)} bytes: {error}"
        ) from error
    return table


def _check_plain(field: pa.Field) -> None:
    """Raises `WrongType` on a type of which few bytes stand for any number of values."""
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    if pa.types.is_null(kind) or pa.types.is_dictionary(kind):
        raise WrongType(
            f"record column {field.name[:64]!r} has the wrong type",
            got=str(field.type)[:64],
            expected="values one by one, as declared",
        )


def to_request_id(request: RequestId | None) -> pb.RequestId | None:
    return None if request is None else pb.RequestId(client=request.client, number=request.number)


def request_id_of(message: Any) -> RequestId | None:
    if not message.HasField("request_id"):
        return None
    return RequestId(message.request_id.client, message.request_id.number)


def to_filter(tree: Filter) -> pb.Filter:
    return _filter(tree.to_dict())


def _filter(node: Mapping[str, Any]) -> pb.Filter:
    op = node["op"]
    if op == "in":
        values = [_value(value) for value in node["values"]]
        return pb.Filter(**{"in": pb.Filter.In(column=node["column"], values=values)})
    if op == "not":
        return pb.Filter(**{"not": _filter(node["filter"])})
    if op in ("and", "or"):
        several = pb.Filter.Several(filters=map(_filter, node["filters"]))
        return pb.Filter(all=several) if op == "and" else pb.Filter(any=several)
    value = _value(node["value"])
    return pb.Filter(compare=pb.Filter.Compare(column=node["column"], op=op, value=value))


def _value(value: object) -> pb.Filter.Value:
    if isinstance(value, bool):
        return pb.Filter.Value(flag=value)
    if isinstance(value, int):
        return pb.Filter.Value(integer=value)
    if isinstance(value, float):
        return pb.Filter.Value(number=value)
    return pb.Filter.Value(text=str(value))


def filter_of(message: pb.Filter) -> Filter:
    """Raises `InvalidArgument` on a tree that is none."""
    return filters.from_dict(_node(message))


def _node(message: pb.Filter) -> dict[str, Any]:
    kind = message.WhichOneof("node")
    if kind == "compare":
        compare = message.compare
        return {"op": compare.op, "column": compare.column, "value": _plain(compare.value)}
    if kind == "in":
        among = getattr(message, "in")
        if len(among.values) > filters.MAX_SIZE:
            raise InvalidArgument(
                "a filter is too large", got=len(among.values), expected=f"≤ {filters.MAX_SIZE}"
            )
        return {"op": "in", "column": among.column, "values": [*map(_plain, among.values)]}
    if kind == "not":
        return {"op": "not", "filter": _node(getattr(message, "not"))}
    if kind is None:
        raise InvalidArgument("a filter has an empty node", expected="a comparison, or filters")
    several = getattr(message, kind).filters
    return {"op": "and" if kind == "all" else "or", "filters": [*map(_node, several)]}


def _plain(value: pb.Filter.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument("a filter compares with nothing", expected="a value")
    return getattr(value, kind)


def to_options(options: SearchOptions) -> pb.SearchOptions | None:
    """None is what nobody chose."""
    if options == USUAL:
        return None
    told = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    if options.probe is not None:
        told["probe"] = min(options.probe, MOST)  # no index has more lists
    if options.filter is not None:
        told["filter"] = to_filter(options.filter)
    return pb.SearchOptions(**{name: value for name, value in told.items() if value is not None})


def options_of(message: pb.SearchRequest) -> SearchOptions:
    """Raises `InvalidArgument` as `SearchOptions` does."""
    return _options(message.options) if message.HasField("options") else USUAL


def _options(message: pb.SearchOptions) -> SearchOptions:
    return SearchOptions(
        probe=optional(message, "probe"),
        exact=message.exact,
        filter=filter_of(message.filter) if message.HasField("filter") else None,
        recall_target=optional(message, "recall_target"),
        union=message.union,
        sample_clusters=message.sample_clusters,
        sample_random=message.sample_random,
        partial=message.partial,
        seed=optional(message, "seed"),
    )


SEARCHED = ("slots_QK", "scores_QK", "proposal_QK", "counts_Q", "scored_Q")
"""The fields of a `SearchResult` that have a row a query."""

VERSIONS = ("row_versions_S", "index_versions_S")


def to_search_reply(found: SearchResult) -> Any:
    arrays = {_bare(name): to_tensor(getattr(found, name)) for name in (*SEARCHED, *VERSIONS)}
    return pb.SearchReply(**arrays, missing_shards=found.missing_shards)


def search_result_of(reply: pb.SearchReply) -> SearchResult:
    arrays: dict[str, Any] = {
        name: received(_bare(name), getattr(reply, _bare(name))) for name in (*SEARCHED, *VERSIONS)
    }
    return SearchResult(**arrays, missing_shards=tuple(reply.missing_shards))


def _bare(name: str) -> str:
    """A field's name without the letters of its shape."""
    return name.rsplit("_", 1)[0]


def to_gather_reply(rows: Rows) -> Any:
    parts = {"generations": rows.generations_B, "keys": rows.keys_BD, "values": rows.values_BV}
    return splice.message(
        pb.GatherReply,
        **{name: splice.tensor(array) for name, array in parts.items() if array is not None},
        records=None if rows.records is None else to_stream(rows.records),
    )


def rows_of(slots_B: Array, places_B: Array | None, reply: pb.GatherReply) -> Rows:
    """The rows of slots.  places_B: where among those of the reply each is; None is as they are."""

    def own(name: str) -> Array:
        array = to_array(name, getattr(reply, name))
        return array.copy() if places_B is None else array.take(places_B, axis=0)

    records = to_table(optional(reply, "records"))
    if records is not None and places_B is not None:
        records = records.take(pa.array(places_B))
    return Rows(
        slots_B=slots_B,
        generations_B=own("generations"),
        keys_BD=own("keys") if reply.HasField("keys") else None,
        values_BV=own("values") if reply.HasField("values") else None,
        records=records,
    )


def to_lookup_reply(found: LookupResult) -> pb.LookupReply:
    return pb.LookupReply(
        slots=to_tensor(found.slots),
        offsets=to_tensor(found.offsets),
        truncated=to_tensor(found.truncated_Q),
        cursor=to_tensor(found.cursor),
    )


def lookup_result_of(reply: pb.LookupReply) -> LookupResult:
    return LookupResult(
        slots=received("slots", reply.slots),
        offsets=received("offsets", reply.offsets),
        truncated_Q=received("truncated", reply.truncated),
        cursor=received("cursor", reply.cursor),
    )


def to_config(config: MemoryConfig) -> str:
    return json.dumps(config.to_dict())


MOST_CONFIG = 1 << 20
"""Characters of a configuration: 1,024 columns of the longest names, and all else."""


def config_of(text: str) -> MemoryConfig:
    """Raises `InvalidArgument` on what is no configuration."""
    if len(text) > MOST_CONFIG:
        raise InvalidArgument(
            "the configuration is too long", got=len(text), expected=f"≤ {MOST_CONFIG}"
        )
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("the configuration is no JSON", got=str(error)) from error
    if not isinstance(told, dict):
        raise InvalidArgument(
            "the configuration is no JSON object", got=type(told).__name__, expected="an object"
        )
    try:
        return MemoryConfig.from_dict(told)
    except MemstoreError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # A key that it needs is missing, or one has a value of another kind.
        raise InvalidArgument("the configuration is none of a memory", got=text[:200]) from error


def to_describe_reply(state: Description) -> pb.DescribeReply:
    shards = [json.dumps(dataclasses.asdict(shard)) for shard in state.shards]
    reply = pb.DescribeReply(
        config=to_config(state.config), next_slot=state.next_slot, shards=shards, made=state.made
    )
    if state.drift is not None:
        reply.drift = state.drift
    return reply


def description_of(name: str, reply: pb.DescribeReply) -> Description:
    return Description(
        name=name,
        config=config_of(reply.config),
        next_slot=reply.next_slot,
        shards=tuple(_shard(json.loads(text)) for text in reply.shards),
        drift=optional(reply, "drift"),
        made=reply.made,
    )


def _shard(told: dict[str, Any]) -> ShardDescription:
    jobs = tuple(JobDescription(**_known(JobDescription, job)) for job in told.pop("jobs", ()))
    return ShardDescription(**_known(ShardDescription, told), jobs=jobs)


def _known(kind: type[Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What a newer server says besides is left out."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in told.items() if name in names}


def lookup_values(message: pb.LookupRequest) -> Sequence[Any]:
    kind = message.WhichOneof("values")
    return [] if kind is None else list(getattr(message, kind).values)
