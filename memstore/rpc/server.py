"""The server: the memories of one store for whoever may call.

    with Server(store, "127.0.0.1:0") as server:
        print(server.address)

Handlers run in an event loop of a thread of its own; the engine works in two pools, so that a read
waits for no writer. `memstore serve` is this, with a signal for an end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from memstore.checkpoints import base_of
from memstore.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MemoryInUse,
    MemstoreError,
    Overloaded,
    ServerFailed,
    StoreClosed,
    UnknownMemory,
)
from memstore.memory import Array, Memory, SearchOptions
from memstore.rpc import codec, failures
from memstore.rpc.batching import Coalescer
from memstore.rpc.security import Caller, Guard, Tokens, is_loopback
from memstore.rpc.session import Session
from memstore.rpc.tls import ServerTls
from memstore.rpc.transfer import Transfers
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import ADMIN, ADMIN_SERVICE, MEMORY_SERVICE, VERBS, AdminVerb, Verb
from memstore.store import Store

CORES = os.cpu_count() or 1

SMALL_BYTES = 1 << 22
"""Beyond it, messages are parsed, and put together, in a pool and not in the event loop: to copy so
much takes about as long as the way into a thread and back."""

logger = logging.getLogger(__name__)
audit = logging.getLogger("memstore.audit")
"""Who called what of the administration, and what became of it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a server takes at once.

    message_bytes: of one message, in either direction.  calls: that may be under way, together;
    beyond, a call is answered by `Overloaded` at once.  session_calls: that one stream may have
    under way or waiting; beyond, it is not read from.  search_lanes: batches of equal searches
    under way at once; 0 coalesces none.  writers: threads for mutations and administration.
    exports: that may be under way at once; beyond, they are answered by `Overloaded`.
    """

    message_bytes: int = 64 << 20
    calls: int = 1_024
    session_calls: int = 64
    search_lanes: int = CORES
    writers: int = 16
    exports: int = 16

    def __post_init__(self) -> None:
        for name, least in (("message_bytes", 1), ("session_calls", 1), ("writers", 1)):
            _check_least(name, getattr(self, name), least)
        for name in ("calls", "search_lanes", "exports"):
            _check_least(name, getattr(self, name), 0)


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidArgument(f"{name} is out of range", got=value, expected=f"≥ {least}")


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
    ) -> None:
        """listen: `host:port`; port 0 is any that is free.  tokens: None asks nobody for one.
        insecure: listen beyond this machine without TLS, or without tokens.

        Raises `InvalidArgument` where that is asked for without saying so.
        """
        if not (insecure or is_loopback(listen)) and (tls is None or tokens is None):
            raise InvalidArgument(
                "whoever reaches this address could read and change all memories",
                got=f"{listen} without {'TLS' if tls is None else 'tokens'}",
                expected="TLS and tokens, or an address of this machine alone",
                hint="insecure=True (--insecure) does it all the same",
            )
        self._store, self._listen, self._tls, self._limits = store, listen, tls, limits
        self._guard = Guard(tokens)
        self._under_way = 0
        self._port = 0
        self._started = self._closed = False

    @property
    def address(self) -> str:
        """`host:port`, with the port that it got."""
        return f"{self._listen.rpartition(':')[0]}:{self._port}"

    def start(self) -> Self:
        """Begins to serve, once; raises `InvalidArgument` where it cannot listen."""
        if self._started or self._closed:
            raise StoreClosed("the server was started before", hint="make another")
        self._started = True
        self._readers = ThreadPoolExecutor(2 * CORES + 2, "memstore-read")
        self._writers = ThreadPoolExecutor(self._limits.writers, "memstore-write")
        self._coalescer = Coalescer(self._readers, self._limits.search_lanes)
        self._transfers = Transfers(
            self._store,
            caller=lambda context: self._guard.caller(context.invocation_metadata()),
            memory=self._memory,
            answered=self._answered,
            read=partial(self._in, self._readers),
            write=partial(self._in, self._writers),
            message_bytes=self._limits.message_bytes,
            exports=self._limits.exports,
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
        """Takes no more calls, and gives those under way so long; a second call does nothing."""
        begun, self._closed = self._started and not self._closed, True
        if not begun:
            return
        if self._port:
            self._do(self._stop(grace_s))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for pool in (self._readers, self._writers):
            pool.shutdown(cancel_futures=True)

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
        most = self._limits.message_bytes
        self._server = aio.server(
            options=[
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", most),
                ("grpc.so_reuseport", 0),
            ]
        )
        self._health = health.HealthServicer()
        for service in ("", MEMORY_SERVICE, ADMIN_SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))
        served = (MEMORY_SERVICE, ADMIN_SERVICE, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(served, self._server)
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
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        await self._transfers.ended()

    def _handlers(self) -> Iterable[grpc.GenericRpcHandler]:
        memory = {name.capitalize(): self._unary(name, verb) for name, verb in VERBS.items()}
        memory["Session"] = grpc.stream_stream_rpc_method_handler(
            self._session, None, pb.Reply.SerializeToString
        )
        memory |= self._transfers.handlers()
        yield grpc.method_handlers_generic_handler(MEMORY_SERVICE, memory)
        admin = {name.capitalize(): self._admin(name, verb) for name, verb in ADMIN.items()}
        yield grpc.method_handlers_generic_handler(ADMIN_SERVICE, admin)
        checks = {
            "Check": grpc.unary_unary_rpc_method_handler(
                self._health.Check,
                health_pb2.HealthCheckRequest.FromString,
                health_pb2.HealthCheckResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._health.Watch,
                health_pb2.HealthCheckRequest.FromString,
                health_pb2.HealthCheckResponse.SerializeToString,
            ),
        }
        yield grpc.method_handlers_generic_handler(HEALTH, checks)

    def _unary(self, name: str, verb: Verb) -> grpc.RpcMethodHandler:
        async def handle(data: bytes, context: Any) -> Any:
            async def work() -> bytes:
                caller = self._guard.caller(context.invocation_metadata())
                message = await self._aside(len(data), parsed, verb.request, data)
                reply = await self.call(name, message, caller, context.time_remaining())
                return await self._bytes(reply)

            return await self._answered(work, context)

        return grpc.unary_unary_rpc_method_handler(handle, None, None)

    def _admin(self, name: str, verb: AdminVerb) -> grpc.RpcMethodHandler:
        async def handle(data: bytes, context: Any) -> Any:
            async def work() -> bytes:
                caller = self._guard.caller(context.invocation_metadata())
                message = await self._aside(len(data), parsed, verb.request, data)
                memories = verb.memories(message)
                facts = (
                    f"{name} of {(memories[0] or 'the store')[:64]} by {caller.name} "
                    f"at {context.peer()}"
                )
                try:
                    for memory in memories:
                        caller.check(verb.role, memory)
                    reply = await self._in(self._writers, verb.do, self._store, message)
                except MemstoreError as error:
                    audit.warning("%s: refused, %s", facts, type(error).__name__)
                    raise seen_by(caller, error) from None
                audit.info("%s: done", facts)
                if name == "list":
                    reply = pb.ListReply(memories=filter(caller.sees, reply.memories))
                return await self._bytes(reply)

            return await self._answered(work, context)

        return grpc.unary_unary_rpc_method_handler(handle, None, None)

    async def call(self, name: str, message: Any, caller: Caller, deadline_s: float | None) -> Any:
        """One call on a memory; returns its reply, or raises a `MemstoreError`."""
        verb = VERBS[name]
        caller.check(verb.role, message.memory)
        if deadline_s is not None and deadline_s <= 0:
            raise DeadlineExceeded("the call's time was over before it was begun")
        memory = self._memory(message.memory, caller)
        slots = given_out(name, message)
        if 8 * slots > self._limits.message_bytes and slots <= base_of(cast(Any, memory)).next_slot:
            raise self._too_long(8 * slots)  # before it is done
        if name == "search":
            return await self._search(memory, message)
        pool = self._readers if verb.role == "read" else self._writers
        return await self._in(pool, verb.do, memory, message, deadline_s)

    def _memory(self, name: str, caller: Caller) -> Memory:
        try:
            return self._store.memory(name)
        except UnknownMemory as error:
            raise seen_by(caller, error) from None

    async def _search(self, memory: Memory, message: pb.SearchRequest) -> pb.SearchReply:
        queries_QD, options = await self._aside(message.ByteSize(), _asked, message)
        found = await self._coalescer.search(memory, queries_QD, message.k, options)
        size = 2 * found.slots_QK.nbytes
        reply: pb.SearchReply = await self._aside(size, codec.to_search_reply, found)
        return reply

    async def _session(self, calls: AsyncIterator[bytes], context: Any) -> AsyncIterator[pb.Reply]:
        metadata = context.invocation_metadata()
        try:
            self._guard.caller(metadata)
        except MemstoreError as error:
            await _abort(context, error)
            raise

        async def call(name: str, message: Any, deadline_s: float | None) -> Any:
            # Each call anew: a token may have been taken away meanwhile.
            return await self._counted(
                lambda: self.call(name, message, self._guard.caller(metadata), deadline_s)
            )

        async def read() -> AsyncIterator[pb.Call]:
            async for data in calls:
                try:
                    yield await self._aside(len(data), parsed, pb.Call, data)
                except InvalidArgument:
                    yield pb.Call()  # has no verb, and is answered so

        async for reply in Session(call, self._limits.session_calls).replies(read()):
            if reply.ByteSize() > self._limits.message_bytes:
                refusal = failures.to_message(self._too_long(reply.ByteSize()))
                reply = pb.Reply(number=reply.number, error=refusal)
            yield reply

    async def _bytes(self, reply: Any) -> bytes:
        """A reply as it is sent; raises `InvalidArgument` where it is too long for that."""
        size = reply.ByteSize()
        if size > self._limits.message_bytes:
            raise self._too_long(size)
        data: bytes = await self._aside(size, serialized, reply)
        return data

    def _too_long(self, size: int) -> InvalidArgument:
        return InvalidArgument(
            "the reply would be too long",
            got=f"{size} bytes",
            expected=f"≤ {self._limits.message_bytes}",
            hint="ask for less at once",
        )

    async def _aside(self, size: int, work: Callable[..., Any], *args: Any) -> Any:
        """Does what takes as long as so many bytes: others must not wait for much of it."""
        if size <= SMALL_BYTES:
            return work(*args)
        return await self._in(self._readers, work, *args)

    async def _answered(self, work: Callable[[], Awaitable[Any]], context: Any) -> Any:
        """What the work gives; where it fails, the call is ended with the status that this has."""
        try:
            return await self._counted(work)
        except MemstoreError as error:
            await _abort(context, error)
            raise

    async def _counted(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Does some work, unless too much is under way; all that it raises is a `MemstoreError`."""
        if self._under_way >= self._limits.calls:
            raise Overloaded(
                "the server has too many calls to do",
                retry_after_s=0.1,
                got=f"{self._under_way} under way",
            )
        self._under_way += 1
        try:
            return await work()
        except MemstoreError:
            raise
        except Exception as error:
            logger.exception("a call failed")
            raise ServerFailed(
                "the server failed; its log says why", got=type(error).__name__
            ) from error
        finally:
            self._under_way -= 1

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[..., Any], *args: Any) -> Any:
        try:
            return await self._loop.run_in_executor(pool, work, *args)
        except RuntimeError as error:
            if self._closed:
                raise StoreClosed("the server is being shut down", hint="ask another") from error
            raise


