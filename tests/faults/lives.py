"""What a log is told in its lives, and what each of them must find."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from memstore.errors import StorageFull
from memstore.shard.log import Log
from memstore.shard.log_format import Kind, Record
from tests.faults.disk import SimulatedDisk

FOLDER, OWNER = Path("/log"), b"0123456789abcdef"


def record(rng: np.random.Generator) -> Record:
    rows = int(rng.integers(0, 9))
    parts: dict[str, Any] = {"rows": rng.integers(0, 100, rows)}
    if rng.integers(2):
        parts["keys"] = rng.normal(size=(rows, 3)).astype(np.float32)
    if rng.integers(4) == 0:
        parts["request"] = rng.bytes(int(rng.integers(0, 3_000)))
    if rng.integers(8) == 0:
        parts["records"] = pa.table({"name": [f"name {i}" for i in range(rows)]})
    return Record(Kind(int(rng.integers(1, 6))), parts)


def same(a: Record, b: Record) -> bool:
    if a.kind != b.kind or list(a.parts) != list(b.parts):
        return False
    return all(map(_equal, a.parts.values(), b.parts.values()))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)


class Lives:
    """What a log was told, and what it must still know.

    told: by sequence number, the record that was appended last under it.  safe: the last one that
    was acknowledged as durable.  covered: the last one that a checkpoint covers.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.told: dict[int, Record] = {}
        self.safe = self.covered = 0

    def open(self, disk: SimulatedDisk, fsync: Any = "always") -> Log:
        bound = int(self.rng.choice([700, 3_000, 1 << 20]))
        log = Log(FOLDER, OWNER, after=self.covered, fsync=fsync, segment_bytes=bound, disk=disk)
        found = list(log.replay())
        assert [sequence for sequence, _ in found] == list(range(self.covered + 1, log.last + 1))
        assert log.last >= self.safe, f"record {self.safe} was committed, {log.last} is the last"
        for sequence, read in found:
            assert same(read, self.told[sequence]), f"record {sequence} is another"
        self.safe = log.durable
        return log

    def append(self, log: Log) -> int:
        new = record(self.rng)
        before, self.told[log.last + 1] = self.told.get(log.last + 1), new
        try:
            return log.append(new)
        except StorageFull:
            if before is not None:
                self.told[log.last + 1] = before
            raise

    def live(self, disk: SimulatedDisk, verbs: int) -> None:
        """Does what a shard may, until the power is lost."""
        fsync = "never" if self.rng.integers(4) == 0 else "always"
        log = self.open(disk, fsync)
        for _ in range(verbs):
            verb = self.rng.integers(10)
            if verb < 6:
                self.append(log)
            elif verb == 6:
                sequence = int(self.rng.integers(self.covered, log.last + 1))
                log.commit(sequence)
                if fsync == "always":
                    self.safe = max(self.safe, sequence)
            elif verb == 7:
                log.sync()
                self.safe = log.last
            elif verb == 8:
                self.covered = int(self.rng.integers(self.covered, self.safe + 1))
                log.truncate(self.covered + 1)
            elif self.rng.integers(3) == 0:
                log.close()
                self.safe = log.last
                log = self.open(disk, fsync)


def together(works: list[Any]) -> None:
    """Runs each in a thread; raises what one of them raised."""
    raised: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
