"""Fleet: the servers of a topology, asked by part, several at once, wherever they are now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from memstore.deadline import Deadline
from memstore.errors import MemstoreError, ShardElsewhere, StoreClosed, TooLong, Unreachable
from memstore.rpc.attempts import Attempts
from memstore.rpc.calls import Request
from memstore.rpc.cutting import Parts
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
        self._pool = ThreadPoolExecutor(THREADS, "memstore-fan")
        self._own = threading.local()

    def within(self, deadline: Deadline, work: Callable[[], T]) -> T:
        """Does some work, whose calls have no more time than that."""
        before, self._own.deadline = getattr(self._own, "deadline", None), deadline
        try:
            return work()
        finally:
            self._own.deadline = before

    def ask(self, number: int, request: Request[T]) -> T:
        """Sends a request to the server of a part, again where that may help."""
        outer: Deadline | None = getattr(self._own, "deadline", None)
        most_s = self._ways.target.deadline_s if outer is None else max(outer.left_s, 1e-3)
        if request.deadline_s is not None:
            most_s = request.deadline_s if outer is None else min(most_s, request.deadline_s)
        attempts = Attempts(replace(request, deadline_s=most_s), most_s)
        parts = Parts(request, self._ways.target.message_bytes)
        # Who called is to be told which shards are lost before the time is over.
        patience = Deadline(None if self._patience_s is None else min(self._patience_s, most_s / 3))
        while True:
            topology = self._topology()
            address = topology.servers[number]
            try:
                left_s = attempts.left_s()
                way = self._ways.to(address)
                reply = way.sent(request.service, request.verb, parts.message, left_s)
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

    def fan(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Does several calls at once: what each returned, or the `MemstoreError` that it raised."""
        outer: Deadline | None = getattr(self._own, "deadline", None)
        if outer is not None:
            calls = [_bound(self.within, outer, call) for call in calls]
        begun = [self._pool.submit(_tried, call) for call in calls[:-1]]
        last = _tried(calls[-1])
        return [*(each.result() for each in begun), last]

    def close(self) -> None:
        """Lets go of its threads, and of the ways."""
        self._ways.close()
        self._pool.shutdown(cancel_futures=True)


def _bound(within: Any, deadline: Deadline, call: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: within(deadline, call)


def _tried(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except MemstoreError as error:
        return error
