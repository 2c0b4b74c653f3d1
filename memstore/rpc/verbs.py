"""What a server does for a call: a message to the verb's arguments, and its result to a message.

`VERBS` and `ADMIN` are all that is served; handlers, sessions, roles and tests go by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

from memstore.durable.restoring import restore_into
from memstore.memory import Applied, Memory
from memstore.placement import check_made
from memstore.rpc import codec
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.store import Store

Role = Literal["read", "write", "admin", "peer"]
"""What a caller may do; each may do what those before it may. `peer` is another server."""


@dataclass(frozen=True)
class Verb:
    """A call on one memory. do: the memory, the message and the seconds that are left → the reply.

    reply: the field of a `Reply` that has it in a session.
    """

    request: type[Any]
    role: Role
    reply: str
    do: Callable[[Memory, Any, float | None], Any]


@dataclass(frozen=True)
class AdminVerb:
    """A call on the store, or on a memory as a whole.

    memories: those that a caller must be allowed; None among them is the store as a whole.
    """

    request: type[Any]
    role: Role
    do: Callable[[Store, Any], Any]
    memories: Callable[[Any], Sequence[str | None]] = lambda asked: (None,)


def _named(asked: Any) -> Sequence[str | None]:
    return (asked.memory,)


def _made(asked: pb.CreateRequest) -> Sequence[str | None]:
    """A memory that is made, and those that it would be encoded from."""
    config = codec.config_of(asked.config)
    parts = () if config.encoding is None else sorted(config.encoding_config.memories)
    return (asked.memory, *parts)


def _append(memory: Memory, asked: pb.AppendRequest, deadline_s: float | None) -> pb.SlotsReply:
    slots_B = memory.append(
        codec.given(asked, "keys"),
        codec.given(asked, "values"),
        codec.to_table(codec.optional(asked, "records")),
        step=codec.optional(asked, "step"),
        request_id=codec.request_id_of(asked),
        deadline_s=deadline_s,
    )
    return pb.SlotsReply(slots=codec.to_tensor(slots_B))


def _write(memory: Memory, asked: pb.WriteRequest, deadline_s: float | None) -> pb.AppliedReply:
    return _applied(
        memory.write(
            codec.to_array("slots", asked.slots),
            codec.given(asked, "keys"),
            codec.given(asked, "values"),
            codec.to_table(codec.optional(asked, "records")),
            step=codec.optional(asked, "step"),
            request_id=codec.request_id_of(asked),
            deadline_s=deadline_s,
        )
    )


def _blend(memory: Memory, asked: pb.BlendRequest, deadline_s: float | None) -> pb.AppliedReply:
    return _applied(
        memory.blend(
            codec.to_array("slots", asked.slots),
            codec.to_array("weights", asked.weights),
            codec.to_array("erase", asked.erase),
            codec.to_array("add", asked.add),
            step=codec.optional(asked, "step"),
            generations=codec.given(asked, "generations"),
            request_id=codec.request_id_of(asked),
            deadline_s=deadline_s,
        )
    )


def _update(memory: Memory, asked: pb.UpdateRequest, deadline_s: float | None) -> pb.AppliedReply:
    return _applied(
        memory.update(
            codec.to_array("slots", asked.slots),
            codec.given(asked, "key_grads"),
            codec.given(asked, "value_grads"),
            codec.optional(asked, "lr"),
            generations=codec.given(asked, "generations"),
            request_id=codec.request_id_of(asked),
            deadline_s=deadline_s,
        )
    )


def _touch(memory: Memory, asked: pb.TouchRequest, deadline_s: float | None) -> pb.AppliedReply:
    return _applied(
        memory.touch(
            codec.to_array("slots", asked.slots),
            asked.step,
            codec.given(asked, "weights"),
            request_id=codec.request_id_of(asked),
            deadline_s=deadline_s,
        )
    )


def _allocate(memory: Memory, asked: pb.AllocateRequest, deadline_s: float | None) -> pb.SlotsReply:
    slots_B = memory.allocate(
        asked.n,
        step=codec.optional(asked, "step"),
        records=codec.to_table(codec.optional(asked, "records")),
        request_id=codec.request_id_of(asked),
        deadline_s=deadline_s,
    )
    return pb.SlotsReply(slots=codec.to_tensor(slots_B))


def _erase(memory: Memory, asked: pb.EraseRequest, deadline_s: float | None) -> pb.AppliedReply:
    return _applied(
        memory.erase(
            codec.to_array("slots", asked.slots),
            request_id=codec.request_id_of(asked),
            deadline_s=deadline_s,
        )
    )


def _applied(done: Applied) -> pb.AppliedReply:
    return pb.AppliedReply(applied=done.applied, skipped=done.skipped, delay_s=done.delay_s)


def _search(memory: Memory, asked: pb.SearchRequest, _: float | None) -> Any:
    queries_QD = codec.to_array("queries", asked.queries)
    return codec.to_search_reply(memory.search(queries_QD, asked.k, codec.options_of(asked)))


def _gather(memory: Memory, asked: pb.GatherRequest, _: float | None) -> Any:
    return codec.to_gather_reply(
        memory.gather(
            codec.to_array("slots", asked.slots),
            vectors=not asked.without_vectors,
            columns=list(asked.columns),
            list_limit=codec.optional(asked, "list_limit"),
        )
    )


def _lookup(memory: Memory, asked: pb.LookupRequest, _: float | None) -> pb.LookupReply:
    cursor = codec.given(asked, "cursor")
    values = codec.lookup_values(asked)
    return codec.to_lookup_reply(memory.lookup(asked.column, values, asked.limit, cursor))


def _describe(memory: Memory, asked: pb.DescribeRequest, _: float | None) -> pb.DescribeReply:
    if asked.config_only:
        made = cast(Any, memory).made
        return pb.DescribeReply(config=codec.to_config(memory.config), made=made)
    return codec.to_describe_reply(memory.describe())


VERBS: Mapping[str, Verb] = {
    "append": Verb(pb.AppendRequest, "write", "slots", _append),
    "write": Verb(pb.WriteRequest, "write", "applied", _write),
    "blend": Verb(pb.BlendRequest, "write", "applied", _blend),
    "update": Verb(pb.UpdateRequest, "write", "applied", _update),
    "touch": Verb(pb.TouchRequest, "write", "applied", _touch),
    "allocate": Verb(pb.AllocateRequest, "write", "slots", _allocate),
    "erase": Verb(pb.EraseRequest, "write", "applied", _erase),
    "search": Verb(pb.SearchRequest, "read", "search", _search),
    "gather": Verb(pb.GatherRequest, "read", "gather", _gather),
    "lookup": Verb(pb.LookupRequest, "read", "lookup", _lookup),
    "describe": Verb(pb.DescribeRequest, "read", "describe", _describe),
}


def _create(store: Store, asked: pb.CreateRequest) -> pb.CreateReply:
    store.create(asked.memory, codec.config_of(asked.config))
    return pb.CreateReply()


def _drop(store: Store, asked: pb.DropRequest) -> pb.DropReply:
    store.drop(asked.memory, made=asked.made)
    return pb.DropReply()


def _list(store: Store, asked: pb.ListRequest) -> pb.ListReply:
    return pb.ListReply(memories=store.list())


def _reindex(store: Store, asked: pb.ReindexRequest) -> pb.ReindexReply:
    store.memory(asked.memory).reindex()
    return pb.ReindexReply()


def _refresh(store: Store, asked: pb.RefreshRequest) -> pb.RefreshReply:
    memory = store.memory(asked.memory)
    check_made(asked.memory, asked.made, cast(Any, memory).made)
    done = memory.refresh(codec.optional(asked, "limit"))
    return pb.RefreshReply(
        encoded=done.encoded, drift_before=done.drift_before, drift_after=done.drift_after
    )


def _mark(store: Store, asked: pb.MarkRequest) -> pb.MarkReply:
    store.mark(asked.name)
    return pb.MarkReply()


def _unmark(store: Store, asked: pb.UnmarkRequest) -> pb.UnmarkReply:
    store.unmark(asked.name)
    return pb.UnmarkReply()


def _marks(store: Store, asked: pb.MarksRequest) -> pb.MarksReply:
    return pb.MarksReply(names=store.marks())


def _snapshot(store: Store, asked: pb.SnapshotRequest) -> pb.SnapshotReply:
    taken = store.snapshot(asked.uri, at=codec.optional(asked, "at"))
    return pb.SnapshotReply(
        number=taken.number, uri=taken.uri, bytes=taken.bytes, copied=taken.copied
    )


def _restore(store: Store, asked: pb.RestoreRequest) -> pb.RestoreReply:
    # Over several servers each makes its own part.
    restore = getattr(store, "restore", partial(restore_into, store))
    made = restore(asked.uri, number=codec.optional(asked, "number"))
    return pb.RestoreReply(memories=made)


def _topology(store: Store, asked: pb.TopologyRequest) -> pb.TopologyReply:
    """Empty where the store has whole memories."""
    told: pb.TopologyReply = getattr(store, "topology", pb.TopologyReply)()
    return told


ADMIN: Mapping[str, AdminVerb] = {
    "create": AdminVerb(pb.CreateRequest, "admin", _create, _made),
    "drop": AdminVerb(pb.DropRequest, "admin", _drop, _named),
    "list": AdminVerb(pb.ListRequest, "read", _list),
    "reindex": AdminVerb(pb.ReindexRequest, "admin", _reindex, _named),
    "refresh": AdminVerb(pb.RefreshRequest, "admin", _refresh, _named),
    "mark": AdminVerb(pb.MarkRequest, "admin", _mark),
    "unmark": AdminVerb(pb.UnmarkRequest, "admin", _unmark),
    "marks": AdminVerb(pb.MarksRequest, "admin", _marks),
    "snapshot": AdminVerb(pb.SnapshotRequest, "admin", _snapshot),
    "restore": AdminVerb(pb.RestoreRequest, "admin", _restore),
    "topology": AdminVerb(pb.TopologyRequest, "read", _topology),
}

SPREAD: Mapping[str, type[Any]] = {
    "prepare": pb.PrepareRequest,
    "apply": pb.ApplyRequest,
    "give": pb.GiveRequest,
    "least": pb.LeastRequest,
    "widen": pb.WidenRequest,
    "encode": pb.EncodeRequest,
    "make": pb.MakeRequest,
    "unmake": pb.UnmakeRequest,
    "lead": pb.LeadRequest,
    "cut": pb.CutRequest,
    "fetch": pb.FetchRequest,
    "rows": pb.RowsRequest,
}
"""What servers of one memory ask each other."""

ASSEMBLED: Mapping[str, tuple[type[Any], str]] = {
    **{name: (verb.request, verb.reply) for name, verb in VERBS.items()},
    "apply": (pb.ApplyRequest, "applied"),
    "lead": (pb.LeadRequest, "lead"),
}
"""What may come in pieces: its message, and the field of a `Reply` that answers it."""

MEMORY_SERVICE = pb.DESCRIPTOR.services_by_name["MemoryService"].full_name
SPREAD_SERVICE = pb.DESCRIPTOR.services_by_name["SpreadService"].full_name
ADMIN_SERVICE = pb.DESCRIPTOR.services_by_name["AdminService"].full_name


def path_of(service: str, verb: str) -> str:
    """The path of a verb on the wire, as `/memstore.v1.MemoryService/Search`."""
    return f"/{service}/{verb.capitalize()}"


def reply_type(service: str, verb: str) -> type[Any]:
    """The message that a verb answers with."""
    method = pb.DESCRIPTOR.services_by_name[service.rsplit(".", 1)[1]]
    name: str = method.methods_by_name[verb.capitalize()].output_type.name
    kind: type[Any] = getattr(pb, name)
    return kind
