"""The server: the memories of one store for whoever may call.

    with Server(store, "127.0.0.1:0") as server:
        print(server.address)

Handlers run in an event loop of a thread of its own; the engine works in two pools, so that a read
waits for no writer. `memstore serve` is this, with a signal for an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import grpc
from grpc import aio

from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemstoreError,
    ServerFailed,
    ShardElsewhere,
    StoreClosed,
    Unsupported,
)
from memstore.memory import Array, Memory, SearchOptions
from memstore.placement import WHOLE, check_made
from memstore.rpc import codec, failures, membership, sizes
from memstore.rpc.alone import Alone
from memstore.rpc.assembling import Assembler
from memstore.rpc.batching import Coalescer
from memstore.rpc.beside import Health, Reflection
from memstore.rpc.exporting import Export
from memstore.rpc.limits import CORES, Gate, Held, Limits
from memstore.rpc.pools import Pool
from memstore.rpc.security import Caller, Guard, Tokens, is_loopback, seen_by
from memstore.rpc.session import Asked, Session
from memstore.rpc.spreading import Spreading, memory_of, role_of
from memstore.rpc.target import Target
from memstore.rpc.tls import ClientTls, ServerTls
from memstore.rpc.topology import Route, Topology
from memstore.rpc.transfer import Transfers
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import (
    ADMIN,
    ADMIN_SERVICE,
    MEMORY_SERVICE,
    SPREAD,
    SPREAD_SERVICE,
    VERBS,
    AdminVerb,
)
from memstore.rpc.wire import has_few_parts, parsed
from memstore.store import Store

SMALL_BYTES = 1 << 22
"""Beyond it, messages are parsed, and put together, in a pool and not in the event loop: to copy so
much takes about as long as the way into a thread and back."""

FILTER_BYTES = 1 << 10
"""Of a search beyond which its filter, of some hundred nodes, is made in a pool: each takes as long
as a thousand bytes of any other message, and there may be 65,536."""

FORWARDS = 64
"""Threads for calls that ask other servers, and wait for them."""

CUTTERS = 8
"""Threads for steps of cuts: those of one, and snapshots that are being copied."""

END_S = 1.0
"""For tasks that were cancelled to end: what a thread is in the middle of they do not wait for."""

SERVICES = (MEMORY_SERVICE, ADMIN_SERVICE, SPREAD_SERVICE)

TAKEN_BACK_S = 10.0
"""For a load that is cut off to be taken back; most take milliseconds."""

logger = logging.getLogger(__name__)
audit = logging.getLogger("memstore.audit")
"""Who called what of the administration, and what became of it."""


class Server:
    """Serves a store from `start` to `close`; the store stays open behind it."""

    def __init__(
        self,
        store: Store,
        listen: str = "127.0.0.1:0",
        *,
        tls: ServerTls | None = None,
        tokens: Tokens | None = None,
        insecure: bool = False,
        limits: Limits = Limits(),
        topology: Path | None = None,
        peer_token: str | None = None,
        peer_tls: ClientTls | bool | None = None,
    ) -> None:
        """listen: `host:port`; port 0 is any that is free.  tokens: None asks nobody for one.
        insecure: listen beyond this machine without TLS, or without tokens.

        Of a store that has a part of its memories: topology: the file that says where the others
        are; without one, `route` is to say so.  peer_token, peer_tls: how they are reached, as
        `memstore.connect` says it.

        Raises `InvalidArgument` where that is asked for without saying so.
        """
        host, _, port = listen.rpartition(":")
        if not (host and port.isdecimal() and int(port) < 65_536):
            raise InvalidArgument("not an address", got=repr(listen), expected="host:port")
        if not (insecure or is_loopback(listen)) and (tls is None or tokens is None):
            raise InvalidArgument(
                "whoever reaches this address could read and change all memories",
                got=f"{listen} without {'TLS' if tls is None else 'tokens'}",
                expected="TLS and tokens, or an address of this machine alone",
                hint="insecure=True (--insecure) does it all the same",
            )
        self._store, self._listen, self._tls, self._limits = store, listen, tls, limits
        self._guard = Guard(tokens)
        self._spreading: Spreading | None = None
        if store.part != WHOLE:
            peer = Target("localhost:1", peer_token, peer_tls, message_bytes=limits.message_bytes)
            route = Route(store.part, topology, lambda: store.cluster)
            self._spreading = Spreading(store, route, peer)
        self.gate = self._gate = Gate(limits, shared=tokens is None)
        self._health = Health(self._gate, ("", *SERVICES))
        self._reflection = Reflection(self._gate, self._guard, SERVICES)
        self._port = 0
        self._started = self._closed = False

    @property
    def address(self) -> str:
        """`host:port`, with the port that it got."""
        return f"{self._listen.rpartition(':')[0]}:{self._port}"

    def route(self, topology: Topology) -> None:
        """Says where the other parts are, from now on; an older topology than it has is left out.

        Raises `InvalidArgument` where it is of another cluster, or has another number of parts.
        """
        if self._spreading is None:
            raise InvalidArgument("the store has whole memories", expected="part 0/2, or another")
        self._spreading.route.take(topology)

    def start(self) -> Self:
        """Begins to serve, once; raises `InvalidArgument` where it cannot listen."""
        if self._started or self._closed:
            raise StoreClosed("the server was started before", hint="make another")
        self._started = True
        self._readers = Pool(2 * CORES + 2, "memstore-read")
        self._writers = Pool(self._limits.writers, "memstore-write")
        # What a message of many parts takes keeps no read waiting.
        self._parsers = Pool(CORES, "memstore-parse")
        # Calls that ask other servers wait in threads of their own: what other servers ask of this
        # one never waits for them.
        self._forwards = Pool(FORWARDS, "memstore-forward")
        # Reads do not wait while mutations are held off, nor does what makes them go on.
        self._forwarded_reads = Pool(FORWARDS, "memstore-forward-read")
        self._cutters = Pool(CUTTERS, "memstore-cut")
        self._alone = Alone()
        self._coalescer = Coalescer(self._readers, self._limits.search_lanes, self._alone)
        self._transfers = Transfers(
            self._store,
            enter=self._opened,
            memory=self._only,
            answered=self._answered,
            read=partial(self._in, self._readers),
            write=partial(self._in, self._writers),
            export=self._export,
            limits=self._limits,
        )
        self._assembler = Assembler(
            enter=self._opened,
            call=self.call,
            answered=self._answered,
            parsed=self._parsed,
            serialized=lambda reply: self._aside(reply.ByteSize(), serialized, reply),
            limits=self._limits,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="memstore-serve", daemon=True)
        self._thread.start()
        try:
            self._do(self._start())
        except BaseException:
            self.close(0)
            raise
        return self

    def close(self, grace_s: float = 10.0) -> None:
        """Takes no more calls, and gives those under way so long; a second call does nothing.

        What a memory is in the middle of then gets as long again. Where that does not do, it goes
        on behind, and the log says so: closing the store waits for it.
        """
        begun, self._closed = self._started and not self._closed, True
        if not begun:
            return
        if self._port:
            self._do(self._stop(grace_s))
        ends = time.monotonic() + grace_s
        forwards = self._forwards, self._forwarded_reads, self._cutters
        pools = (*forwards, self._parsers, self._readers, self._writers)
        busy = sum(pool.end(max(0.0, ends - time.monotonic())) for pool in pools)
        if busy:
            logger.warning("%d calls go on that were begun before the end", busy)
        self._do(_ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._spreading is not None:
            self._spreading.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        self._server = aio.server(options=self._limits.options())
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))
        await self._health.begin()
        try:
            if self._tls is None:
                self._port = self._server.add_insecure_port(self._listen)
            else:
                credentials = self._tls.credentials()
                self._port = self._server.add_secure_port(self._listen, credentials)
        except RuntimeError as error:
            raise InvalidArgument(f"cannot listen on {self._listen}", got=str(error)) from error
        await self._server.start()

    async def _stop(self, grace_s: float) -> None:
        await self._health.end()
        await self._server.stop(grace_s)
        # What was loaded is taken back, however little grace there is.
        await self._transfers.ended(grace_s + TAKEN_BACK_S)

    def _handlers(self) -> Iterable[grpc.GenericRpcHandler]:
        memory = {name.capitalize(): self._unary(name) for name in VERBS}
        memory["Session"] = grpc.stream_stream_rpc_method_handler(self._session, None, None)
        memory |= self._transfers.handlers() | self._assembler.handlers()
        yield grpc.method_handlers_generic_handler(MEMORY_SERVICE, memory)
        admin = {name.capitalize(): self._admin(name, verb) for name, verb in ADMIN.items()}
        yield grpc.method_handlers_generic_handler(ADMIN_SERVICE, admin)
        spread = {name.capitalize(): self._peer(name, kind) for name, kind in SPREAD.items()}
        yield grpc.method_handlers_generic_handler(SPREAD_SERVICE, spread)
        yield self._health.handler()
        yield self._reflection.handler()

    def _unary(self, name: str) -> grpc.RpcMethodHandler:
        async def work(message: Any, caller: Caller, held: Held, context: Any) -> Any:
            return await self.call(name, message, caller, held, context.time_remaining())

        return self._handler(VERBS[name].request, work)

    def _admin(self, name: str, verb: AdminVerb) -> grpc.RpcMethodHandler:
        async def work(message: Any, caller: Caller, held: Held, context: Any) -> Any:
            memories = verb.memories(message)
            # What a caller wrote must not pass for a line of the log.
            of = ascii((memories[0] or "the store")[:64])[1:-1]
            facts = f"{name} of {of} by {caller.name} at {context.peer()}"
            try:
                for memory in memories:
                    caller.check(verb.role, memory)
                reply = await self._administer(verb, message, context.time_remaining())
            except MemstoreError as error:
                audit.warning("%s: refused, %s", facts, type(error).__name__)
                raise seen_by(caller, error) from None
            if verb.role == "admin":
                audit.info("%s: done", facts)
            if name == "list":
                reply = pb.ListReply(memories=filter(caller.sees, reply.memories))
            held.add(self._size(reply))
            return reply

        return self._handler(verb.request, work)

    async def _administer(self, verb: AdminVerb, message: Any, left_s: float | None) -> Any:
        spreading, part = self._spreading, part_of(message)
        if part is not None:
            self._check_part(part, message)

        def do(left_s: float | None) -> Any:
            if spreading is None or part is not None:
                return verb.do(self._store, message)
            return spreading.within(left_s, partial(verb.do, cast(Any, spreading), message))

        pool = self._writers if spreading is None or part is not None else self._forwards
        return await self._in(pool, in_time, ends_at(left_s), do)

    def _peer(self, name: str, kind: type[Any]) -> grpc.RpcMethodHandler:
        """What servers of one memory ask each other."""

        async def work(message: Any, caller: Caller, held: Held, context: Any) -> Any:
            return await self._asked_by_peer(name, message, caller, held, context.time_remaining())

        return self._handler(kind, work)

    async def _asked_by_peer(
        self, name: str, message: Any, caller: Caller, held: Held, deadline_s: float | None
    ) -> Any:
        """Does what is asked of a part; returns the reply."""
        caller.check(role_of(name, message), memory_of(message))
        if self._spreading is None:
            raise ShardElsewhere("the server holds whole memories", got=name)
        pools = {"lead": self._forwards, "widen": self._readers, "rows": self._readers}
        pools |= {"cut": self._cutters, "fetch": self._cutters}
        pool = pools.get(name, self._writers)
        ends, do = ends_at(deadline_s), getattr(self._spreading, name)
        reply = await self._in(pool, in_time, ends, do, message)
        if isinstance(reply, pb.AppliedReply):
            held.draw("rows_per_s", sizes.rows_of(reply))
        held.add(self._size(reply))
        return reply

    def _handler(self, kind: type[Any], work: Callable[..., Awaitable[Any]]) -> Any:
        """Handles calls of one message and one reply.

        To gRPC it is a stream, so that nothing of the message is read before who calls is known
        and let in.
        """

        async def handle(_: Any, context: Any) -> Any:
            async def done() -> bytes:
                caller, held = self._entered(context)
                data = await held.received(context.read)
                message = await self._parsed(kind, data)
                reply = await work(message, caller, held, context)
                return await self._aside(reply.ByteSize(), serialized, reply)  # type: ignore[no-any-return]

            return await self._answered(done, context)

        return grpc.stream_unary_rpc_method_handler(handle, None, None)

    def _entered(self, context: Any) -> tuple[Caller, Held]:
        """Who makes a call, which counts as under way until its reply is sent, however slowly."""
        metadata = context.invocation_metadata()
        caller = self._guard.caller(metadata)
        membership.check(self._store, metadata)
        held = self._gate.call(caller)
        context.add_done_callback(held.leave)
        return caller, held

    def _opened(self, context: Any) -> tuple[Caller, Held]:
        """Who opens a stream, which counts as a call and as one of those that are open."""
        caller, held = self._entered(context)
        leave = self._gate.stream(caller)
        context.add_done_callback(lambda _: leave())
        return caller, held

    async def _answered(self, work: Callable[[], Awaitable[Any]], context: Any) -> Any:
        """What the work gives; where it fails, the call is ended with the status that this has."""
        try:
            await self._joined(context)
            return await typed(work())
        except MemstoreError as error:
            await failures.abort(context, error)
            raise

    async def _joined(self, context: Any) -> None:
        """Has a part learn its cluster before it says whether a call is for that; tells a caller
        that knows one which opening of the part answers."""
        metadata = context.invocation_metadata()
        if self._spreading is None or not membership.told(metadata, membership.CLUSTER):
            return
        if not self._store.cluster:
            self._guard.caller(metadata)
            await self._in(self._forwards, self._spreading.membership.joined)
        context.set_trailing_metadata(((membership.OPENING, self._store.openings.newest),))

    async def call(
        self, name: str, message: Any, caller: Caller, held: Held, deadline_s: float | None
    ) -> Any:
        """One call on a memory; returns its reply, or raises a `MemstoreError`."""
        if name in SPREAD:
            return await self._asked_by_peer(name, message, caller, held, deadline_s)
        verb, ends = VERBS[name], ends_at(deadline_s)
        caller.check(verb.role, message.memory)
        if deadline_s is not None and deadline_s <= 0:
            raise DeadlineExceeded("the call's time was over before it was begun")
        part = part_of(message)
        if part is not None:
            self._check_part(part, message)
        try:
            if self._spreading is not None and part is None:
                spread = partial(self._spread, name, message)
                pool = self._forwarded_reads if verb.role == "read" else self._forwards
                reply = await self._in(pool, in_time, ends, spread)
            else:
                reply = await self._own(name, message, ends)
        except MemstoreError as error:
            raise seen_by(caller, error) from None
        held.draw("rows_per_s", sizes.rows_of(reply))
        # A change was made: its reply is not refused, whatever it takes.
        (held.take if verb.role == "read" else held.add)(self._size(reply))
        return reply

    async def _own(self, name: str, message: Any, ends: float | None) -> Any:
        """Does a call on what the store has."""
        memory = self._store.memory(message.memory)
        sizes.check(name, message, memory, self._limits.message_bytes)  # before it is done
        if name == "search":
            return await self._search(memory, message)
        if name == "gather" and sizes.is_short(message, memory):
            return await self._gather(memory, message, ends)
        pool = self._readers if VERBS[name].role == "read" else self._writers
        return await self._in(pool, in_time, ends, VERBS[name].do, memory, message)

    def _check_part(self, part: pb.Part, message: Any) -> None:
        if self._spreading is None:
            raise ShardElsewhere("the server holds whole memories", got=f"part {part.number}")
        self._spreading.held(message.memory, part)

    def _spread(self, name: str, message: Any, left_s: float | None) -> Any:
        """Does a call on a memory of which other servers hold parts."""
        spreading = cast(Spreading, self._spreading)

        def do() -> Any:
            memory = spreading.memory(message.memory)
            if VERBS[name].role == "write":
                check_made(message.memory, message.made, memory.made)
            sizes.check(name, message, memory, self._limits.message_bytes)
            return VERBS[name].do(memory, message, left_s)

        return spreading.within(left_s, do)

    def _only(self, name: str) -> Memory:
        """A memory all of which is here."""
        if self._spreading is not None:
            raise Unsupported(
                f"memory {name[:64]!r} lies on several servers and is not read as a whole",
                hint="gather it slot by slot, and append to it",
            )
        return self._store.memory(name)

    async def _export(self, asked: pb.ExportRequest, most_bytes: int, left_s: float | None) -> Any:
        """An export, and what reads it."""
        if self._spreading is None:
            memory: Any = self._store.memory(asked.memory)
            read = partial(self._in, self._readers)
            return await read(Export, memory, asked, most_bytes), read
        read = partial(self._in, self._forwarded_reads)
        return await read(self._spreading.export, asked, most_bytes, left_s), read

    async def _search(self, memory: Memory, message: pb.SearchRequest) -> pb.SearchReply:
        if message.HasField("options") and message.options.ByteSize() > FILTER_BYTES:
            queries_QD, options = await self._in(self._readers, _asked, message)
        else:
            queries_QD, options = await self._aside(message.ByteSize(), _asked, message)
        found = await self._coalescer.search(memory, queries_QD, message.k, options)
        size = 2 * found.slots_QK.nbytes
        reply: pb.SearchReply = await self._aside(size, codec.to_search_reply, found)
        return reply

    async def _gather(self, memory: Memory, message: pb.GatherRequest, ends: float | None) -> Any:
        work = partial(in_time, ends, VERBS["gather"].do, memory, message)
        with self._alone.reading():
            return work() if await self._alone.is_so() else await self._in(self._readers, work)

    async def _session(self, calls: AsyncIterator[bytes], context: Any) -> None:
        metadata = context.invocation_metadata()
        try:
            await self._joined(context)
            leave = self._gate.stream(self._guard.caller(metadata))
            membership.check(self._store, metadata)
        except MemstoreError as error:
            await failures.abort(context, error)
            raise
        context.add_done_callback(lambda _: leave())

        async def read() -> AsyncIterator[Asked]:
            async for data in calls:
                yield await self._asked(data, metadata)

        async def do(name: str, asked: Asked, deadline_s: float | None) -> Any:
            assert asked.held is not None
            message = getattr(asked.call, name)
            return await typed(self.call(name, message, asked.caller, asked.held, deadline_s))

        replies = Session(do, self._limits.session_calls).replies(read())
        async with contextlib.aclosing(replies):
            async for reply in replies:
                await failures.write(context, serialized(reply))

    async def _asked(self, data: bytes, metadata: Any) -> Asked:
        """A call of a session, let in, or with why it is not."""
        call = pb.Call()
        try:
            call = await self._parsed(pb.Call, data)
            # Each call anew: a token may have been taken away meanwhile.
            caller = self._guard.caller(metadata)
            held = self._gate.call(caller)
        except MemstoreError as error:
            return Asked.refused(call, error)
        try:
            held.take(len(data))
        except MemstoreError as error:
            held.leave()
            return Asked.refused(call, error)
        return Asked(call, caller=caller, held=held)

    def _size(self, reply: Any) -> int:
        """Bytes of a reply; raises `TooLong` where they are too many to send."""
        size: int = reply.ByteSize()
        sizes.check_bytes(size, self._limits.message_bytes)
        return size

    async def _parsed(self, kind: type[Any], data: bytes) -> Any:
        if len(data) <= SMALL_BYTES and has_few_parts(kind, data):
            return parsed(kind, data)
        return await self._in(self._parsers, parsed, kind, data)

    async def _aside(self, size: int, work: Callable[..., Any], *args: Any) -> Any:
        """Does what takes as long as so many bytes: others must not wait for much of it."""
        if size <= SMALL_BYTES:
            return work(*args)
        return await self._in(self._readers, work, *args)

    async def _in(self, pool: Pool, work: Callable[..., Any], *args: Any) -> Any:
        """Does work in a pool; what is cancelled before a thread begins it is not begun."""
        try:
            return await self._loop.run_in_executor(pool, work, *args)
        except RuntimeError as error:
            if self._closed:
                raise StoreClosed("the server is being shut down", hint="ask another") from error
            raise


async def _ended() -> None:
    """Ends what is still waiting for something in this loop."""
    pending = asyncio.all_tasks() - {asyncio.current_task()}
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=END_S)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def typed(work: Awaitable[Any]) -> Any:
    """What some work gives; all that it raises is a `MemstoreError`."""
    try:
        return await work
    except MemstoreError:
        raise
    except Exception as error:
        logger.exception("a call failed")
        raise ServerFailed(
            "the server failed; its log says why", got=type(error).__name__
        ) from error


def ends_at(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else time.monotonic() + deadline_s


def in_time(ends: float | None, do: Callable[..., Any], *args: Any) -> Any:
    """Does a call of a verb with the seconds that it has left, unless it has none any more."""
    left_s = None if ends is None else ends - time.monotonic()
    if left_s is not None and left_s <= 0:
        raise DeadlineExceeded("the call's time was over before it was begun")
    return do(*args, left_s)


def part_of(message: Any) -> pb.Part | None:
    """The part that a call is about alone; None is the whole."""
    if "part" in message.DESCRIPTOR.fields_by_name and message.HasField("part"):
        part: pb.Part = message.part
        return part
    return None


def _asked(message: pb.SearchRequest) -> tuple[Array, SearchOptions]:
    return codec.to_array("queries", message.queries), codec.options_of(message)


def serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
