"""Calls that come in pieces: put together, within bounds, and done as one.

What the first piece says that comes counts as held before any of it is kept, until the call is
answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from memstore.errors import DeadlineExceeded, InvalidArgument, TooLong
from memstore.rpc import splice
from memstore.rpc.limits import Held, Limits
from memstore.rpc.security import Caller
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import ASSEMBLED
from memstore.rpc.wire import parsed

LONGEST_S = 600.0
"""How long all pieces may take, where the call has no deadline that is sooner."""


class Assembler:
    """The handler of `Assemble`."""

    def __init__(
        self,
        *,
        enter: Callable[[Any], tuple[Caller, Held]],
        call: Callable[[str, Any, Caller, Held, float | None], Awaitable[Any]],
        answered: Callable[[Callable[[], Awaitable[Any]], Any], Awaitable[Any]],
        parsed: Callable[[type[Any], bytes], Awaitable[Any]],
        serialized: Callable[[Any], Awaitable[bytes]],
        limits: Limits,
    ) -> None:
        """enter: lets the call of a context in, and says who makes it.  call: does a verb."""
        self._enter, self._call, self._answered = enter, call, answered
        self._parsed, self._serialized = parsed, serialized
        self._limits = limits

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        return {"Assemble": grpc.stream_unary_rpc_method_handler(self._assemble, None, None)}

    async def _assemble(self, _: Any, context: Any) -> Any:
        async def work() -> bytes:
            caller, held = self._enter(context)
            try:
                async with asyncio.timeout(LONGEST_S):
                    name, data = await self._whole(held, context)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"the pieces took more than {LONGEST_S:g} s; nothing was done"
                ) from None
            kind, field = ASSEMBLED[name]
            message = await self._parsed(kind, data)
            done = await self._call(name, message, caller, held, context.time_remaining())
            return await self._serialized(splice.message(pb.Reply, **{field: done}))

        return await self._answered(work, context)

    async def _whole(self, held: Held, context: Any) -> tuple[str, bytes]:
        """The verb of a call, and the bytes of its request."""
        piece = await _next(held, context)
        name, size = piece.verb.lower(), piece.bytes
        if name not in ASSEMBLED:
            raise InvalidArgument(
                "a call in pieces has no verb", got=repr(piece.verb[:64]), expected=[*ASSEMBLED]
            )
        if not 0 < size <= self._limits.call_bytes:
            raise TooLong(
                "the call is too long to be put together",
                got=f"{size} bytes",
                expected=f"1 to {self._limits.call_bytes}",
                hint="cut it into several, or load the rows",
            )
        held.take(size)
        pieces, there = [piece.data], len(piece.data)
        while there < size:
            piece = await _next(held, context)
            pieces.append(piece.data)
            there += len(piece.data)
        if there > size:
            raise InvalidArgument(
                "the pieces are more than the first of them says", got=there, expected=size
            )
        return name, b"".join(pieces)


async def _next(held: Held, context: Any) -> pb.Piece:
    piece: pb.Piece = parsed(pb.Piece, await held.next(context.read))
    if not piece.data:
        raise InvalidArgument("a piece is empty; nothing was done", expected="some of the request")
    return piece
