"""Contents: the memories that a store has in this process, and how they get to its directory.

A checkpoint takes all memories as they are at one moment and writes what has changed of them,
while they go on changing; then it replaces one manifest. Whoever opens the directory finds all
memories as of one checkpoint, and does again what was logged since.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memstore import files, routing
from memstore.config import MemoryConfig
from memstore.disk import Disk
from memstore.durable import belonging, manifest
from memstore.durable.checkpoints import Entry, MemoryCheckpoints, Moment, base_of, config_of, load
from memstore.durable.manifests import Manifests
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.errors import InvalidArgument, MemstoreError, StoreClosed, UnknownMemory
from memstore.keyless import KeylessMemory
from memstore.placement import WHOLE, holders
from memstore.shard import segments
from memstore.shard.journal import Journal
from memstore.shard.log import Fsync, Log
from memstore.spread.held import HeldMemory
from memstore.spread.held_encoded import HeldEncodedMemory
from memstore.spread.holding import Gate

logger = logging.getLogger(__name__)


class Contents:
    """The memories of one store. Whoever calls what changes something holds the store's lock."""

    def __init__(
        self,
        path: Path,
        manifests: Manifests,
        gate: Gate,
        *,
        fsync: Fsync,
        disk: Disk,
        refusal: MemstoreError | None,
    ) -> None:
        """gate: of mutations of a part, while moments are taken of all parts.  refusal: what a
        mutation raises; None opens the memories to write."""
        self.memories: dict[str, EmbeddedMemory | EncodedMemory] = {}
        self._path, self._manifests, self._gate = path, manifests, gate
        self._fsync: Fsync = fsync
        self._disk, self._refusal = disk, refusal
        self._checkpoints: dict[str, MemoryCheckpoints] = {}
        self._covered: dict[str, int] = {}
        """By log, the bytes that the last checkpoint of its memory covers."""

    def find(self, name: str) -> EmbeddedMemory | EncodedMemory:
        """The memory of that name; raises `UnknownMemory`."""
        found = self.memories.get(name)
        if found is None:
            known = sorted(self.memories)
            raise UnknownMemory("no such memory", got=repr(name), expected=f"one of {known}")
        return found

    def users(self, name: str) -> builtins.list[str]:
        """The memories that are encoded from one."""
        return [
            other
            for other, memory in self.memories.items()
            if isinstance(memory, EncodedMemory) and name in memory.config.encoding_config.memories
        ]

    def check_parts(self, name: str, config: MemoryConfig, servers: int) -> None:
        """Raises what making an encoded memory over several servers would, where part 0 is."""
        if config.encoding is None:
            return
        self.assemble(self.empty(name, config, 0, None))
        for part in sorted(config.encoding_config.memories):
            shards = self.find(part).config.shards
            if holders(shards, servers) > holders(config.shards, servers):
                raise InvalidArgument(
                    f"memory {name!r} would not lie on all servers that memory {part!r} lies on",
                    got=f"{config.shards} shards",
                    expected=f"≥ {holders(shards, servers)}",
                )

    def empty(
        self, name: str, config: MemoryConfig, next_slot: int, folder: Path | None
    ) -> EmbeddedMemory:
        """What it holds of a memory, without rows."""
        if self._manifests.part == WHOLE:
            return EmbeddedMemory(name, config, next_slot, folder, self._manifests.part)
        held = HeldMemory(name, config, next_slot, folder, self._manifests.part)
        held.gate = self._gate
        return held

    def assemble(self, base: EmbeddedMemory) -> EmbeddedMemory | EncodedMemory:
        """The memory over what is held of it: itself, or with the memories of its parts."""
        if base.config.encoding is None:
            return base
        parts: dict[str, EmbeddedMemory] = {}
        for name in sorted(base.config.encoding_config.memories):
            if self._manifests.part.number and name not in self.memories:
                continue  # none of its shards is here
            part = self.find(name)
            if isinstance(part, EncodedMemory):
                raise InvalidArgument(
                    f"memory {name!r} is encoded itself", hint="parts are rows of plain memories"
                )
            parts[name] = part
        return encoded(base, parts)

    def adopt(self, memories: Mapping[str, EmbeddedMemory | EncodedMemory], **facts: Any) -> None:
        """Takes in memories whose names are free, all or none of them.  facts: as in `write`."""
        made = {
            name: self._made(name, memory, secrets.token_hex(8), None)
            for name, memory in memories.items()
        }
        try:
            for name, memory in memories.items():
                self._open_logs(made[name], [0] * len(base_of(memory).shards))
            self.write(list(made), made=self._checkpoints | made, **facts)
        except BaseException:
            for memory in memories.values():
                with contextlib.suppress(MemstoreError):
                    base_of(memory).close_logs()
            raise
        self.memories |= memories

    def drop(self, name: str, **facts: Any) -> None:
        """Takes a memory and its files away.  facts: as in `write`."""
        left = {n: each for n, each in self._checkpoints.items() if n != name}
        self.write([], made=left, **facts)
        dropped = base_of(self.memories.pop(name))
        dropped.retire(UnknownMemory(f"memory {name!r} was dropped"))
        try:
            dropped.close_logs()
        finally:
            dropped.let_go()
        self._manifests.sweep()

    def load(self, body: manifest.Body) -> None:
        """Loads what a manifest names, and does again what was logged since."""
        # Parts before what is encoded from them.
        for name, entry in sorted(
            body["memories"].items(), key=lambda item: item[1]["config"]["encoding"] is not None
        ):
            home = self._path if self._refusal is None else None
            base = self.empty(name, config_of(entry), entry["next_slot"], home)
            base.made = entry.get("made", 0)
            memory = self.memories[name] = self.assemble(base)
            self._checkpoints[name] = self._made(name, memory, entry["log"]["name"], entry)
        load(self._checkpoints.values())
        # Last, since it writes: a store that is refused stays as it is.
        for made in self._checkpoints.values():
            assert made.entry is not None
            self._open_logs(made, made.entry["log"]["after"])
            base_of(made.memory).refusal = self._refusal
        if self._refusal is None:
            self._manifests.sweep()
            self._note_losses()
            for memory in self.memories.values():
                base_of(memory).wake()

    def _note_losses(self) -> None:
        """Counts as drifted what a part lost that was not closed in order."""
        if self._manifests.part == WHOLE or belonging.was_closed(self._path, self._disk):
            return
        for memory in self.memories.values():
            if isinstance(memory, HeldEncodedMemory):
                memory.lost_steps()

    def write(
        self,
        names: Sequence[str] | None = None,
        *,
        begun: Callable[[], None] = lambda: None,
        made: dict[str, MemoryCheckpoints] | None = None,
        **facts: Any,
    ) -> None:
        """Makes these the memories that whoever opens the directory finds, those named as now.

        names: None is all.  begun: is called once their moment is taken; what it raises ends it.
        made: the checkpoints of them; None is of those that are here.  facts: as in
        `Manifests.write`.
        """
        made = self._checkpoints if made is None else made
        names = [*self.memories] if names is None else names
        number = self._manifests.number()
        moments: dict[str, Moment] = {}
        try:
            with files.typed("a checkpoint"), contextlib.ExitStack() as stack:
                for name in sorted(names):
                    stack.enter_context(base_of(made[name].memory).frozen())
                covered = {made[name].log: made[name].logged for name in names}
                for name in names:
                    moment = made[name].begin()
                    if moment is not None:
                        moments[name] = moment
            begun()
            with files.typed("a checkpoint"):
                drafts = {name: made[name].write(moments[name], number) for name in moments}
            entries = {name: each.entry for name, each in made.items()}
            entries |= {name: draft.entry for name, draft in drafts.items()}
            self._manifests.write(number, entries, **facts)
        except BaseException:
            for name, moment in moments.items():
                made[name].abandon(moment)
            raise
        self._checkpoints = made
        self._covered |= covered
        for name, draft in drafts.items():
            made[name].keep(draft)
        for name in drafts:
            try:
                made[name].truncate()
            except MemstoreError as error:
                # It takes room, and no more: the checkpoint stands.
                logger.warning("the log of %s stays: %s", name, error)

    def _open_logs(self, made: MemoryCheckpoints, after_S: Sequence[int]) -> None:
        """Does again what the logs of a memory have behind its checkpoint; goes on with them.

        after_S: of each shard, the last record that the checkpoint covers.
        """
        base, folder = base_of(made.memory), self._path / manifest.LOGS / made.log
        replayed = [np.empty(0, np.int64)]
        for shard, after in zip(base.shards, after_S, strict=True):
            own = folder / f"shard-{shard.number}"
            name = hashlib.blake2b(f"{folder.name}/{shard.number}".encode(), digest_size=16)
            if self._refusal is None:
                with files.typed("a log"):
                    files.make_folder(own, self._disk)
                log = Log(own, name.digest(), after=after, fsync=self._fsync, disk=self._disk)
                rows = shard.replay(log.replay())
                shard.journal = Journal(base.config, shard.number, log)
            else:
                rows = shard.replay(segments.replay(own, name.digest(), after))
            replayed.append(routing.slots_of(rows, shard.number, base.config.shards))
            base.next_slot = max(base.next_slot, shard.given_out)
        if isinstance(made.memory, EncodedMemory):
            made.memory.replayed(np.sort(np.concatenate(replayed)))

    def _made(
        self, name: str, memory: EmbeddedMemory | EncodedMemory, log: str, entry: Entry | None
    ) -> MemoryCheckpoints:
        folder = self._path / manifest.MEMORIES / name
        return MemoryCheckpoints(memory, folder, log, entry, self._disk)

    @property
    def logged(self) -> int:
        """Bytes logged since the last checkpoint, of all memories."""
        made = self._checkpoints.values()
        return sum(each.logged - self._covered.get(each.log, 0) for each in made)

    def last_checkpoint(self) -> None:
        """Makes one of all memories but those whose log has more than they: opening puts these
        right, from the checkpoint before."""
        behind = self.behind()
        self.write([name for name in self.memories if name not in behind])
        self._manifests.sweep()

    def behind(self) -> set[str]:
        """The memories whose log has more than they."""
        bases = {name: base_of(memory) for name, memory in self.memories.items()}
        return {n for n, b in bases.items() if any(s.behind is not None for s in b.shards)}

    def retire(self, stack: contextlib.ExitStack) -> None:
        """Writes what was changed while the last checkpoint was written; then nothing changes.

        stack: is given what is to be done then. Leaves all open where it raises.
        """
        bases = [base_of(memory) for _, memory in sorted(self.memories.items())]
        with contextlib.ExitStack() as frozen:
            for base in bases:
                frozen.enter_context(base.frozen())
            if self._refusal is None:
                try:
                    self.last_checkpoint()
                except BaseException:
                    stack.pop_all()
                    raise
            for base in bases:
                base.retire(StoreClosed(f"{self._path} was closed", hint="open it again"))
                stack.callback(base.close_logs)

    def let_go(self) -> None:
        """Holds nothing any more of memories that were retired."""
        for memory in self.memories.values():
            base_of(memory).let_go()
        self.memories, self._checkpoints = {}, {}

    def give_up(self) -> None:
        """Lets go of what was loaded of a store that could not be opened."""
        for memory in self.memories.values():
            base_of(memory).retire(StoreClosed(f"{self._path} could not be opened"))
            with contextlib.suppress(MemstoreError):
                base_of(memory).close_logs()
        self.let_go()


def encoded(base: EmbeddedMemory, memories: Mapping[str, EmbeddedMemory]) -> EncodedMemory:
    """An encoded memory over its base, or what is here of both."""
    names = sorted(base.config.encoding_config.memories)
    if isinstance(base, HeldMemory):
        return HeldEncodedMemory(base, {n: memories[n] for n in names if n in memories})
    kind = EncodedMemory if base.config.keeps_keys else KeylessMemory
    return kind(base, {n: memories[n] for n in names})
