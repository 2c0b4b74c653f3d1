"""Restore over the wire: the memories of a snapshot, in a store that is served; all or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, SearchOptions
from memstore.durable.verify import verify
from memstore.errors import CorruptFile, MemoryExists, NotAllowed, NotAStore
from memstore.rpc.security import Tokens, add_token
from memstore.rpc.server import Server
from tests.congruence.oracle import fingerprint

WIDTH = 8


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


def snapshot(folder: Path, uri: Path) -> dict[str, object]:
    """A snapshot of three memories, and what they hold."""
    encoding = EncodingConfig(key={"a": "words", "b": "words"})
    facts = MemoryConfig(dim=WIDTH, records={"a": "int64", "b": "int64"}, encoding=encoding)
    with memstore.open(folder) as store:
        store.create("words", MemoryConfig(dim=WIDTH, index="none", shards=2)).append(rows(50))
        store.create("facts", facts).append(records={"a": [*range(40)], "b": [49] * 40})
        things = store.create("things", MemoryConfig(dim=WIDTH, shards=3, records={"n": "string"}))
        things.append(rows(500, 1), records={"n": [f"number {i}" for i in range(500)]})
        things.erase([7])
        things.reindex()
        store.snapshot(uri)
        return {name: fingerprint(store.memory(name)) for name in store.list()}


def test_restored_into_a_store_that_is_served(tmp_path: Path) -> None:
    uri = tmp_path / "snapshots"
    expected = snapshot(tmp_path / "one", uri)
    with (
        memstore.open(tmp_path / "two") as store,
        Server(store) as server,
        memstore.connect(server.address) as client,
    ):
        own = client.create("own", MemoryConfig(dim=WIDTH))
        own.append(rows(10))
        assert client.restore(str(uri)) == ["facts", "things", "words"]
        assert client.list() == ["facts", "own", "things", "words"]
        for name, held in expected.items():
            assert fingerprint(store.memory(name)) == held
        with pytest.raises(MemoryExists):
            client.restore(str(uri))
        things = client.memory("things")
        assert things.append(rows(1), records={"n": ["new"]}).tolist() == [500]
        found = things.search(rows(500, 1)[:5], 1, SearchOptions(exact=True))
        scores = rows(500, 1)[:5] @ np.vstack([rows(500, 1), rows(1)]).T
        scores[:, 7] = -np.inf
        assert found.slots_QK[:, 0].tolist() == scores.argmax(axis=1).tolist()
        client.memory("words").update([49], rows(1), lr=0.1)
        assert client.memory("facts").refresh().encoded > 0
        assert not (store.path / "restoring").exists()
    assert list(verify(tmp_path / "two")) == []
    with memstore.open(tmp_path / "two") as store:
        assert store.memory("things").describe().rows == 500


def test_what_is_not_restored_leaves_nothing(tmp_path: Path) -> None:
    uri = tmp_path / "snapshots"
    snapshot(tmp_path / "one", uri)
    tokens = tmp_path / "tokens.json"
    mighty, some = add_token(tokens, "a", "admin"), add_token(tokens, "b", "admin", ["words"])
    with (
        memstore.open(tmp_path / "two") as store,
        Server(store, tokens=Tokens(tokens)) as server,
        memstore.connect(server.address, token=mighty) as client,
        memstore.connect(server.address, token=some) as narrow,
    ):
        with pytest.raises(NotAllowed):
            narrow.restore(str(uri))
        with pytest.raises(NotAStore):
            client.restore(str(tmp_path / "nowhere"))
        # One name of three is taken.
        client.create("words", MemoryConfig(dim=WIDTH))
        with pytest.raises(MemoryExists):
            client.restore(str(uri))
        client.drop("words")
        lost = max((p for p in uri.rglob("*") if "block" in p.name), key=lambda p: p.stat().st_size)
        data = lost.read_bytes()
        lost.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(CorruptFile):
            client.restore(str(uri))
        assert client.list() == []
        lost.write_bytes(data)
        assert client.restore(str(uri), number=1) == ["facts", "things", "words"]
