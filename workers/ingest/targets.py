"""Where memories are loaded: a store in this process, or servers; window by window.

A window is there whole or not at all, so how many rows there are says where to go on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import memstore
from memstore import MemoryConfig, RequestId, Store
from memstore.errors import MemoryInUse, MemstoreError, Overloaded
from memstore.memory import Description
from models.tasks.knowledge import TaskDataError
from workers.checkpoints import Holder
from workers.ingest.rows import Batch

if TYPE_CHECKING:
    from memstore.rpc.client import Client

MOST_WAITS = 120
"""How often in a row a store is waited for that is behind, or away: some minutes or more."""

LEAST_WAIT_S, LONGEST_WAIT_S = 0.05, 5.0

ADDRESSES = re.compile(r"[^/:,\s]+:\d+(,[^/:,\s]+:\d+)*")
"""Of servers that are called without TLS or token, as `memstore.connect` does."""

Batches = Callable[[], Iterator[Batch]]
"""Gives the batches of a window, each time it is called: the same."""


class Target(Protocol):
    """What an ingest needs of a store."""

    def names(self) -> list[str]: ...

    def create(self, name: str, config: MemoryConfig) -> None: ...

    def config(self, name: str) -> MemoryConfig: ...

    def drop(self, name: str) -> None: ...

    def parts(self) -> int:
        """Over how many servers, or stores, the shards of a memory may lie."""
        ...

    def rows(self, name: str) -> int | None:
        """How many rows it has; None where they are not the first slots, one behind the other.

        What was loaded and taken back leaves such holes, but where its process was killed.
        """
        ...

    def load(self, name: str, number: int, rows: int, batches: Batches) -> None:
        """Appends a window, all of it or nothing.  number: of the window, from 0."""
        ...

    def index(self, name: str) -> None:
        """Returns once the index has what was loaded, but for the few rows that wait to be sealed
        where servers index by themselves."""
        ...

    def close(self) -> None: ...


class Embedded:
    """A store in a directory.  own: whether it ends with what is loaded."""

    def __init__(self, store: Store, *, own: bool = True) -> None:
        self._store, self._own = store, own

    def names(self) -> list[str]:
        return self._store.list()

    def create(self, name: str, config: MemoryConfig) -> None:
        self._store.create(name, config)

    def config(self, name: str) -> MemoryConfig:
        return self._store.memory(name).config

    def drop(self, name: str) -> None:
        self._store.drop(name)

    def parts(self) -> int:
        return 1

    def rows(self, name: str) -> int | None:
        return _rows(self._store.memory(name).describe())

    def load(self, name: str, number: int, rows: int, batches: Batches) -> None:
        memory = self._store.memory(name)
        # It is made of all rows at once, behind the last: `index`.
        with self._store.loading(name, index=False):
            for keys_BD, records in batches():
                patiently(lambda k=keys_BD, r=records: memory.append(k, None, r))  # type: ignore[misc]

    def index(self, name: str) -> None:
        self._store.memory(name).reindex()
        self._store.checkpoint()

    def close(self) -> None:
        if self._own:
            self._store.close()


class Served:
    """The memories of servers, one or several.  own: as of `Embedded`."""

    def __init__(self, client: Client, name: str, *, own: bool = True) -> None:
        """name: under which windows are numbered, the same whenever it goes on."""
        self._client, self._name, self._own = client, name, own
        self._settled = set[str]()

    def names(self) -> list[str]:
        return self._client.list()

    def create(self, name: str, config: MemoryConfig) -> None:
        self._client.create(name, config)

    def config(self, name: str) -> MemoryConfig:
        return self._client.memory(name).config

    def drop(self, name: str) -> None:
        self._client.drop(name)

    def parts(self) -> int:
        from memstore.rpc import administration

        told = patiently(lambda: self._client.send(administration.topology()))
        return 1 if told is None else len(told.servers)

    def rows(self, name: str) -> int | None:
        if name not in self._settled:
            # A load of nothing waits for one that was cut off: its rows are not to be counted, for
            # they are taken back.
            patiently(lambda: self._client.load(name, []), MemoryInUse)
            self._settled.add(name)
        return _rows(patiently(lambda: self._client.memory(name).describe()))

    def load(self, name: str, number: int, rows: int, batches: Batches) -> None:
        from memstore.rpc import columns

        request = RequestId(f"{self._name}-{name}", number + 1)

        def load() -> None:
            tables = (columns.table_of(keys_BD, None, records) for keys_BD, records in batches())
            self._client.load(name, tables, request_id=request)

        patiently(load, MemoryInUse)

    def index(self, name: str) -> None:
        """Waits for the servers, which index what is loaded by themselves."""
        memory, waits, before = self._client.memory(name), 0, -1
        limit = memory.config.index_config.fresh_limit
        while True:
            fresh = [shard.fresh for shard in patiently(memory.describe).shards]
            if max(fresh) <= limit:
                return
            waits = waits + 1 if sum(fresh) == before else 0
            if waits > MOST_WAITS:
                raise TaskDataError(
                    f"{sum(fresh):,} rows of {name!r} that servers have not indexed for minutes",
                    f"at most {limit:,} a shard",
                    "look at their logs, or reindex it; the same command goes on",
                )
            before = sum(fresh)
            time.sleep(min(2.0**waits * LEAST_WAIT_S, LONGEST_WAIT_S))

    def close(self) -> None:
        if self._own:
            self._client.close()


def _rows(found: Description) -> int | None:
    return found.rows if found.rows == found.next_slot else None


def patiently(call: Callable[[], Any], *also: type[MemstoreError]) -> Any:
    """Does a call; waits and does it again where the store says that this may help.

    also: errors that pass, too.
    """
    waits = 0
    while True:
        try:
            return call()
        except MemstoreError as error:
            waits += 1
            if not (error.retryable or isinstance(error, also)) or waits > MOST_WAITS:
                raise
            wanted_s = error.retry_after_s if isinstance(error, Overloaded) else 2.0**waits * 0.05
            time.sleep(min(max(wanted_s, LEAST_WAIT_S), LONGEST_WAIT_S))


def target(into: str, name: str, holder: Holder | None = None) -> Target:
    """Opens where the rows go: a directory, or servers; or takes what is open already.

    name: of what loads, as of `Served`.
    """
    if isinstance(holder, Store):
        return Embedded(holder, own=False)
    if holder is not None:
        return Served(holder, name, own=False)
    return (
        Served(memstore.connect(into), name) if is_served(into) else Embedded(memstore.open(into))
    )


def is_served(into: str) -> bool:
    """Whether it names servers: `ray:…`, or `HOST:PORT`, several with commas between them."""
    return into.startswith(("ray:", "ray://")) or ADDRESSES.fullmatch(into) is not None
