"""Power lost at any moment: of a whole store, what was acknowledged is there when it comes back."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, MemoryConfig
from memstore.durable.verify import verify
from memstore.errors import (
    CorruptFile,
    DiskFailed,
    LogFailed,
    MemstoreError,
    NotAStore,
    StorageFull,
)
from memstore.store import Store
from tests.conftest import LONG
from tests.faults.changes import Script, change, config, died, state
from tests.faults.disk import MirroredDisk, PowerLost

HOW = replace(
    config("float32", "logged", "adagrad", 2),
    index=IndexConfig(fresh_limit=8, maintenance="inline"),
)

MOST = 60
"""Changes made at most before all begins anew."""

MOST_OPERATIONS = 1_000
"""Done at most before power is lost: 4 a change, 70 a checkpoint, 50 until there is a memory."""

PARTS, LOSSES = 5, 200 if LONG else 12
"""So many parts of so many power losses each."""


@functools.cache
def states() -> list[str]:
    """What the memory is after each number of changes, made in peace."""
    with tempfile.TemporaryDirectory() as folder, memstore.open(folder) as store:
        memory, script = store.create("m", HOW), Script()
        found = [state(memory)]
        for _ in range(2 * MOST):
            change(memory, script)
            found.append(state(memory))
        return found


class Lives:
    """A store that loses its power again and again, and what it acknowledged so far.

    changes: those acknowledged.  made: whether the memory was.  marks: that were.  other: whether
    there is a second memory, None where nobody knows.
    """

    def __init__(self, root: Path, seed: int, asleep: str = "") -> None:
        self.root, self.rng = root, np.random.default_rng(seed)
        self.disk = MirroredDisk(asleep)
        self.sites = Counter[str]()
        self._soon = False
        self._anew()

    def _anew(self) -> None:
        self.changes, self.made, self.marks = 0, False, dict[str, int]()
        self.other: bool | None = False

    def life(self) -> None:
        """Lives until the power is lost; then sees what is left."""
        operations = np.exp(self.rng.uniform(0, np.log(MOST_OPERATIONS)))
        self.disk.stop_at = self.disk.operations + int(operations)
        store = None
        try:
            store = Store(self.root / "store", fsync="always", disk=self.disk)
            self._live(store)
        except PowerLost:
            pass
        finally:
            if store is not None:
                died(store)
            self.disk = self.disk.back(self.root, self.rng)
            self.sites |= self.disk.sites
        self._look()
        if self.changes > MOST:
            self.disk = MirroredDisk(self.disk.asleep)
            self._anew()
            for path in sorted(self.root.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    def _live(self, store: Store) -> None:
        if "m" not in store.list():
            store.create("m", HOW)
        self.made = True
        memory, script = store.memory("m"), Script().skip(self.changes)
        while True:
            change(memory, script)
            self.changes = script.number
            kind = self.rng.integers(12)
            if kind < 4 and self.rng.integers(3) == 0:
                # Soon after, before something else makes up for what was left out.
                self._soon = True
            if kind == 0:
                store.checkpoint()
            elif kind == 1:
                there, self.other = "other" in store.list(), None
                if there:
                    store.drop("other")
                else:
                    store.create("other", MemoryConfig(dim=2)).append(np.ones((3, 2)))
                self.other = not there
            elif kind == 2:
                name = f"at-{self.changes}"
                store.mark(name)
                self.marks[name] = self.changes
            elif kind == 3 and self.marks:
                name = sorted(self.marks)[0]
                del self.marks[name]
                store.unmark(name)
            if self._soon:
                self._soon = False
                self.disk.stop_at = self.disk.operations + int(self.rng.integers(1, 4))

    def _look(self) -> None:
        """Nothing that was acknowledged is missing, and nothing is there by half."""
        path = self.root / "store"
        if not self.made and not (path / "memstore.json").exists():
            return
        assert list(verify(path)) == []
        with Store(path, read_only=True) as store:
            assert not self.made or "m" in store.list()
            if "m" not in store.list():
                return
            assert set(self.marks) <= set(store.marks())
            if self.other is not None:
                assert ("other" in store.list()) == self.other
                if self.other:
                    assert store.memory("other").describe().rows == 3
        # What was in flight is whole once it was sent again, and so is all before.
        with tempfile.TemporaryDirectory() as copy:
            again = Path(copy) / "store"
            _copied(path, again)
            with memstore.open(again) as store:
                memory = store.memory("m")
                change(memory, Script().skip(self.changes))
                assert state(memory) == states()[self.changes + 1]
                for name, changes in self.marks.items():
                    store.snapshot(Path(copy) / "snapshots", at=name)
                    memstore.restore(Path(copy) / "snapshots", Path(copy) / name)
                    with memstore.open(Path(copy) / name, read_only=True) as marked:
                        assert state(marked.memory("m")) == states()[changes]


def _copied(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            _copied(path, target / path.name)
        else:
            os.link(path, target / path.name)


def lives(root: Path, seed: int, count: int, asleep: str = "") -> Iterator[Lives]:
    """So many lives of one store, each after it was lived."""
    each = Lives(root, seed, asleep)
    for _ in range(count):
        each.life()
        yield each


@pytest.mark.parametrize("part", range(PARTS))
def test_power_losses_take_nothing_that_was_acknowledged(tmp_path: Path, part: int) -> None:
    for _ in lives(tmp_path, part, LOSSES):
        pass


SITES = [
    "file < _advance",
    "file < _begin",
    "file < sync < make < _make",
    "file < sync < make < grown",
    "file < sync < make < new",
    "file < sync < make < replace_json",
    "file < sync < write",
    "folder < _begin",
    "folder < make_folder",
    "folder < replace_json",
    "folder < unmark",
    "folder < write",
]
"""Where something is made durable: see `SimulatedDisk`."""


SEEDS = 40
FIRST = {"folder < unmark": 15}
"""Stores that live ten times without a sync, and with which to begin where most do not miss it."""


def test_every_sync_is_named(tmp_path: Path) -> None:
    found = Counter[str]()
    for each in lives(tmp_path, 0, 25):
        found |= each.sites
    named = {site: [f"{other} <".startswith(f"{site} <") for other in found] for site in SITES}
    assert [site for site, hits in named.items() if not any(hits)] == []
    hit = np.any(list(named.values()), axis=0)
    assert [site for site, known in zip(found, hit, strict=True) if not known] == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_any_operation(tmp_path: Path, number: int) -> None:
    told = set[type[MemstoreError]]()
    for at in range(1, 10_000, 1 if LONG else 13):
        root = tmp_path / f"{at}"
        root.mkdir()
        disk = MirroredDisk()
        disk.stop_at, disk.failure = at, number
        refused = _refused(root, disk)
        told |= set(map(type, refused))
        _let_go(root, disk)
        if not refused:
            break
    full = {StorageFull} if number == errno.ENOSPC else set()
    assert full | {NotAStore, LogFailed} <= told
    assert told <= full | {NotAStore, LogFailed, DiskFailed, CorruptFile}


def _refused(root: Path, disk: MirroredDisk) -> list[MemstoreError]:
    """Goes on after whatever the disk refuses; returns what that was."""
    script, refused = Script(), list[MemstoreError]()

    def create(store: Store) -> None:
        if "m" not in store.list():
            store.create("m", HOW)

    def changes(store: Store) -> None:
        change(store.memory("m"), script)

    def mark(store: Store) -> None:
        if "here" not in store.marks():
            store.mark("here")

    def come(store: Store) -> None:
        if "other" not in store.list():
            store.create("other", MemoryConfig(dim=2))

    def go(store: Store) -> None:
        if "other" in store.list():
            store.drop("other")

    def unmark(store: Store) -> None:
        if "here" in store.marks():
            store.unmark("here")

    steps: list[Callable[[Store], None]] = [
        *[create, *[changes] * 12, Store.checkpoint, *[changes] * 12],
        *[mark, come, go, *[changes] * 4, unmark, Store.close],
    ]
    store = None
    while steps:
        before = script.number
        try:
            if store is None:
                store = Store(root / "store", fsync="always", disk=disk)
            steps[0](store)
            del steps[0]
            if steps:
                assert state(store.memory("m")) == states()[script.number]
        except MemstoreError as error:
            refused.append(error)
            script = Script().skip(before)
            if store is not None and isinstance(error, LogFailed):
                died(store)
                store = None
        assert len(refused) < 3, refused
    assert list(verify(root / "store")) == []
    with Store(root / "store", read_only=True) as after:
        assert state(after.memory("m")) == states()[28]
        assert (after.list(), after.marks()) == (["m"], [])
    return refused


def _let_go(root: Path, disk: MirroredDisk) -> None:
    disk.back(root, np.random.default_rng(0))
    shutil.rmtree(root)


@pytest.mark.parametrize("site", SITES)
def test_without_any_one_sync_something_is_lost(tmp_path: Path, site: str) -> None:
    for turn in range(SEEDS):
        seed = (FIRST.get(site, 0) + turn) % SEEDS
        root = tmp_path / f"{seed}"
        root.mkdir()
        try:
            for _ in lives(root, seed, 10, asleep=site):
                pass
        except (AssertionError, MemstoreError):
            return
    pytest.fail(f"nothing needs the sync {site}")
