"""Snapshots: a store as it was at one moment, elsewhere, and as itself again."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

import memstore
from memstore import EncodingConfig, MemoryConfig, RequestId, SearchOptions, Store, files
from memstore.durable import snapshot
from memstore.durable.place import Place
from memstore.durable.verify import verify
from memstore.errors import (
    CorruptFile,
    DiskFailed,
    InvalidArgument,
    NotAStore,
    ReadOnly,
    RequestConflict,
    SnapshotFailed,
    StoreClosed,
    UnsupportedVersion,
)
from memstore.memory import Memory
from tests.faults.changes import (
    CLIENT,
    Script,
    change,
    changed,
    config,
    died,
    expected,
    state,
    told,
)
from tests.faults.lives import together

CHANGES = 80


def made(
    folder: Path, dtype: str = "float32", optimizer: str = "adagrad", shards: int = 2
) -> Store:
    store = memstore.open(folder)
    changed(store.create("m", config(dtype, "logged", optimizer, shards)), CHANGES)
    return store


@pytest.mark.parametrize(
    ("dtype", "optimizer", "shards"),
    [("float32", "adam", 3), ("bfloat16", "rowwise_adagrad", 2), ("float16", "adagrad", 1)],
)
@pytest.mark.parametrize("after", [None, 1, 2, 3, 7])
def test_what_was_restored_goes_on_as_if_nothing_had_been(
    tmp_path: Path, dtype: str, optimizer: str, shards: int, after: int | None
) -> None:
    with made(tmp_path / "store", dtype, optimizer, shards) as store:
        store.snapshot(tmp_path / "snapshots")
        before = state(store.memory("m"))
    memstore.restore(tmp_path / "snapshots", tmp_path / "copy", shards=after)
    assert list(verify(tmp_path / "copy")) == []
    assert {path.name for path in tmp_path.iterdir()} == {"store", "snapshots", "copy"}
    with memstore.open(tmp_path / "copy") as store:
        memory = store.memory("m")
        assert memory.config.shards == (shards if after is None else after)
        assert state(memory) == before
        # What comes again was done; what comes next is as it would have been.
        script = Script().skip(CHANGES - 20)
        for _ in range(20):
            change(memory, script)
        assert state(memory) == before
        with pytest.raises(RequestConflict):
            memory.touch([0], 10**6, request_id=RequestId(CLIENT, CHANGES))
        for _ in range(20):
            change(memory, script)
        assert told(memory) == expected(
            tmp_path, config(dtype, "logged", optimizer, shards), CHANGES + 20
        )


@pytest.mark.parametrize("shards", [None, 3, {"facts": 2}, {"words": 4}])
def test_facts_are_restored_with_their_parts(tmp_path: Path, shards: Any) -> None:
    rng = np.random.default_rng(0)
    with memstore.open(tmp_path / "store") as store:
        words = store.create("words", MemoryConfig(dim=4, index="none"))
        words.append(rng.normal(size=(40, 4)))
        encoding = EncodingConfig(key={"a": "words", "b": "words"})
        how = MemoryConfig(dim=4, records={"a": "int64", "b": "int64"}, encoding=encoding)
        facts = store.create("facts", how)
        facts.append(records={"a": rng.integers(0, 40, 90), "b": rng.integers(0, 40, 90)})
        words.update([3, 4], np.ones((2, 4)), lr=0.1)
        expected = seen(words), seen(facts), facts.describe().drift
        assert expected[2]
        store.snapshot(tmp_path / "snapshots")
        after = facts.refresh(), seen(facts)
    memstore.restore(tmp_path / "snapshots", tmp_path / "copy", shards=shards)
    with memstore.open(tmp_path / "copy") as store:
        words, facts = store.memory("words"), store.memory("facts")
        assert (seen(words), seen(facts), facts.describe().drift) == expected
        assert (facts.refresh(), seen(facts)) == after


def seen(memory: Memory) -> list[Any]:
    slots = np.arange(memory.describe().next_slot)
    keys_BD = memory.gather(slots).keys_BD
    assert keys_BD is not None
    found = memory.search(np.eye(4, dtype=np.float32), 9, SearchOptions(exact=True))
    return [keys_BD.tobytes(), found.slots_QK.tolist(), found.scores_QK.tobytes()]


def test_a_mark_keeps_its_moment(tmp_path: Path) -> None:
    store = made(tmp_path / "store")
    memory, script = store.memory("m"), Script().skip(CHANGES)
    store.mark("eighty")
    marked = state(memory)
    for _ in range(40):
        change(memory, script)
        store.checkpoint()
    store.close()
    with memstore.open(tmp_path / "store") as store:
        assert store.marks() == ["eighty"]
        store.drop("m")
        assert list(verify_open(store)) == []
        taken = store.snapshot(tmp_path / "snapshots", at="eighty")
        assert taken.copied == taken.bytes > 0
        with pytest.raises(InvalidArgument, match="there already"):
            store.mark("eighty")
        with pytest.raises(InvalidArgument, match=r"no such mark.*eighty"):
            store.snapshot(tmp_path / "snapshots", at="ninety")
        with pytest.raises(InvalidArgument, match="no such mark"):
            store.unmark("ninety")
        store.unmark("eighty")
        assert not [path for path in (tmp_path / "store" / "memories").rglob("*") if path.is_file()]
    memstore.restore(tmp_path / "snapshots", tmp_path / "copy")
    with memstore.open(tmp_path / "copy") as store:
        assert state(store.memory("m")) == marked
        assert store.marks() == []


def verify_open(store: Store) -> Iterator[str]:
    copy = store.path.with_name("looked-at")
    shutil.copytree(store.path, copy)
    yield from verify(copy)
    shutil.rmtree(copy)


def test_only_what_is_new_is_copied(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", MemoryConfig(dim=32, optimizer="sgd"))
        memory.append(np.random.default_rng(0).normal(size=(20_000, 32)))
        first = store.snapshot(tmp_path / "snapshots")
        memory.update([7], np.ones((1, 32)), lr=1.0)
        second = store.snapshot(tmp_path / "snapshots")
        third = store.snapshot(tmp_path / "snapshots")
    assert [first.number, second.number, third.number] == [1, 2, 3]
    assert first.copied == first.bytes
    assert 0 < second.copied < first.bytes / 5
    # A checkpoint names its files anew, the larger ones not.
    assert third.copied < second.copied
    rows = []
    for number in (1, 2, None):
        memstore.restore(tmp_path / "snapshots", tmp_path / f"copy-{number}", number=number)
        with memstore.open(tmp_path / f"copy-{number}") as store:
            keys_BD = store.memory("m").gather([7]).keys_BD
            assert keys_BD is not None
            rows.append(keys_BD)
    np.testing.assert_allclose(rows[0] - 1.0, rows[1], atol=1e-6)
    np.testing.assert_array_equal(rows[1], rows[2])


def pruned(folder: Path, place: Place, **settings: Any) -> None:
    """Takes three snapshots, keeps the second, and sees that it is whole and alone."""
    keys = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    with memstore.open(folder / "other") as other:
        other.create("other", MemoryConfig(dim=3)).append(keys)
        other.snapshot(place.uri, **settings)
    with memstore.open(folder / "store") as store:
        memory = store.create("m", MemoryConfig(dim=3))
        slots = memory.append(keys)
        kept = store.snapshot(place.uri, **settings)
        memory.write(slots, -keys)
        store.snapshot(place.uri, **settings)
        half = f"files/{'0' * 16}/half.new"
        place.put(half, [b"of it"], files.fingerprint_of(b"of it"), half)
        snapshot.prune(place, [kept.number, 99])
        snapshot.prune(place, [kept.number])
        assert sum(name.startswith("snapshot-") for name in place.sizes()) == 1
        assert sum(place.sizes("files").values()) == kept.bytes
        memstore.restore(place.uri, folder / "copy", **settings)
        with memstore.open(folder / "copy") as copy:
            np.testing.assert_array_equal(copy.memory("m").gather(slots).keys_BD, keys)
        assert store.snapshot(place.uri, **settings).copied > 0
        snapshot.prune(place, [])
        assert (place.sizes(), place.sizes("files")) == ({}, {})


def test_snapshots_that_nobody_keeps_are_taken_away(tmp_path: Path) -> None:
    pruned(tmp_path, Place(tmp_path / "snapshots"))


def slowly(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Lets whatever is put at a place say so, and wait until it may go on."""
    put, started, go_on = Place.put, threading.Event(), threading.Event()

    def slow(self: Place, *arguments: Any) -> None:
        started.set()
        assert go_on.wait(60)
        put(self, *arguments)

    monkeypatch.setattr(Place, "put", slow)
    return started, go_on


