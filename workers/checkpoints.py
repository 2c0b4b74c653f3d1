"""Checkpoints of a training run: its network and its memories, both as they were after one step.

    memories/                 snapshots: each copies what changed since the one before
    step-00000200/
        dense.npz             the weights, and the state of their optimizer
        checkpoint.json       the step, the recipe, the topology, and which snapshot goes with it

A checkpoint gets its name last, once all of it is durable: it is whole, or not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from memstore import checks, files
from memstore.disk import DISK
from memstore.durable import snapshot
from memstore.durable.place import Place
from memstore.durable.restoring import restore_into
from memstore.errors import (
    CorruptFile,
    InvalidArgument,
    NotAStore,
    UnknownMemory,
    UnsupportedVersion,
)
from memstore.store import Store

if TYPE_CHECKING:
    from memstore.rpc.client import Client

FORMAT = 1

KEEP = 3
"""Checkpoints that stay; the oldest goes once there is another."""

DENSE, ABOUT = "dense.npz", "checkpoint.json"

Holder: TypeAlias = "Store | Client"
"""What has the memories of a run, and no others: a store of this process, or one that is served."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One that is there.

    position: where the run was, as `save` was given it. recipe: what the run is. topology:
    `servers`, and by memory `shards`. snapshot: the number of that of the memories; bytes: of all
    its files; copied: of those that the snapshot before had not. versions: by memory, of each shard
    the versions of its rows and index then. dense: of the file of arrays.
    """

    folder: Path
    step: int
    position: dict[str, Any]
    recipe: dict[str, Any]
    topology: dict[str, Any]
    snapshot: int
    bytes: int
    copied: int
    versions: dict[str, list[list[int]]]
    dense: files.Fingerprint

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that `save` was given; raises `CorruptFile`."""
        with _damaged(self.folder):
            files.check(self.folder / DENSE, self.dense)
            return files.arrays_of(self.folder / DENSE)


