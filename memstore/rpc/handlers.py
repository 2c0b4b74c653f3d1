"""Handlers: the seam to gRPC: who calls is let in before anything of a message is read; what is
raised comes out as a status.

Every reply is sent before its call counts as over, however slowly its caller takes it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import grpc

from memstore.errors import MemstoreError, ServerFailed
from memstore.rpc import failures, membership
from memstore.rpc.answering import Answering
from memstore.rpc.assembling import Assembler
from memstore.rpc.limits import Gate, Held, Limits
from memstore.rpc.pools import SMALL_BYTES, Pools
from memstore.rpc.security import Caller, Guard, seen_by
from memstore.rpc.server_session import Asked, Session
from memstore.rpc.spreading import Spreading
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

SERVICES = (MEMORY_SERVICE, ADMIN_SERVICE, SPREAD_SERVICE)

logger = logging.getLogger(__name__)
audit = logging.getLogger("memstore.audit")
"""Who called what of the administration, and what became of it."""


class Handlers:
    """The handlers of one server's services, for its event loop."""

    def __init__(
        self,
        store: Store,
        spreading: Spreading | None,
        *,
        guard: Guard,
        gate: Gate,
        limits: Limits,
        pools: Pools,
    ) -> None:
        """guard: knows callers.  gate: bounds what they take.  spreading: as in `Answering`."""
        self._store, self._spreading = store, spreading
        self._guard, self._gate = guard, gate
        self._limits, self._pools = limits, pools
        self._answering = Answering(store, spreading, limits, pools)
        self.transfers = Transfers(
            store,
            enter=self._opened,
            load=self._answering.load,
            answered=self._answered,
            read=partial(pools.run, pools.readers),
            write=partial(pools.run, pools.writers),
            export=self._answering.export,
            limits=limits,
        )
        self._assembler = Assembler(
            enter=self._opened,
            call=self._answering.call,
            answered=self._answered,
            parsed=self._parsed,
            serialized=lambda reply: pools.aside(reply.ByteSize(), serialized, reply),
            limits=limits,
        )

    def all(self) -> Iterable[grpc.GenericRpcHandler]:
        """Those of all services, but health and reflection."""
        memory = {name.capitalize(): self._unary(name) for name in VERBS}
        memory["Session"] = grpc.stream_stream_rpc_method_handler(self._session, None, None)
        memory |= self.transfers.handlers() | self._assembler.handlers()
        yield grpc.method_handlers_generic_handler(MEMORY_SERVICE, memory)
        admin = {name.capitalize(): self._admin(name, verb) for name, verb in ADMIN.items()}
        yield grpc.method_handlers_generic_handler(ADMIN_SERVICE, admin)
        spread = {name.capitalize(): self._peer(name, kind) for name, kind in SPREAD.items()}
        yield grpc.method_handlers_generic_handler(SPREAD_SERVICE, spread)

    def _unary(self, name: str) -> grpc.RpcMethodHandler:
        async def work(message: Any, caller: Caller, held: Held, context: Any) -> Any:
            return await self._answering.call(name, message, caller, held, context.time_remaining())

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
                reply = await self._answering.administer(verb, message, context.time_remaining())
            except MemstoreError as error:
                audit.warning("%s: refused, %s", facts, type(error).__name__)
                raise seen_by(caller, error) from None
            if verb.role == "admin":
                audit.info("%s: done", facts)
            if name == "list":
                reply = pb.ListReply(memories=filter(caller.sees, reply.memories))
            held.add(self._answering.size(reply))
            return reply

        return self._handler(verb.request, work)

    def _peer(self, name: str, kind: type[Any]) -> grpc.RpcMethodHandler:
        """What servers of one memory ask each other."""

        async def work(message: Any, caller: Caller, held: Held, context: Any) -> Any:
            left_s = context.time_remaining()
            return await self._answering.asked_by_peer(name, message, caller, held, left_s)

        return self._handler(kind, work)

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
                return await self._pools.aside(reply.ByteSize(), serialized, reply)  # type: ignore[no-any-return]

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
            await self._pools.run(self._pools.forwards, self._spreading.membership.joined)
        context.set_trailing_metadata(((membership.OPENING, self._store.openings.newest),))

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
            called = self._answering.call(name, message, asked.caller, asked.held, deadline_s)
            return await typed(called)

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

    async def _parsed(self, kind: type[Any], data: bytes) -> Any:
        if len(data) <= SMALL_BYTES and has_few_parts(kind, data):
            return parsed(kind, data)
        return await self._pools.run(self._pools.parsers, parsed, kind, data)


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


def serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
