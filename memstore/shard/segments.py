"""The segments of a redo log: which files are the log, and the records in them, in order.

A segment is named by its term and its first sequence number. A term is one owner's: whoever opens
the log to write begins a segment of a term higher than all others, and from its first record on
nothing of a lower term is log, whoever wrote it, and whenever. All segments but the last are
durable and whole. The last may end in a part that a crash has torn: it was never acknowledged.
Zeros behind the last record are room for others, and nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from memstore.disk import DISK, Bytes, Disk
from memstore.errors import CorruptFile
from memstore.shard import log_format
from memstore.shard.log_format import RECORD, SEGMENT, Record, Span

NAME = re.compile(r"log-(\d{10})-(\d{20})\.seg")
DRAFT = ".new"
"""Behind the name of a segment that is being begun."""


@dataclass(frozen=True)
class Segment:
    """A file of the log: the records from `first` up to but without `end`; None is to the last.

    cut: the next segment is of a higher term, so that what lies behind `end` here is not log.
    """

    path: Path
    term: int
    first: int
    end: int | None = None
    cut: bool = False


@dataclass(frozen=True)
class Torn:
    """What a crash left of the record `sequence` and those behind it: so many bytes from there."""

    path: Path
    offset: int
    bytes: int
    sequence: int


@dataclass
class Contents:
    """A segment as it was read.  torn: what does not count at its end."""

    segment: Segment
    data: bytes
    spans: list[Span] = field(default_factory=list)
    torn: Torn | None = None

    @property
    def last(self) -> int:
        """The last record; one less than the first where there is none."""
        return self.segment.first + len(self.spans) - 1

    def framed(self, seed: int) -> Iterator[Bytes]:
        """The records for another segment, which gets its name when they are durable."""
        data = memoryview(self.data)
        for span in self.spans:
            yield span.framed(self.last, seed)
            yield data[span.start + RECORD.size : span.stop]


def path_of(folder: Path, term: int, first: int) -> Path:
    return folder / f"log-{term:010d}-{first:020d}.seg"


def draft_of(path: Path) -> Path:
    return path.with_name(path.name + DRAFT)


def drafts(folder: Path, disk: Disk = DISK) -> list[Path]:
    """The segments that were being begun when a process died."""
    return [folder / name for name in _names(folder, disk) if name.endswith(DRAFT)]


def listed(folder: Path, disk: Disk = DISK) -> list[Segment]:
    """The files that are segments by their names, in the order of terms, then of records.

    Raises `CorruptFile` on a name that is neither a segment's nor a draft's.
    """
    names = [name for name in _names(folder, disk) if not name.endswith(DRAFT)]
    matches = [(name, NAME.fullmatch(name)) for name in names]
    foreign = sorted(name for name, match in matches if match is None)
    if foreign:
        raise CorruptFile(
            f"{folder} holds something else", got=f"{foreign[:5]}", expected=f"files {NAME.pattern}"
        )
    segments = [Segment(folder / name, int(m[1]), int(m[2])) for name, m in matches if m]
    return sorted(segments, key=lambda segment: (segment.term, segment.first))


def chain(segments: list[Segment], after: int) -> list[Segment]:
    """The segments in which the records behind `after` lie, in their order.

    Raises `CorruptFile` where there is none that begins soon enough.
    """
    links: list[Segment] = []
    for segment in reversed(segments):
        following = links[-1] if links else None
        if following is None:
            links.append(segment)
        elif segment.first < following.first:
            cut = segment.term < following.term
            end = following.first
            links.append(Segment(segment.path, segment.term, segment.first, end, cut))
    links = [link for link in reversed(links) if link.end is None or link.end > after + 1]
    if links and links[0].first > after + 1:
        raise CorruptFile(
            f"{links[0].path.parent} lacks a segment of the log",
            got=f"record {links[0].first} as the first",
            expected=f"record {after + 1}",
        )
    return links


def replay(
    folder: Path, owner: bytes, after: int = 0, disk: Disk = DISK
) -> Iterator[tuple[int, Record]]:
    """Yields the records behind `after` with their sequence numbers, in their order.

    Arrays are views of what was read, not to be written to. What a crash has torn at the end is
    left out. Raises `CorruptFile` where a record is bad that was durable once, naming the file and
    the byte, and where records are missing; `UnsupportedVersion` on another format.
    """
    for segment in chain(listed(folder, disk), after):
        read = read_segment(segment, owner, disk)
        for span in read.spans:
            if span.sequence > after:
                yield span.sequence, log_format.decode(read.data, span, segment.path)


def read_segment(segment: Segment, owner: bytes, disk: Disk = DISK) -> Contents:
    """Finds the records of a segment; raises as `replay`."""
    path = segment.path
    try:
        data = disk.read(path)
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read", got=str(error)) from error
    seed = log_format.read_head(data, path, segment.term, segment.first, owner)
    read = Contents(segment, data)
    at, sequence = SEGMENT.size, segment.first
    while at < len(data) and sequence != segment.end:
        span = log_format.whole(data, at, seed)
        if span is None:
            break
        if span.sequence != sequence:
            raise _bad(path, at, f"record {span.sequence}", f"record {sequence}")
        read.spans.append(span)
        at, sequence = span.stop, sequence + 1
    more = len(data) - at
    if data.count(0, at) == more:
        more = 0
    if segment.end is None:
        if more:
            _check_torn(data, at, seed, path, sequence)
            read.torn = Torn(path, at, more, sequence)
    elif sequence < segment.end:
        raise _bad(path, at, "none that is whole", f"record {sequence}")
    elif more and not segment.cut:
        raise _bad(path, at, f"{more} bytes more", f"the end behind {sequence - 1}")
    return read


def _names(folder: Path, disk: Disk) -> list[str]:
    try:
        return disk.names(folder)
    except OSError as error:
        raise CorruptFile(f"{folder} cannot be read", got=str(error)) from error


def _check_torn(data: bytes, at: int, seed: int, path: Path, sequence: int) -> None:
    """Raises `CorruptFile` if the record at byte `at` was durable, so that no crash tore it.

    A crash loses any of the blocks that were not durable: whole records may lie behind one that is
    torn. Those written when it was durable say so.
    """
    for span in log_format.later(data, at, seed):
        if span.durable >= sequence:
            raise _bad(path, at, "none that is whole", f"record {sequence}, which was durable")


def _bad(path: Path, at: int, got: str, expected: str) -> CorruptFile:
    return CorruptFile(
        f"{path} is bad at byte {at}",
        got=got,
        expected=expected,
        hint="restore it from a copy of the store",
    )