class Checkpoints:
    """The checkpoints of one run, in a folder. One process at a time saves and restores."""

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        *,
        memories: str | None = None,
        keep: int = KEEP,
    ) -> None:
        """recipe: what the run is, as JSON can have it; those of another are refused.

        memories: where the snapshots lie, an address that this process and the servers of the
        memories reach, and where nothing else is; None is a folder beside the checkpoints.
        keep: how many stay, ≥ 1.
        """
        self.folder = folder
        self.recipe: dict[str, Any] = json.loads(json.dumps(recipe))
        self.memories = str((folder / "memories").absolute()) if memories is None else memories
        self.keep = checks.positive("keep", keep)
        self._copier = ThreadPoolExecutor(1, "memstore-checkpoint")
        self._copying: Future[None] | None = None
        self.seconds = 0.0
        """What the last one took, from its moment until it was there."""
        self.made: int | None = None
        """Of the memories that it is to be of, as `made_of`; None is any."""
        # Runs that share a store would take away each other's.
        self._mark = f"checkpoint-{hashlib.sha256(self.memories.encode()).hexdigest()[:8]}-"

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, rising."""
        paths = self.folder.glob("step-*")
        return sorted(int(path.name[5:]) for path in paths if path.name[5:].isdigit())

    def read(self, step: int | None = None) -> Checkpoint:
        """The checkpoint of a step, or the newest.

        Raises `InvalidArgument` where there is none, or it is of another recipe;
        `UnsupportedVersion` and `CorruptFile` where it is not to be read.
        """
        steps = self.steps()
        if not steps or step not in (None, *steps):
            raise InvalidArgument(
                f"{self.folder} has no such checkpoint",
                got="the newest" if step is None else f"step {step}",
                expected=f"one of {steps}" if steps else "any at all",
            )
        folder = self._of(steps[-1] if step is None else step)
        about = self._about(folder)
        if about.get("format") != FORMAT:
            raise UnsupportedVersion(
                f"{folder} is of another version",
                got=about.get("format"),
                expected=FORMAT,
                hint="go on with the version of memstore that wrote it, or train anew",
            )
        del about["format"]
        found = Checkpoint(folder=folder, **about)
        same(
            f"{folder} is of another recipe",
            found.recipe,
            self.recipe,
            "go on with the recipe it was made by, or train anew in another folder",
        )
        return found

    def save(
        self, holder: Holder, step: int, arrays: Arrays, position: Mapping[str, Any]
    ) -> Checkpoint:
        """Makes a checkpoint as `begin` does, and waits until it is there."""
        self.begin(holder, step, arrays, position)
        self.wait()
        return self.read(step)

    def begin(self, holder: Holder, step: int, arrays: Arrays, position: Mapping[str, Any]) -> None:
        """Takes the moment of a checkpoint, which a thread then copies: it is there once that is
        done. Then the oldest is taken away where there are more than `keep`.

        position: where the run is beside its step, as JSON can have it: what its sampler drew.
        Nobody changes the memories until it returns; from then on they may change, since what is
        copied is the cut at a mark. Waits for the one that was begun before. Where it fails the
        ones before stay. Raises `InvalidArgument` where there is one of this step, `UnknownMemory`
        where the memories are others than those of `made`, and what `wait` and `mark` raise.
        """
        self.wait()
        self._check_made(holder)
        if step in self.steps():
            raise InvalidArgument(f"{self._of(step)} is there already", got=f"step {step}")
        begun_s = time.monotonic()
        self._clear()
        for left in holder.marks():
            if left.startswith(self._mark):
                holder.unmark(left)
        mark = f"{self._mark}{step:08d}"
        holder.mark(mark)
        try:
            self._check_made(holder)
        except UnknownMemory:
            holder.unmark(mark)
            raise
        about: dict[str, Any] = {
            "step": step,
            "position": json.loads(json.dumps(position)),
            "recipe": self.recipe,
            "versions": _versions(holder),
        }
        then = {name: array.copy() for name, array in arrays.items()}
        self._copying = self._copier.submit(self._copied, holder, mark, then, about, begun_s)

    def wait(self) -> None:
        """Waits for the checkpoint that was begun; raises what `snapshot` and the disk raised."""
        copying, self._copying = self._copying, None
        if copying is not None:
            copying.result()

    @property
    def is_copying(self) -> bool:
        """Whether one that was begun is not there yet."""
        return self._copying is not None and not self._copying.done()

    def _copied(
        self, holder: Holder, mark: str, arrays: Arrays, about: dict[str, Any], begun_s: float
    ) -> None:
        taken = holder.snapshot(self.memories, at=mark)
        holder.unmark(mark)
        step = about["step"]
        draft = self._of(step).with_suffix(".new")
        files.make_folder(draft)
        with files.typed("a checkpoint"):
            made = files.make(draft / DENSE, lambda file: files.arrays_to(file, arrays))
            about |= {
                "topology": {"servers": _servers(holder), "shards": _shards(about["versions"])},
                "snapshot": taken.number,
                "bytes": taken.bytes,
                "copied": taken.copied,
                "dense": made,
            }
            files.replace_json(draft / ABOUT, {"format": FORMAT} | about)
            DISK.rename(draft, self._of(step))
            DISK.sync_folder(self.folder)
        self._prune()
        self.seconds = time.monotonic() - begun_s

    def restore(self, holder: Holder, step: int | None = None, *, anew: bool = False) -> Checkpoint:
        """Makes the memories as they were at a checkpoint, the newest or that of a step.

        Memories that are as they were then stay as they are; others of their names are dropped.
        anew: none stays, so that whoever has them already changes nothing from then on.
        Where it is cut off it is to be called again. Raises as `read`, `InvalidArgument` where the
        memories lie, or are cut, otherwise now.
        """
        self.wait()
        found = self.read(step)
        now = _versions(holder)
        there = {name: now[name] for name in now if name in found.versions}
        same(
            f"{found.folder} is of another topology",
            found.topology,
            {
                "servers": _servers(holder),
                "shards": found.topology["shards"] | _shards(there),
            },
            "serve the memories as they then were, or train anew",
        )
        if there == found.versions and not anew:
            return found
        with _damaged(found.folder):
            files.check(found.folder / DENSE, found.dense)
            # What is encoded before its parts.
            for name in sorted(there, key=lambda name: holder.memory(name).config.encoding is None):
                holder.drop(name)
            if isinstance(holder, Store):
                restore_into(holder, self.memories, number=found.snapshot)
            else:
                holder.restore(self.memories, number=found.snapshot)
        return found

    def _check_made(self, holder: Holder) -> None:
        """Raises `UnknownMemory` where the memories are not those that it is to be of."""
        if self.made is not None and made_of(holder) != self.made:
            raise made_since("no checkpoint was made")

    @staticmethod
    def _about(folder: Path) -> dict[str, Any]:
        with _damaged(folder):
            about: dict[str, Any] = files.read_json(folder / ABOUT)
        return about

    def _of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _clear(self) -> None:
        """Takes away what processes left that died while they made or took away a checkpoint."""
        for suffix in ("new", "old"):
            for left in self.folder.glob(f"step-*.{suffix}"):
                shutil.rmtree(left)

    def _prune(self) -> None:
        for step in self.steps()[: -self.keep]:
            old = self._of(step).rename(self._of(step).with_suffix(".old"))
            shutil.rmtree(old)
        kept = [self._about(self._of(step))["snapshot"] for step in self.steps()]
        snapshot.prune(Place(self.memories), kept)


@contextlib.contextmanager
def _damaged(folder: Path) -> Iterator[None]:
    """Says what to do where a checkpoint, or what it is a snapshot of, is damaged."""
    try:
        yield
    except (CorruptFile, NotAStore) as error:
        others = [path.name for path in folder.parent.glob("step-*") if path.name[5:].isdigit()]
        older = max((name for name in others if name < folder.name), default=None)
        raise CorruptFile(
            f"the checkpoint {folder} is damaged: {error.problem}",
            got=error.got,
            expected=error.expected,
            hint=f"move that folder away: the run goes on from {older}"
            if older
            else "there is none before it: train anew in another folder",
        ) from error


def _versions(holder: Holder) -> dict[str, list[list[int]]]:
    return {
        name: [[s.row_version, s.index_version] for s in holder.memory(name).describe().shards]
        for name in holder.list()
    }


def made_of(holder: Holder) -> int:
    """A number that differs where any of the memories is another than before: by their `made`."""
    made = {name: holder.memory(name).describe().made for name in holder.list()}
    digest = hashlib.blake2b(json.dumps(made, sort_keys=True).encode(), digest_size=7)
    return int.from_bytes(digest.digest())


def made_since(what: str) -> UnknownMemory:
    """What is raised where the memories of a run are no longer those that it opened."""
    return UnknownMemory(
        f"the memories of the run were made anew since they were opened; {what}",
        hint="others train it by now; where none do, fit goes on from the last checkpoint",
    )


def _shards(versions: Mapping[str, list[list[int]]]) -> dict[str, int]:
    return {name: len(of_shards) for name, of_shards in versions.items()}


def _servers(holder: Holder) -> int:
    """How many processes hold the memories together."""
    if isinstance(holder, Store):
        return 1
    from memstore.rpc import administration

    told = holder.send(administration.topology())
    return 1 if told is None else len(told.servers)


def same(problem: str, got: dict[str, Any], expected: dict[str, Any], hint: str) -> None:
    """Raises `InvalidArgument`, which names what differs."""
    differ = [key for key in {**got, **expected} if got.get(key) != expected.get(key)]
    if differ:
        raise InvalidArgument(
            problem,
            got={key: got.get(key) for key in differ},
            expected={key: expected.get(key) for key in differ},
            hint=hint,
        )
