"""RemotePart: a part of a memory that another server holds, as a `HeldMemory` is here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from memstore import checks, widening
from memstore.changes import Change, Outline
from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.dtypes import counting, storage
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemstoreError,
    ShardUnavailable,
    Unreachable,
)
from memstore.filters import Filter
from memstore.memory import (
    Applied,
    Array,
    Description,
    LookupResult,
    RequestId,
    Rows,
    SearchOptions,
    SearchResult,
    Slots,
    SlotsLike,
)
from memstore.placement import Part
from memstore.retries import Asked
from memstore.rpc import codec, sizes, splice
from memstore.rpc.calls import Request, itself
from memstore.rpc.requests import MemoryRequests
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import SPREAD_SERVICE
from memstore.spread.fan import Fan, SearchAll
from memstore.spread.held import Given, HeldMemory, LeastUsed

T = TypeVar("T")

PARTIAL_SHARE = 0.5
"""Of its time, what a search waits for a part that it may leave out: one that is cut off says
nothing at all, and what the others found is to be told in time."""

CHANGES: dict[str, type[Any]] = {
    "append": pb.AppendRequest,
    "write": pb.WriteRequest,
    "blend": pb.BlendRequest,
    "update": pb.UpdateRequest,
    "touch": pb.TouchRequest,
    "allocate": pb.AllocateRequest,
    "erase": pb.EraseRequest,
}


class PartCalls(Protocol):
    """The way to the servers of parts."""

    def ask(self, number: int, request: Request[T]) -> T:
        """Sends a request to the server of a part, wherever that is now; raises a
        `MemstoreError`."""


class RemotePart:
    """One part of one memory."""

    def __init__(
        self, calls: PartCalls, part: Part, name: str, config: MemoryConfig, made: int = 0
    ) -> None:
        """made: the number under which the memory was made; 0 is any."""
        self._calls, self._part, self._config, self._made = calls, part, config, made
        self._name = name
        self._requests = MemoryRequests(name, config, _no_number)

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> SearchResult:
        return self._searched(self._requests.search(queries, k, options), options.partial)

    def gather(
        self,
        slots: SlotsLike,
        *,
        vectors: bool = True,
        columns: Sequence[str] = (),
        list_limit: int | None = None,
    ) -> Rows:
        return self._read(
            self._requests.gather(slots, vectors=vectors, columns=columns, list_limit=list_limit)
        )

    def lookup(
        self,
        column: str,
        values: Sequence[Any] | Array,
        limit: int,
        cursor: SlotsLike | None = None,
    ) -> LookupResult:
        return self._read(self._requests.lookup(column, values, limit, cursor))

    @property
    def candidates(self) -> RemoteCandidates:
        return RemoteCandidates(self._ask_widely)

    def describe(self) -> Description:
        return self._read(self._requests.describe())

    def reindex(self) -> None:
        self._read(self._requests.reindex())

    def prepare(self, outline: Outline, asked: Asked, deadline: Deadline) -> float:
        message = pb.PrepareRequest(
            whole=self._whole(asked),
            verb=outline.verb,
            slots=codec.to_tensor(outline.slots_B),
            freshens=outline.freshens,
            reach=outline.reach,
            parts=outline.parts,
        )
        delay_s: float = self._ask("prepare", message, deadline).delay_s
        return delay_s

    def apply(self, change: Change, given: Given, asked: Asked, deadline: Deadline) -> Applied:
        done = self._ask("apply", self._applying(change, given, asked), deadline)
        return Applied(applied=done.applied, skipped=done.skipped, delay_s=done.delay_s)

    def give_out(self, count: int, asked: Asked, deadline: Deadline) -> int:
        message = pb.GiveRequest(whole=self._whole(asked, count))
        first: int = self._ask("give", message, deadline).first
        return first

    def least(self, count: int, asked: Asked, deadline: Deadline) -> LeastUsed:
        message = pb.LeastRequest(whole=self._whole(asked), count=count)
        reply = self._ask("least", message, deadline)
        return LeastUsed(
            reply.live,
            reply.done,
            codec.received("slots", reply.slots),
            codec.received("priorities", reply.priorities),
            codec.received("places", reply.places),
            codec.received("given", reply.given),
            codec.received("generations", reply.generations),
        )

    def ask_of_sums(self, question: str, **facts: Any) -> Any:
        """Asks for what it has of an encoded memory; returns the reply."""
        message = splice.message(
            pb.EncodeRequest,
            part=to_part(self._part, self._made),
            memory=self._name,
            question=question,
            **facts,
        )
        return self._send(Request(SPREAD_SERVICE, "encode", message, itself))

    def _ask_widely(self, question: str, tree: Filter | None, options: Any, **rest: Any) -> Any:
        options = replace(SearchOptions() if options is None else options, filter=tree)
        message = splice.message(
            pb.WidenRequest,
            part=to_part(self._part, self._made),
            memory=self._name,
            question=question,
            options=codec.to_options(options),
            **rest,
        )
        return self._send(Request(SPREAD_SERVICE, "widen", message, itself))

    def _applying(self, change: Change, given: Given, asked: Asked) -> Any:
        rest: dict[str, Any] = {"whole": self._whole(asked, given.of)}
        fields: dict[str, Any] = {name: _field(part) for name, part in change.rows.items()}
        kind = CHANGES[change.verb]
        known = kind.DESCRIPTOR.fields_by_name
        fields |= {name: fact for name, fact in change.facts.items() if name in known}
        if change.verb in ("append", "allocate"):
            rest["slots"] = splice.tensor(change.slots_B)
            rest["first"] = given.first
            rest["evicted"] = splice.tensor(given.evicted_E)
            rest["places"] = splice.tensor(given.places_B)
            rest["generations"] = splice.tensor(given.generations_B)
        else:
            fields["slots"] = splice.tensor(change.slots_B)
        if change.verb == "allocate":
            fields["n"] = len(change)
        if given.epoch is not None:
            rest["epoch"] = given.epoch
        rest[change.verb] = splice.message(kind, **fields)
        return splice.message(pb.ApplyRequest, **rest)

    def _whole(self, asked: Asked, rows: int = 0) -> pb.Whole:
        return pb.Whole(
            memory=self._name,
            part=to_part(self._part, self._made),
            request_id=codec.to_request_id(asked.id),
            digest=asked.digest,
            rows=rows,
        )

    def _searched(self, request: Request[T], partial: bool) -> T:
        """Sends a search.  partial: the others may do without this one."""
        if not partial:
            return self._read(request)
        try:
            return self._read(replace(request, again=False, share=PARTIAL_SHARE))
        except DeadlineExceeded as error:
            raise self._missing(error) from error

    def _read(self, request: Request[T]) -> T:
        request.message.part.CopyFrom(to_part(self._part, self._made))
        return self._send(request)

    def _ask(self, verb: str, message: Any, deadline: Deadline) -> Any:
        left_s = None if deadline.left_s == float("inf") else max(deadline.left_s, 1e-3)
        request = Request(SPREAD_SERVICE, verb, message, itself, deadline_s=left_s)
        return self._send(request)

    def _send(self, request: Request[T]) -> T:
        try:
            return self._calls.ask(self._part.number, request)
        except ShardUnavailable:
            raise
        except Unreachable as error:
            raise self._missing(error) from error

    def _missing(self, error: MemstoreError) -> ShardUnavailable:
        shards = self._part.shards(self._config.shards)
        return ShardUnavailable(
            f"the server of some shards of memory {self._name!r} does not answer",
            got=f"shards {', '.join(map(str, shards))}: {error.got or error.problem}",
            hint="try again, or search with SearchOptions(partial=True)",
        )


def search_all(parts: Sequence[RemotePart], fan: Fan) -> SearchAll:
    """Searches all parts, whose request is made once, and whose replies are read one after the
    other: threads that do this side by side take turns, and each turn costs more than what is done.
    """

    def search(queries: Array, k: int, options: SearchOptions) -> list[Any]:
        request = parts[0]._requests.search(queries, k, options)
        calls = []
        for part in parts:
            own = replace(request, message=splice.copied(request.message), decode=itself)
            calls.append(functools.partial(part._searched, own, options.partial))
        return [
            reply if isinstance(reply, MemstoreError) else request.decode(reply)
            for reply in fan(calls, spare=options.partial)
        ]

    return search


class RemoteCandidates:
    """What a part elsewhere has for training."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    def sampled(
        self, queries_QD: Array, k: int, options: SearchOptions, seed: int
    ) -> tuple[Slots, Array, Slots]:
        drawn, queries = replace(options, seed=seed), splice.tensor(queries_QD)
        reply = self._ask("sampled", options.filter, drawn, queries=queries, k=k)
        return tuple(codec.received(n, getattr(reply, n)) for n in ("slots", "scores", "tried"))  # type: ignore[return-value]

    def standing(self, slots_B: Slots, tree: Filter | None) -> Array:
        reply = self._ask("standing", tree, None, slots=splice.tensor(slots_B))
        return codec.received("standing", reply.standing)

    def live_passing(self, tree: Filter | None) -> Slots:
        return codec.received("slots", self._ask("live_passing", tree, None).slots)

    def scored(
        self, queries_QD: Array, slots_QC: Slots, tree: Filter | None
    ) -> tuple[Slots, Array, Slots]:
        tensors = {"queries": splice.tensor(queries_QD), "slots": splice.tensor(slots_QC)}
        reply = self._ask("scored", tree, None, **tensors)
        return tuple(codec.received(n, getattr(reply, n)) for n in ("slots", "scores", "versions"))  # type: ignore[return-value]