def seen_by(caller: Caller, error: MemstoreError) -> MemstoreError:
    """An error without what it tells of memories that are not for the caller."""
    if caller.memories is None:
        return error
    if isinstance(error, UnknownMemory):
        return UnknownMemory(error.problem, got=error.got)
    if isinstance(error, MemoryInUse):
        return MemoryInUse("the memory is in use", hint="drop what is encoded from it first")
    return error


def given_out(name: str, message: Any) -> int:
    """About how many slots a call is answered by."""
    if name == "allocate":
        return int(message.n)
    if name == "append" and message.keys.shape:
        return min(int(message.keys.shape[0]), len(message.keys.data))
    return 0


def _asked(message: pb.SearchRequest) -> tuple[Array, SearchOptions]:
    return codec.to_array("queries", message.queries), codec.options_of(message)


def parsed(kind: type[Any], data: bytes) -> Any:
    """A message of its bytes; raises `InvalidArgument` where they are none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidArgument(
            "the message is malformed", got=str(error), expected=kind.DESCRIPTOR.full_name
        ) from error


def serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


async def _abort(context: Any, error: MemstoreError) -> None:
    message = failures.to_message(error)
    await context.abort(
        failures.code_of(error), str(error)[:1_000], ((failures.KEY, serialized(message)),)
    )
