"""The redo log of a shard: what a mutation leaves behind, on the disk before it is acknowledged.

    log = Log(folder, owner, after=checkpoint)
    for sequence, record in log.replay():
        …                                    apply it
    sequence = log.append(record)            before applying; in the order of the mutations
    log.commit(sequence)                     before acknowledging; many wait for one fsync

A record is handed to the system by `append`, so a process that dies loses none. What a power loss
takes depends on `fsync`:

| fsync | `commit` returns | a power loss takes |
|---|---|---|
| always | when the record is durable | nothing that was committed |
| interval | at once | what came in the last `interval_s`, and while that was written |
| never | at once | what the system had not written by itself, a segment at most |

In each mode what is left is all records up to one of them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from memstore.disk import DISK, FULL, Disk, Superseded
from memstore.errors import LogFailed, MemstoreError, ShardElsewhere, StorageFull, StoreClosed
from memstore.shard import log_format, segments
from memstore.shard.log_format import RECORD, Record
from memstore.shard.segments import Contents, Segment, Torn

Fsync = Literal["always", "interval", "never"]

SEGMENT_BYTES = 1 << 26
"""A segment is ended before it grows beyond this; a longer record has one of its own. Opening
writes the last segment anew, and a checkpoint leaves at most that one behind."""

ROOM_BYTES = 1 << 22
"""At most so many bytes of zeros are laid out before records that are synced one by one, and no
more than the segment has: a sync of a file that does not grow takes two thirds of the time. For
records longer than a sixteenth of it that counts little beside writing them."""

logger = logging.getLogger(__name__)


class Log:
    """Appends records to the segments in one folder, and makes them durable.

    last: the sequence number of the last record.  durable: of the last one on the disk for sure.
    torn: what a crash had left half-written, which opening has left out; None is nothing.

    Any thread may call; records are in the order in which `append` was called. After `LogFailed`,
    or `ShardElsewhere` where the files have another owner by now, nothing more is appended, and
    nothing becomes durable: a disk that failed to sync once is not believed again, so the log must
    be opened anew.
    """

    def __init__(
        self,
        folder: Path,
        owner: bytes,
        *,
        after: int = 0,
        fsync: Fsync = "always",
        interval_s: float = 0.1,
        segment_bytes: int = SEGMENT_BYTES,
        disk: Disk = DISK,
    ) -> None:
        """Opens the log in a folder that is there, or begins one; nobody else may have it open.

        owner: 16 bytes that name the shard.  after: the last record that a durable checkpoint
        covers; segments that hold no other are taken away.
        Raises `CorruptFile` and `UnsupportedVersion` as `segments.replay` of the last segment,
        `StorageFull` where there is no room to write that one anew.
        """
        self.folder, self._owner, self._after = folder, owner, after
        self._fsync, self._interval_s = fsync, interval_s
        self._segment_bytes, self._disk = segment_bytes, disk
        self._state = threading.Condition(threading.Lock())
        self._syncing = self._closed = False
        self._shared = False
        """Whether the last sync served more than one record."""
        self._failure: BaseException | None = None
        self._dirty, self._ended = threading.Event(), threading.Event()
        self._flusher: threading.Thread | None = None
        self._size = self._laid = 0
        self.last = self.durable = after
        self.bytes = 0
        """Not covered by a checkpoint when it was opened, and appended since."""
        self.torn: Torn | None = None
        self._open()

    def replay(self) -> Iterator[tuple[int, Record]]:
        """The records behind the checkpoint, before others are appended: `segments.replay`."""
        return segments.replay(self.folder, self._owner, self._after, self._disk)

    def append(self, record: Record) -> int:
        """Puts a record at the end; returns its sequence number, one more than the last.

        Raises `StorageFull`, with the log as it was, where the disk is full; `LogFailed`.
        """
        encoded = log_format.encode(record)
        size = RECORD.size + encoded.bytes
        with self._state:
            self._check()
            self._make_room(size)
            try:
                self._lay_out(size)
                self._file.write(encoded.framed(self.last + 1, self.durable, self._seed))
            except BaseException as error:
                # An interrupt as well: what comes next must not lie behind a half.
                self._cut_back()
                if isinstance(error, OSError):
                    raise self._typed(error) from error
                raise
            self.last, self._size = self.last + 1, self._size + size
            self.bytes += size
            if self._fsync == "interval":
                self._tend()
            return self.last

    def commit(self, sequence: int) -> None:
        """Returns once a record is as durable as `fsync` promises; raises `LogFailed`."""
        if self._fsync == "always":
            self.sync(sequence)
        else:
            with self._state:
                self._check()

    def sync(self, sequence: int | None = None) -> None:
        """Returns once a record is durable, and all before it; None is the last one.

        Callers that come while one waits for the disk share the next fsync.
        """
        with self._state:
            wanted = self.last if sequence is None else sequence
            while self.durable < wanted:
                self._check()
                self._advance()

    def truncate(self, before: int) -> None:
        """Takes away the segments that hold only records before `before`, but not the last one.

        What covers these records must be durable. A power loss may bring the files back, which
        does no harm: what covers them is not gone.
        """
        with self._state:
            self._check()
            while len(self._segments) > 1 and self._segments[1].first <= before:
                self._remove(self._segments.pop(0).path)

    def close(self) -> None:
        """Makes all records durable and lets go of the files; a second call does nothing."""
        self._ended.set()
        self._dirty.set()
        if self._flusher is not None:
            self._flusher.join()
        if self._closed:
            return
        try:
            if self._failure is None:
                self.sync()
        finally:
            with self._state:
                self._closed = True
                while self._syncing:
                    self._state.wait()
                self._file.close()

    def _open(self) -> None:
        """Begins a segment of a new term, with all that is whole in the last one.

        That one is written anew, for nobody knows whether it is on the disk: the process that
        wrote it may have been killed, or a sync that failed have left it in memory alone.
        """
        found = segments.listed(self.folder, self._disk)
        links = segments.chain(found, self._after)
        self._term = 1 + max((segment.term for segment in found), default=0)
        tail = segments.read_segment(links[-1], self._owner, self._disk) if links else None
        if tail is not None and tail.torn is not None:
            self.torn = tail.torn
            logger.warning("a crash has torn the end of the log: %s", tail.torn)
        if tail is not None and tail.last > self._after:
            self.last = self.durable = tail.last
        else:
            tail = None  # A checkpoint covers all of it.
        for path in segments.drafts(self.folder, self._disk):
            self._remove(path)
        self._segments = links[:-1]
        self._begin(tail)
        for segment in found:
            if segment.path not in {kept.path for kept in self._segments}:
                self._remove(segment.path)
        if self.last > self._after:
            self.bytes = sum(self._disk.size(segment.path) for segment in self._segments)

    def _make_room(self, size: int) -> None:
        """Ends the segment if so many bytes are too many for it."""
        while self._size + size > self._segment_bytes and self.last >= self._segments[-1].first:
            # Only the last segment may be torn: a reader takes what it lacks for torn.
            if self.durable < self.last:
                self._advance()
            else:
                before = self._file
                self._begin()
                before.close()
            self._check()

    def _begin(self, tail: Contents | None = None) -> None:
        """Goes on in a new segment, which has its name once it is whole.  tail: begins with it."""
        first = self.last + 1 if tail is None else tail.segment.first
        head, seed = log_format.segment_head(self._term, first, self._owner)
        parts = [head, *([] if tail is None else tail.framed(seed))]
        path = segments.path_of(self.folder, self._term, first)
        draft = segments.draft_of(path)
        try:
            file = self._disk.create(draft)
            try:
                file.write(parts)
                file.sync()
            except BaseException:
                file.close()
                with contextlib.suppress(OSError):
                    self._disk.remove(draft)
                raise
        except OSError as error:
            raise self._typed(error) from error
        try:
            self._disk.rename(draft, path)
            self._disk.sync_folder(self.folder)
        except BaseException as error:
            # Where the new segment is found, what would go on in the old one is no log.
            file.close()
            failed = self._failed(error)
            if isinstance(error, OSError):
                raise failed from error
            raise
        self._file, self._seed, self._size = file, seed, sum(map(len, parts))
        self._laid = 0
        self._segments.append(Segment(path, self._term, first))

    def _lay_out(self, size: int) -> None:
        """Makes room for a record and some that follow, where each of them is synced by itself.

        Who writes while a sync is under way would wait for the zeros that this has to write: over
        zeros 16 writers commit two thirds as much.
        """
        end = self._size + size
        alone = self._fsync == "always" and not (self._syncing or self._shared)
        if not alone or size > ROOM_BYTES // 16 or end <= self._laid:
            return
        room = min(end + min(self._size, ROOM_BYTES), self._segment_bytes)
        if room <= end:
            return
        try:
            self._file.lay(room)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._file.cut(self._size)  # What the disk still has may do for the record.
        else:
            self._laid = room

    def _advance(self) -> None:
        """Makes what was appended durable, or waits for who does; gives the lock up meanwhile."""
        if self._syncing:
            self._state.wait()
            return
        file, reached = self._file, self.last
        self._syncing = True
        self._state.release()
        try:
            file.sync()
        except OSError as error:
            self._failure = error
        else:
            self._shared = reached > self.durable + 1
            self.durable = reached
        finally:
            self._state.acquire()
            self._syncing = False
            self._state.notify_all()

    def _tend(self) -> None:
        """Has a thread make records durable, `interval_s` after the first that is not."""
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush, name="log", daemon=True)
            self._flusher.start()
        self._dirty.set()

    def _flush(self) -> None:
        while self._dirty.wait() and not self._ended.wait(self._interval_s):
            self._dirty.clear()
            if self._ended.is_set():
                return  # What woke it for the end may just have been cleared.
            try:
                self.sync()
            except MemstoreError as error:
                logger.error("%s", error)
                return

    def _remove(self, path: Path) -> None:
        try:
            self._disk.remove(path)
        except OSError as error:
            raise self._failed(error) from error

    def _cut_back(self) -> None:
        """Leaves nothing of a record that was not written whole."""
        self._laid = 0
        try:
            self._file.cut(self._size)
        except OSError as error:
            self._failed(error)

    def _typed(self, error: OSError) -> MemstoreError:
        """What to raise where the disk did not take something that is gone again."""
        if error.errno not in FULL or self._failure is not None:
            return self._failed(error)
        return StorageFull(
            "the disk has no room for the log; nothing was changed",
            got=str(error),
            hint="make room and try again",
        )

    def _failed(self, error: BaseException) -> MemstoreError:
        self._failure = error
        if isinstance(error, Superseded):
            return ShardElsewhere(f"the store of {self.folder} has another owner", got=str(error))
        return LogFailed(
            f"the disk refused the log in {self.folder}",
            got=str(error),
            hint="close the store and open it again",
        )

    def _check(self) -> None:
        if self._closed:
            raise StoreClosed(f"the log in {self.folder} was closed", hint="open it again")
        if self._failure is not None:
            raise self._failed(self._failure)
