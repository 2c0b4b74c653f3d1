"""Fleet: the servers of a topology, asked by part, several at once, wherever they are now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from memstore.deadline import NO_DEADLINE, Deadline
from memstore.errors import MemstoreError, ShardElsewhere, StoreClosed, TooLong, Unreachable
from memstore.rpc.attempts import Attempts
from memstore.rpc.calls import Request
from memstore.rpc.cutting import Parts
from memstore.rpc.membership import CLUSTER, OPENING, told
from memstore.rpc.topology import Topology
from memstore.rpc.ways import Ways

T = TypeVar("T")

THREADS = 64
"""Parts that are asked at once, of all calls together; the threads do nothing but wait."""


class Fleet:
    """Asks parts. Any thread may use it."""

    def __init__(
        self,
        ways: Ways,
        topology: Callable[[], Topology],
        renew: Callable[[Topology], None],
        patience_s: float | None = None,
    ) -> None:
        """topology: the newest that is known.  renew: looks for one that is newer than that, after
        a server did not answer.  patience_s: how long to go on asking one that is not there; None
        is as long as the call has time."""
        self._ways, self._topology, self._renew = ways, topology, renew
        self._patience_s = patience_s
        self._openings: dict[int, str] = {}
        self._pool = ThreadPoolExecutor(THREADS, "memstore-fan")
        self._own = threading.local()

    def within(self, deadline: Deadline, work: Callable[[], T]) -> T:
        """Does some work, whose calls have no more time than that."""
        before, self._own.deadline = getattr(self._own, "deadline", None), deadline
        try:
            return work()
        finally:
            self._own.deadline = before

    @property
    def deadline(self) -> Deadline:
        """Of the work that this thread does."""
        own: Deadline | None = getattr(self._own, "deadline", None)
        return NO_DEADLINE if own is None else own

    def ask(self, number: int, request: Request[T]) -> T:
        """Sends a request to the server of a part, again where that may help."""
        outer: Deadline | None = getattr(self._own, "deadline", None)
        most_s = self._ways.target.deadline_s if outer is None else max(outer.left_s, 1e-3)
        if request.deadline_s is not None:
            most_s = request.deadline_s if outer is None else min(most_s, request.deadline_s)
        most_s *= request.share
        attempts = Attempts(replace(request, deadline_s=most_s), most_s)
        parts = Parts(request, self._ways.target.message_bytes)
        # Who called is to be told which shards are lost before the time is over.
        patience = Deadline(None if self._patience_s is None else min(self._patience_s, most_s / 3))
        while True:
            topology = self._topology()
            address = _server(topology, number)
            try:
                left_s = attempts.left_s()
                way = self._ways.to(address)
                also = self._also(topology, number)
                verb = request.service, request.verb
                reply, behind = way.answered(*verb, parts.message, left_s, also)
                opening = told(behind, OPENING)
                if opening:
                    self._openings[number] = opening
                if parts.take(reply):
                    return request.decode(parts.reply)
                continue
            except TooLong as error:
                parts.cut(error)
                continue
            except MemstoreError as error:
                failure = error
                if isinstance(error, StoreClosed) and not self._ways.closed:
                    # Of the server: it ends, and another may be there for it soon.
                    failure = Unreachable(error.problem, got=address)
                if isinstance(failure, Unreachable | ShardElsewhere):
                    if not patience.left_s:
                        raise failure from error
                    self._renew(topology)
                pause_s = attempts.pause_s(failure)
            time.sleep(pause_s)

    def _also(self, topology: Topology, number: int) -> list[tuple[str, str]]:
        """What a part is told of whom it is taken for."""
        if not topology.cluster:
            return []
        opening = self._openings.get(number)
        own = [(CLUSTER, topology.cluster)]
        return own if opening is None else [*own, (OPENING, opening)]

    def fan(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Does several calls at once: what each returned, or the `MemstoreError` that it raised.

        Raises `StoreClosed` where it was closed.
        """
        outer: Deadline | None = getattr(self._own, "deadline", None)
        if outer is not None:
            calls = [_bound(self.within, outer, call) for call in calls]
        begun = [self._begun(call) for call in calls[:-1]]
        last = _tried(calls[-1])
        return [*map(self._ended, begun), last]

    def _begun(self, call: Callable[[], Any]) -> Future[Any]:
        try:
            return self._pool.submit(_tried, call)
        except RuntimeError as error:
            if self._ways.closed:
                raise self._ways.target.closed() from error
            raise

    def _ended(self, begun: Future[Any]) -> Any:
        try:
            return begun.result()
        except CancelledError:  # it was closed before a thread came to it
            return self._ways.target.closed()

    def close(self) -> None:
        """Lets go of its threads, and of the ways."""
        self._ways.close()
        self._pool.shutdown(cancel_futures=True)


def _server(topology: Topology, number: int) -> str:
    """Where a part is; raises `ShardElsewhere` where there are not so many any more."""
    if number >= len(topology.servers):
        raise ShardElsewhere(
            "the memories lie on fewer servers than before",
            got=f"part {number}",
            expected=f"one of {len(topology.servers)}",
            hint="ask for the memory again",
        )
    return topology.servers[number]


def _bound(within: Any, deadline: Deadline, call: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: within(deadline, call)


def _tried(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except MemstoreError as error:
        return error
