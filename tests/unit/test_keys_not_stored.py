"""Keys that are not stored: what a memory keeps instead, and that it answers as if they were."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import (
    EncodingConfig,
    IndexConfig,
    MemoryConfig,
    Refreshed,
    SearchOptions,
    Store,
    field,
)
from memstore.config import DType, IndexKind
from memstore.durable.restoring import RESTORING, restore_into
from memstore.durable.verify import _broken, verify
from memstore.errors import (
    InvalidArgument,
    NotFinite,
    UnknownSlot,
    Unsupported,
)
from memstore.memory import Array
from memstore.placement import Part
from memstore.shard import reading
from tests.faults.changes import died

WIDTH, PARTS, FACTS = 8, 60, 1_500
ALL = np.arange(FACTS)
EXACT = SearchOptions(exact=True)


def rows(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def config(*, stored: bool, kind: IndexKind = "clustered", **more: Any) -> MemoryConfig:
    key = {"subject": "entities", "relation": "relations", "place": "entities"}
    index = IndexConfig(kind=kind, clusters=8, fresh_limit=256, maintenance="inline")
    return MemoryConfig(
        dim=WIDTH,
        index=index if kind == "clustered" else kind,
        records=dict.fromkeys(key, "int64"),
        encoding=EncodingConfig(key=key, stored=stored),
        **more,
    )


def part(**more: Any) -> MemoryConfig:
    return MemoryConfig(dim=WIDTH, index="none", optimizer="sgd", **more)


def filled(path: Path, *, stored: bool, dtype: DType = "float32", **more: Any) -> Store:
    store = memstore.open(path, fsync="always")
    for seed, name in enumerate(("entities", "relations")):
        store.create(name, part(dtype=dtype)).append(rows(PARTS, seed))
    rng = np.random.default_rng(2)
    records = {n: rng.integers(0, PARTS, FACTS) for n in ("subject", "relation", "place")}
    facts = store.create("facts", config(stored=stored, dtype=dtype, **more))
    facts.append(records=records)
    return store


def train(store: Store) -> None:
    some = np.arange(0, PARTS, 2)
    store.memory("entities").update(some, rows(len(some), 4), lr=0.5)


def answers(store: Store, options: SearchOptions = EXACT) -> list[Any]:
    found = store.memory("facts").search(rows(5, 3), 9, options)
    return [found.slots_QK.tolist(), found.scores_QK.tolist()]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(("kind", "shards"), [("clustered", 1), ("clustered", 3), ("exact", 2)])
def test_answers_are_those_of_stored_keys_once_these_are_encoded_anew(
    tmp_path: Path, dtype: DType, kind: IndexKind, shards: int
) -> None:
    how: dict[str, Any] = {"dtype": dtype, "kind": kind, "shards": shards}
    ways = [EXACT, SearchOptions(), SearchOptions(filter=field("subject") < 40)]
    with (
        filled(tmp_path / "a", stored=True, **how) as kept,
        filled(tmp_path / "b", stored=False, **how) as summed,
    ):
        for way in ways:
            assert answers(summed, way) == answers(kept, way)
        train(kept)
        train(summed)
        assert answers(summed) != answers(kept)
        refreshed = [store.memory("facts").refresh() for store in (kept, summed)]
        if kind == "clustered":
            assert refreshed[1] == refreshed[0]
        else:
            assert refreshed[1] == Refreshed(encoded=0, drift_before=0.0, drift_after=0.0)
        for way in ways:
            assert answers(summed, way) == answers(kept, way)
        keys = [store.memory("facts").gather(ALL).keys_BD for store in (kept, summed)]
        assert keys[0] is not None
        assert keys[1] is not None
        assert keys[1].dtype == keys[0].dtype
        np.testing.assert_array_equal(keys[0], keys[1])


def test_scores_are_of_the_parts_as_they_are_though_the_index_is_old(tmp_path: Path) -> None:
    with filled(tmp_path / "store", stored=False) as store:
        facts = store.memory("facts")
        assert facts.describe().shards[0].sealed > 0
        train(store)
        assert facts.describe().drift != 0.0
        found = facts.search(rows(5, 3), 9)
        keys_BD = facts.gather(found.slots_QK.ravel()).keys_BD
        assert keys_BD is not None
        now_QK = np.einsum("qd,qkd->qk", rows(5, 3), keys_BD.reshape(5, 9, WIDTH))
        np.testing.assert_allclose(found.scores_QK, now_QK, rtol=1e-4, atol=1e-5)
        before = facts.describe().shards[0]
        some = facts.refresh(limit=100)
        assert 0 < some.encoded < FACTS
        after = facts.describe().shards[0]
        assert after.index_version > before.index_version
        assert after.row_version == before.row_version  # Rows that did not change are not written.
        facts.refresh()
        assert facts.describe().drift == 0.0


def test_keys_are_sums_of_whole_rows_while_these_learn(tmp_path: Path) -> None:
    # A row of a part is one whole number in all its places; so is a sum of some, if they are whole.
    over, rng = threading.Event(), np.random.default_rng(0)

    def same() -> Array:
        return np.repeat(rng.integers(-99, 99, (PARTS, 1)), WIDTH, axis=1).astype(np.float32)

    with filled(tmp_path / "store", stored=False) as store, ThreadPoolExecutor(1) as pool:
        facts, parts = store.memory("facts"), [store.memory(n) for n in ("entities", "relations")]

        def learn() -> int:
            encoded = 0
            while not over.is_set():
                for memory in parts:
                    memory.write(np.arange(PARTS), same())
                encoded += facts.refresh(limit=FACTS // 8).encoded
            return encoded

        for memory in parts:
            memory.write(np.arange(PARTS), same())
        learning = pool.submit(learn)
        try:
            for _ in range(50):
                keys_BD = facts.gather(ALL).keys_BD
                assert keys_BD is not None
                assert (keys_BD == keys_BD[:, :1]).all()
                found = facts.search(np.ones((3, WIDTH), np.float32), 9)
                assert (found.scores_QK % WIDTH == 0).all()
        finally:
            over.set()
        assert learning.result() > 0


@pytest.mark.parametrize("closed", [True, False])
def test_it_is_found_again_as_it_was(tmp_path: Path, closed: bool) -> None:
    store = filled(tmp_path / "store", stored=False, shards=2)
    train(store)
    store.memory("facts").refresh()
    store.checkpoint()
    facts = store.memory("facts")
    facts.write([5, 6], records={"subject": [1, 2], "relation": [3, 4], "place": [5, 6]})
    facts.erase([7, 8])
    facts.append(records={"subject": [9], "relation": [9], "place": [9]})
    before = answers(store), facts.gather(ALL[9:]).keys_BD
    if closed:
        store.close()
    else:
        died(store)
    assert list(verify(tmp_path / "store")) == []
    with memstore.open(tmp_path / "store") as again:
        assert answers(again) == before[0]
        np.testing.assert_array_equal(again.memory("facts").gather(ALL[9:]).keys_BD, before[1])
        again.snapshot(tmp_path / "snapshots")
    for shards in ({}, {"facts": 3, "entities": 2}):
        target = tmp_path / f"restored-{len(shards)}"
        memstore.restore(tmp_path / "snapshots", target, shards=shards or None)
        with memstore.open(target) as restored:
            assert answers(restored) == before[0]


def test_an_index_that_was_altered_is_built_again_of_sums(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with filled(tmp_path / "store", stored=False) as store:
        before = answers(store, SearchOptions())
    [tiers] = (tmp_path / "store" / "memories" / "facts").rglob("tiers-*.npz")
    data = bytearray(tiers.read_bytes())
    data[len(data) // 2] ^= 1
    tiers.write_bytes(data)
    with memstore.open(tmp_path / "store") as again:
        assert "is built again" in caplog.text
        assert answers(again, SearchOptions()) == before
        assert again.memory("facts").describe().shards[0].sealed == FACTS


def test_a_part_that_was_erased_counts_as_zeros(tmp_path: Path) -> None:
    with filled(tmp_path / "store", stored=False) as store:
        facts, entities = store.memory("facts"), store.memory("entities")
        [slot] = facts.append(records={"subject": [3], "relation": [4], "place": [5]}).tolist()
        entities.erase([3])
        others = entities.gather([5]).keys_BD, store.memory("relations").gather([4]).keys_BD
        assert others[0] is not None
        assert others[1] is not None
        # In the order in which the configuration names the columns.
        np.testing.assert_array_equal(facts.gather([slot]).keys_BD, others[1] + others[0])
        facts.search(rows(5, 3), 50)
        facts.reindex()
        with pytest.raises(UnknownSlot):
            facts.append(records={"subject": [3], "relation": [4], "place": [5]})


def test_what_a_row_keeps_is_a_few_bytes(tmp_path: Path) -> None:
    sizes = []
    for stored in (True, False):
        with filled(tmp_path / str(stored), stored=stored, dtype="float64") as store:
            kept = store.memory("facts").base.shards[0].rows.arrays()["keys"]  # type: ignore[attr-defined]
            sizes.append(kept.nbytes / FACTS)
    assert sizes == [8 * WIDTH, 8 * 3]


def test_of_stored_keys_nothing_is_said(tmp_path: Path) -> None:
    with filled(tmp_path / "kept", stored=True) as kept:
        text = json.dumps(kept.memory("facts").config.to_dict())
        assert "stored" not in text
        assert MemoryConfig.from_dict(json.loads(text)) == kept.memory("facts").config


def test_what_it_does_not_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="device"):
        config(stored=False, kind="exact").from_dict(
            config(stored=False).to_dict() | {"index": {"kind": "exact", "device": "cuda:0"}}
        )
    with pytest.raises(InvalidArgument, match="stored"):
        EncodingConfig(key={"a": "m"}, stored="no")  # type: ignore[arg-type]
    with memstore.open(tmp_path / "part", part=Part(0, 2)) as store:
        for name in ("entities", "relations"):
            store.create(name, part(shards=2), made=1)
        with pytest.raises(Unsupported, match="several servers"):
            store.create("facts", config(stored=False, shards=2), made=2)
        assert store.list() == ["entities", "relations"]
    with memstore.open(tmp_path / "store") as store:
        for name in ("entities", "relations"):
            store.create(name, part(dtype="float16")).append(np.full((1, WIDTH), 6e4))
        facts = store.create("facts", config(stored=False, dtype="float16"))
        with pytest.raises(NotFinite):
            facts.append(records={"subject": [0], "relation": [0], "place": [0]})


def test_no_part_of_several_is_restored_of_it(tmp_path: Path) -> None:
    with filled(tmp_path / "store", stored=False, shards=2) as store:
        store.snapshot(tmp_path / "snapshots")
    with pytest.raises(Unsupported, match="several servers"):
        memstore.restore(tmp_path / "snapshots", tmp_path / "part", part=Part(0, 2))
    with (
        memstore.open(tmp_path / "other", part=Part(0, 2)) as other,
        pytest.raises(Unsupported, match="several servers"),
    ):
        restore_into(other, tmp_path / "snapshots")
    assert not (tmp_path / "part").exists()
    assert not (tmp_path / "other" / RESTORING).exists()


@pytest.mark.parametrize("kind", ["clustered", "exact"])
def test_rows_are_summed_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: IndexKind
) -> None:
    with filled(tmp_path / "store", stored=False, kind=kind) as store:
        whole = answers(store)
        monkeypatch.setattr(reading, "SUMMED_ROWS", 97)
        assert answers(store) == whole


def test_fresh_rows_are_not_copied(tmp_path: Path) -> None:
    sizes = []
    for stored in (True, False):
        with filled(tmp_path / str(stored), stored=stored) as store:
            facts = store.memory("facts")
            slots = facts.append(records=dict.fromkeys(("subject", "relation", "place"), [3] * 99))
            state = facts.describe().shards[0]
            assert state.fresh >= len(slots)
            sizes.append(facts.base.shards[0].index.version.fresh.bytes)  # type: ignore[attr-defined]
    assert sizes[0] > 0
    assert sizes[1] == 0


def test_a_row_without_its_record_is_told(tmp_path: Path) -> None:
    with filled(tmp_path / "store", stored=False) as store:
        shard = store.memory("facts").base.shards[0]  # type: ignore[attr-defined]
        shard.records.where_N[1] = 10**6
        assert "a row names a record that there is not" in list(_broken(shard))
        shard.records.where_N[1] = 1


def test_a_row_that_is_a_sum_of_others_than_its_record_names_is_told(tmp_path: Path) -> None:
    with filled(tmp_path / "store", stored=False) as store:
        shard = store.memory("facts").base.shards[0]  # type: ignore[attr-defined]
        shard.put(np.array([4]), np.array([[1, 1, 1]]), None, None)
    assert list(verify(tmp_path / "store")) == [
        "facts, shard 0: row 4 is a sum of other rows than its record names"
    ]
