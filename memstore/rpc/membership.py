"""Membership: which cluster a part belongs to, and who takes its server for one of another.

Part 0 draws the id of a cluster, and the topology tells it. A part that has none asks part 0, or
takes that of its topology, once, and keeps it. Who knows the id sends it with every call, in the
metadata, and with what it asks of a part the newest opening of it that has answered before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from memstore.errors import ForeignPart, MemstoreError, ShardElsewhere, Unreachable
from memstore.placement import WHOLE, check_cluster
from memstore.rpc import administration
from memstore.rpc.calls import itself
from memstore.rpc.topology import Route, Topology
from memstore.rpc.ways import Ways
from memstore.store import Store

CLUSTER, OPENING = "memstore-cluster", "memstore-opening"
"""The metadata of a call; of the reply, the second."""

JOIN_S = 10.0
"""For part 0 to say which cluster it is of: it may have begun a moment ago, on a busy machine."""

Metadata = Iterable[tuple[str, str | bytes]]


def told(metadata: Metadata | None, key: str) -> str:
    """What metadata say of one thing; empty where that is nothing."""
    value = next((value for name, value in metadata or () if name == key), "")
    return value if isinstance(value, str) else ""


class Membership:
    """That of a store which has a part of its memories. Any thread may ask."""

    def __init__(self, store: Store, route: Route, ways: Ways) -> None:
        self._store, self._route, self._ways = store, route, ways
        self._joining = threading.Lock()
        self._known: Topology | None = None
        self._now: Topology | None = None

    @property
    def topology(self) -> Topology:
        """The topology, with the id of the cluster.

        Raises `Unreachable` where there is none, or where the part was never told its cluster and
        part 0 does not answer.
        """
        known = self._route.now
        if known is not self._known or self._now is None:
            self._now, self._known = replace(known, cluster=self.joined()), known
        return self._now

    def joined(self) -> str:
        """The id of the cluster, which a part that has none learns now, and keeps."""
        if not self._store.cluster:
            with self._joining:
                if not self._store.cluster:
                    self._store.join(self._route.now.cluster or self._asked())
        return self._store.cluster

    def _asked(self) -> str:
        """What part 0 says."""
        way = self._ways.to(self._route.now.servers[0])
        request = replace(administration.topology(), decode=itself)
        try:
            reply: Any = way.attempt(request, JOIN_S)
        except MemstoreError as error:
            raise Unreachable(
                "the server was not told yet which cluster it is of, and part 0 does not say it",
                got=str(error),
            ) from error
        if (reply.part.number, reply.part.of) != (0, self._store.part.of):
            raise ShardElsewhere(
                "another server is where the topology has part 0",
                got=f"part {reply.part.number}/{reply.part.of} at {way.target.address}",
                expected=f"part 0/{self._store.part.of}",
            )
        check_cluster(reply.cluster)
        return str(reply.cluster)


def check(store: Store, metadata: Metadata | None) -> None:
    """Raises `ForeignPart` where a caller takes the server for one of another cluster, or for
    another copy of its part; who says nothing is not checked."""
    cluster = told(metadata, CLUSTER)
    if cluster and cluster != store.cluster:
        is_part = store.part != WHOLE
        raise ForeignPart(
            "the server is of another cluster" if is_part else "the server holds whole memories",
            got=f"a call for cluster {cluster[:64]!r}",
            expected=f"one for cluster {store.cluster!r}" if is_part else None,
            hint="look at the topology: another server has the address of one of its parts",
        )
    opening = told(metadata, OPENING)
    if opening and not store.openings.has(opening):
        raise ForeignPart(
            "another server was opened on a copy of this part's folder",
            got=f"a call for opening {opening} of part {store.part}",
            expected=f"one for opening {store.openings.newest}, or one before it",
            hint="end one of the two, and connect anew where the older one is to go on",
        )
