"""The client: `memstore.connect`, the way to a server, and what it does when that fails.

    with memstore.connect("127.0.0.1:7437", token="…") as client:
        facts = client.memory("facts")
        facts.search(queries, k=10)

Every call has a deadline. One that failed and may be sent again is, after a pause that doubles and
is drawn at random, as long as the deadline allows: a read, and a mutation under its number.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from memstore.extras import install

try:
    import grpc  # noqa: F401 - the first of those that need it
except ImportError as error:
    raise ImportError(f"the service needs grpcio: {install('rpc')}") from error

import pyarrow as pa

from memstore.config import MemoryConfig
from memstore.deadline import Deadline
from memstore.errors import (
    DeadlineExceeded,
    ForeignPart,
    MemstoreError,
    ShardUnavailable,
    StoreClosed,
    TooLong,
    UnknownMemory,
    Unreachable,
    Unsupported,
)
from memstore.memory import Memory, RequestId, SlotsLike
from memstore.placement import Part, holders
from memstore.rpc import administration, bulk
from memstore.rpc.administration import StoreRequests
from memstore.rpc.attempts import Attempts
from memstore.rpc.bulk import Batches, Bulk, Loaded
from memstore.rpc.calls import Numbering, Request, sent
from memstore.rpc.client_session import Session
from memstore.rpc.cutting import Portions
from memstore.rpc.fleet import Fleet
from memstore.rpc.membership import CLUSTER
from memstore.rpc.parts import RemotePart, search_all
from memstore.rpc.remote import RemoteMemory
from memstore.rpc.target import Target
from memstore.rpc.topology import Topology
from memstore.rpc.ways import Pair, Way, Ways
from memstore.spread.encoded import AskingMemory
from memstore.spread.memory import SpreadMemory

LOOK_S = 2.0
"""For a server to say which the others are."""

T = TypeVar("T")


class Client:
    """The memories of a server; any thread may use it."""

    requests = StoreRequests()

    def __init__(
        self,
        *targets: Target,
        fan_out: bool = True,
        find: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        """targets: servers of one topology, at least one.  fan_out: ask each server for its own
        part of a memory; else the one that is asked asks the others.  find: looks up where they
        are, for when none answers."""
        self._target, self._fan_out = targets[0], fan_out
        self._ways = Ways(targets, find)
        self._numbering = Numbering()
        self._finding = threading.Lock()
        self._topology: Topology | None = None
        self._fleet: Fleet | None = None
        self._found_out = False

    def __repr__(self) -> str:
        return f"<Client of {self._target.address}>"

    def memory(self, name: str) -> Memory:
        """The memory of that name; raises `UnknownMemory`."""
        config, made = self.send(administration.found(name))
        remote, fleet = RemoteMemory(self, name, config, made), self._found()
        if fleet is None or self._topology is None:
            return remote
        of = len(self._topology.servers)
        numbers = range(holders(config.shards, of))
        parts = [RemotePart(fleet, Part(i, of), name, config, made) for i in numbers]
        whole: Any = (name, config, parts, fleet.fan, self.next_request)
        given: Any = {"search_all": search_all(parts, fleet.fan)}
        if config.encoding is not None:
            return AskingMemory(*whole, server=remote, **given)
        # Slots are given out by servers alone.
        return SpreadMemory(*whole, appends=remote, allocates=remote, **given)

    def session(self) -> Session:
        """A stream over which calls need not wait for each other."""
        return Session(_Opener(self._ways, self), self, self._target)

    def create(self, name: str, config: MemoryConfig) -> Memory:
        """Makes an empty memory; raises `MemoryExists`, also where the first answer was lost."""
        self.send(self.requests.create(name, config))
        return self.memory(name)

    def drop(self, name: str) -> None:
        """Takes a memory and its files away, and none that is made under its name meanwhile."""
        made = 0
        with contextlib.suppress(UnknownMemory):  # parts of it may be left
            made = self.send(administration.found(name))[1]
        self.send(self.requests.drop(name, made))

    list = sent(StoreRequests.list)
    mark = sent(StoreRequests.mark)
    unmark = sent(StoreRequests.unmark)
    marks = sent(StoreRequests.marks)
    snapshot = sent(StoreRequests.snapshot)
    restore = sent(StoreRequests.restore)

    def load(
        self,
        memory: str,
        batches: Batches,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Loaded:
        """Appends any number of rows to a memory as one, without the log.

        batches: a table, or batch after batch, which are sent as they come. Columns: `key`, and
        `value` where the memory has values, lists of D and V numbers; the records. An encoded
        memory takes records alone; `slot` and `generation`, which `export` gives, are left out.
        step, request_id: as in `append`.  deadline_s: an hour unless told.

        All of them are there when it returns, or none: where it fails, or the client is lost, what
        was loaded is taken back. Until then other mutations of the memory raise `MemoryInUse`, and
        so does this while another load is under way; searches go on, and find what was loaded so
        far. It is not sent again by itself: after `Unreachable` or `DeadlineExceeded` the same rows
        may be, under the same `request_id`.
        """
        known = self.send(administration.found(memory))
        requests = bulk.messages(memory, *known, batches, step, request_id)
        topology = self.send(administration.topology())
        self.take(topology)
        bulk_streams = self.bulk(self.loads_at(topology))
        return bulk_streams.end(bulk_streams.begin(requests, deadline_s))

    def export(
        self,
        memory: str,
        slots: SlotsLike | None = None,
        *,
        vectors: bool = True,
        columns: Sequence[str] | None = None,
        deadline_s: float | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Reads the rows of a memory, in order of slot, or those of some slots; batch by batch.

        Columns of a batch: `slot`, `generation`; `key` and `value` unless `vectors` is False; the
        record columns named, or all.  deadline_s: an hour unless told.

        Each row is as it was when its batch was read; what is erased before is left out, what is
        appended after the beginning too. Errors are raised when the first batch is asked for.
        """
        message = bulk.request(administration.text("memory", memory), slots, vectors, columns)
        return self._exported(message, bulk.timeout_s(deadline_s))

    def _exported(self, message: Any, timeout_s: float) -> Iterator[pa.RecordBatch]:
        self.look(self._ways.any())
        yield from self.bulk().export(message, timeout_s)

    def close(self) -> None:
        """Ends all calls; a second call does nothing."""
        self._ways.close()
        with self._finding:
            if self._fleet is not None:
                self._fleet.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def next_request(self) -> RequestId:
        return self._numbering.next()

    def send(self, request: Request[T]) -> T:
        """Sends a request, again where that may help, and returns what its verb does.

        A read whose reply is longer than a message is cut into several.
        """
        attempts = Attempts(request, self._target.deadline_s)
        portions = Portions(request, self._target.message_bytes)
        while True:
            try:
                left_s = attempts.left_s()
                reply = self._sent(request.service, request.verb, portions.message, left_s)
            except TooLong as error:
                portions.cut(error)
            except MemstoreError as error:
                pause_s = attempts.pause_s(error)
                time.sleep(pause_s)
            else:
                if portions.take(reply):
                    return request.decode(portions.reply)

    def _sent(self, service: str, verb: str, message: Any, left_s: float) -> Any:
        way, begun = self._ways.any(), time.monotonic()
        try:
            return way.sent(service, verb, message, left_s, self.told)
        except ShardUnavailable:
            raise  # It is there, others are not.
        except (Unreachable, StoreClosed, ForeignPart, DeadlineExceeded):
            # Of those that hang the next call is to ask another.
            self._ways.pass_over(way, left_s - (time.monotonic() - begun))
            raise

    def _found(self) -> Fleet | None:
        """The servers that hold parts; None where one holds all, or is to be asked for all."""
        with self._finding:
            if not self._found_out:
                with contextlib.suppress(Unsupported):  # of a server of before there were several
                    self.take(self.send(administration.topology()))
                self._found_out = True
                if self._topology is not None and self._fan_out:
                    self._fleet = Fleet(self._ways, self._known, self._renew)
        return self._fleet

    def look(self, way: Way) -> None:
        """Asks a server, if it answers soon, whose it is, unless that is known."""
        if self._topology is None and not self._found_out:
            with contextlib.suppress(MemstoreError):
                self.take(way.attempt(administration.topology(), LOOK_S))

    @property
    def told(self) -> Sequence[Pair]:
        """What goes with every call, once it is known."""
        known = self._topology
        return [(CLUSTER, known.cluster)] if known is not None and known.cluster else []

    def _known(self) -> Topology:
        return cast(Topology, self._topology)

    def take(self, told: Topology | None) -> None:
        """Goes by what a server told of the others, if it is newer; None where it holds all."""
        known = self._topology
        if told is None or (known is not None and told.version <= known.version):
            return
        if known is not None and known.cluster not in ("", told.cluster):
            return  # Another cluster's server has the address of one of these by now.
        self._topology = told
        if self._fan_out:
            self._ways.learn(told.servers)

    def _renew(self, known: Topology, left_s: float) -> None:
        """Asks all servers at once for a topology that is newer than one that led nowhere.

        left_s: of the call that it led nowhere.
        """
        until = Deadline(max(min(left_s, LOOK_S), 1e-3))
        ends = Deadline(max(left_s, 1e-3))
        if not self._finding.acquire(timeout=until.left_s):
            return
        try:
            if self._topology is not known:
                return
            with contextlib.closing(self._ways.asked(administration.topology(), until)) as told:
                for each in told:
                    self.take(each)
                    if self._topology is not known:
                        return
        finally:
            self._finding.release()
        self._ways.find(ends.left_s)

    @property
    def finds(self) -> bool:
        """Whether it can look up where the servers are."""
        return self._ways.finds

    def found(self, left_s: float) -> Sequence[str]:
        """Looks up where the servers are, for so long at most; returns where."""
        self._ways.find(left_s)
        return self._ways.addresses

    def bulk(self, address: str | None = None) -> Bulk:
        """The long streams to a server: to one, or to any."""
        way = self._ways.any() if address is None else self._ways.to(address)
        return Bulk(way.channel, self._target, self.told)

    @staticmethod
    def loads_at(topology: Topology | None) -> str | None:
        """The server that loads: of several that of part 0."""
        return None if topology is None else topology.servers[0]


class _Opener:
    """Opens the streams of one session: where one broke, the next to the next server."""

    def __init__(self, ways: Ways, client: Client) -> None:
        self._ways, self._client = ways, client
        self._last: Way | None = None

    def __call__(self, calls: Any) -> Any:
        if self._last is not None:
            self._ways.pass_over(self._last, LOOK_S)
        self._last = self._ways.any()
        self._client.look(self._last)
        return self._last.opened(calls, self._client.told)