def widened(held: HeldMemory, asked: Any, most_bytes: int) -> Any:
    """Answers a question about candidates, of the part that is asked, in no more bytes."""
    options, question, source = codec.options_of(asked), asked.question, held.candidates
    tree = options.filter
    if tree is not None:
        checks.filter_columns(tree, held.config.schema)
    if question == "live_passing":
        sizes.check_bytes(8 * held.live, most_bytes)
        return pb.WidenReply(slots=codec.to_tensor(source.live_passing(tree)))
    if question == "standing":
        standing_B = source.standing(checks.slots(codec.to_array("slots", asked.slots)), tree)
        return pb.WidenReply(standing=codec.to_tensor(standing_B))
    queries, dtype = codec.to_array("queries", asked.queries), storage(held.config.dtype)
    queries_QD = checks.matrix("queries", queries, width=held.config.dim, dtype=counting(dtype))
    if question == "sampled":
        widening.check(held.name, held.config, options)
        k, seed = min(checks.positive("k", asked.k), held.most_found), options.seed or 0
        sizes.check_bytes(len(queries_QD) * k * (8 + queries_QD.itemsize), most_bytes)
        found = source.sampled(queries_QD, k, options, seed)
        return _to_widened(found, "tried")
    slots_QC = codec.to_array("slots", asked.slots)
    if question != "scored" or slots_QC.ndim != 2 or len(slots_QC) != len(queries_QD):
        raise InvalidArgument("no such question", got=repr(question[:64]), expected="slots a query")
    slots_QC = checks.slots(slots_QC.reshape(-1)).reshape(slots_QC.shape)
    return _to_widened(source.scored(queries_QD, slots_QC.copy(), tree), "versions")


