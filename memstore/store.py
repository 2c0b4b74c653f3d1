"""Store: the memories in one directory, embedded in this process.

    store = memstore.open("knowledge")
    words = store.create("words", MemoryConfig(dim=64, index="none"))
    …
    store.close()

A checkpoint takes all memories as they are at one moment and writes what has changed of them,
while they go on changing; then it replaces one manifest. Whoever opens the directory finds all
memories as of one checkpoint, and does again what was logged since.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import logging
import re
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, get_args

import numpy as np
from pyarrow import fs

from memstore import checks, files, manifest, routing
from memstore import snapshot as snapshots
from memstore.checkpoints import Entry, MemoryCheckpoints, Moment, base_of, config_of
from memstore.config import MemoryConfig
from memstore.cuts import Cuts
from memstore.disk import DISK, Disk
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.errors import (
    InvalidArgument,
    MemoryExists,
    MemoryInUse,
    MemstoreError,
    NotAStore,
    ReadOnly,
    StoreClosed,
    UnknownMemory,
    Unsupported,
    WrongPart,
)
from memstore.held import HeldMemory
from memstore.held_encoded import HeldEncodedMemory
from memstore.index import devices
from memstore.manifests import Manifests
from memstore.memory import Memory
from memstore.openings import Openings
from memstore.place import Place
from memstore.placement import WHOLE, Part, check_cluster, check_made, holders
from memstore.shard import segments
from memstore.shard.journal import Journal
from memstore.shard.log import Fsync, Log

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

LOG_BYTES = 1 << 30
"""What may be logged since the last checkpoint until one is made: done again in some seconds."""

LOOK_S, LONGEST_PAUSE_S = 1.0, 64.0
"""How often it is looked how much was logged; the pause doubles after a checkpoint that failed."""

CLOSED = "CLOSED"
"""A file that a part has while it is closed in order: without it, steps may have been lost."""

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
        self._fsync: Fsync = fsync
        self._log_bytes = checks.positive("log_bytes", log_bytes)
        self._disk = disk
        self._memories: dict[str, EmbeddedMemory | EncodedMemory] = {}
        self._checkpoints: dict[str, MemoryCheckpoints] = {}
        self._covered: dict[str, int] = {}
        """By log, the bytes that the last checkpoint of its memory covers."""
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
        self._lock = self._take()
        try:
            if self._is_there():
                body = self._manifests.read()
                if not (read_only and part is None):
                    self._check_part(WHOLE if part is None else part)
                if cluster is not None:
                    self._check_cluster(cluster)
                self._load(body)
                if self.part != WHOLE and not read_only:
                    self._write(self._checkpoints, [], **self._opened(cluster))
            else:
                self._write({}, [], **self._opened(cluster))
        except BaseException:
            with self._lock:
                for memory in self._memories.values():
                    base_of(memory).retire(StoreClosed(f"{self.path} could not be opened"))
                    with contextlib.suppress(MemstoreError):
                        base_of(memory).close_logs()
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

        made: of a part, its number among all makings and droppings of the cluster (`turn`).

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
            if name in self._memories:
                raise MemoryExists(f"memory {name!r} is there already", hint="drop it first")
            if not self.part.shards(config.shards):
                raise InvalidArgument(
                    "no shard of the memory would be here",
                    got=f"{config.shards} shards, part {self.part}",
                    expected=f"more than {self.part.number} shards",
                )
            memory = self._assemble(self.empty(name, config, 0, self.path))
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
            for memory in memories.values():
                base_of(memory).made = made
            entries = {
                name: self._made(name, memory, secrets.token_hex(8), None)
                for name, memory in memories.items()
            }
            try:
                for name, memory in memories.items():
                    self._open_logs(entries[name], [0] * len(base_of(memory).shards))
                self._write(self._checkpoints | entries, list(entries), **self._turned(made))
            except BaseException:
                for memory in memories.values():
                    with contextlib.suppress(MemstoreError):
                        base_of(memory).close_logs()
                raise
            self._memories |= memories

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
            self._check_cluster(cluster)
            if not self.cluster:
                self._write(self._checkpoints, [], cluster=cluster)

    @property
    def turn(self) -> int:
        """Of a part: the highest number of a making or dropping of which it knows."""
        return self._manifests.turn

    def note_turn(self, turn: int) -> None:
        """Keeps the number of a making or dropping for which there is nothing to do here, or which
        is about to be done; durable when it returns."""
        with self._mutex:
            self._check_writing()
            if self._turned(turn):
                self._write(self._checkpoints, [], **self._turned(turn))

    def _turned(self, turn: int) -> dict[str, Any]:
        """What is to be kept of a number; numbers do not fall."""
        return {"turn": turn} if turn > self.turn else {}

    def check_free(self, names: Iterable[str]) -> None:
        """Raises `MemoryExists` where one of the names is taken."""
        with self._mutex:
            self._check_writing()
            taken = sorted(set(names) & self._memories.keys())
        if taken:
            raise MemoryExists(f"memories {taken} are there already", hint="drop them first")

    def memory(self, name: str) -> Memory:
        """The memory of that name; raises `UnknownMemory`."""
        self._check_open()
        return self._find(name)

    def list(self) -> list[str]:
        """The names of the memories, sorted."""
        self._check_open()
        return sorted(self._memories)

    def drop(self, name: str, *, made: int = 0, turn: int = 0) -> None:
        """Takes a memory and its files away.

        made: only the one that was made under that number.  turn: the number of the dropping.

        Raises `MemoryInUse` while another memory is encoded from it.
        """
        with self._mutex:
            self._check_writing()
            check_made(name, made, base_of(self._find(name)).made)
            users = self.users(name)
            if users:
                raise MemoryInUse(
                    f"memory {name!r} holds the parts of {users}",
                    hint="drop what is encoded from it first",
                )
            left = {n: each for n, each in self._checkpoints.items() if n != name}
            self._write(left, [], **self._turned(turn))
            dropped = base_of(self._memories.pop(name))
            dropped.retire(UnknownMemory(f"memory {name!r} was dropped"))
            dropped.close_logs()
            self._manifests.sweep()

    @contextlib.contextmanager
    def loading(self, *names: str, by: object = None) -> Iterator[None]:
        """Lets memories be filled without the log: what is appended to them meanwhile is there for
        good when it ends, and not at all where it ends with an error or with the process.

        Any number of threads may append, or those alone whose `LOADER` is `by`. Nothing else
        changes these memories, or those that are encoded from them, and no checkpoint is made
        (`MemoryInUse`); searches, which find what was appended so far, and other memories go on.
        Raises `Unsupported` for a memory with a capacity.
        """
        with self._mutex:
            self._check_writing()
            if self.part != WHOLE:
                raise Unsupported(
                    f"{self.path} is part {self.part} of its memories: it is not loaded alone",
                    hint="append to a server of all",
                )
            bases = [base_of(self._find(name)) for name in names]
            for base in bases:
                if base.config.capacity is not None:
                    raise Unsupported(
                        f"memory {base.name!r} has a capacity",
                        hint="append to it: what it evicts cannot be taken back",
                    )
            held = [base_of(memory) for memory in self._memories.values() if _on(memory, names)]
            self._loading = MemoryInUse(
                f"{sorted(names)} of {self.path} are being loaded", hint="wait until that is done"
            )
            for base in held:
                base.hold(self._loading, loads=base in bases, by=by)
        try:
            yield
            with self._mutex:
                self._write(self._checkpoints, list(self._memories))
        except BaseException:
            for base in bases:
                base.take_back()
            raise
        finally:
            with self._mutex:
                self._loading = None
                for base in held:
                    base.hold(None)

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
            self._write(self._checkpoints, list(self._memories), begun)
            return self._manifests.body

    def checkpoint(self) -> None:
        """Makes everything so far durable: after it, reopening finds this state or a later one.

        Takes as long as it takes to write what has changed; searches and mutations go on.
        """
        with self._mutex:
            self._check_writing()
            self._write(self._checkpoints, list(self._memories))
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
                    self._last_checkpoint()
                with contextlib.ExitStack() as stack:
                    stack.callback(self._lock.close)
                    stack.callback(self._ended.set)
                    self._retire(stack)
                    if self.part != WHOLE and self._refusal is None and not self._behind():
                        with contextlib.suppress(OSError):
                            files.make(self.path / CLOSED, lambda file: None, self._disk)
                            self._disk.sync_folder(self.path)
                    self._closed = True
                self._memories.clear()
        if self._tender is not None and self._tender is not threading.current_thread():
            self._tender.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _take(self) -> IO[str]:
        """Locks the directory, or makes it; what is foreign is not even locked."""
        there = self._is_there()
        if self._refusal is not None:
            if not there:
                raise NotAStore(
                    f"{self.path} holds no store", hint="only one that is there can be read"
                )
            return files.lock(self.path / "LOCK", shared=True)
        try:
            files.make_folder(self.path, self._disk)
        except OSError as error:
            raise NotAStore(f"{self.path} cannot be made", got=str(error)) from error
        return files.lock(self.path / "LOCK")

    def _is_there(self) -> bool:
        """Whether there is a store; raises `NotAStore` where there is something else."""
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise NotAStore(f"{self.path} is no directory", hint="name a directory")
        if (self.path / manifest.NAME).exists():
            return True
        # A process that died while it made the store may have left these.
        ours = {"LOCK", f"{manifest.NAME}.new"}
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry.name not in ours)
        if foreign:
            raise NotAStore(
                f"{self.path} holds something else",
                got=f"{foreign[:5]}",
                expected=f"{manifest.NAME}, or an empty directory",
            )
        return False

    def _check_part(self, part: Part) -> None:
        if part != self.part:
            raise WrongPart(
                f"{self.path} is another part of its memories",
                got=f"part {part}",
                expected=f"part {self.part}",
                hint="each server has the directory of its own part",
            )

    def _check_cluster(self, cluster: str) -> None:
        if self.cluster and self.cluster != cluster:
            raise WrongPart(
                f"{self.path} belongs to another cluster",
                got=f"cluster {cluster}",
                expected=f"cluster {self.cluster}",
                hint="each part has a directory of its own, and is no copy of another cluster's",
            )

    def _opened(self, cluster: str | None) -> dict[str, Any]:
        """What a part notes when it is opened to write."""
        if self.part == WHOLE:
            return {}
        if cluster is None and not self.part.number and not self.cluster:
            cluster = secrets.token_hex(8)
        facts = {} if cluster is None else {"cluster": cluster}
        return {**facts, "openings": self.openings.another().kept}

    def empty(
        self, name: str, config: MemoryConfig, next_slot: int, folder: Path | None
    ) -> EmbeddedMemory:
        """What it holds of a memory, without rows."""
        if self.part == WHOLE:
            return EmbeddedMemory(name, config, next_slot, folder, self.part)
        held = HeldMemory(name, config, next_slot, folder, self.part)
        held.gate = self.cuts.gate
        return held

    def _load(self, body: manifest.Body) -> None:
        # Parts before what is encoded from them.
        for name, entry in sorted(
            body["memories"].items(), key=lambda item: item[1]["config"]["encoding"] is not None
        ):
            home = self.path if self._refusal is None else None
            base = self.empty(name, config_of(entry), entry["next_slot"], home)
            base.made = entry.get("made", 0)
            memory = self._memories[name] = self._assemble(base)
            made = self._made(name, memory, entry["log"]["name"], entry)
            made.load()
            self._checkpoints[name] = made
        # Last, since it writes: a store that is refused stays as it is.
        for made in self._checkpoints.values():
            assert made.entry is not None
            self._open_logs(made, made.entry["log"]["after"])
            base_of(made.memory).refusal = self._refusal
        if self._refusal is None:
            self._manifests.sweep()
            self._note_losses()

    def _note_losses(self) -> None:
        """Counts as drifted what a part lost that was not closed in order."""
        if self.part == WHOLE:
            return
        mark = self.path / CLOSED
        if mark.exists():
            with files.typed("opening a store"):
                self._disk.remove(mark)
                self._disk.sync_folder(self.path)
            return
        for memory in self._memories.values():
            if isinstance(memory, HeldEncodedMemory):
                memory.lost_steps()

    def _write(
        self,
        made: dict[str, MemoryCheckpoints],
        names: Sequence[str],
        begun: Callable[[], None] = lambda: None,
        **facts: Any,
    ) -> None:
        """Makes these the memories that whoever opens the directory finds, those named as now.

        begun: is called once their moment is taken; what it raises ends it.  facts: as in
        `Manifests.write`.
        """
        number = self._manifests.number()
        moments: dict[str, Moment] = {}
        try:
            with files.typed("a checkpoint"), contextlib.ExitStack() as stack:
                for name in sorted(names):
                    stack.enter_context(base_of(made[name].memory).frozen())
                covered = {made[name].log: made[name].logged for name in names}
                for name in names:
                    moment = made[name].begin()
                    if moment is not None:
                        moments[name] = moment
            begun()
            with files.typed("a checkpoint"):
                drafts = {name: made[name].write(moments[name], number) for name in moments}
            entries = {name: each.entry for name, each in made.items()}
            entries |= {name: draft.entry for name, draft in drafts.items()}
            self._manifests.write(number, entries, **facts)
        except BaseException:
            for name, moment in moments.items():
                made[name].abandon(moment)
            raise
        self._checkpoints = made
        self._covered |= covered
        for name, draft in drafts.items():
            made[name].keep(draft)
        for name in drafts:
            try:
                made[name].truncate()
            except MemstoreError as error:
                # It takes room, and no more: the checkpoint stands.
                logger.warning("the log of %s stays: %s", name, error)

    def _open_logs(self, made: MemoryCheckpoints, after_S: Sequence[int]) -> None:
        """Does again what the logs of a memory have behind its checkpoint; goes on with them.

        after_S: of each shard, the last record that the checkpoint covers.
        """
        base, folder = base_of(made.memory), self.path / manifest.LOGS / made.log
        replayed = [np.empty(0, np.int64)]
        for shard, after in zip(base.shards, after_S, strict=True):
            own = folder / f"shard-{shard.number}"
            name = hashlib.blake2b(f"{folder.name}/{shard.number}".encode(), digest_size=16)
            if self._refusal is None:
                with files.typed("a log"):
                    files.make_folder(own, self._disk)
                log = Log(own, name.digest(), after=after, fsync=self._fsync, disk=self._disk)
                rows = shard.replay(log.replay())
                shard.journal = Journal(base.config, shard.number, log)
            else:
                rows = shard.replay(segments.replay(own, name.digest(), after))
            replayed.append(routing.slots_of(rows, shard.number, base.config.shards))
            base.next_slot = max(base.next_slot, shard.given_out)
        if isinstance(made.memory, EncodedMemory):
            made.memory.replayed(np.sort(np.concatenate(replayed)))

    def _made(
        self, name: str, memory: EmbeddedMemory | EncodedMemory, log: str, entry: Entry | None
    ) -> MemoryCheckpoints:
        folder = self.path / manifest.MEMORIES / name
        return MemoryCheckpoints(memory, folder, log, entry, self._disk)

    def _tended(self, pause_s: float) -> float:
        """Makes a checkpoint if much was logged; returns when to look again."""
        if self._loading is not None or self.cuts.reserved or self._logged() <= self._log_bytes:
            return LOOK_S
        try:
            self.checkpoint()
        except (MemstoreError, OSError, MemoryError, RuntimeError, ValueError) as error:
            if not self._closed:
                logger.warning("the checkpoint of %s failed: %s", self.path, error)
            return min(2 * pause_s, LONGEST_PAUSE_S)
        return LOOK_S

    def _logged(self) -> int:
        """Bytes logged since the last checkpoint, of all memories."""
        made = self._checkpoints.values()
        return sum(each.logged - self._covered.get(each.log, 0) for each in made)

    def _assemble(self, base: EmbeddedMemory) -> EmbeddedMemory | EncodedMemory:
        if base.config.encoding is None:
            return base
        parts: dict[str, EmbeddedMemory] = {}
        for name in sorted(base.config.encoding_config.memories):
            if self.part.number and name not in self._memories:
                continue  # none of its shards is here
            part = self._find(name)
            if isinstance(part, EncodedMemory):
                raise InvalidArgument(
                    f"memory {name!r} is encoded itself", hint="parts are rows of plain memories"
                )
            parts[name] = part
        if isinstance(base, HeldMemory):
            return HeldEncodedMemory(base, parts)
        return EncodedMemory(base, parts)

    def check_parts(self, name: str, config: MemoryConfig, servers: int) -> None:
        """Raises what making an encoded memory over several servers would, where part 0 is."""
        if config.encoding is None:
            return
        self._assemble(self.empty(name, config, 0, None))
        for part in sorted(config.encoding_config.memories):
            shards = self._find(part).config.shards
            if holders(shards, servers) > holders(config.shards, servers):
                raise InvalidArgument(
                    f"memory {name!r} would not lie on all servers that memory {part!r} lies on",
                    got=f"{config.shards} shards",
                    expected=f"≥ {holders(shards, servers)}",
                )

    def users(self, name: str) -> builtins.list[str]:
        """The memories that are encoded from one."""
        return [
            other
            for other, memory in self._memories.items()
            if isinstance(memory, EncodedMemory) and name in memory.config.encoding_config.memories
        ]

    def _last_checkpoint(self) -> None:
        """Makes one of all memories but those whose log has more than they: opening puts these
        right, from the checkpoint before."""
        behind = self._behind()
        self._write(self._checkpoints, [name for name in self._memories if name not in behind])
        self._manifests.sweep()

    def _behind(self) -> set[str]:
        bases = {name: base_of(memory) for name, memory in self._memories.items()}
        return {n for n, b in bases.items() if any(s.behind is not None for s in b.shards)}

    def _find(self, name: str) -> EmbeddedMemory | EncodedMemory:
        found = self._memories.get(name)
        if found is None:
            known = sorted(self._memories)
            raise UnknownMemory("no such memory", got=repr(name), expected=f"one of {known}")
        return found

    def _retire(self, stack: contextlib.ExitStack) -> None:
        """Writes what was changed while the last checkpoint was written; then nothing changes.

        stack: is given what is to be done then. Leaves all open where it raises.
        """
        bases = [base_of(memory) for _, memory in sorted(self._memories.items())]
        with contextlib.ExitStack() as frozen:
            for base in bases:
                frozen.enter_context(base.frozen())
            if self._refusal is None:
                try:
                    self._last_checkpoint()
                except BaseException:
                    stack.pop_all()
                    raise
            for base in bases:
                base.retire(StoreClosed(f"{self.path} was closed", hint="open it again"))
                stack.callback(base.close_logs)

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
