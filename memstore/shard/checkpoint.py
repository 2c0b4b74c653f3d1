"""The checkpoints of a shard: each writes what has changed since the one before.

    with <mutations held off>: moment = checkpoints.begin()
    draft = checkpoints.write(moment, number)      mutations go on
    …                                              the manifest is replaced
    checkpoints.keep(draft)

Rows lie in blocks (`shard.blocks`), records in an Arrow IPC file, the sealed index in files of
faiss and numpy; nothing is pickled. The index is a cache: where its files are bad, it is built
again and a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from memstore import files
from memstore.dtypes import storage
from memstore.errors import CorruptFile
from memstore.index import saving
from memstore.kernels.half import packed
from memstore.memory import Array, Slots
from memstore.shard import blocks
from memstore.shard.cut import Blocks, Cut
from memstore.shard.records import RecordHeap
from memstore.shard.requests import RequestWindows
from memstore.shard.shard import Shard

logger = logging.getLogger(__name__)

Entry = dict[str, Any]
"""What the manifest has of a shard."""


@dataclass(frozen=True)
class Moment:
    """A shard at one moment, as long as nobody has written what changed since the last checkpoint.

    after: the last record of its log that is in it.  heap: its records, and windows: of requests;
    None where they are as they were.
    """

    after: int
    versions: dict[str, int]
    live_R: Slots
    changed_K: Blocks
    cut: Cut
    heap: RecordHeap | None
    windows: RequestWindows | None
    index: saving.Still


@dataclass(frozen=True)
class Draft:
    """What was written, and counts once a manifest has its entry."""

    entry: Entry
    directory: blocks.Directory
    index: saving.Kept


class Checkpoints:
    """Writes the checkpoints of one shard into one folder; one at a time."""

    def __init__(self, shard: Shard, folder: Path) -> None:
        self._shard, self._folder = shard, folder
        self._entry: Entry = {"records": {}, "requests": {}}
        self._directory: blocks.Directory = {}
        self._index = saving.Kept()

    def begin(self) -> Moment:
        """Takes the shard as it is; until `keep` or `abandon`, writers keep what they change."""
        shard = self._shard
        wasted = [blocks_K for _, blocks_K in blocks.wasteful(self._folder, self._directory)]
        known = self._directory["keys"].rows if self._directory else 0
        with shard.writers:
            rows = shard.rows
            changed_K = shard.changed.take(blocks.blocks(rows.size))
            try:
                for wasted_K in wasted:
                    changed_K[wasted_K[wasted_K < len(changed_K)]] = True
                if rows.size > known:
                    # Some of the new rows may never have been written; their blocks are new too,
                    # and the last one of before is longer.
                    changed_K[known // blocks.BLOCK_ROWS :] = True
                heap = None
                if shard.records.version != self._entry["records"].get("version", 0):
                    heap = shard.records.still()
                windows = None
                if shard.windows.noted != self._entry["requests"].get("noted", 0):
                    windows = shard.windows.still()
                moment = Moment(
                    after=shard.logged,
                    versions={"rows": rows.version, "index": shard.index.version.number},
                    live_R=np.empty(0, np.int64) if heap is None else rows.live_rows(),
                    changed_K=changed_K,
                    cut=Cut(rows.arrays, changed_K),
                    heap=heap,
                    windows=windows,
                    index=saving.still(shard.index),
                )
            except BaseException:
                shard.changed.put_back(changed_K)
                raise
            shard.cut = moment.cut
            return moment

    def write(self, moment: Moment, number: int) -> Draft:
        """Writes what `moment` has and the last checkpoint has not; all of it is durable then.

        number: higher than those of all checkpoints before.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        directory = blocks.write(
            *(self._folder, number, self._directory, moment.cut.shapes),
            self._changed(moment.cut),
        )
        name = f"rows-{number:08d}.arrow"
        (self._folder / name).write_bytes(blocks.to_bytes(directory))
        written = {name: self._folder / name for name in sorted(blocks.wanted(directory))}
        sizes = {name: path.stat().st_size for name, path in written.items()}
        names, index = saving.save(moment.index, self._folder, number, self._index)
        entry = {
            "versions": moment.versions,
            "rows": {"directory": {name: files.settle(self._folder / name)}, "bytes": sizes},
            "records": self._entry["records"],
            "requests": self._entry["requests"],
            "index": {"parts": names, "files": self._settled(names)},
        }
        if moment.heap is not None:
            entry["records"] = self._write_records(moment, number)
        if moment.windows is not None:
            name = f"requests-{number:08d}.npz"
            np.savez(self._folder / name, allow_pickle=False, **moment.windows.arrays())
            settled = {name: files.settle(self._folder / name)}
            entry["requests"] = {"noted": moment.windows.noted, "files": settled}
        files.sync_folder(self._folder)
        return Draft(entry, directory, index)

    def keep(self, draft: Draft) -> None:
        """The manifest has it: the next checkpoint builds on this one."""
        self._entry, self._directory, self._index = draft.entry, draft.directory, draft.index
        with self._shard.writers:
            self._shard.cut = None

    def abandon(self, moment: Moment) -> None:
        """It was not written: the next checkpoint writes what this one was to."""
        with self._shard.writers:
            self._shard.changed.put_back(moment.changed_K)
            self._shard.cut = None

    def sweep(self) -> None:
        """Takes away the files of checkpoints that no manifest names any more."""
        entry = self._entry
        kept = {*blocks.wanted(self._directory), *_files(entry)}
        for path in self._folder.glob("*-[0-9]*.*"):
            if path.name not in kept:
                path.unlink()

    def load(self, entry: Entry) -> None:
        """Fills the shard, which is empty; raises `CorruptFile` where a file is not what it was."""
        shard, rows = self._shard, entry["rows"]
        records, requests = entry["records"], entry["requests"]
        for expected in (rows["directory"], records.get("files", {}), requests.get("files", {})):
            for name, fingerprint in expected.items():
                files.check(self._folder / name, fingerprint)
        for name, size in rows["bytes"].items():
            files.check_size(self._folder / name, size)
        [name] = rows["directory"]
        self._directory = blocks.from_bytes((self._folder / name).read_bytes())
        self._check_dtypes(self._folder / name)
        shard.rows.restore(
            {name: (s.dtype, s.shape) for name, s in self._directory.items()},
            lambda name, out: blocks.read(self._folder, self._directory[name], name, out),
            entry["versions"]["rows"],
        )
        self._load_records(records)
        for name in requests.get("files", {}):
            with np.load(self._folder / name, allow_pickle=False) as arrays:
                shard.windows.restore(arrays)
        shard.windows.noted = requests.get("noted", 0)
        self._entry = entry
        self._load_index(entry)

    def _changed(self, cut: Cut) -> Iterator[tuple[str, int, Array]]:
        for block, arrays in cut.blocks(self._shard.writers):
            for name, rows in arrays.items():
                yield name, block, rows

    def _settled(self, names: Entry) -> dict[str, dict[str, int]]:
        """The fingerprints of files of the index; of those that were there already, the old."""
        known = self._entry.get("index", {}).get("files", {})
        return {name: known.get(name) or files.settle(self._folder / name) for name in _flat(names)}

    def _write_records(self, moment: Moment, number: int) -> Entry:
        heap, rows_R = moment.heap, moment.live_R
        assert heap is not None
        version = heap.version
        if not heap.schema.names:
            return {"version": version}
        names = [f"records-{number:08d}.arrow", f"lines-{number:08d}.npy"]
        table = heap.save(rows_R)
        path = str(self._folder / names[0])
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        np.save(self._folder / names[1], rows_R, allow_pickle=False)
        return {
            "version": version,
            "files": {name: files.settle(self._folder / name) for name in names},
        }

    def _load_records(self, entry: Entry) -> None:
        records = self._shard.records
        if "files" in entry:
            table_file, rows_file = entry["files"]
            rows_R = np.load(self._folder / rows_file, allow_pickle=False)
            with pa.OSFile(str(self._folder / table_file), "rb") as source:
                records.put(rows_R, pa.ipc.open_file(source).read_all())
        records.version = entry.get("version", 0)

    def _load_index(self, entry: Entry) -> None:
        shard, index = self._shard, entry["index"]
        live_R, number = shard.rows.live_rows(), entry["versions"]["index"]
        try:
            for name, expected in index["files"].items():
                files.check(self._folder / name, expected)
            self._index = saving.load(shard.index, self._folder, index["parts"], number, live_R)
        except CorruptFile as error:
            logger.warning("the index of %s is built again: %s", self._folder, error)
            saving.load(shard.index, self._folder, {}, number, live_R)
            shard.reindex()

    def _check_dtypes(self, path: Path) -> None:
        """Keys and values of float16 and bfloat16 stand in files as their bits."""
        dtype = storage(self._shard.config.dtype)
        expected = packed(np.empty(0, dtype)).dtype
        for name in {"keys", "values"} & self._directory.keys():
            if self._directory[name].dtype != expected:
                raise CorruptFile(
                    f"the {name} in {path} have another dtype",
                    got=self._directory[name].dtype,
                    expected=f"{expected}, for rows of {self._shard.config.dtype}",
                )


def _files(entry: Entry) -> Iterator[str]:
    """The files that an entry names, but for the blocks."""
    yield from entry["rows"]["directory"]
    yield from entry["records"].get("files", {})
    yield from entry["requests"].get("files", {})
    yield from entry["index"]["files"]


def _flat(names: Entry) -> Iterator[str]:
    """The names of the files of an index."""
    if names:
        yield names["codebook"]
        yield names["tiers"]
        for segment in names["segments"]:
            yield from (name for name in segment.values() if name is not None)
