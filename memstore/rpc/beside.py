"""What is served beside the memories: health, for orchestrators, and reflection, for tools.

Health is told to whoever asks, so it is what somebody without a token can reach: all of them are
one caller to the server's limits, and have a few seconds to say what they ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from memstore.errors import MemstoreError
from memstore.rpc import failures
from memstore.rpc.limits import Gate
from memstore.rpc.security import NOBODY, Guard
from memstore.rpc.wire import parsed

ASKED_S = 5.0
"""For a question to arrive, which is a few bytes."""

TOLD_S = 1.0
"""For watchers to be told of the end: one that does not read keeps others from it."""


class Health:
    """The health service of a server."""

    def __init__(self, gate: Gate, services: Iterable[str]) -> None:
        self._gate, self._services = gate, [*services]
        self._servicer = health.HealthServicer()

    async def begin(self) -> None:
        """Says that all is served."""
        for service in self._services:
            await self._servicer.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def end(self) -> None:
        """Says that nothing is, for good."""
        try:
            async with asyncio.timeout(TOLD_S):
                await self._servicer.enter_graceful_shutdown()
        except TimeoutError:
            pass  # connections are closed next, which tells as much

    def handler(self) -> grpc.GenericRpcHandler:
        told = health_pb2.HealthCheckResponse.SerializeToString
        methods = {
            "Check": grpc.stream_unary_rpc_method_handler(self._check, None, told),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch, None, told),
        }
        return grpc.method_handlers_generic_handler(HEALTH, methods)

    async def _check(self, _: Any, context: Any) -> Any:
        return await self._servicer.Check(await self._asked(context), context)

    async def _watch(self, _: Any, context: Any) -> None:
        try:
            leave = self._gate.stream(NOBODY)
        except MemstoreError as error:
            await failures.abort(context, error)
            raise
        context.add_done_callback(lambda _: leave())
        await self._servicer.Watch(await self._asked(context), context)

    async def _asked(self, context: Any) -> Any:
        """What is asked, read while it counts as a call."""
        try:
            held = self._gate.call(NOBODY)
            try:
                data = await held.received(context.read, ASKED_S)
            finally:
                held.leave()
            return parsed(health_pb2.HealthCheckRequest, data)
        except MemstoreError as error:
            await failures.abort(context, error)
            raise


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """The reflection service, for whoever has a token."""

    def __init__(self, gate: Gate, guard: Guard, services: Iterable[str]) -> None:
        super().__init__([*services, HEALTH, reflection.SERVICE_NAME])
        self._gate, self._guard = gate, guard

    def handler(self) -> grpc.GenericRpcHandler:
        pb2 = reflection._reflection_pb2
        methods = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                self._info,
                None,
                pb2.ServerReflectionResponse.SerializeToString,
            )
        }
        return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, methods)

    async def _info(self, asked: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        try:
            caller = self._guard.caller(context.invocation_metadata())
            leave: Callable[[], None] = self._gate.stream(caller)
        except MemstoreError as error:
            await failures.abort(context, error)
            raise
        context.add_done_callback(lambda _: leave())

        async def read() -> AsyncIterator[Any]:
            async for data in asked:
                yield parsed(reflection._reflection_pb2.ServerReflectionRequest, data)

        try:
            async for reply in self.ServerReflectionInfo(read(), context):
                yield reply
        except MemstoreError as error:
            await failures.abort(context, error)
            raise