def _to_widened(found: tuple[Array, Array, Array], last: str) -> Any:
    names = ("slots", "scores", last)
    arrays = {name: splice.tensor(a) for name, a in zip(names, found, strict=True)}
    return splice.message(pb.WidenReply, **arrays)


def to_part(part: Part, made: int = 0) -> pb.Part:
    return pb.Part(number=part.number, of=part.of, made=made)


def asked_of(whole: pb.Whole) -> Asked:
    """Raises `InvalidArgument` on no request id."""
    return Asked(RequestId(whole.request_id.client, whole.request_id.number), whole.digest)


def to_least(found: LeastUsed) -> pb.LeastReply:
    return pb.LeastReply(
        live=found.live,
        done=found.done,
        slots=codec.to_tensor(found.slots_L),
        priorities=codec.to_tensor(found.priority_L.astype(np.float64)),
        places=codec.to_tensor(found.places_A),
        given=codec.to_tensor(found.given_A),
        generations=codec.to_tensor(found.generations_L),
    )


def _field(part: Array | pa.Table | None) -> Any:
    """An argument that has a row a slot, as a message carries it."""
    if part is None:
        return None
    return codec.to_stream(part) if isinstance(part, pa.Table) else splice.tensor(part)


def _no_number() -> NoReturn:
    raise AssertionError("a part is asked under the number of the whole")
