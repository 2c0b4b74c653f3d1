"""Fleet: the servers of a topology, asked by part, several at once, wherever they are now."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from memstore.deadline import NO_DEADLINE, Deadline
from memstore.errors import (
    DeadlineExceeded,
    MemstoreError,
    ShardElsewhere,
    StoreClosed,
    TooLong,
    Unreachable,
)
from memstore.rpc.attempts import Attempts
from memstore.rpc.calls import Request
from memstore.rpc.cutting import Portions
from memstore.rpc.membership import CLUSTER, OPENING, told
from memstore.rpc.sparing import AGAIN_S, Spare, spared
from memstore.rpc.topology import Topology
from memstore.rpc.ways import Ways

T = TypeVar("T")

THREADS = 64
"""Parts that are asked at once, of all calls together; the threads do nothing but wait."""

WAITING = 16
"""Calls that wait at once for a part that did not answer in time: more would leave no threads to
those for the others."""


class Fleet:
    """Asks parts. Any thread may use it."""

    def __init__(
        self,
        ways: Ways,
        topology: Callable[[], Topology],
        renew: Callable[[Topology, float], None],
        patience_s: float | None = None,
    ) -> None:
        """topology: the newest that is known.  renew: looks for one that is newer than that, after
        a server did not answer, for so many seconds at most.  patience_s: how long to go on asking
        one that is not there; None is as long as the call has time."""
        self._ways, self._topology, self._renew = ways, topology, renew
        self._patience_s = patience_s
        self._openings: dict[int, str] = {}
        # Parts that did not answer in time, nor since, and when that was; how many calls wait for
        # each.
        self._late, self._waiting = dict[int, float](), Counter[int]()
        self._counting = threading.Lock()
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
        """Sends a request to the server of a part, again where that may help.

        Raises `Unreachable` where that does not answer in time.
        """
        with self._counted(number):
            return self._asked(number, request)

    def _asked(self, number: int, request: Request[T]) -> T:
        outer: Deadline | None = getattr(self._own, "deadline", None)
        most_s = self._ways.target.deadline_s if outer is None else max(outer.left_s, 1e-3)
        if request.deadline_s is not None:
            most_s = request.deadline_s if outer is None else min(most_s, request.deadline_s)
        most_s *= request.share
        attempts = Attempts(replace(request, deadline_s=most_s), most_s)
        portions = Portions(request, self._ways.target.message_bytes)
        # Who called is to be told which shards are lost before the time is over.
        patience = Deadline(None if self._patience_s is None else min(self._patience_s, most_s / 3))
        spare: Spare | None = getattr(self._own, "spare", None)
        if spare is not None:
            spare.number = number
        while True:
            topology = self._topology()
            address = _server(topology, number)
            try:
                left_s = attempts.left_s()
                way = self._ways.to(address)
                also = self._also(topology, number)
                verb = request.service, request.verb
                reply, behind = way.answered(*verb, portions.message, left_s, also, spare)
                self._late.pop(number, None)
                opening = told(behind, OPENING)
                if opening:
                    self._openings[number] = opening
                if portions.take(reply):
                    return request.decode(portions.reply)
                continue
            except TooLong as error:
                portions.cut(error)
                continue
            except MemstoreError as error:
                failure = error
                if spare is not None and spare.over.is_set():
                    raise Unreachable("others have answered, and it has not", got=address) from None
                if isinstance(error, DeadlineExceeded) and attempts.is_over:
                    self._late[number] = time.monotonic()
                    raise Unreachable("it does not answer in time", got=address) from error
                if isinstance(error, StoreClosed) and not self._ways.closed:
                    # Of the server: it ends, and another may be there for it soon.
                    failure = Unreachable(error.problem, got=address)
                if isinstance(failure, Unreachable | ShardElsewhere):
                    if not patience.left_s:
                        raise failure from error
                    self._renew(topology, attempts.rest_s)
                pause_s = attempts.pause_s(failure)
            time.sleep(pause_s) if spare is None else spare.over.wait(pause_s)

    def _also(self, topology: Topology, number: int) -> list[tuple[str, str]]:
        """What a part is told of whom it is taken for."""
        if not topology.cluster:
            return []
        opening = self._openings.get(number)
        own = [(CLUSTER, topology.cluster)]
        return own if opening is None else [*own, (OPENING, opening)]

    @contextlib.contextmanager
    def _counted(self, number: int) -> Iterator[None]:
        """Counts a call as waiting for a part; raises `Unreachable` where too many do in vain."""
        with self._counting:
            waiting = self._waiting[number]
            if number in self._late and waiting >= WAITING:
                raise Unreachable("it does not answer", got=f"{waiting} calls that wait for it")
            self._waiting[number] += 1
        try:
            yield
        finally:
            with self._counting:
                self._waiting[number] -= 1

    def fan(self, calls: Sequence[Callable[[], Any]], *, spare: bool = False) -> list[Any]:
        """Does several calls at once: what each returned, or the `MemstoreError` that it raised.

        spare: what takes much longer than the others is given up, with `Unreachable`.

        Raises `StoreClosed` where it was closed.
        """
        outer: Deadline | None = getattr(self._own, "deadline", None)
        if outer is not None:
            calls = [_bound(self.within, outer, call) for call in calls]
        if spare and len(calls) > 1:
            spares = [Spare() for _ in calls]
            begun = [
                self._begun(_bound(self._sparing, each, call))
                for each, call in zip(spares, calls, strict=True)
            ]
            now = time.monotonic()
            late = {number for number, at in [*self._late.items()] if now - at < AGAIN_S}
            for number in spared(begun, spares, late):
                self._late[number] = time.monotonic()
            return [*map(self._ended, begun)]
        begun = [self._begun(call) for call in calls[:-1]]
        last = _tried(calls[-1])
        return [*map(self._ended, begun), last]

    def _sparing(self, spare: Spare, work: Callable[[], T]) -> T:
        """Does some work that may be left out."""
        self._own.spare = spare
        try:
            return work()
        finally:
            self._own.spare = None

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
        except CancelledError:  # before a thread came to it
            if self._ways.closed:
                return self._ways.target.closed()
            return Unreachable("others have answered, and it was not asked yet")

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


def _bound(within: Any, what: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: within(what, call)


def _tried(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except MemstoreError as error:
        return error
