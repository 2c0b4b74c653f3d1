"""The manifests of one store: the one that is found, those of marks, those being copied.

A file of a memory stays as long as any of them names it. Where one could not be written, nobody
knows whether it is the one that is found; its files stay too, until another one was.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Set
from pathlib import Path
from typing import Any

from memstore import files
from memstore.disk import Disk
from memstore.durable import manifest
from memstore.durable.checkpoints import Entry
from memstore.durable.openings import Openings
from memstore.errors import CorruptFile, InvalidArgument, UnsupportedVersion
from memstore.placement import WHOLE, Part

logger = logging.getLogger(__name__)


class Manifests:
    """Reads and writes the manifests in the folder of a store; one thread at a time calls."""

    def __init__(self, folder: Path, disk: Disk, part: Part = WHOLE) -> None:
        """part: of its memories, where the store is made."""
        self._folder, self._disk = folder, disk
        self.part = part
        self.body: manifest.Body = {"store": secrets.token_hex(8), "number": 0, "memories": {}}
        """As it was last read or written."""
        self.marks: dict[str, manifest.Body] = {}
        self.unread: set[str] = set()
        """Marks that are not to be read."""
        self._beside: set[Path] = set()
        """Files that were there with these, which may be theirs."""
        self.pins: list[manifest.Body] = []
        """Of files that are being copied."""
        self.cuts: dict[str, manifest.Body] = {}
        """Of moments that are of several parts, until that is a mark or over."""
        self._doubtful: list[manifest.Body] = []
        self._doubtful_marks: list[manifest.Body] = []
        self._number = 0

    def read(self) -> manifest.Body:
        """Reads what is found; a mark that is not to be read is left out, and a warning says so.
        What it may name stays, until it is taken away or another has its name.

        Raises `CorruptFile` and `UnsupportedVersion`.
        """
        self.body = manifest.read(self._folder / manifest.NAME)
        self.part = manifest.part_of(self.body)
        for path in sorted((self._folder / manifest.MARKS).glob("*.json")):
            try:
                self.marks[path.stem] = manifest.read(path)
            except (CorruptFile, UnsupportedVersion) as error:
                self.unread.add(path.stem)
                logger.warning("a mark is not to be read: %s", error)
        if self.unread:
            self._beside = {*(self._folder / manifest.MEMORIES).rglob("*")}
        return self.body

    @property
    def cluster(self) -> str:
        """That of a part; empty where it is not known yet."""
        found: str = self.body.get("cluster", "")
        return found

    @property
    def openings(self) -> Openings:
        """Of a part."""
        return Openings.of(self.body["openings"]) if "openings" in self.body else Openings()

    @property
    def turn(self) -> int:
        """Of a part: the highest number of a making or dropping of which it knows."""
        return int(self.body.get("turn", 0))

    def number(self) -> int:
        """A number for a checkpoint, higher than that of any before, failed ones included."""
        self._number = max(self._number, self.body["number"]) + 1
        return self._number

    def write(self, number: int, entries: dict[str, Entry | None], **facts: Any) -> None:
        """Makes these the memories that are found; raises `DiskFailed` and `StorageFull`.

        facts: of a part, what changes besides: `cluster`, `openings`, `turn`.
        """
        before, path = self.body, self._folder / manifest.NAME
        body = manifest.head(self.part) | {"store": before["store"], "number": number}
        body |= {fact: before[fact] for fact in manifest.FACTS if fact in before} | facts
        body["memories"] = entries
        self._doubtful.append(body)
        try:
            with files.typed("the manifest"):
                manifest.write(path, body, self._disk)
        except BaseException:
            # What goes on here goes on from the one before, so that is to be found.
            if before["number"]:
                with contextlib.suppress(OSError):
                    manifest.write(path, before, self._disk)
                    self._doubtful.clear()
            raise
        self.body = body
        self._doubtful.clear()

    def mark(self, name: str, body: manifest.Body | None = None) -> None:
        """Keeps what is found, or what another manifest names, under a name; raises as `write`."""
        path, body = self._mark(name), self.body if body is None else body
        self._doubtful_marks.append(body)
        try:
            with files.typed("a mark"):
                files.make_folder(path.parent, self._disk)
                manifest.write(path, body, self._disk)
        except BaseException:
            with contextlib.suppress(OSError):
                if path.exists():
                    self._disk.remove(path)
                self._disk.sync_folder(path.parent)
                self._doubtful_marks.pop()
            raise
        self.marks[name] = self._doubtful_marks.pop()
        self.unread.discard(name)

    def unmark(self, name: str) -> None:
        """Takes a mark away; raises as `write`, and `InvalidArgument` where there is none."""
        if name not in self.unread:
            self.marked(name)
        path = self._mark(name)
        with files.typed("the end of a mark"):
            if path.exists():
                self._disk.remove(path)
            self._disk.sync_folder(path.parent)
        self.unread.discard(name)
        self.marks.pop(name, None)

    def marked(self, name: str) -> manifest.Body:
        if name not in self.marks:
            known = sorted(self.marks)
            raise InvalidArgument("no such mark", got=repr(name), expected=f"one of {known}")
        return self.marks[name]

    def sweep(self) -> None:
        """Takes away what none of them names; what cannot be now is taken away another time."""
        found = [self.body, *self._doubtful]
        kept = *self.marks.values(), *self.pins, *self.cuts.values()
        bodies = (*found, *self._doubtful_marks, *kept)
        wanted = {self._folder / path for body in bodies for path in manifest.files_of(body)}
        wanted |= self._beside if self.unread else set()
        logs = {entry["log"]["name"] for body in found for entry in body["memories"].values()}
        try:
            self._clear(self._folder / manifest.MEMORIES, wanted)
            for folder in (self._folder / manifest.LOGS).glob("*/"):
                if folder.name not in logs:
                    self._clear(folder, set())
                    self._disk.remove_folder(folder)
        except OSError as error:
            logger.warning("%s holds files that nobody wants: %s", self._folder, error)

    def _mark(self, name: str) -> Path:
        return self._folder / manifest.MARKS / f"{name}.json"

    def _clear(self, folder: Path, wanted: Set[Path]) -> None:
        """Takes away what is not wanted in a folder, and the folders that it leaves empty."""
        # What is in a folder comes before it.
        for path in sorted(folder.rglob("*"), reverse=True):
            if not path.is_dir():
                if path not in wanted:
                    self._disk.remove(path)
            elif not any(path.iterdir()):
                self._disk.remove_folder(path)
