"""Lists scanned by the kernel, against a twin that decodes every row: nothing else is found."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from memstore import NO_SLOT, IndexConfig
from memstore.index import clustered, scanning
from memstore.index.clustered import Codebook
from memstore.index.passing import Passing
from memstore.index.segment import Segment
from memstore.kernels.topk import top_k
from memstore.memory import Array, Slots

COUNT, ROWS, CLUSTERS = 12, 300, 9


def built(codec: Any, width: int) -> tuple[Codebook, Segment, Array]:
    rng = np.random.default_rng(width)
    keys = rng.normal(size=(ROWS, width)).astype(np.float32) + np.float32(0.5)
    book = clustered.train(IndexConfig(codec=codec), keys, ROWS, 0, clusters=CLUSTERS)
    rows = np.arange(ROWS, dtype=np.int64)
    # The last lists stay empty, as they are in small segments.
    few = rows[book.assign(book.reduction.rows(keys)) < CLUSTERS - 2]
    return book, clustered.seal(book, lambda some: keys[some], few), keys


def twin(
    lists: faiss.IndexIVF, queries: Array, lists_QP: Slots, passes: Array, count: int
) -> tuple[Slots, Array, Slots]:
    """The best rows by what they are decoded to, list by list, and how many these were."""
    rows_QC = np.full((len(queries), ROWS), NO_SLOT, np.int64)
    scores_QC = np.full(rows_QC.shape, -np.inf, np.float32)
    for q, numbers in enumerate(lists_QP.tolist()):
        at = 0
        for number in numbers:
            size = lists.invlists.list_size(number)
            ids = faiss.rev_swig_ptr(lists.invlists.get_ids(number), size) if size else ()
            for offset, row in enumerate(ids):
                if passes[row]:
                    decoded = np.empty(lists.d, np.float32)
                    lists.reconstruct_from_offset(number, offset, faiss.swig_ptr(decoded))
                    rows_QC[q, at], scores_QC[q, at] = row, queries[q] @ decoded
                    at += 1
    best_rows, best_scores = top_k(rows_QC, scores_QC, count)
    return best_rows, best_scores, (rows_QC != NO_SLOT).sum(axis=1)


def rising(rows_QC: Slots, scores_QC: Array) -> tuple[Array, Array]:
    order_QC = np.argsort(rows_QC, axis=1, kind="stable")
    return np.take_along_axis(rows_QC, order_QC, 1), np.take_along_axis(scores_QC, order_QC, 1)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.02, 0.0])
@pytest.mark.parametrize("width", [1, 32, 45])
@pytest.mark.parametrize("codec", ["flat", "fp16", "sq8"])
def test_what_is_found_is_what_the_codes_say(codec: str, width: int, share: float) -> None:
    book, segment, _ = built(codec, width)
    queries = np.random.default_rng(1).normal(size=(7, width)).astype(np.float32)
    lists_QP, near_QP = clustered.visited(book, queries, 4)
    passes = np.random.default_rng(2).random(ROWS) < share
    passing = None if share == 1 else Passing.of(passes)
    found = segment.search(queries, COUNT, lists_QP, near_QP, passing)
    expected_rows, expected_scores, visited_Q = twin(
        segment.lists, queries, lists_QP, passes, COUNT
    )
    assert found.compared_Q.tolist() == visited_Q.tolist()
    rows, scores = rising(found.rows_QC, found.scores_QC)
    expected_rows, expected_scores = rising(expected_rows, expected_scores)
    there = expected_rows != NO_SLOT
    assert ((rows != NO_SLOT) == there).all()
    # Of two that score alike, but for the rounding of a query, either may be found.
    near = 1e-3 * np.abs(expected_scores[there]).max(initial=1.0)
    assert np.allclose(np.sort(scores[there]), np.sort(expected_scores[there]), atol=near)
    assert (rows == expected_rows)[there].mean() > 0.9 if there.any() else True


@pytest.mark.parametrize("codec", ["flat", "sq8"])
def test_threads_find_the_same(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    book, segment, _ = built(codec, 16)
    queries = np.random.default_rng(1).normal(size=(9, 16)).astype(np.float32)
    lists_QP, near_QP = clustered.visited(book, queries, CLUSTERS)
    alone = segment.search(queries, COUNT, lists_QP, near_QP)
    monkeypatch.setattr(scanning, "SHARED_ROWS", 1)
    monkeypatch.setattr(faiss, "omp_get_max_threads", lambda: 3)
    shared = segment.search(queries, COUNT, lists_QP, near_QP)
    for one, other in zip(rising(*alone[:2]), rising(*shared[:2]), strict=True):
        assert one.tolist() == other.tolist()
    assert alone.compared_Q.tolist() == shared.compared_Q.tolist()


@pytest.mark.parametrize("codec", ["flat", "fp16", "sq8"])
def test_stale_rows_are_not_found(codec: str) -> None:
    book, segment, keys = built(codec, 16)
    gone = segment.rows[::3]
    left = segment.without(gone)
    found = left.search(keys[:5], ROWS, *clustered.visited(book, keys[:5], CLUSTERS))
    for rows in found.rows_QC:
        assert np.sort(rows[rows != NO_SLOT]).tolist() == left.rows.tolist()
        assert len(left.rows) == len(segment.rows) - len(gone)


def test_equal_rows_go_to_the_smaller() -> None:
    keys = np.ones((64, 8), np.float32)
    book = clustered.train(IndexConfig(codec="flat"), keys, 64, 0, clusters=1)
    segment = clustered.seal(book, lambda some: keys[some], np.arange(63, -1, -1))
    for queries in (keys[:2], 0 * keys[:2]):
        found = segment.search(queries, 5, *clustered.visited(book, queries, 1))
        assert np.sort(found.rows_QC).tolist() == [[0, 1, 2, 3, 4]] * 2
