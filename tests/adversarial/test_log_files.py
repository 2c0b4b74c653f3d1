"""The files of a redo log cut off, altered, missing or of somebody else: each a typed error."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from memstore.errors import CorruptFile, UnsupportedVersion
from memstore.shard import log_format, segments
from memstore.shard.log import Log
from tests.faults.disk import SimulatedDisk
from tests.faults.lives import FOLDER, OWNER, Lives

COMMITTED = 10
"""Records of `small` that were committed, of two more than that."""


@pytest.fixture(scope="module")
def small() -> dict[Path, bytes]:
    """The files of a log of some segments."""
    lives, disk = Lives(0), SimulatedDisk()
    log = Log(FOLDER, OWNER, segment_bytes=2_500, disk=disk)
    for i in range(COMMITTED + 2):
        sequence = lives.append(log)
        if i < COMMITTED:
            log.commit(sequence)
    files = {FOLDER / name: disk.read(FOLDER / name) for name in sorted(disk.names(FOLDER))}
    assert len(files) >= 3
    return files


def laid(files: dict[Path, bytes]) -> SimulatedDisk:
    disk = SimulatedDisk()
    for path, data in files.items():
        disk.put(path, data)
    return disk


def numbers(disk: SimulatedDisk) -> list[int]:
    return [sequence for sequence, _ in segments.replay(FOLDER, OWNER, disk=disk)]


def test_a_log_torn_at_every_byte(small: dict[Path, bytes]) -> None:
    *earlier, last = small
    segment = segments.listed(FOLDER, laid(small))[-1]
    read = segments.read_segment(segment, OWNER, laid(small))
    assert len(read.spans) >= 3
    ends = [log_format.SEGMENT.size, *(span.stop for span in read.spans)]
    for at in range(len(small[last])):
        disk = laid({**small, last: small[last][:at]})
        if at < ends[0]:
            with pytest.raises(CorruptFile, match=rf"{last.name} .* at byte 0"):
                numbers(disk)
            continue
        whole = sum(end <= at for end in ends[1:])
        assert numbers(disk) == list(range(1, segment.first + whole))
        log = Log(FOLDER, OWNER, disk=disk)
        assert log.last == segment.first + whole - 1
        if at in ends or at > ends[-1]:  # room for others, laid out beforehand
            assert log.torn is None
        else:
            assert log.torn == segments.Torn(last, ends[whole], at - ends[whole], log.last + 1)
    for middle in earlier:
        for at in range(len(small[middle].rstrip(b"\0"))):
            with pytest.raises(CorruptFile, match=rf"{middle.name} .* at byte \d+: got .*expected"):
                numbers(laid({**small, middle: small[middle][:at]}))


def test_a_flipped_bit_in_every_byte(small: dict[Path, bytes]) -> None:
    rng = np.random.default_rng(0)
    last = list(small)[-1]
    segment = segments.listed(FOLDER, laid(small))[-1]
    spans = segments.read_segment(segment, OWNER, laid(small)).spans
    for path, data in small.items():
        for at in range(len(data)):
            flipped = bytearray(data)
            flipped[at] ^= 1 << rng.integers(8)
            disk = laid({**small, path: bytes(flipped)})
            struck = [span.sequence for span in spans if path == last and span.start <= at]
            if struck and at >= spans[-1].stop:
                assert numbers(disk) == list(range(1, struck[-1] + 1))
            elif struck and struck[-1] > COMMITTED:
                # Nobody was told that it is durable: it is as if a crash had torn it.
                assert numbers(disk) == list(range(1, struck[-1]))
            else:
                with pytest.raises(CorruptFile, match=rf"{path.name} .* at byte \d+: got"):
                    numbers(disk)


def test_files_that_are_missing_foreign_or_newer(small: dict[Path, bytes]) -> None:
    first, second, *_ = paths = list(small)
    others = {path: small[path] for path in paths}
    for missing in (first, second):
        disk = laid({path: data for path, data in small.items() if path != missing})
        with pytest.raises(CorruptFile, match="expected record"):
            numbers(disk)
    with pytest.raises(CorruptFile, match=r"of another shard: got 30.* expected 66"):
        list(segments.replay(FOLDER, b"f" * 16, disk=laid(small)))
    with pytest.raises(CorruptFile, match=r"holds something else: got .*notes"):
        numbers(laid({**small, FOLDER / "notes": b""}))
    with pytest.raises(CorruptFile, match="the name of another segment"):
        numbers(laid({**others, second: small[first]}))
    _, seed = log_format.segment_head(1, 1, OWNER)
    head = log_format.SEGMENT.pack(log_format.SEGMENT_MAGIC, 3, 0, 1, 1, OWNER, 0)[:-4]
    newer = head + zlib.crc32(head).to_bytes(4, "little")
    with pytest.raises(UnsupportedVersion, match=rf"{first.name} .*got 3, expected one of"):
        numbers(laid({first: newer}))
    head, seed = log_format.segment_head(1, 1, OWNER)
    body = log_format.Span(99, 0, 1, 0, 0, log_format.RECORD.size, 0).framed(0, seed)
    with pytest.raises(UnsupportedVersion, match="got kind 99"):
        numbers(laid({first: head + body}))
    # A record of another segment is none of this one, though it is whole.
    moved = small[first][:64] + small[second][64:]
    with pytest.raises(CorruptFile, match="at byte 64"):
        numbers(laid({**small, first: moved}))


def test_what_was_written_anew_was_durable(small: dict[Path, bytes]) -> None:
    disk = laid(small)
    Log(FOLDER, OWNER, disk=disk)
    segment = segments.listed(FOLDER, disk)[-1]
    spans = segments.read_segment(segment, OWNER, disk).spans
    data = bytearray(disk.read(segment.path))
    data[spans[-2].stop - 1] ^= 1  # nobody had been told of this one before
    disk.put(segment.path, bytes(data))
    with pytest.raises(CorruptFile, match=f"record {spans[-2].sequence}, which was durable"):
        numbers(disk)


def test_more_than_a_segment_holds(small: dict[Path, bytes]) -> None:
    first = next(iter(small))
    with pytest.raises(CorruptFile, match=rf"{first.name} is bad .* got \d+ bytes more"):
        numbers(laid({**small, first: small[first] + bytes(7) + b"\1"}))
