"""Store: the memories in one directory, embedded in this process.

    store = memstore.open("knowledge")
    words = store.create("words", MemoryConfig(dim=64, index="none"))
    …
    store.close()

A checkpoint writes each changed memory into a new folder, then replaces one manifest: whoever
opens the directory finds all memories as of one checkpoint, whatever happened meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np

from memstore import files
from memstore.config import MemoryConfig
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.errors import (
    InvalidArgument,
    MemoryExists,
    MemoryInUse,
    NotAStore,
    StoreClosed,
    UnknownMemory,
    UnsupportedVersion,
)
from memstore.index import devices
from memstore.memory import Memory
from memstore.shard import checkpoint
from memstore.shard.journal import Journal
from memstore.shard.log import Fsync, Log

FORMAT = 4
MANIFEST = "memstore.json"
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class Store:
    """The memories in one directory. One process owns it at a time."""

    def __init__(self, path: str | Path, *, fsync: Fsync = "interval") -> None:
        """Opens the store at `path`, or makes one where there is nothing yet.

        fsync: when a mutation is durable. `always`: when its call returns. `interval`: a tenth of
        a second later. `never`: when the system gets to it. The death of the process alone loses
        nothing that was acknowledged.

        Raises `NotAStore` where something else is, `StoreLocked` where another process has it,
        `UnsupportedVersion` and `CorruptFile` where its files are not to be read.
        """
        self.path = Path(path)
        if fsync not in get_args(Fsync):
            raise InvalidArgument(
                "fsync is unknown", got=repr(fsync), expected=f"one of {get_args(Fsync)}"
            )
        self._fsync: Fsync = fsync
        self._memories: dict[str, EmbeddedMemory | EncodedMemory] = {}
        self._saved: dict[str, dict[str, Any]] = {}
        self._number = 0
        self._mutex = threading.RLock()
        self._closed = False
        self._manifest()  # what is foreign is not even locked
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotAStore(f"{self.path} cannot be made", got=str(error)) from error
        self._lock = files.lock(self.path / "LOCK")
        try:
            if self._manifest():
                self._load(files.read_json(self.path / MANIFEST))
            else:
                self.checkpoint()
        except BaseException:
            self._lock.close()
            raise

    def create(self, name: str, config: MemoryConfig) -> Memory:
        """Makes an empty memory.

        Raises `MemoryExists` if the name is taken, `DeviceUnavailable` where its device is not.
        """
        with self._mutex:
            self._check_open()
            _check_name(name)
            if not isinstance(config, MemoryConfig):
                raise InvalidArgument(
                    "not a configuration", got=type(config).__name__, expected="MemoryConfig"
                )
            devices.find(config.index_config)
            if name in self._memories:
                raise MemoryExists(f"memory {name!r} is there already", hint="drop it first")
            memory = self._assemble(EmbeddedMemory(name, config, 0, self.path))
            log = secrets.token_hex(8)
            self._number += 1
            self._publish(self._saved | {name: self._save(name, memory, log)})
            self._open_logs(memory, self._saved[name])
            self._memories[name] = memory
            return memory

    def memory(self, name: str) -> Memory:
        """The memory of that name; raises `UnknownMemory`."""
        with self._mutex:
            self._check_open()
            return self._find(name)

    def list(self) -> list[str]:
        """The names of the memories, sorted."""
        with self._mutex:
            self._check_open()
            return sorted(self._memories)

    def drop(self, name: str) -> None:
        """Takes a memory and its files away.

        Raises `MemoryInUse` while another memory is encoded from it.
        """
        with self._mutex:
            self._check_open()
            self._find(name)
            users = [
                other
                for other, memory in self._memories.items()
                if isinstance(memory, EncodedMemory)
                and name in memory.config.encoding_config.memories
            ]
            if users:
                raise MemoryInUse(
                    f"memory {name!r} holds the parts of {users}", hint="drop those first"
                )
            self._publish({n: entry for n, entry in self._saved.items() if n != name})
            dropped = _base(self._memories.pop(name))
            dropped.retire(UnknownMemory(f"memory {name!r} was dropped"))
            dropped.close_logs()
            self._sweep()

    def checkpoint(self) -> None:
        """Makes everything so far durable: after it, reopening finds this state or a later one."""
        with self._mutex:
            self._check_open()
            self._number += 1
            with contextlib.ExitStack() as stack:
                for _, memory in sorted(self._memories.items()):
                    stack.enter_context(_base(memory).frozen())
                self._publish(
                    {
                        name: self._save(name, memory, self._saved[name]["log"]["name"])
                        if self._saved[name]["state"] != _state(memory)
                        else self._saved[name]
                        for name, memory in self._memories.items()
                    }
                )
            for name, memory in self._memories.items():
                after = self._saved[name]["log"]["after"]
                for shard, last in zip(_base(memory).shards, after, strict=True):
                    if shard.journal is not None:
                        shard.journal.log.truncate(last + 1)
            self._sweep()

    def close(self) -> None:
        """Makes a checkpoint and gives the directory free; a second call does nothing.

        A checkpoint that fails leaves the store open, with all that it holds.
        """
        with self._mutex:
            if not self._closed:
                self.checkpoint()
                self._closed = True
                for memory in self._memories.values():
                    _base(memory).retire(
                        StoreClosed(f"{self.path} was closed", hint="open it again")
                    )
                    _base(memory).close_logs()
                self._memories.clear()
                self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _manifest(self) -> bool:
        """Whether there is a store; raises `NotAStore` where there is something else."""
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise NotAStore(f"{self.path} is no directory", hint="name a directory")
        if (self.path / MANIFEST).exists():
            return True
        # A process that died while it made the store may have left these.
        ours = {"LOCK", f"{MANIFEST}.new"}
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry.name not in ours)
        if foreign:
            raise NotAStore(
                f"{self.path} holds something else",
                got=f"{foreign[:5]}",
                expected=f"{MANIFEST}, or an empty directory",
            )
        return False

    def _load(self, manifest: dict[str, Any]) -> None:
        if manifest.get("format") != FORMAT:
            raise UnsupportedVersion(
                f"{self.path} has another format",
                got=manifest.get("format"),
                expected=FORMAT,
                hint="open it with the version of memstore that wrote it, or build it anew",
            )
        self._number = manifest["number"]
        # Parts before what is encoded from them.
        for name, entry in sorted(
            manifest["memories"].items(), key=lambda item: item[1]["config"]["encoding"] is not None
        ):
            config = MemoryConfig.from_dict(entry["config"])
            base = EmbeddedMemory(name, config, entry["next_slot"], self.path)
            folder = self.path / entry["folder"]
            base.shards = [
                checkpoint.load(config, i, folder / f"shard-{i}", part, self.path)
                for i, part in enumerate(entry["shards"])
            ]
            memory = self._memories[name] = self._assemble(base)
            if isinstance(memory, EncodedMemory):
                files.check(folder / "encoded_at.npz", entry["encoded_at"])
                with np.load(folder / "encoded_at.npz", allow_pickle=False) as arrays:
                    memory.encoded_at = dict(arrays)
                memory.refreshed = entry["state"][-1]
            self._saved[name] = entry
        # Last, since it writes: a store that is refused stays as it is.
        for name, memory in self._memories.items():
            self._open_logs(memory, self._saved[name])

    def _publish(self, entries: dict[str, dict[str, Any]]) -> None:
        """Makes these the memories that whoever opens the directory finds."""
        body = {"format": FORMAT, "number": self._number, "memories": entries}
        files.replace_json(self.path / MANIFEST, body)
        self._saved = entries

    def _open_logs(self, memory: EmbeddedMemory | EncodedMemory, entry: dict[str, Any]) -> None:
        """Does again what the logs of a memory have behind its checkpoint; goes on with them."""
        base, folder = _base(memory), self.path / "logs" / entry["log"]["name"]
        for shard, after in zip(base.shards, entry["log"]["after"], strict=True):
            own = folder / f"shard-{shard.number}"
            own.mkdir(parents=True, exist_ok=True)
            for synced in (folder, *list(folder.parents)[:2]):
                files.sync_folder(synced)
            owner = hashlib.blake2b(f"{folder.name}/{shard.number}".encode(), digest_size=16)
            log = Log(own, owner.digest(), after=after, fsync=self._fsync)
            shard.replay(Journal(base.config, shard.number, log))
        count = len(base.shards)
        for shard in base.shards:
            if shard.rows.size:
                last = (shard.rows.size - 1) * count + shard.number
                base.next_slot = max(base.next_slot, last + 1)

    def _save(self, name: str, memory: EmbeddedMemory | EncodedMemory, log: str) -> dict[str, Any]:
        """log: the name of its folder of logs."""
        base = _base(memory)
        folder = Path("memories") / name / f"{self._number:08d}"
        shutil.rmtree(self.path / folder, ignore_errors=True)
        entry: dict[str, Any] = {
            "config": base.config.to_dict(),
            "next_slot": base.next_slot,
            "folder": str(folder),
            "state": _state(memory),
            "log": {"name": log, "after": [shard.logged for shard in base.shards]},
            "shards": [
                checkpoint.save(shard, self.path / folder / f"shard-{shard.number}")
                for shard in base.shards
            ],
        }
        if isinstance(memory, EncodedMemory):
            path = self.path / folder / "encoded_at.npz"
            np.savez(path, **memory.encoded_at)  # type: ignore[arg-type]
            entry["encoded_at"] = files.settle(path)
        for synced in (folder, *list(folder.parents)[:-1]):
            files.sync_folder(self.path / synced)
        return entry

    def _sweep(self) -> None:
        """Takes away what no manifest names any more."""
        kept = {self.path / entry["folder"] for entry in self._saved.values()}
        for folder in (self.path / "memories").glob("*/*/"):
            if folder not in kept:
                shutil.rmtree(folder)
        logs = {entry["log"]["name"] for entry in self._saved.values()}
        for folder in (self.path / "logs").glob("*/"):
            if folder.name not in logs:
                shutil.rmtree(folder)
        for folder in (self.path / "memories").glob("*/"):
            if not any(folder.iterdir()):
                folder.rmdir()

    def _assemble(self, base: EmbeddedMemory) -> EmbeddedMemory | EncodedMemory:
        if base.config.encoding is None:
            return base
        parts: dict[str, EmbeddedMemory] = {}
        for name in sorted(base.config.encoding_config.memories):
            part = self._find(name)
            if isinstance(part, EncodedMemory):
                raise InvalidArgument(
                    f"memory {name!r} is encoded itself", hint="parts are rows of plain memories"
                )
            parts[name] = part
        return EncodedMemory(base, parts)

    def _find(self, name: str) -> EmbeddedMemory | EncodedMemory:
        if name not in self._memories:
            known = sorted(self._memories)
            raise UnknownMemory("no such memory", got=repr(name), expected=f"one of {known}")
        return self._memories[name]

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self.path} was closed", hint="open it again")


def _base(memory: EmbeddedMemory | EncodedMemory) -> EmbeddedMemory:
    return memory.base if isinstance(memory, EncodedMemory) else memory


def _state(memory: EmbeddedMemory | EncodedMemory) -> list[int]:
    """Differs after every change of what a checkpoint would hold."""
    base = _base(memory)
    refreshed = memory.refreshed if isinstance(memory, EncodedMemory) else 0
    return [base.next_slot, base.version, refreshed]


def _check_name(name: object) -> None:
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise InvalidArgument("not a memory name", got=repr(name), expected=NAME.pattern)


def open(path: str | Path, *, fsync: Fsync = "interval") -> Store:  # noqa: A001
    """Opens the store at `path`, or makes one where there is nothing yet: see `Store`."""
    return Store(path, fsync=fsync)
