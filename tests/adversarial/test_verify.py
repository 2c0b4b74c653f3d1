"""Stores that are only read, and what `memstore verify` finds in those that are not whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import IndexConfig, MemoryConfig
from memstore.cli import main
from memstore.durable import manifest
from memstore.durable.manifest import NAME as MANIFEST
from memstore.durable.verify import describe, verify
from memstore.embedded import EmbeddedMemory
from memstore.errors import NotAStore, ReadOnly, StoreLocked
from memstore.index.segment import Segment
from tests.adversarial.damage import DAMAGES, DATA, INDEX, apply, contents, found
from tests.adversarial.stores import fill, records
from tests.congruence.oracle import fingerprint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "store"
    with memstore.open(path) as store:
        fill(store)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


def test_a_whole_store_is_whole(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(whole)
    assert list(verify(whole)) == []
    assert main(["verify", str(whole)]) == 0
    assert "is whole" in capsys.readouterr().out
    assert main(["describe", str(whole)]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("entities", "facts", "relations", "m: "))
    assert contents(whole) == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*DATA, *INDEX])
def test_damage_is_named(
    copy: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in found(copy, name):
        kept = path.read_bytes()
        apply(DAMAGES[damage], path)
        before = contents(copy)
        assert main(["verify", str(copy)]) == 1
        # Without a manifest it is not known what should be there.
        lost = (name, damage) == (MANIFEST, "missing")
        assert str(copy if lost else path) in capsys.readouterr().out
        assert contents(copy) == before
        path.write_bytes(kept)


def test_every_bad_file_is_named(copy: Path) -> None:
    some = [path for name in ("blocks.bin", "lines.npy", "tiers.npz") for path in found(copy, name)]
    for path in some:
        apply(DAMAGES["a bit flipped within"], path)
    problems = "\n".join(verify(copy))
    assert all(str(path) in problems for path in some)


def test_a_mark_is_verified_too(copy: Path) -> None:
    with memstore.open(copy) as store:
        store.mark("then")
        store.memory("m").update([0, 1], np.ones((2, 3)), lr=0.1)
    assert list(verify(copy)) == []
    body = manifest.read(copy / manifest.NAME)
    marked = manifest.files_of(manifest.read(copy / "marks" / "then.json"))
    [path] = [
        p for p in marked.keys() - manifest.files_of(body).keys() if "rows-" in p and "/m/" in p
    ]
    apply(DAMAGES["a bit flipped within"], copy / path)
    assert any(str(copy / path) in problem for problem in verify(copy))
    apply(DAMAGES["a bit flipped within"], copy / "marks" / "then.json")
    assert any("then.json" in problem for problem in verify(copy))


def test_a_store_is_copied_and_brought_back(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, there = shutil.copytree(whole, tmp_path / "store"), str(tmp_path / "there")
    assert main(["snapshot", str(store), there]) == 0
    assert "Snapshot 1 is at" in capsys.readouterr().out
    with memstore.open(store) as opened:
        opened.mark("then")
        expected = fingerprint(opened.memory("facts"))
        opened.memory("m").erase([0])
    assert main(["snapshot", str(store), there, "--at", "then"]) == 0
    assert main(["restore", there, str(tmp_path / "copy")]) == 0
    assert main(["verify", str(tmp_path / "copy")]) == 0
    with memstore.open(tmp_path / "copy") as opened:
        assert fingerprint(opened.memory("facts")) == expected
        assert len(opened.memory("m").gather([0]).slots_B) == 1
    for number, shards in enumerate((["3"], ["m=2", "facts=4"])):
        copy = str(tmp_path / f"cut-{number}")
        assert main(["restore", there, copy, "--number", "1", "--shards", *shards]) == 0
        with memstore.open(copy) as opened:
            cut = {name: opened.memory(name).config.shards for name in opened.list()}
        assert cut == [dict.fromkeys(cut, 3), cut | {"m": 2, "facts": 4}][number]
    capsys.readouterr()
    for arguments, problem in (
        (["snapshot", str(tmp_path / "nothing"), there], "NotAStore"),
        (["snapshot", str(store), there, "--at", "never"], "no such mark"),
        (["restore", str(tmp_path / "nothing"), str(tmp_path / "x")], "no such snapshot"),
        (["restore", there, str(tmp_path / "copy")], "there already"),
        (["restore", there, str(tmp_path / "x"), "--shards", "many"], "shards are not understood"),
        (["restore", there, str(tmp_path / "x"), "--shards", "1", "m=2"], "not understood"),
    ):
        assert main(arguments) == 1
        assert problem in capsys.readouterr().out
    assert not (tmp_path / "nothing").exists()


def shift(change: Callable[[Segment], Segment]) -> Callable[[EmbeddedMemory], None]:
    def shifted(memory: EmbeddedMemory) -> None:
        index = memory.shards[0].index
        first, *others = index.version.segments
        index.version = replace(index.version, segments=(change(first), *others))

    return shifted


def not_finite(memory: EmbeddedMemory) -> None:
    memory.shards[0].rows.keys_ND[3, 1] = np.nan


def backwards(memory: EmbeddedMemory) -> None:
    memory.shards[0].rows.travel_N[2] = -1.0


def revived(memory: EmbeddedMemory) -> None:
    memory.shards[0].rows.alive_N[9] = True


BROKEN = {
    "NaN": (not_finite, "keys of row 3 hold NaN"),
    "a way back": (backwards, "negative or endless"),
    "a row in no tier": (shift(lambda s: s.without(np.array([5]))), "row 5 is alive and 0 times"),
    "an erased row is there": (revived, "row 9 is alive and 0 times"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_must_hold_is_checked(tmp_path: Path, case: str) -> None:
    index = IndexConfig(fresh_limit=16, maintenance="inline")
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=4, index=index))
        assert isinstance(memory, EmbeddedMemory)
        memory.append(np.random.default_rng(0).normal(size=(2_000, 4)))
        memory.erase([9])
        breaks, words = BROKEN[case]
        breaks(memory)
        memory.shards[0].changed.add(np.arange(2_000))
    problems = list(verify(tmp_path))
    assert len(problems) == 1
    assert words in problems[0]
    assert problems[0].startswith("m")


@pytest.fixture
def died(copy: Path) -> Iterator[Path]:
    """A store that has more in its logs than in its checkpoint."""
    with memstore.open(copy) as store:
        memory = store.memory("m")
        memory.erase([1])
        memory.touch([3], 9)
        yield Path(shutil.copytree(copy, copy.with_name("died")))


def test_a_store_is_read_as_it_would_be_opened(died: Path) -> None:
    before = contents(died)
    with memstore.open(died, read_only=True) as store, memstore.open(died, read_only=True) as twin:
        with pytest.raises(StoreLocked):
            memstore.open(died)
        found = {name: fingerprint(store.memory(name)) for name in store.list()}
        assert found == {name: fingerprint(twin.memory(name)) for name in twin.list()}
        assert list(verify(died)) == []
        assert any("log" in line for line in describe(died))
    assert contents(died) == before
    with memstore.open(died) as store:
        assert {name: fingerprint(store.memory(name)) for name in store.list()} == found
        with pytest.raises(StoreLocked):
            memstore.open(died, read_only=True)
        with pytest.raises(StoreLocked):
            list(verify(died))


def test_what_is_read_only_is_not_changed(died: Path) -> None:
    with memstore.open(died, read_only=True) as store:
        m, facts = store.memory("m"), store.memory("facts")
        width, values = m.config.dim, m.config.value_dim
        assert values is not None
        ones = np.ones((1, width), np.float32)
        calls: list[Callable[[], Any]] = [
            lambda: m.append(ones, np.ones((1, values), np.float32), records(1)),
            lambda: m.write([1], ones),
            lambda: m.update([1], ones),
            lambda: m.blend([1], [0.5], ones, ones),
            lambda: m.touch([1], 3),
            lambda: m.erase([1]),
            facts.refresh,
            lambda: facts.erase([0]),
            lambda: store.create("new", MemoryConfig(dim=2)),
            lambda: store.drop("m"),
            store.checkpoint,
        ]
        before = fingerprint(m)
        for call in calls:
            with pytest.raises(ReadOnly, match="read-only"):
                call()
        assert fingerprint(m) == before


def test_nothing_is_made_to_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NotAStore):
            memstore.open(path, read_only=True)
        assert main(["verify", str(path)]) == 1
    assert list(tmp_path.iterdir()) == []
