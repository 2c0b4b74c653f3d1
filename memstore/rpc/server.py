"""The server: the memories of one store for whoever may call.

    with Server(store, "127.0.0.1:0") as server:
        print(server.address)

Here is its life. Its `Handlers` run in an event loop of a thread of its own; the engine works in
`Pools`, so that a read waits for no writer. `memstore serve` is this, with a signal for an end.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from grpc import aio

from memstore.errors import InvalidArgument, StoreClosed
from memstore.placement import WHOLE
from memstore.rpc.beside import Health, Reflection
from memstore.rpc.handlers import SERVICES, Handlers
from memstore.rpc.limits import Gate, Limits
from memstore.rpc.pools import Pools
from memstore.rpc.security import Guard, Tokens, is_loopback
from memstore.rpc.spreading import Spreading
from memstore.rpc.target import Target
from memstore.rpc.tls import ClientTls, ServerTls
from memstore.rpc.topology import Route, Topology
from memstore.store import Store

END_S = 1.0
"""For tasks that were cancelled to end: what a thread is in the middle of they do not wait for."""

TAKEN_BACK_S = 10.0
"""For a load that is cut off to be taken back; most take milliseconds."""

logger = logging.getLogger(__name__)


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
        self._pools = Pools(self._limits.writers)
        self._handlers = Handlers(
            self._store,
            self._spreading,
            guard=self._guard,
            gate=self._gate,
            limits=self._limits,
            pools=self._pools,
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
        self._pools.closed = True
        if self._port:
            self._do(self._stop(grace_s))
        busy = self._pools.end(grace_s)
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
        beside = self._health.handler(), self._reflection.handler()
        self._server.add_generic_rpc_handlers((*self._handlers.all(), *beside))
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
        await self._handlers.transfers.ended(grace_s + TAKEN_BACK_S)


async def _ended() -> None:
    """Ends what is still waiting for something in this loop."""
    pending = asyncio.all_tasks() - {asyncio.current_task()}
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=END_S)
    await asyncio.get_running_loop().shutdown_asyncgens()
