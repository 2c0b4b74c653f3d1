"""The benchmarks of search and of writing: what peers are given is what memstore holds."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

import memstore
from memstore import SearchOptions
from tests.benchmarks import engine_gpu, engine_write
from tests.benchmarks.data import mixture
from tests.benchmarks.engine_search import (
    FRESH,
    LARGE,
    LEVELS,
    SMALL,
    bound,
    changed,
    contenders,
    live_rows,
)
from tests.benchmarks.runner import Figure, Missing
from tests.gpu import stand_in
from tests.gpu.stand_in import ON_GPU

ROWS = 3_000


def test_peers_are_given_the_rows_that_memstore_holds(tmp_path: Path) -> None:
    keys, queries = mixture(ROWS + ROWS // 100 + FRESH, 128)
    with memstore.open(tmp_path) as store:
        memory = changed(store, "m", 0.95, keys, queries[:64], ROWS)
        live, keys_ND = live_rows(keys, ROWS)
        state = memory.describe().shards[0]
        found = memory.search(queries[64:], 10, SearchOptions(exact=True))
        held_ND = memory.gather(live).keys_BD
    assert (state.rows, state.erased) == (len(live), ROWS // 100)
    assert state.fresh == FRESH
    assert held_ND is not None
    assert np.array_equal(held_ND, keys_ND)
    scores = np.sort(queries[64:] @ keys_ND.T, axis=1)[:, :-11:-1]
    np.testing.assert_allclose(found.scores_QK, scores, rtol=1e-5)
    # One per cent is no longer what it was when the index was built.
    kept = live[live < ROWS]
    assert (keys[kept] != keys_ND[: len(kept)]).any(axis=1).sum() == ROWS // 100


def test_every_peer_has_a_bound_where_one_is_promised() -> None:
    names = {contender.name for contender in contenders(LARGE)}
    assert names == {contender.name for contender in contenders(SMALL)}
    assert all(bound(SMALL, name, level) == 1.0 for name in names for level in LEVELS)
    assert all(bound(LARGE, name, level) == 1.0 for name in names for level in (0.98, 0.99))
    promised = {name: (bound(LARGE, name, 0.95), bound(LARGE, name, 0.97)) for name in names}
    assert promised == {
        "faiss IVF": (1.6, None),
        "hnswlib": (1.5, None),
        "usearch": (1.5, None),
        "SVS": (None, 1.0),
        "ScaNN": (None, 1.0),
    }
    assert bound(20_000, "hnswlib", 0.95) is None


def test_writes_are_measured_beside_the_peers_that_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMSTORE_SCRATCH", str(tmp_path))
    monkeypatch.setenv("MEMSTORE_PEERS", str(tmp_path / "none"))
    monkeypatch.setattr(engine_write, "SUPPLY", 2_048)
    told = list(engine_write.measure(ROWS, 0.3))
    lacking = [missing.name for missing in told if isinstance(missing, Missing)]
    assert lacking == ["hnswlib replace", "usearch remove and add"]
    figures = [figure for figure in told if isinstance(figure, Figure)]
    assert [figure.name for figure in figures] == [
        "write_rate",
        "write_rate",
        "sustained_write_rate",
        "sustained_write_rate",
        "sustained_write_rate",
        "search_p50",
        "search_p99",
        "recall",
    ]
    assert all(figure.value > 0 for figure in figures)
    assert all(figure.target is None for figure in figures)


def test_a_gpu_is_measured_beside_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    device = stand_in.put(monkeypatch)
    monkeypatch.setattr(engine_gpu, "ROUNDS", 1)
    monkeypatch.setattr(engine_gpu, "GATHERED", 512)
    gpu = engine_gpu.Gpu("a stand-in", "cpu", faiss.clone_index)
    figures = list(engine_gpu.measure(5_000, gpu, seconds=0.1))
    assert [figure.name for figure in figures] == [
        *["exact_rate"] * 2,
        *["recall"] * 3,
        *["search_rate_at_0.95", "search_rate_at_0.98"] * 2,
        "gather_rate",
        "search_p50_beside_sealing",
        "search_p99_beside_sealing",
    ]
    assert all(figure.value > 0 for figure in figures)
    assert figures[2].met
    assert device.widths
    assert device.made


@pytest.mark.skipif(ON_GPU, reason="there is a GPU")
def test_without_a_gpu_each_case_is_missing() -> None:
    told = list(engine_gpu.run(quick=True))
    assert [type(one) for one in told] == [Missing] * len(engine_gpu.CASES)
