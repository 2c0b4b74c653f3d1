"""Peers of the benchmarks: every engine in its process, and the sweep that finds its effort."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.memory import Array, Slots
from tests.benchmarks.alone import KINDS, tell
from tests.benchmarks.peers.client import Keys, Peer, PeerFailed, environment_of
from tests.benchmarks.runner import Curve, Figure, Measured, Missing, Unavailable, processor
from tests.benchmarks.sweeps import Sweep, Truth, frontier

ROWS, WIDTH, K = 2_000, 16, 5

# engine, options, an effort at which it finds nearly everything
Engines = list[tuple[str, dict[str, Any], Any]]
STATIC: Engines = [
    ("vamana", {"links": 32, "bits": [8, 0]}, 200),
    ("scann", {"leaves": 40}, (40, 400)),
]
CHANGING: Engines = [
    ("ivf", {"clusters": 16, "codec": "Flat"}, 16),
    ("ivf", {"clusters": 16, "codec": "SQ8"}, 16),
    ("hnsw", {"room": ROWS + 64}, 400),
    ("usearch", {}, 400),
]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Array:
    monkeypatch.setenv("MEMSTORE_SCRATCH", str(tmp_path))
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def opened(engine: str, keys: Array, options: dict[str, Any]) -> Peer:
    try:
        return Peer(engine, Keys(keys), **options)
    except Unavailable as missing:
        pytest.skip(str(missing))


def true(queries_QD: Array, keys_ND: Array) -> Slots:
    return np.argsort(-(queries_QD @ keys_ND.T), axis=1)[:, :K]


def share(found_QK: Slots, true_QK: Slots) -> float:
    pairs = zip(found_QK, true_QK, strict=True)
    return float(np.mean([np.isin(found, known).mean() for found, known in pairs]))


@pytest.mark.parametrize(("engine", "options", "effort"), STATIC + CHANGING)
def test_an_engine_finds_what_is_near_and_is_kept_for_the_next_run(
    engine: str, options: dict[str, Any], effort: Any, keys: Array
) -> None:
    if engine == "vamana" and "Intel" not in processor():
        options = options | {"bits": None}  # it compresses rows on processors of Intel alone
    queries = keys[:100] + np.float32(0.1)
    with opened(engine, keys, options) as peer:
        found, seconds = peer.search(queries, K, effort, batch=32)
        assert peer.build_s > 0
    assert found.dtype == np.int64
    assert seconds > 0
    assert share(found, true(queries, keys)) > 0.9
    with opened(engine, keys, options) as again:
        assert again.build_s == 0
        assert share(again.search(queries, K, effort)[0], found) > 0.99


@pytest.mark.parametrize(("engine", "options", "effort"), CHANGING)
def test_an_engine_that_changes_finds_rows_as_they_are_now(
    engine: str, options: dict[str, Any], effort: Any, keys: Array
) -> None:
    rng = np.random.default_rng(1)
    replaced, deleted = np.arange(64), np.arange(100, 164)
    inserted = np.arange(ROWS, ROWS + 64)
    now = np.concatenate([keys, rng.normal(size=(64, WIDTH)).astype(np.float32)])
    now[replaced] = rng.normal(size=(64, WIDTH)).astype(np.float32)
    queries = now[:200] + np.float32(0.1)
    with opened(engine, keys, options) as peer:
        assert peer.replace(replaced, now[replaced]) > 0
        assert peer.insert(inserted, now[inserted]) > 0
        assert peer.delete(deleted) > 0
        found, _ = peer.search(queries, K, effort)
    assert not np.isin(found, deleted).any()
    live = np.setdiff1d(np.arange(len(now)), deleted)
    assert share(found, live[true(queries, now[live])]) > 0.9


def test_what_an_engine_says_goes_wrong_is_raised(keys: Array) -> None:
    with (
        opened("ivf", keys, {"clusters": 16}) as peer,
        pytest.raises(PeerFailed, match="ivf at search"),
    ):
        peer.search(np.zeros((3, WIDTH + 1), np.float32), K, 1)


def test_an_unknown_option_fails_before_anything_is_built(keys: Array) -> None:
    with pytest.raises(PeerFailed, match="ivf at open: TypeError"):
        Peer("ivf", Keys(keys), clusters=16, colour="red")


def test_without_the_peers_it_says_how_to_make_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMSTORE_PEERS", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="make peers"):
        environment_of("hnsw")
    assert environment_of("ivf")


def test_equal_keys_share_a_file(keys: Array) -> None:
    assert Keys(keys).path == Keys(keys.copy()).path
    assert Keys(keys[::-1]).path != Keys(keys).path
    assert np.array_equal(np.load(Keys(keys).path), keys)


def test_a_sweep_finds_the_least_effort_that_reaches_a_level() -> None:
    truth = Truth(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), np.ones(2, np.float32))
    asked: list[int] = []

    def ask(effort: int) -> tuple[Slots, float]:
        asked.append(effort)
        hits = effort >= 23
        return np.array([[0], [1 if hits else 0]]), 0.5

    sweep = Sweep("stairs", ask, truth, least=1, most=100)
    assert sweep.reaching(0.9) == 23
    assert sweep.at(23) == (1.0, 4.0)
    assert sweep.at(22) == (0.5, 4.0)
    assert len(asked) == len(set(asked)) == len(sweep.points)
    assert sweep.reaching(0.5) == 1
    assert sweep.reaching(1.1) is None


def test_a_rate_is_the_best_of_several() -> None:
    truth = Truth(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), np.ones(1, np.float32))
    seconds = iter([0.5, 1.0, 0.25, 2.0])
    sweep = Sweep("noisy", lambda effort: (np.array([[0]]), next(seconds)), truth, 1, 9)
    assert sweep.at(4) == (1.0, 2.0)
    assert sweep.rate(4, times=3) == 4.0
    assert sweep.points == [(1.0, 4.0)]


def test_a_frontier_leaves_out_what_is_beaten_in_both() -> None:
    tried = [(0.9, 50.0), (0.95, 20.0), (0.97, 30.0), (0.99, 5.0), (0.98, 5.0), (0.5, 40.0)]
    assert frontier(tried) == [(0.9, 50.0), (0.97, 30.0), (0.99, 5.0)]
    assert frontier([]) == []


def test_recall_counts_scores_and_not_rows() -> None:
    keys = np.array([[2.0], [2.0], [1.0], [-1.0]], np.float32)
    truth = Truth(np.ones((1, 1), np.float32), keys, np.array([2.0], np.float32))
    assert truth.recall(np.array([[1, 0]])) == 1.0
    assert truth.recall(np.array([[1, 2]])) == 0.5
    assert truth.recall(np.array([[0, -1]])) == 0.5


def test_what_is_measured_alone_comes_back_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    sent: list[Measured] = [
        Figure("rate", "64 rows", 30.0, "rows/s", peer=10.0),
        Missing("hnswlib", "no peers"),
        Curve("Search", "memstore", "recall", "rate", [[0.5, 1.0]]),  # type: ignore[list-item]
    ]

    def measured() -> Iterator[Measured]:
        os.write(1, b"a library has its say\n")
        yield from sent

    tell(measured())
    os.write(1, b"and again")
    told = capfd.readouterr()
    *lines, after = told.out.splitlines()
    assert [KINDS[kind](**fields) for kind, fields in map(json.loads, lines)] == sent
    assert told.err == "a library has its say\n"
    assert after == "and again"
