"""Store: the memories in one directory, embedded in this process.

    store = memstore.open("knowledge")
    words = store.create("words", MemoryConfig(dim=64, index="none"))
    …
    store.close()

What it holds, and how that gets to the directory, is in `contents`; whose directory it is, in
`belonging`. Here are the verbs of a store, what excludes what, and its life.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

from pyarrow import fs

from memstore import checks
from memstore.config import MemoryConfig
from memstore.contents import Contents
from memstore.deadline import Deadline
from memstore.disk import DISK, Disk
from memstore.durable import belonging, manifest
from memstore.durable import snapshot as snapshots
from memstore.durable.checkpoints import base_of
from memstore.durable.cuts import Cuts
from memstore.durable.manifests import Manifests
from memstore.durable.openings import Openings
from memstore.durable.place import Place
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.errors import (
    InvalidArgument,
    MemoryExists,
    MemoryInUse,
    MemstoreError,
    ReadOnly,
    StoreClosed,
    Unsupported,
)
from memstore.index import devices
from memstore.memory import Memory
from memstore.placement import WHOLE, Part, check_cluster, check_made, draw_made
from memstore.shard.log import Fsync
from memstore.trim import give_back

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

LOG_BYTES = 1 << 30
"""What may be logged since the last checkpoint until one is made: done again in some seconds."""

LOOK_S, LONGEST_PAUSE_S = 1.0, 64.0
"""How often it is looked how much was logged; the pause doubles after a checkpoint that failed."""

logger = logging.getLogger(__name__)


class Store:
    """The memories in one directory. One process owns it at a time."""

    def __init__(
        self,
        path: str | Path,
        *,
        fsync: Fsync = "interval",
        log_bytes: int = LOG_BYTES,
        read_only: bool = False,
        part: Part | None = None,
        cluster: str | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Opens the store at `path`, or makes one where there is nothing yet.

        fsync: when a mutation is durable. `always`: when its call returns. `interval`: a tenth of
        a second later. `never`: when the system gets to it. The death of the process alone loses
        nothing that was acknowledged.
        log_bytes: a checkpoint is made in the background when so much was logged since the last.
        read_only: nothing is written, and any number may read, while nobody has the store open
        otherwise; what would change it raises `ReadOnly`.
        part: of its memories the store holds these shards alone, and others lie elsewhere: see
        `memstore.placement`. It stays the part that it was made as. None is the whole, or, where
        it is read alone, what it is.
        cluster: of a part, the id of the servers that it belongs to, which it keeps from then on.
        None is what it has; part 0 draws one, others learn it (`join`).
        disk: what does all that durability rests on; tests give a worse one.

        Raises `NotAStore` where something else is, `StoreLocked` where another process has it,
        `UnsupportedVersion` and `CorruptFile` where its files are not to be read, `WrongPart`
        where it is another part, or one of another cluster.
        """
        self.path = Path(path)
        if fsync not in get_args(Fsync):
            raise InvalidArgument(
                "fsync is unknown", got=repr(fsync), expected=f"one of {get_args(Fsync)}"
            )
        self._log_bytes = checks.positive("log_bytes", log_bytes)
        self._disk = disk
        self._manifests = Manifests(self.path, disk, WHOLE if part is None else part)
        # One checkpoint at a time, and none beside what changes which memories there are.
        self._mutex = threading.RLock()
        self._copied = threading.Condition(self._mutex)
        self.cuts = Cuts(self.path, self._manifests, self._copied, self._cut)
        """Of a part: its share of marks and snapshots of the whole."""
        self._closed = False
        self._loading: MemoryInUse | None = None
        self._ended = threading.Event()
        self._tender: threading.Thread | None = None
        self._refusal = ReadOnly(f"{self.path} was opened read-only") if read_only else None
        if cluster is not None:
            check_cluster(cluster)
            if part is None or part == WHOLE or read_only:
                raise InvalidArgument("a cluster is of parts that are opened to write", got=part)
        self._contents = Contents(
            self.path,
            self._manifests,
            self.cuts.gate,
            fsync=fsync,
            disk=disk,
            refusal=self._refusal,
        )
        self._lock = belonging.take(self.path, disk, read_only=read_only)
        try:
            if belonging.is_there(self.path):
                body = self._manifests.read()
                if not (read_only and part is None):
                    belonging.check_part(self.path, self.part, WHOLE if part is None else part)
                if cluster is not None:
                    belonging.check_cluster(self.path, self.cluster, cluster)
                self._contents.load(body)
                if self.part != WHOLE and not read_only:
                    self._contents.write([], **belonging.opened(self._manifests, cluster))
            else:
                self._contents.write([], **belonging.opened(self._manifests, cluster))
        except BaseException:
            with self._lock:
                self._contents.give_up()
            raise
        if not read_only:
            self._tender = threading.Thread(
                target=_tend,
                args=(weakref.ref(self), self._ended),
                name="memstore-tend",
                daemon=True,
            )
            self._tender.start()

    def create(self, name: str, config: MemoryConfig, *, made: int = 0) -> Memory:
        """Makes an empty memory.

        made: of a part, its number among all makings and droppings of the cluster (`turn`); of the
        whole one is drawn.

        Raises `MemoryExists` if the name is taken, `DeviceUnavailable` where its device is not.
        """
        with self._mutex:
            self._check_writing()
            check_name(name)
            if not isinstance(config, MemoryConfig):
                raise InvalidArgument(
                    "not a configuration", got=type(config).__name__, expected="MemoryConfig"
                )
            devices.find(config.index_config)
            if name in self._contents.memories:
                raise MemoryExists(f"memory {name!r} is there already", hint="drop it first")
            if not self.part.shards(config.shards):
                raise InvalidArgument(
                    "no shard of the memory would be here",
                    got=f"{config.shards} shards, part {self.part}",
                    expected=f"more than {self.part.number} shards",
                )
            memory = self._contents.assemble(self.empty(name, config, 0, self.path))
            self.adopt({name: memory}, made=made)
            return memory

    def adopt(
        self, memories: Mapping[str, EmbeddedMemory | EncodedMemory], *, made: int = 0
    ) -> None:
        """Takes in memories that belong to no store, as they are, all or none of them.

        made: of a part, the number of their making, as in `create`.

        Raises `MemoryExists` where a name is taken.
        """
        with self._mutex:
            self.check_free(memories)
            whole = self.part == WHOLE
            for memory in memories.values():
                base_of(memory).made = draw_made() if whole else made
            self._contents.adopt(memories, **({} if whole else self._turned(made)))

    @property
    def part(self) -> Part:
        """Which shards of its memories it holds."""
        return self._manifests.part

    @property
    def cluster(self) -> str:
        """The id of the servers that a part belongs to; empty where it is not known yet."""
        return self._manifests.cluster

    @property
    def openings(self) -> Openings:
        """How often a part was opened to write."""
        return self._manifests.openings

    def join(self, cluster: str) -> None:
        """Makes a part belong to a cluster for good; raises `WrongPart` where it is of another."""
        check_cluster(cluster)
        with self._mutex:
            self._check_writing()
            if self.part == WHOLE:
                raise InvalidArgument(f"{self.path} is no part", hint="it has whole memories")
            belonging.check_cluster(self.path, self.cluster, cluster)
            if not self.cluster:
                self._contents.write([], cluster=cluster)

    @property
    def turn(self) -> int:
        """Of a part: the highest number of a making or dropping of which it knows."""
        return self._manifests.turn

    def fact(self, name: str, default: Any) -> Any:
        """What the manifest of a part has besides its memories."""
        return self._manifests.body.get(name, default)

    def note(self, **facts: Any) -> None:
        """Keeps facts of a part, as in `Manifests.write`; they are durable when it returns."""
        with self._mutex:
            self._check_writing()
            self._contents.write([], **facts)

    def note_turn(self, turn: int) -> None:
        """Keeps the number of a making or dropping for which there is nothing to do here, or which
        is about to be done; durable when it returns."""
        with self._mutex:
            self._check_writing()
            if self._turned(turn):
                self._contents.write([], **self._turned(turn))

    def _turned(self, turn: int) -> dict[str, Any]:
        """What is to be kept of a number; numbers do not fall."""
        return {"turn": turn} if turn > self.turn else {}

    def check_free(self, names: Iterable[str]) -> None:
        """Raises `MemoryExists` where one of the names is taken."""
        with self._mutex:
            self._check_writing()
            taken = sorted(set(names) & self._contents.memories.keys())
        if taken:
            raise MemoryExists(f"memories {taken} are there already", hint="drop them first")

    def memory(self, name: str) -> Memory:
        """The memory of that name; raises `UnknownMemory`."""
        self._check_open()
        return self._contents.find(name)

    def list(self) -> list[str]:
        """The names of the memories, sorted."""
        self._check_open()
        return sorted(self._contents.memories)

    def drop(self, name: str, *, made: int = 0, turn: int = 0) -> None:
        """Takes a memory and its files away.

        made: only the one that was made under that number.  turn: the number of the dropping.

        Raises `MemoryInUse` while another memory is encoded from it.
        """
        with self._mutex:
            self._check_writing()
            check_made(name, made, base_of(self._contents.find(name)).made)
            users = self.users(name)
            if users:
                raise MemoryInUse(
                    f"memory {name!r} holds the parts of {users}",
                    hint="drop what is encoded from it first",
                )
            self._contents.drop(name, **self._turned(turn))
        give_back()

    @contextlib.contextmanager
    def loading(
        self,
        *names: str,
        by: object = None,
        deadline_s: float | None = None,
        index: bool = True,
    ) -> Iterator[None]:
        """Lets memories be filled without the log: what is appended to them meanwhile is there for
        good when it ends, and not at all where it ends with an error or with the process.

        Any number of threads may append, or those alone whose `LOADER` is `by`. Nothing else
        changes these memories, or those that are encoded from them, and no checkpoint is made
        (`MemoryInUse`); searches, which find what was appended so far, and other memories go on.
        deadline_s: for a checkpoint that is being made, which is waited for (`DeadlineExceeded`).
        index: False has indices rest, for who calls `reindex` once all is loaded. Raises
        `Unsupported` for a memory with a capacity.
        """
        with Deadline(deadline_s).held(self._mutex, "a checkpoint"):
            self._check_writing()
            if self.part != WHOLE:
                raise Unsupported(
                    f"{self.path} is part {self.part} of its memories: it is not loaded alone",
                    hint="append to a server of all",
                )
            bases = [base_of(self._contents.find(name)) for name in names]
            for base in bases:
                if base.config.capacity is not None:
                    raise Unsupported(
                        f"memory {base.name!r} has a capacity",
                        hint="append to it: what it evicts cannot be taken back",
                    )
            memories = self._contents.memories.values()
            held = [base_of(memory) for memory in memories if _on(memory, names)]
            self._loading = MemoryInUse(
                f"{sorted(names)} of {self.path} are being loaded", hint="wait until that is done"
            )
            for base in held:
                base.hold(self._loading, loads=base in bases, by=by, index=index)
        try:
            yield
            with self._mutex:
                self._contents.write()
        except BaseException:
            for base in bases:
                base.take_back()
            raise
        finally:
            with self._mutex:
                self._loading = None
                for base in held:
                    base.hold(None)
                self._manifests.sweep()

    def mark(self, name: str) -> None:
        """Keeps all memories as they are now under a name, for `snapshot`: makes a checkpoint,
        whose files stay until `unmark`.

        Raises `InvalidArgument` where there is such a mark.
        """
        with self._mutex:
            self._check_writing()
            check_name(name)
            if name in self._manifests.marks:
                raise InvalidArgument(
                    "the mark is there already", got=repr(name), hint="take it away by unmark first"
                )
            self.checkpoint()
            self._manifests.mark(name)

    def unmark(self, name: str) -> None:
        """Takes a mark away, with what only it has kept; raises `InvalidArgument`."""
        with self._mutex:
            self._check_writing()
            self._manifests.unmark(name)
            self._manifests.sweep()

    def is_unread(self, mark: str) -> bool:
        """Whether there is a mark of that name that is not to be read."""
        return mark in self._manifests.unread

    def marks(self) -> builtins.list[str]:
        """The names of the marks, sorted."""
        self._check_open()
        return sorted(self._manifests.marks)

    def snapshot(
        self,
        uri: str | Path,
        *,
        at: str | None = None,
        filesystem: fs.FileSystem | None = None,
        progress: snapshots.Progress | None = None,
    ) -> snapshots.Snapshot:
        """Copies all memories as they are at one moment to another place; they go on meanwhile.

        uri: a path or an address as "s3://bucket/folder", where any number of snapshots may lie;
        files that are there already are not copied again.  at: the mark whose moment it is; None
        is now, and makes a checkpoint.  filesystem: where `uri` is a path.  progress: is called
        with the bytes that are there and those that there will be.

        Raises `SnapshotFailed` where the place fails; called again it goes on. `close` waits for
        one that is being taken.  Raises `Unsupported` for a part.
        """
        if self.part != WHOLE:
            raise Unsupported(
                f"{self.path} is part {self.part} of its memories: no snapshot is taken of one",
                hint="ask a server: it takes one of all parts",
            )
        place = Place(uri, filesystem)
        place.check_outside(self.path)
        with self._mutex:
            self._check_open()
            if at is None:
                self._check_writing()
                self.checkpoint()
            body = self._manifests.body if at is None else self._manifests.marked(at)
            self._manifests.pins.append(body)
        try:
            return snapshots.take(body, self.path, place, at, progress)
        finally:
            with self._mutex:
                self._manifests.pins.remove(body)
                self._copied.notify_all()

    def _cut(self, begun: Callable[[], None]) -> manifest.Body:
        """Makes a checkpoint; says when its moment is taken, and returns its manifest."""
        with self._mutex:
            self._check_writing()
            self._contents.write(begun=begun)
            return self._manifests.body

    def checkpoint(self) -> None:
        """Makes everything so far durable: after it, reopening finds this state or a later one.

        Takes as long as it takes to write what has changed; searches and mutations go on.
        """
        with self._mutex:
            self._check_writing()
            self._contents.write()
            self._manifests.sweep()

    def close(self) -> None:
        """Makes a checkpoint and gives the directory free; a second call does nothing.

        A checkpoint that fails leaves the store open, with all that it holds.
        """
        with self._mutex:
            while self._manifests.pins:
                self._copied.wait()
            if not self._closed:
                if self._loading is not None:
                    raise self._loading
                if self._refusal is None:
                    self._contents.last_checkpoint()
                with contextlib.ExitStack() as stack:
                    stack.callback(self._let_go)
                    stack.callback(self._lock.close)
                    stack.callback(self._ended.set)
                    self._contents.retire(stack)
                    if self.part != WHOLE and self._refusal is None and not self._contents.behind():
                        belonging.note_closed(self.path, self._disk)
                    self._closed = True
        if self._tender is not None and self._tender is not threading.current_thread():
            self._tender.join()
        give_back()

    def _let_go(self) -> None:
        """Holds nothing any more, once it is closed."""
        if self._closed:
            self._contents.let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _tended(self, pause_s: float) -> float:
        """Makes a checkpoint if much was logged; returns when to look again."""
        try:
            logged = self._contents.logged
            if self._loading is not None or self.cuts.reserved or logged <= self._log_bytes:
                return LOOK_S
            self.checkpoint()
        except (MemstoreError, OSError, MemoryError, RuntimeError, ValueError) as error:
            if not self._closed:
                logger.warning("the checkpoint of %s failed: %s", self.path, error)
            return min(2 * pause_s, LONGEST_PAUSE_S)
        # Here, where memory was taken anyway, and as often as there is something to do.
        give_back()
        return LOOK_S

    def empty(
        self, name: str, config: MemoryConfig, next_slot: int, folder: Path | None
    ) -> EmbeddedMemory:
        """What it holds of a memory, without rows."""
        return self._contents.empty(name, config, next_slot, folder)

    def check_parts(self, name: str, config: MemoryConfig, servers: int) -> None:
        """Raises what making an encoded memory over several servers would, where part 0 is."""
        self._contents.check_parts(name, config, servers)

    def users(self, name: str) -> builtins.list[str]:
        """The memories that are encoded from one."""
        return self._contents.users(name)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path} was closed", hint="open it again")

    def _check_writing(self) -> None:
        self._check_open()
        for refusal in (self._refusal, self._loading):
            if refusal is not None:
                raise refusal


