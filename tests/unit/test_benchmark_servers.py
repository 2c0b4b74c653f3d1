"""Servers of the benchmarks: each is filled, asked, changed and kept, and ends with who asked."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.memory import Array, Slots
from tests.benchmarks.peers.client import Keys, Peer, environment_of
from tests.benchmarks.runner import Unavailable

ROWS, WIDTH, K = 2_000, 16, 5
SERVERS = ("chroma", "pgvector", "milvus", "lance", "redis_sets")
EFFORT = 400


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Array:
    monkeypatch.setenv("MEMSTORE_SCRATCH", str(tmp_path))
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def opened(server: str, keys: Array, **options: Any) -> Peer:
    try:
        return Peer(f"servers.{server}", Keys(keys), **options)
    except Unavailable as missing:
        pytest.skip(str(missing))


def share(found_QK: Slots, queries_QD: Array, keys_ND: Array) -> float:
    true_QK = np.argsort(-(queries_QD @ keys_ND.T), axis=1)[:, :K]
    pairs = zip(found_QK, true_QK, strict=True)
    return float(np.mean([np.isin(found, known).mean() for found, known in pairs]))


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_finds_shows_what_was_written_and_is_kept(server: str, keys: Array) -> None:
    queries = keys[:100] + np.float32(0.1)
    norms_N = np.linalg.norm(keys, axis=1)
    new = keys[100:108] * (np.float32(0.95) * norms_N.max() / norms_N[100:108, None])
    with opened(server, keys) as peer:
        assert peer.build_s > 0
        assert share(peer.search(queries, K, EFFORT, batch=32)[0], queries, keys) > 0.9
        assert share(peer.search(queries[:3], K, EFFORT, batch=1)[0], queries[:3], keys) > 0.8
        found, seconds = peer.upsert(np.arange(8), new, K)
        assert seconds > 0
        assert (found == np.arange(8)[:, None]).any(axis=1).all()
    with opened(server, keys) as again:
        assert again.build_s == 0
        assert share(again.search(queries, K, EFFORT, batch=32)[0], queries, keys) > 0.9


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("durable", [False, True])
def test_rows_of_redis_are_read_and_set(parts: int, durable: bool, keys: Array) -> None:
    slots_CB = np.random.default_rng(1).integers(0, ROWS, (2, 100))
    with opened("redis_rows", keys, cached=False, parts=parts, durable=durable) as redis:
        assert redis.gather(slots_CB) > 0
        assert redis.replace(slots_CB, keys[slots_CB]) > 0


def test_a_server_ends_with_who_asked(keys: Array) -> None:
    with opened("redis_rows", keys, cached=False) as redis:
        asking = redis._process.pid
        [server] = children(asking)
        redis._process.kill()
        redis._process.wait()
    for _ in range(100):
        if not Path(f"/proc/{server}").exists():
            return
        subprocess.run(["sleep", "0.1"], check=True)
    pytest.fail(f"{server} goes on")


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_without_the_servers_it_says_how_to_make_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMSTORE_SERVERS", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="make servers"):
        environment_of("servers.chroma")