def test_nobody_stops_while_a_snapshot_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path / "store")
    memory, script = store.memory("m"), Script().skip(CHANGES)
    before = state(memory)
    started, go_on = slowly(monkeypatch)
    copier = threading.Thread(target=store.snapshot, args=(tmp_path / "snapshots",))
    copier.start()
    started.wait()
    for _ in range(40):
        change(memory, script)
        store.checkpoint()
    go_on.set()
    copier.join()
    after = state(memory)
    store.checkpoint()
    named = memstore.durable.manifest.files_of(
        memstore.durable.manifest.read(tmp_path / "store" / "memstore.json")
    )
    there = {p for p in (tmp_path / "store" / "memories").rglob("*") if p.is_file()}
    assert there == {tmp_path / "store" / name for name in named}
    store.close()
    memstore.restore(tmp_path / "snapshots", tmp_path / "copy")
    with memstore.open(tmp_path / "copy") as store:
        memory, script = store.memory("m"), Script().skip(CHANGES)
        assert state(memory) == before
        for _ in range(40):
            change(memory, script)
        assert state(memory) == after


def test_what_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(tmp_path / "store")
    before, left = state(store.memory("m")), 5
    put, chunks, names = Place.put, Place.chunks, list[str]()

    def failing(what: Callable[..., Any]) -> Callable[..., Any]:
        def fail(self: Place, name: str, *rest: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise SnapshotFailed("the wire was cut")
            names.append(name)
            return what(self, name, *rest)

        return fail

    monkeypatch.setattr(Place, "put", failing(put))
    with pytest.raises(SnapshotFailed):
        store.snapshot(tmp_path / "snapshots")
    with pytest.raises(NotAStore, match="no such snapshot"):
        memstore.restore(tmp_path / "snapshots", tmp_path / "copy")
    done, left = set(names), 10**6
    names.clear()
    seen: list[tuple[int, int]] = []
    taken = store.snapshot(
        tmp_path / "snapshots", progress=lambda there, whole: seen.append((there, whole))
    )
    assert not done & set(names)
    assert len(done) == 5
    assert taken.copied < taken.bytes
    assert seen == sorted(seen)
    assert seen[-1] == (taken.bytes, taken.bytes)
    store.close()

    monkeypatch.setattr(Place, "chunks", failing(chunks))
    left = 7
    with pytest.raises(SnapshotFailed):
        memstore.restore(tmp_path / "snapshots", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    done, left = {name for name in names if name.startswith("files/")}, 10**6
    names.clear()
    memstore.restore(tmp_path / "snapshots", tmp_path / "copy")
    again = done & set(names)
    assert len(again) <= len(done) - 5  # those on their way were torn
    with memstore.open(tmp_path / "copy") as store:
        assert state(store.memory("m")) == before


def test_a_file_that_rots_is_not_copied_on(tmp_path: Path) -> None:
    with made(tmp_path / "store") as store:
        store.mark("now")
        [path, *_] = sorted((tmp_path / "store" / "memories").rglob("blocks-*"))
        path.write_bytes(b"\0" + path.read_bytes()[1:])
        with pytest.raises(CorruptFile, match=path.name):
            store.snapshot(tmp_path / "snapshots", at="now")
        assert list(verify_open(store))
        shutil.copytree(tmp_path / "store", tmp_path / "marked")
    with pytest.raises(NotAStore):
        memstore.restore(tmp_path / "snapshots", tmp_path / "copy")


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snapshots")
    with made(folder / "store") as store:
        store.snapshot(folder / "there")
    return folder / "there"


def test_every_damage_is_named(snapshots: Path, tmp_path: Path) -> None:
    files = sorted(path for path in snapshots.rglob("*") if path.is_file())
    assert len(files) > 10
    for number, path in enumerate(files):
        copy = shutil.copytree(snapshots, tmp_path / f"{number}")
        damaged = copy / path.relative_to(snapshots)
        data = damaged.read_bytes()
        torn, flipped = data[: len(data) // 2], bytearray(data)
        if data:
            flipped[len(data) // 2] ^= 4
        longer = data + b"\0"
        for bad in {torn, bytes(flipped), longer, b""} - {data}:
            damaged.write_bytes(bad)
            shutil.rmtree(tmp_path / "copy.restoring", ignore_errors=True)
            with pytest.raises(CorruptFile, match=path.name):
                memstore.restore(copy, tmp_path / "copy")
        damaged.unlink()
        shutil.rmtree(tmp_path / "copy.restoring", ignore_errors=True)
        wanted = NotAStore if path.name.startswith("snapshot-") else CorruptFile
        with pytest.raises(wanted):
            memstore.restore(copy, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
        # And whole again, what was fetched before is enough.
        damaged.write_bytes(data)
        if number == len(files) - 1:
            memstore.restore(copy, tmp_path / "copy")
        shutil.rmtree(copy)


def test_files_of_two_snapshots_are_not_mixed(snapshots: Path, tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        changed(store.create("m", config("float32", "logged", "adagrad", 2)), CHANGES + 1)
        store.snapshot(tmp_path / "other")
    ours = shutil.copytree(snapshots, tmp_path / "ours")

    def by_kind(folder: Path) -> dict[str, Path]:
        files = (path for path in sorted((folder / "files").rglob("*.*")) if path.is_file())
        return {f"{path.parent.name}/{path.name.split('-')[0]}": path for path in files}

    mine, others = by_kind(ours), by_kind(tmp_path / "other")
    for kind in mine.keys() & others.keys():
        data, other = mine[kind].read_bytes(), others[kind].read_bytes()
        if data != other:
            mine[kind].write_bytes(other)
            shutil.rmtree(tmp_path / "copy.restoring", ignore_errors=True)
            with pytest.raises(CorruptFile, match="not what it was"):
                memstore.restore(ours, tmp_path / "copy")
            mine[kind].write_bytes(data)


def test_another_format_is_refused(snapshots: Path, tmp_path: Path) -> None:
    from memstore import files

    copy = shutil.copytree(snapshots, tmp_path / "copy")
    [path] = copy.glob("snapshot-*.json")
    body = files.read_json(path)
    for bad in (body | {"format": 2}, body | {"manifest": body["manifest"] | {"format": 99}}):
        path.write_bytes(files.to_json(bad))
        with pytest.raises(UnsupportedVersion, match=r"got (2|99)"):
            memstore.restore(copy, tmp_path / "store")


def test_bad_arguments(snapshots: Path, tmp_path: Path) -> None:
    target = tmp_path / "store"
    for shards in (0, -1, True, {"m": 0}, {"m": 1.5}, {"n": 2}):
        with pytest.raises(InvalidArgument):
            memstore.restore(snapshots, target, shards=shards)  # type: ignore[arg-type]
    with pytest.raises(NotAStore, match=r"no such snapshot.*got number 7.*expected one of \[1\]"):
        memstore.restore(snapshots, target, number=7)
    with pytest.raises(NotAStore, match="got the newest, expected any at all"):
        memstore.restore(tmp_path / "nowhere", target)
    with pytest.raises(InvalidArgument, match="not an address"):
        memstore.restore("nonsense://there", target)
    target.mkdir()
    (target / "mine").touch()
    with pytest.raises(NotAStore, match="there already"):
        memstore.restore(snapshots, target)
    (target / "mine").unlink()
    memstore.restore(snapshots, target)
    with pytest.raises(NotAStore, match="there already"):
        memstore.restore(snapshots, target)


def test_a_snapshot_of_what_is_only_read(tmp_path: Path) -> None:
    with made(tmp_path / "store") as store:
        store.mark("here")
    with memstore.open(tmp_path / "store", read_only=True) as store:
        for change_it in (
            lambda: store.snapshot(tmp_path / "there"),
            lambda: store.mark("now"),
            lambda: store.unmark("here"),
        ):
            with pytest.raises(ReadOnly):
                change_it()
        assert store.snapshot(tmp_path / "there", at="here").number == 1
    with pytest.raises(StoreClosed):
        store.snapshot(tmp_path / "there")


def test_several_snapshots_at_once_into_one_place(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        memory = store.create("m", MemoryConfig(dim=64, index="none"))
        memory.append(np.random.default_rng(0).normal(size=(30_000, 64)))
        store.mark("here")
        together([lambda: store.snapshot(tmp_path / "there", at="here")] * 3)
        keys_BD = memory.gather(np.arange(30_000)).keys_BD
    memstore.restore(tmp_path / "there", tmp_path / "copy")
    with memstore.open(tmp_path / "copy") as store:
        np.testing.assert_array_equal(store.memory("m").gather(np.arange(30_000)).keys_BD, keys_BD)


def test_closing_waits_for_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(tmp_path / "store")
    started, go_on = slowly(monkeypatch)
    copier = threading.Thread(target=store.snapshot, args=(tmp_path / "there",))
    copier.start()
    started.wait()
    closer = threading.Thread(target=store.close)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive()
    go_on.set()
    copier.join()
    closer.join()
    memstore.restore(tmp_path / "there", tmp_path / "copy")


def test_what_cannot_be_is_said(snapshots: Path, tmp_path: Path) -> None:
    with made(tmp_path / "store") as store:
        with pytest.raises(InvalidArgument, match="in its own store"):
            store.snapshot(tmp_path / "store" / "memories" / "there")
        store.mark("now")
        [path, *_] = sorted((tmp_path / "store" / "memories").rglob("blocks-*"))
        path.rename(tmp_path / "gone")
        with pytest.raises(CorruptFile, match=path.name):
            store.snapshot(tmp_path / "there", at="now")
        (tmp_path / "gone").rename(path)
    (tmp_path / "file").touch()
    with pytest.raises((DiskFailed, NotAStore)):
        memstore.restore(snapshots, tmp_path / "file" / "store")
    for shards in ("4", 10**7, [2]):
        with pytest.raises(InvalidArgument):
            memstore.restore(snapshots, tmp_path / "copy", shards=shards)  # type: ignore[arg-type]
    assert not (tmp_path / "copy.restoring").exists()


@pytest.mark.parametrize("damage", ["torn", "a folder"])
def test_a_mark_that_is_not_to_be_read_is_left_out(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with made(tmp_path / "store") as store:
        store.mark("bad")
        store.mark("good")
        before = state(store.memory("m"))
    path = tmp_path / "store" / "marks" / "bad.json"
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
        path.mkdir()
    with memstore.open(tmp_path / "store") as store:
        assert store.marks() == ["good"]
        assert state(store.memory("m")) == before
    assert any("bad.json" in record.message for record in caplog.records)
    assert any("bad.json" in problem for problem in verify(tmp_path / "store"))


@pytest.mark.parametrize("back", [False, True])
def test_files_of_what_may_be_found_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """A manifest, or a mark, whose name may be there though it was said to have failed."""
    store = made(tmp_path / "store")
    memory, script = store.memory("m"), Script().skip(CHANGES)
    store.mark("old")
    write = memstore.durable.manifest.write
    fails: list[str] = []

    def failing(path: Path, *rest: Any) -> None:
        how = fails.pop(0) if fails else "well"
        if how != "before":
            write(path, *rest)
        if how != "well":
            raise OSError(5, "the disk is gone")

    monkeypatch.setattr(memstore.durable.manifest, "write", failing)
    for fails_now in (["behind", "well" if back else "before"], ["before", "before"]):
        change(memory, script)
        fails[:] = fails_now
        with pytest.raises(DiskFailed):
            store.checkpoint()
    for fails_now in (["well", "behind"], ["well", "before"]):
        change(memory, script)
        fails[:] = fails_now
        with pytest.raises(DiskFailed):
            store.mark("new")
    store.unmark("old")
    before = state(memory)
    died(store)
    assert list(verify(tmp_path / "store")) == []
    with memstore.open(tmp_path / "store") as store:
        assert state(store.memory("m")) == before
        for name in store.marks():
            store.snapshot(tmp_path / "there", at=name)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ThreadedMotoServer, fs.S3FileSystem]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    there = fs.S3FileSystem(
        access_key="somebody",
        secret_key="secret",
        region="us-east-1",
        scheme="http",
        endpoint_override=f"{host}:{port}",
        allow_bucket_creation=True,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        connect_timeout=2,
        request_timeout=5,
    )
    there.create_dir("bucket")
    yield server, there
    server.stop()


def test_snapshots_lie_in_an_object_store(
    tmp_path: Path, bucket: tuple[ThreadedMotoServer, fs.S3FileSystem]
) -> None:
    server, there = bucket
    with made(tmp_path / "store") as store:
        before = state(store.memory("m"))
        first = store.snapshot("bucket/some/folder", filesystem=there)
        assert store.snapshot("bucket/some/folder", filesystem=there).copied < first.copied
        memstore.restore("bucket/some/folder", tmp_path / "copy", filesystem=there, shards=3)
        with memstore.open(tmp_path / "copy") as copy:
            assert state(copy.memory("m")) == before
        server.stop()
        with pytest.raises(SnapshotFailed, match="call again"):
            store.snapshot("bucket/some/folder", filesystem=there)
        with pytest.raises(SnapshotFailed):
            memstore.restore("bucket/some/folder", tmp_path / "again", filesystem=there)
        assert state(store.memory("m")) == before


def test_snapshots_in_an_object_store_are_taken_away(
    tmp_path: Path, bucket: tuple[ThreadedMotoServer, fs.S3FileSystem]
) -> None:
    _, there = bucket
    pruned(tmp_path, Place("bucket/some/folder", there), filesystem=there)


def test_an_object_store_that_fails_halfway_is_gone_on_with(
    tmp_path: Path,
    bucket: tuple[ThreadedMotoServer, fs.S3FileSystem],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, there = bucket
    opened = 0

    class Failing(Place):
        def put(self, name: str, chunks: Any, *rest: Any) -> None:
            def some() -> Iterator[bytes]:
                nonlocal opened
                for chunk in chunks:
                    opened += 1
                    if opened == 6:
                        raise OSError("connection reset")
                    yield chunk

            super().put(name, some(), *rest)

    monkeypatch.setattr("memstore.store.Place", Failing)
    with made(tmp_path / "store") as store:
        before = state(store.memory("m"))
        with pytest.raises(SnapshotFailed, match="connection reset"):
            store.snapshot("bucket/there", filesystem=there)
        assert not Place("bucket/there", there).sizes()
        taken = store.snapshot("bucket/there", filesystem=there)
        assert 0 < taken.copied < taken.bytes
    memstore.restore("bucket/there", tmp_path / "copy", filesystem=there)
    with memstore.open(tmp_path / "copy") as copy:
        assert state(copy.memory("m")) == before
