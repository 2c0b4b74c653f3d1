"""Codes of 4 bits in blocks: nothing is lost by packing, joining or searching them."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions, field
from memstore.index import clustered, tuning
from memstore.index.clustered import Codebook
from memstore.index.packing import TRAINED, packed, telling, trained, unpacked
from memstore.index.segment import Segment
from memstore.memory import Array, Slots
from tests.benchmarks.data import mixture

PQ4 = IndexConfig(codec="pq4")


def book_of(keys: Array, clusters: int = 4) -> Codebook:
    return clustered.train(PQ4, keys, len(keys), 0, clusters=clusters)


def found(book: Codebook, segment: Segment, queries: Array, count: int) -> tuple[Slots, Array]:
    """Searches all lists."""
    return segment.search(queries, count, *clustered.visited(book, queries, book.clusters))[:2]


def held(lists: faiss.IndexIVF) -> dict[int, tuple[int, bytes]]:
    """Row → its list and code, of lists that are not packed."""
    rows = {}
    for number in range(lists.nlist):
        size = lists.invlists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.invlists.get_ids(number), size)
            codes = faiss.rev_swig_ptr(lists.invlists.get_codes(number), size * lists.code_size)
            for row, code in zip(ids.tolist(), codes.reshape(size, -1), strict=True):
                rows[row] = number, code.tobytes()
    return rows


@given(
    width=st.integers(1, 20), count=st.sampled_from([1, 5, 31, 32, 33, 400]), seed=st.integers(0, 9)
)
def test_lists_taken_apart_are_what_was_packed(width: int, count: int, seed: int) -> None:
    keys = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    book = book_of(keys)
    lists = faiss.clone_index(book.empty)
    numbers, lists_R = np.arange(count), book.assign(book.reduction.rows(keys))
    Segment.add(lists, keys / np.float32(book.unit), numbers, lists_R)
    before = held(lists)
    assert len(before) == count
    blocks = packed(lists)
    assert isinstance(blocks, faiss.IndexIVFPQFastScan)
    del lists
    again = unpacked(blocks)
    assert held(again) == before
    assert held(unpacked(packed(again))) == before


ROWS = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
LIKE_ROWS = ROWS[:8] + np.float32(0.1)
ONE_HOT = np.tile(np.eye(16, dtype=np.float32), (19, 1))
HUGE = ROWS * np.where(np.arange(300) == 7, 1e15, 1)[:, None].astype(np.float32)


@pytest.mark.parametrize(
    ("keys", "queries"),
    [
        (ROWS, LIKE_ROWS),
        (ROWS, 0 * LIKE_ROWS),
        (ROWS, np.float32(1e-30) * LIKE_ROWS),
        (ROWS, np.float32(1e30) * LIKE_ROWS),
        (0 * ROWS, LIKE_ROWS),
        (np.float32(1e-12) * ROWS, LIKE_ROWS),
        (np.float32(1e12) * ROWS, LIKE_ROWS),
        (HUGE, LIKE_ROWS),
        (np.repeat(ROWS[:1], 300, axis=0), LIKE_ROWS),
        (ONE_HOT, ONE_HOT[:8]),
        (ONE_HOT, np.float32(1e-30) * ONE_HOT[:8]),
        (ONE_HOT, np.float32(1e30) * ONE_HOT[:8]),
        (-np.abs(ROWS), np.abs(LIKE_ROWS)),
        (ROWS[:, :1].copy(), LIKE_ROWS[:, :1].copy()),
        (ROWS[:, :3].copy(), LIKE_ROWS[:, :3].copy()),
        (ROWS[:3], LIKE_ROWS),
    ],
    ids=[
        "plain",
        "queries of zeros",
        "tiny queries",
        "huge queries",
        "rows of zeros",
        "tiny rows",
        "huge rows",
        "one huge row",
        "equal rows",
        "one-hot rows",
        "one-hot rows, tiny queries",
        "one-hot rows, huge queries",
        "rows that score below 0",
        "width 1",
        "width 3",
        "3 rows",
    ],
)
@pytest.mark.parametrize("count", [1, 10, 40, 400])
def test_as_many_rows_are_proposed_as_there_are(keys: Array, queries: Array, count: int) -> None:
    book = book_of(keys, min(4, len(keys)))
    segment = clustered.seal(book, keys.__getitem__, np.arange(len(keys)))
    rows_QC, _ = found(book, segment, queries, count)
    for rows_C in rows_QC:
        assert len(set(rows_C[rows_C >= 0].tolist())) == min(count, len(keys))


@pytest.mark.parametrize("first", [5, 32, 128])
def test_joined_lists_score_as_those_sealed_at_once(first: int) -> None:
    """A full block, and as many rows as a block has bytes: there faiss would write too far."""
    keys, queries = mixture(900, 8, width=16)
    book = book_of(keys, 1)
    parts = [np.arange(first), np.arange(first, 900)]
    joined = clustered.seal(book, keys.__getitem__, parts[0])
    joined = joined.joined(clustered.seal(book, keys.__getitem__, parts[1]))
    whole = clustered.seal(book, keys.__getitem__, np.arange(900))
    rows_QC, scores_QC = found(book, joined, queries, 900)
    whole_QC, whole_scores_QC = found(book, whole, queries, 900)
    assert np.sort(rows_QC).tolist() == [list(range(900))] * 8
    by_row, whole_by_row = np.argsort(rows_QC), np.argsort(whole_QC)
    assert (
        np.take_along_axis(scores_QC, by_row, 1).tolist()
        == np.take_along_axis(whole_scores_QC, whole_by_row, 1).tolist()
    )


def test_scores_of_codes_are_near_those_of_rows() -> None:
    keys, queries = mixture(5_000, 16, width=64)
    book = book_of(keys, 32)
    segment = clustered.seal(book, keys.__getitem__, np.arange(len(keys)))
    rows_QC, scores_QC = found(book, segment, queries, 5_000)
    true_QC = np.take_along_axis(queries @ keys.T, rows_QC, 1)
    size_Q1 = np.abs(queries).max(axis=1, keepdims=True)
    # 16 centroids for two dimensions leave about an eighth of the variance of a Gaussian.
    assert np.var(scores_QC * size_Q1 * book.unit - true_QC) < 0.2 * np.var(true_QC)


def test_candidates_are_as_few_as_the_target_allows() -> None:
    keys, _ = mixture(5_000, 1, width=32)
    book = book_of(keys, 16)
    segments = (clustered.seal(book, keys.__getitem__, np.arange(len(keys))),)
    known = tuning.truth(keys.__getitem__, np.arange(len(keys)), tuning.Recent(32), 0)
    low, high = (
        tuning.measured(book, segments, keys.__getitem__, known, target) for target in (0.8, 0.98)
    )
    assert book.depth == clustered.DEPTHS[-1] >= high.depth > low.depth
    for target, each in ((0.8, low), (0.98, high)):
        assert each.recall is not None
        probe = min(each.recall.probe(target, 16), 16)
        most = tuning.measure(book, segments, keys.__getitem__, known).at(probe)
        assert each.recall.at(probe) >= most - 2 * tuning.LOST * (1 - target)


def test_a_row_whose_square_overflows_is_borne() -> None:
    """Without a bound on what is trained on, this would end the process."""
    quantizer = faiss.IndexFlatIP(16)
    quantizer.add(np.zeros((1, 16), np.float32))
    lists, unit = trained(quantizer, ROWS * np.float32(1e25), np.zeros(300, np.int64))
    assert 1e18 < unit < 1e25
    assert np.isfinite(faiss.vector_to_array(lists.pq.centroids)).all()


def test_long_rows_teach_the_codes() -> None:
    keys = np.ones((10_000, 4), np.float32)
    keys[5_000:] *= 2
    chosen = telling(keys, 0)
    assert len(set(chosen.tolist())) == len(chosen) == TRAINED
    assert (chosen >= 5_000).mean() > 0.75
    assert telling(keys[:9], 0).tolist() == list(range(9))
    assert len(telling(0 * keys, 0)) == TRAINED


def test_a_memory_that_grows_shrinks_and_is_reopened_finds_its_rows(tmp_path: Path) -> None:
    keys, queries = mixture(6_000, 64, width=32)
    index = IndexConfig(codec="pq4", fresh_limit=512, maintenance="inline", recall_target=0.95)
    config = MemoryConfig(dim=32, index=index, records={"even": "bool"})
    with memstore.open(tmp_path) as store:
        memory = store.create("m", config)
        for part in np.array_split(np.arange(6_000), 10):
            memory.append(keys[part], records={"even": part % 2 == 0})
        memory.write(np.arange(600), keys[:600] * 2, records={"even": np.arange(600) % 2 == 0})
        exact = memory.search(queries, 1_000, SearchOptions(exact=True))
        memory.erase(exact.slots_QK[0])
        assert memory.describe().shards[0].sealed > 5_000
        options = [SearchOptions(), SearchOptions(filter=field("even") == True)]  # noqa: E712
        answers = [memory.search(queries, 10, each) for each in options]
        true = [
            memory.search(queries, 10, SearchOptions(exact=True, filter=each.filter)).scores_QK
            for each in options
        ]
    for answer, scores_QK in zip(answers, true, strict=True):
        assert not np.isin(answer.slots_QK, exact.slots_QK[0]).any()
        assert (answer.counts_Q == 10).all()
        # Far under the target of .95: which lists and codes it takes for it differs by processor.
        assert (answer.scores_QK >= scores_QK[:, -1:]).mean() > 0.85
    with memstore.open(tmp_path) as store:
        for each, answer in zip(options, answers, strict=True):
            again = store.memory("m").search(queries, 10, each)
            assert again.slots_QK.tolist() == answer.slots_QK.tolist()
