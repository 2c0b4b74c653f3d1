"""The checkpoints of one memory: those of its shards, and what belongs to all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memstore import files
from memstore.config import MemoryConfig
from memstore.disk import DISK, Disk
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.memory import Array
from memstore.placement import Part
from memstore.shard import checkpoint

Entry = dict[str, Any]
"""What the manifest has of a memory."""

LOADERS = 4
"""Memories that are loaded at a time: while one is read, another is checked."""


@dataclass(frozen=True)
class Moment:
    """A memory at one moment. encoded_at: None where it is as it was."""

    state: list[int]
    next_slot: int
    shards: list[checkpoint.Moment]
    encoded_at: dict[str, Array] | None


@dataclass(frozen=True)
class Draft:
    """What was written, and counts once a manifest has its entry."""

    entry: Entry
    shards: list[checkpoint.Draft]


class MemoryCheckpoints:
    """Writes the checkpoints of one memory into one folder; one at a time."""

    def __init__(
        self,
        memory: EmbeddedMemory | EncodedMemory,
        folder: Path,
        log: str,
        entry: Entry | None,
        disk: Disk = DISK,
    ) -> None:
        """log: the name of its folder of logs.  entry: of the last checkpoint."""
        self.memory, self.log = memory, log
        self.entry = entry
        self._folder, self._disk = folder, disk
        self._shards = [
            checkpoint.Checkpoints(shard, folder / f"shard-{shard.number}", disk)
            for shard in base_of(memory).shards
        ]

    def begin(self) -> Moment | None:
        """Takes the memory as it is now; None where that is what the last checkpoint has.

        The caller holds mutations off.
        """
        base, state = base_of(self.memory), state_of(self.memory)
        if self.entry is not None and self.entry["state"] == state:
            return None
        encoded_at = None
        if isinstance(self.memory, EncodedMemory) and self._travel_key(state) != self._travel_key(
            None if self.entry is None else self.entry["state"]
        ):
            encoded_at = {name: part.copy() for name, part in self.memory.encoded_at.items()}
        moment = Moment(state, base.next_slot, [], encoded_at)
        try:
            moment.shards.extend(part.begin() for part in self._shards)
        except BaseException:
            self.abandon(moment)
            raise
        return moment

    def write(self, moment: Moment, number: int) -> Draft:
        """Writes what changed; all of it is durable then. Mutations go on."""
        drafts = [
            part.write(of_shard, number)
            for part, of_shard in zip(self._shards, moment.shards, strict=True)
        ]
        entry: Entry = {
            "config": base_of(self.memory).config.to_dict(),
            "next_slot": moment.next_slot,
            "state": moment.state,
            "log": {"name": self.log, "after": [of_shard.after for of_shard in moment.shards]},
            "shards": [draft.entry for draft in drafts],
            "encoded_at": {} if self.entry is None else self.entry["encoded_at"],
        }
        if base_of(self.memory).made:
            entry["made"] = base_of(self.memory).made
        if moment.encoded_at is not None:
            path, arrays = self._folder / f"encoded-{number:08d}.npz", moment.encoded_at
            made = files.make(path, lambda file: files.arrays_to(file, arrays), self._disk)
            entry["encoded_at"] = {path.name: made}
            self._disk.sync_folder(self._folder)
        return Draft(entry, drafts)

    def keep(self, draft: Draft) -> None:
        """The manifest has it: the next checkpoint builds on this one."""
        self.entry = draft.entry
        for part, of_shard in zip(self._shards, draft.shards, strict=True):
            part.keep(of_shard)

    def truncate(self) -> None:
        """Takes away the logs that the checkpoint covers; raises `LogFailed`."""
        assert self.entry is not None
        shards, after = base_of(self.memory).shards, self.entry["log"]["after"]
        for shard, last in zip(shards, after, strict=True):
            if shard.journal is not None:
                shard.journal.log.truncate(last + 1)

    def abandon(self, moment: Moment) -> None:
        """It was not written: the next checkpoint writes what this one was to."""
        for part, of_shard in zip(self._shards, moment.shards, strict=False):
            part.abandon(of_shard)

    @property
    def logged(self) -> int:
        """Bytes in its logs that no checkpoint covered when it was opened, and logged since."""
        journals = (part.shard.journal for part in self._shards)
        return sum(journal.log.bytes for journal in journals if journal is not None)

    def load(self) -> None:
        """Fills the memory, an empty one; raises `CorruptFile` where a file is not what it was.

        Memories may be loaded at the same time. Indices that were altered are built by `mend`.
        """
        assert self.entry is not None
        for part, of_shard in zip(self._shards, self.entry["shards"], strict=True):
            part.load(of_shard)
        if isinstance(self.memory, EncodedMemory):
            encoded_at = self.memory.encoded_at
            for name, expected in self.entry["encoded_at"].items():
                files.check(self._folder / name, expected)
                encoded_at = files.arrays_of(self._folder / name)
            self.memory.loaded(encoded_at, self.entry["state"][-1])

    def mend(self) -> None:
        """Builds indices again that were altered; after all memories are loaded."""
        for part in self._shards:
            part.mend()

    @staticmethod
    def _travel_key(state: list[int] | None) -> tuple[int, bool] | None:
        """Differs after every change of `encoded_at`: the first append, and a refresh."""
        return None if state is None else (state[-1], state[0] > 0)


def load(checkpoints: Collection[MemoryCheckpoints]) -> None:
    """Fills memories, which are empty, several at a time; raises `CorruptFile` where a file is not
    what it was. Indices that are not are built again."""
    with ThreadPoolExecutor(LOADERS) as pool:
        list(pool.map(MemoryCheckpoints.load, checkpoints))
    for each in checkpoints:
        each.mend()


def files_of(entry: Entry, part: Part) -> files.Files:
    """All files that an entry names, by their paths in the folder of the memory."""
    found = dict(entry["encoded_at"])
    for number, shard in shards_of(entry, part):
        for name, fingerprint in checkpoint.files_of(shard).items():
            found[f"shard-{number}/{name}"] = fingerprint
    return found


def shards_of(entry: Entry, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
    """What an entry has of each shard, and the shard's number."""
    numbers = part.shards(entry["config"]["shards"])
    yield from zip(numbers, entry["shards"], strict=True)


def config_of(entry: Entry) -> MemoryConfig:
    return MemoryConfig.from_dict(entry["config"])


def base_of(memory: EmbeddedMemory | EncodedMemory) -> EmbeddedMemory:
    return memory.base if isinstance(memory, EncodedMemory) else memory


def state_of(memory: EmbeddedMemory | EncodedMemory) -> list[int]:
    """Differs after every change of what a checkpoint would hold."""
    base = base_of(memory)
    refreshed = memory.refreshed if isinstance(memory, EncodedMemory) else 0
    return [base.next_slot, base.version, refreshed]
