"""The files of a store as changes that follow each other, and a folder made of them anew.

A change is of a name or of what is in a file. A file is named by a number, under which it is
written to whatever its name is meanwhile. Changes are put together in batches:

    HEAD: bytes of the list, CRC of what follows · the list, JSON · what is written, end to end
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zlib_ng.zlib_ng import crc32

from memstore.errors import CorruptFile

HEAD = struct.Struct("<II")
CHUNK_BYTES = 1 << 22

Kind = Literal["make", "unmake", "create", "write", "cut", "rename", "remove"]


@dataclass(frozen=True)
class Change:
    """make, unmake (path) a folder · create (number, path) · write (number, at) data ·
    cut (number, size) · rename (path, path) · remove (path). Paths are relative to the store."""

    kind: Kind
    facts: tuple[Any, ...]
    data: bytes = b""


@dataclass
class Entry:
    """A file: its number, and how long it is."""

    number: int
    size: int = 0


@dataclass
class Tree:
    """Which files there are, by the changes so far."""

    files: dict[str, Entry] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    paths: dict[int, str] = field(default_factory=dict)
    next: int = 1

    def take(self, change: Change) -> None:
        """Does a change, which fits what there is."""
        facts = change.facts
        if change.kind == "make":
            self.folders.add(facts[0])
        elif change.kind == "unmake":
            self.folders.discard(facts[0])
        elif change.kind == "create":
            number, path = facts
            self.files[path], self.paths[number] = Entry(number), path
            self.next = max(self.next, number + 1)
        elif change.kind == "rename":
            old, new = facts
            self._forget(new)
            entry = self.files[new] = self.files.pop(old)
            self.paths[entry.number] = new
        elif change.kind == "remove":
            self._forget(facts[0])
        elif facts[0] in self.paths:
            entry = self.files[self.paths[facts[0]]]
            if change.kind == "write":
                entry.size = max(entry.size, facts[1] + len(change.data))
            else:
                entry.size = min(entry.size, facts[1])

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.files.values())

    def _forget(self, path: str) -> None:
        entry = self.files.pop(path, None)
        if entry is not None:
            del self.paths[entry.number]


class Replica:
    """Makes the files of a store in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.tree = Tree()

    def take(self, change: Change) -> None:
        tree, facts = self.tree, change.facts
        if change.kind == "make":
            self._at(facts[0]).mkdir(exist_ok=True)
        elif change.kind == "unmake":
            self._at(facts[0]).rmdir()
        elif change.kind == "create":
            self._at(facts[1]).touch(exist_ok=False)
        elif change.kind == "rename":
            self._at(facts[0]).rename(self._at(facts[1]))
        elif change.kind == "remove":
            self._at(facts[0]).unlink()
        elif facts[0] in tree.paths:  # else it was written to after its last name was gone
            path = self._at(tree.paths[facts[0]])
            if change.kind == "cut":
                size = tree.files[tree.paths[facts[0]]].size
                os.truncate(path, min(size, facts[1]))
            else:
                with path.open("r+b") as file:
                    file.seek(facts[1])
                    file.write(change.data)
        tree.take(change)

    def _at(self, path: str) -> Path:
        return self._folder / path


def encode(changes: Sequence[Change]) -> bytes:
    told = [[change.kind, *change.facts, len(change.data)] for change in changes]
    text = json.dumps(told).encode()
    body = b"".join([text, *(change.data for change in changes)])
    return HEAD.pack(len(text), crc32(body)) + body


def decode(data: bytes, name: str) -> Iterator[Change]:
    """Raises `CorruptFile` where the bytes are not what they were."""
    if len(data) < HEAD.size:
        raise CorruptFile(f"{name} is torn", got=f"{len(data)} bytes")
    size, crc = HEAD.unpack_from(data)
    body = memoryview(data)[HEAD.size :]
    if crc32(body) != crc:
        raise CorruptFile(f"{name} was altered", got="another checksum than it names")
    at = size
    for kind, *facts, count in json.loads(bytes(body[:size])):
        yield Change(kind, tuple(facts), bytes(body[at : at + count]))
        at += count


def whole(tree: Tree, opened: dict[str, int]) -> Iterator[list[Change]]:
    """Batches of changes that make all files from nothing, as they were when `tree` was taken.

    opened: a handle of each file by its path, from which that can be read still.
    """
    batch = [Change("make", (path,)) for path in sorted(tree.folders)]
    held = 0
    for path, entry in sorted(tree.files.items()):
        batch.append(Change("create", (entry.number, path)))
        for at in range(0, entry.size, CHUNK_BYTES):
            data = os.pread(opened[path], min(CHUNK_BYTES, entry.size - at), at)
            batch.append(Change("write", (entry.number, at), data))
            held += len(data)
            if held >= CHUNK_BYTES:
                yield batch
                batch, held = [], 0
    yield batch
