"""The checkpoints of a shard: each writes what has changed since the one before.

    with <mutations held off>: moment = checkpoints.begin()
    draft = checkpoints.write(moment, number)      mutations go on
    …                                              the manifest is replaced
    checkpoints.keep(draft)

Rows lie in blocks (`shard.blocks`), records in pieces (`shard.record_files`), the sealed index in
files of faiss and numpy; nothing is pickled. The index is a cache: where its files are bad, it is
built again and a warning says so.
"""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memstore import files
from memstore.disk import DISK, Disk
from memstore.dtypes import kept, storage
from memstore.errors import CorruptFile
from memstore.index import saving
from memstore.kernels.half import packed
from memstore.memory import Array, Slots
from memstore.shard import blocks, record_files
from memstore.shard.cut import Blocks, Cut
from memstore.shard.record_files import Pieces
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
    None where there is nothing of them to be written.
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
    records: Pieces
    index: saving.Kept


class Checkpoints:
    """Writes the checkpoints of one shard into one folder; one at a time."""

    def __init__(self, shard: Shard, folder: Path, disk: Disk = DISK) -> None:
        self.shard, self._folder, self._disk = shard, folder, disk
        self._entry: Entry = {"blocks": {}, "records": {}, "requests": {}}
        self._directory: blocks.Directory = {}
        self._records, self._index = Pieces(), saving.Kept()
        self._broken = False
        """Whether the index is to be built again."""

    def begin(self) -> Moment:
        """Takes the shard as it is; until `keep` or `abandon`, writers keep what they change."""
        shard = self.shard
        wasted = [
            blocks_K for _, blocks_K in blocks.wasteful(self._folder, self._directory, self._disk)
        ]
        known = self._directory["keys"].rows if self._directory else 0
        with shard.writers:
            if shard.behind is not None:
                raise shard.behind
            shard.clear()
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
                known_at = self._entry["records"].get("version", 0)
                if shard.records.version != known_at or self._records.wasteful(rows.live):
                    heap = shard.records.still()
                windows = None
                if shard.windows.noted != self._entry["requests"].get("noted", 0):
                    windows = shard.windows.still()
                moment = Moment(
                    after=shard.logged,
                    versions={"rows": rows.version, "index": shard.index.version.number},
                    live_R=np.empty(0, np.int64) if heap is None else rows.live_rows(),
                    changed_K=changed_K,
                    cut=Cut(rows.arrays, changed_K, rows.are_gone, rows.pieces),
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
        files.make_folder(self._folder, self._disk)
        directory, written = blocks.write(
            *(self._folder, number, self._directory, moment.cut.shapes),
            self._changed(moment.cut),
            self._disk,
        )
        known = self._entry["blocks"] | {blocks.name_of(number): written}
        index = saving.save(moment.index, self._folder, number, self._index, self._disk)
        records = self._records
        if moment.heap is not None:
            records = records.grown(self._folder, number, moment.heap, moment.live_R, self._disk)
        entry = {
            "versions": moment.versions,
            "rows": self._make(
                f"rows-{number:08d}.arrow", lambda file: file.write(blocks.to_bytes(directory))
            ),
            "blocks": {name: known[name] for name in sorted(blocks.wanted(directory))},
            "records": self._entry["records"],
            "requests": self._entry["requests"],
            "index": {"parts": index.names, "files": self._named(index)},
        }
        if moment.heap is not None:
            entry["records"] = {"version": moment.heap.version, "files": records.files}
        if moment.windows is not None:
            arrays = moment.windows.arrays()
            made = self._make(
                f"requests-{number:08d}.npz", lambda file: files.arrays_to(file, arrays)
            )
            entry["requests"] = {"noted": moment.windows.noted, "files": made}
        self._disk.sync_folder(self._folder)
        return Draft(entry, directory, records, index.kept)

    def keep(self, draft: Draft) -> None:
        """The manifest has it: the next checkpoint builds on this one."""
        self._entry, self._directory = draft.entry, draft.directory
        self._records, self._index = draft.records, draft.index
        with self.shard.writers:
            self.shard.cut = None

    def abandon(self, moment: Moment) -> None:
        """It was not written: the next checkpoint writes what this one was to."""
        with self.shard.writers:
            self.shard.changed.put_back(moment.changed_K)
            self.shard.cut = None

    def load(self, entry: Entry) -> None:
        """Fills the shard, which is empty; raises `CorruptFile` where a file is not what it was.

        An index that is not what it was has to be built again, by `mend`.
        """
        shard, requests = self.shard, entry["requests"]
        files.check_all(self._folder, entry["rows"])
        for name, fingerprint in entry["blocks"].items():
            # Each block has a checksum of its own.
            files.check_size(self._folder / name, fingerprint["bytes"])
        [name] = entry["rows"]
        self._directory = blocks.from_bytes((self._folder / name).read_bytes())
        self._check_dtypes(self._folder / name)
        with ThreadPoolExecutor(2) as pool:
            records = pool.submit(self._load_records, entry["records"])
            index = pool.submit(files.check_all, self._folder, entry["index"]["files"])
            shard.rows.restore(
                {name: (s.dtype, s.shape) for name, s in self._directory.items()},
                lambda name, out, told: blocks.read(
                    self._folder, self._directory[name], name, out, told
                ),
                entry["versions"]["rows"],
                filled=False,
            )
            files.check_all(self._folder, requests.get("files", {}))
            for name in requests.get("files", {}):
                shard.windows.restore(files.arrays_of(self._folder / name))
            shard.windows.noted = requests.get("noted", 0)
            self._load_index(entry, index.result)
            records.result()
        self._entry = entry

    def mend(self) -> None:
        """Builds the index again, if it was not what it was; after all that rows are sums of."""
        if self._broken:
            self.shard.reindex()
            self._broken = False

    def _changed(self, cut: Cut) -> Iterator[tuple[str, int, Array]]:
        for block, arrays in cut.blocks(self.shard.writers):
            for name, rows in arrays.items():
                yield name, block, rows

    def _make(self, name: str, write: Callable[[files.NewFile], object]) -> files.Files:
        return {name: files.make(self._folder / name, write, self._disk)}

    def _named(self, index: saving.Saved) -> files.Files:
        """The files of an index, with those that were there before."""
        known = self._entry.get("index", {}).get("files", {}) | index.written
        return {name: known[name] for name in _flat(index.names)}

    def _load_records(self, entry: Entry) -> None:
        records = self.shard.records
        self._records = record_files.load(records, self._folder, entry.get("files", {}))
        records.version = entry.get("version", 0)

    def _load_index(self, entry: Entry, checked: Callable[[], None]) -> None:
        """checked: raises `CorruptFile` where one of its files is not what it was."""
        shard, parts = self.shard, entry["index"]["parts"]
        live_R, number = shard.rows.live_rows(), entry["versions"]["index"]
        try:
            checked()
            self._index = saving.load(shard.index, self._folder, parts, number, live_R)
        except CorruptFile as error:
            logger.warning("the index of %s is built again: %s", self._folder, error)
            saving.load(shard.index, self._folder, {}, number, live_R)
            self._broken = True

    def _check_dtypes(self, path: Path) -> None:
        """Keys and values of float16 and bfloat16 stand in files as their bits."""
        config = self.shard.config
        dtypes = {"keys": kept(config)[1], "values": storage(config.dtype)}
        for name, dtype in dtypes.items():
            expected = packed(np.empty(0, dtype)).dtype
            if name in self._directory and self._directory[name].dtype != expected:
                raise CorruptFile(
                    f"the {name} in {path} have another dtype",
                    got=self._directory[name].dtype,
                    expected=f"{expected}, for rows of {config.dtype}",
                )


def files_of(entry: Entry) -> files.Files:
    """All files that an entry names."""
    parts = (entry[part].get("files", {}) for part in ("records", "requests", "index"))
    return functools.reduce(operator.or_, parts, entry["rows"] | entry["blocks"])


def _flat(names: Entry) -> Iterator[str]:
    """The names of the files of an index."""
    if names:
        yield names["codebook"]
        yield names["tiers"]
        for segment in names["segments"]:
            yield from (name for name in segment.values() if name is not None)
