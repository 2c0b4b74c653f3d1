"""Which lists a search by a filter visits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import NO_SLOT, IndexConfig, MemoryConfig, SearchOptions, field
from memstore.index import clustered, reaching
from memstore.index.clustered import Codebook
from memstore.index.passing import Passing
from memstore.index.reaching import FARTHEST, lists_wanted, reached
from memstore.index.sampling import draw
from memstore.index.segment import Segment
from memstore.memory import Array, Slots

ROWS, WIDTH, CLUSTERS = 600, 16, 24


def built(codec: Any = "flat") -> tuple[Codebook, tuple[Segment, ...], Array, Slots]:
    """Two segments of one codebook, the keys, and the list of each row."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    book = clustered.train(IndexConfig(codec=codec), keys, ROWS, 0, clusters=CLUSTERS)
    halves = np.array_split(np.arange(ROWS, dtype=np.int64), 2)
    segments = tuple(clustered.seal(book, lambda some: keys[some], rows) for rows in halves)
    return book, segments, keys, book.assign(book.reduction.rows(keys)).astype(np.int64)


@pytest.mark.parametrize("codec", ["flat", "fp16", "sq8", "pq4"])
def test_rows_that_pass_are_counted_by_list(codec: str) -> None:
    _, segments, _, list_R = built(codec)
    for share in (0.0, 0.02, 0.5, 1.0):
        mask = np.random.default_rng(1).random(ROWS) < share
        for known in (ROWS, 7):  # rows that came later than the filter was evaluated do not pass
            passing = Passing.of(mask[:known])
            met_C = np.sum([segment.met(passing) for segment in segments], axis=0)
            rows = np.flatnonzero(mask[:known])
            assert met_C.tolist() == np.bincount(list_R[rows], minlength=24).tolist()
    sizes_C = np.sum([segment.sizes_C for segment in segments], axis=0)
    assert sizes_C.tolist() == np.bincount(list_R, minlength=24).tolist()


def test_what_is_counted_is_kept_for_as_long_as_the_lists_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, segments, _, _ = built()
    passing = Passing.of(np.arange(ROWS) % 2 == 0)
    first = segments[0].met(passing)
    monkeypatch.setattr("memstore.index.scanning.met", None)  # is not asked again
    assert segments[0].without(np.arange(3)).met(passing) is first


def test_random_filters_visit_as_many_lists_for_each_query() -> None:
    book, segments, keys, _ = built()
    passing = Passing.of(np.random.default_rng(1).random(ROWS) < 0.7)
    lists_QP, _ = reached(book, segments, keys[:9], 4, 6, passing)
    expected_QP, _ = clustered.visited(book, keys[:9], 6)
    assert np.sort(lists_QP).tolist() == np.sort(expected_QP).tolist()


def test_lists_are_taken_by_rank_until_they_have_rows_enough() -> None:
    book, segments, keys, list_R = built()
    mask = (list_R % 2 == 0) | ((list_R == 1) & (np.arange(ROWS) % 9 == 0))
    passing, probe, wanted = Passing.of(mask), 2, 4
    lists_QP, scores_QP = reached(book, segments, keys[:50], probe, wanted, passing)
    ranked_QC = np.argsort(-(keys[:50] @ book.centroids_CE[:, :WIDTH].T), axis=1)
    met_C = np.bincount(list_R[mask], minlength=CLUSTERS)
    for ranked, lists, scores, key in zip(ranked_QC, lists_QP, scores_QP, keys, strict=False):
        meant, rows = [], 0
        for rank, number in enumerate(ranked[: FARTHEST * wanted].tolist()):
            if rank < probe or rows < wanted * met_C.mean():
                meant += [number] if met_C[number] else []
            rows += met_C[number]
        assert lists[lists != NO_SLOT].tolist() == meant
        near = key @ book.centroids_CE[meant, :WIDTH].T
        assert np.allclose(scores[lists != NO_SLOT], near, atol=1e-1)


@pytest.mark.parametrize("codec", ["flat", "sq8", "pq4"])
def test_only_what_passes_is_found_in_them(codec: str) -> None:
    book, segments, keys, list_R = built(codec)
    for number in range(CLUSTERS):
        passing = Passing.of(list_R == number)
        asked = (book, segments, keys[:40], 2, 3, passing)
        lists_QP, scores_QP = reached(*asked)
        rows = clustered.best_of(segments, keys[:40], 8, lists_QP, scores_QP, passing).rows_QC
        assert (list_R[rows[rows != NO_SLOT]] == number).all()
        assert ((rows != NO_SLOT).any(axis=1) == (lists_QP != NO_SLOT).any(axis=1)).all()
    none = Passing.of(np.zeros(ROWS, bool))
    lists_QP, scores_QP = reached(book, segments, keys[:3], 2, 3, none)
    assert (clustered.best_of(segments, keys[:3], 8, lists_QP, scores_QP, none).rows_QC == -1).all()


def test_clusters_are_drawn_beside_lists_that_are_padded() -> None:
    visited_QP = np.array([[0, NO_SLOT, 2], [NO_SLOT, NO_SLOT, 4]])
    drawn_QP = draw(np.zeros((2, 5), np.float32), visited_QP, 9, np.random.default_rng(0))
    assert np.sort(drawn_QP[0]).tolist() == [1, 3, 4]
    assert len(set(drawn_QP[1]) & {0, 1, 2, 3}) == 3


def test_lists_wanted_grow_as_fewer_rows_pass() -> None:
    assert [lists_wanted(8, count, 400) for count in (400, 100, 1, 0)] == [8, 16, 160, 8]


def test_a_filter_that_follows_the_clusters_finds_what_lies_further_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, WIDTH))
    topic = rng.integers(0, 100, 20_000)
    keys = (centres[topic] + 0.5 * rng.normal(size=(20_000, WIDTH))).astype(np.float32)
    index = IndexConfig(probe=8, codec="flat", fresh_limit=40_000)
    config = MemoryConfig(dim=WIDTH, records={"topic": "int64"}, index=index)
    with memstore.open(tmp_path) as store:
        memory = store.create("m", config)
        memory.append(keys, records={"topic": topic})
        memory.reindex()
        asked = keys[topic >= 50][:200] + np.float32(0.1)

        def recall() -> float:
            tree = field("topic") < 50
            found = memory.search(asked, 10, SearchOptions(filter=tree)).slots_QK
            true = memory.search(asked, 10, SearchOptions(filter=tree, exact=True)).slots_QK
            return float((found[:, :, None] == true[:, None, :]).sum() / true.size)

        reached_recall = recall()
        monkeypatch.setattr(reaching, "ODD", 2.0)  # as many lists for each
        as_many_recall = recall()
    assert reached_recall > as_many_recall + 0.08