def _on(memory: EmbeddedMemory | EncodedMemory, names: Sequence[str]) -> bool:
    """Whether a memory is one of these, or encoded from one."""
    parts = memory.config.encoding_config.memories if isinstance(memory, EncodedMemory) else ()
    return memory.name in names or not set(parts).isdisjoint(names)


def _tend(found: weakref.ref[Store], ended: threading.Event) -> None:
    """Makes a checkpoint whenever much was logged, as long as the store is open."""
    pause_s = LOOK_S
    while not ended.wait(pause_s):
        store = found()
        if store is None:
            return
        pause_s = store._tended(pause_s)
        del store


def check_name(name: object) -> None:
    """Raises `InvalidArgument` on what no memory, and no mark, may be named."""
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise InvalidArgument("not a memory name", got=repr(name), expected=NAME.pattern)


def open(  # noqa: A001
    path: str | Path,
    *,
    fsync: Fsync = "interval",
    log_bytes: int = LOG_BYTES,
    read_only: bool = False,
    part: Part | None = None,
    cluster: str | None = None,
) -> Store:
    """Opens the store at `path`, or makes one where there is nothing yet: see `Store`."""
    how: dict[str, Any] = {"read_only": read_only, "part": part, "cluster": cluster}
    return Store(path, fsync=fsync, log_bytes=log_bytes, **how)
