"""What training adds to the k best: the laws by which it is drawn, and what it may never bring."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import (
    NO_SLOT,
    EncodingConfig,
    IndexConfig,
    MemoryConfig,
    Proposal,
    SearchOptions,
    SearchResult,
    field,
)
from memstore.embedded import EmbeddedMemory
from memstore.errors import InvalidArgument, Unsupported
from memstore.index import sampling
from memstore.memory import Array
from memstore.widening import random_slots

D = 4
OWN = (Proposal.SEALED, Proposal.FRESH, Proposal.EXACT)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., EmbeddedMemory]]:
    """Makes memories of normal rows, sealed, whose stores are closed when the test is over."""
    stores: list[memstore.Store] = []

    def create(rows: int, seed: int = 0, **config: Any) -> EmbeddedMemory:
        stores.append(memstore.open(tmp_path / str(len(stores))))
        memory = stores[-1].create("m", MemoryConfig(dim=D, records={"n": "int64"}, **config))
        memory.append(normal(seed, rows), records={"n": np.arange(rows) % 4})
        memory.reindex()
        assert isinstance(memory, EmbeddedMemory)
        return memory

    yield create
    for store in stores:
        store.close()


def normal(seed: int, rows: int) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, D)).astype(np.float32)


def lists(**settings: Any) -> IndexConfig:
    return IndexConfig.from_dict({"clusters": 8, "probe": 1, "codec": "flat"} | settings)


def of(result: SearchResult, *marks: Proposal) -> list[list[int]]:
    """The slots of each query that came by one of the marks, best first."""
    chosen_QK = np.isin(result.proposal_QK, marks)
    return [
        slots[chosen].tolist() for slots, chosen in zip(result.slots_QK, chosen_QK, strict=True)
    ]


def as_expected(counts: Any, chances: Any, draws: int) -> bool:
    """Whether each count lies within five standard deviations of what its chance lets expect."""
    chances = np.asarray(chances)
    spread = np.sqrt(draws * chances * (1 - chances))
    return bool((np.abs(np.asarray(counts) - draws * chances) <= 5 * spread + 1e-9).all())


# The law of the clusters.


def test_clusters_are_drawn_one_by_one_in_proportion_to_exp_of_their_scores() -> None:
    scores_C = np.array([0.5, 3.0, -1.0, 1.5, 0.0], np.float32)
    draws, left = 40_000, [0, 2, 3, 4]
    drawn = sampling.draw(
        np.tile(scores_C, (draws, 1)), np.ones((draws, 1), np.int64), 2, np.random.default_rng(0)
    )
    assert drawn.shape == (draws, 2)
    pairs = list(itertools.combinations(left, 2))
    weight = np.exp(scores_C.astype(float))
    total = weight[left].sum()

    def chance(a: int, b: int) -> float:
        first, second = weight[a] / total, weight[b] / total
        return first * weight[b] / (total - weight[a]) + second * weight[a] / (total - weight[b])

    counts = [int((np.sort(drawn, 1) == pair).all(1).sum()) for pair in pairs]
    assert sum(counts) == draws
    assert as_expected(counts, [chance(*pair) for pair in pairs], draws)


@pytest.mark.parametrize(("probe", "count", "drawn"), [(1, 9, 4), (3, 2, 2), (5, 3, 0), (4, 1, 1)])
def test_what_is_visited_is_never_drawn_and_nothing_twice(
    probe: int, count: int, drawn: int
) -> None:
    scores_QC = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    visited_QP = np.argsort(-scores_QC, axis=1)[:, :probe]
    lists_QP = sampling.draw(scores_QC, visited_QP, count, np.random.default_rng(1))
    assert lists_QP.shape == (50, drawn)
    for lists_P, visited_P in zip(lists_QP, visited_QP, strict=True):
        assert len({*lists_P.tolist(), *visited_P.tolist()}) == probe + drawn


@pytest.mark.parametrize("scale", [1e-3, 1e6, 1e15])
def test_scores_of_any_size_draw_clusters(scale: float) -> None:
    scores_QC = scale * np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    lists_QP = sampling.draw(scores_QC, np.argsort(-scores_QC)[:, :2], 3, np.random.default_rng(1))
    assert all(len(set(lists_P)) == 3 for lists_P in lists_QP.tolist())


def test_a_search_samples_clusters_by_that_law(make: Callable[..., EmbeddedMemory]) -> None:
    memory = make(400, index=lists())
    query = np.array([[0.6, -0.3, 0.8, 0.1]], np.float32)
    codebook = memory.shards[0].index.version.codebook
    assert codebook is not None
    of_slot = codebook.assign(codebook.reduction.rows(normal(0, 400)))
    scores_C = (query @ codebook.centroids_CE[:, :D].T)[0].astype(float)
    chances = np.exp(scores_C)
    chances[scores_C.argmax()] = 0.0
    chances /= chances.sum()
    draws = 2_000
    counts = np.zeros(8)
    for seed in range(draws):
        found = memory.search(query, 3, SearchOptions(sample_clusters=1, seed=seed))
        [own], [sampled] = of(found, *OWN), of(found, Proposal.SAMPLED_CLUSTER)
        [cluster] = set(of_slot[sampled])
        assert set(of_slot[own]) == {scores_C.argmax()}
        counts[cluster] += 1
        if seed < 50:
            # The three best of the cluster.
            inside = np.flatnonzero(of_slot == cluster)
            scores = normal(0, 400)[inside] @ query[0]
            assert sampled == inside[np.argsort(-scores)[:3]].tolist()
    assert as_expected(counts, chances, draws)


@pytest.mark.parametrize("shards", [1, 3])
def test_all_clusters_sampled_leave_no_row_out(
    make: Callable[..., EmbeddedMemory], shards: int
) -> None:
    memory = make(500, shards=shards, index=lists())
    queries = normal(1, 6)
    plain = memory.search(queries, 5)
    found = memory.search(queries, 5, SearchOptions(sample_clusters=100))
    true = memory.search(queries, 5, SearchOptions(exact=True))
    assert plain.slots_QK.tolist() != true.slots_QK.tolist()
    assert found.slots_QK[:, :5].tolist() == true.slots_QK.tolist()
    assert of(found, *OWN) == plain.slots_QK.tolist()
    assert found.counts_Q.tolist() == [10] * 6
    assert (found.scored_Q > plain.scored_Q).all()


# The law of the random slots.


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    ("rows", "erased", "count"), [(60, 20, 3), (60, 20, 25), (400, 385, 4), (60, 0, 1)]
)
def test_random_slots_are_uniform_over_the_live_ones(
    make: Callable[..., EmbeddedMemory], shards: int, rows: int, erased: int, count: int
) -> None:
    memory = make(rows, shards=shards, index="exact")
    gone = np.random.default_rng(1).permutation(rows)[:erased]
    memory.erase(gone)
    live = np.setdiff1d(np.arange(rows), gone)
    draws, rng = 2_000, np.random.default_rng(0)
    counts = np.zeros(rows)
    for _ in range(draws):
        drawn = random_slots(memory.candidates, rows, count, None, rng)
        assert len(np.unique(drawn)) == count
        counts[drawn] += 1
    assert counts[gone].sum() == 0
    assert as_expected(counts[live], np.full(len(live), count / len(live)), draws)


def test_random_slots_that_pass_are_uniform(make: Callable[..., EmbeddedMemory]) -> None:
    memory = make(80, shards=3, index="exact")
    tree = field("n") == 2
    counts = np.zeros(80)
    for seed in range(800):
        counts[random_slots(memory.candidates, 80, 5, tree, np.random.default_rng(seed))] += 1
    passing = np.arange(80) % 4 == 2
    assert counts[~passing].sum() == 0
    assert as_expected(counts[passing], np.full(20, 5 / 20), 800)


@pytest.mark.parametrize("erased", [0, 700, 985])
def test_random_slots_do_not_depend_on_the_number_of_shards(
    make: Callable[..., EmbeddedMemory], erased: int
) -> None:
    options = SearchOptions(exact=True, sample_random=9, seed=5)
    found = []
    for shards in (1, 2, 5):
        memory = make(1_000, shards=shards, index="none")
        memory.erase(np.arange(erased))
        result = memory.search(normal(1, 3), 4, options)
        found.append((result.slots_QK.tolist(), result.proposal_QK.tolist()))
    assert found[0] == found[1] == found[2]


def test_random_slots_are_the_same_for_every_query_and_those_found_keep_their_mark(
    make: Callable[..., EmbeddedMemory],
) -> None:
    memory = make(30, index="exact")
    found = memory.search(normal(1, 5), 8, SearchOptions(sample_random=12, seed=0))
    drawn = set(
        random_slots(memory.candidates, 30, 12, None, np.random.default_rng([0, 0])).tolist()
    )
    for own, random in zip(of(found, *OWN), of(found, Proposal.RANDOM), strict=True):
        assert len(own) == 8
        assert set(random) == drawn - set(own)
    assert found.counts_Q.tolist() == [8 + len(slots) for slots in of(found, Proposal.RANDOM)]
    assert found.slots_QK.shape[1] == found.counts_Q.max()
    assert found.scored_Q.tolist() == [30 + len(slots) for slots in of(found, Proposal.RANDOM)]


@pytest.mark.parametrize("count", [40, 2**63 - 1])
def test_more_random_slots_than_there_are_give_all(
    make: Callable[..., EmbeddedMemory], count: int
) -> None:
    memory = make(40, shards=3, index="exact")
    memory.erase([0, 39])
    found = memory.search(normal(1, 2), 3, SearchOptions(sample_random=count))
    assert found.counts_Q.tolist() == [38, 38]
    true = memory.search(normal(1, 2), 38)
    assert found.slots_QK.tolist() == true.slots_QK.tolist()
    assert found.scores_QK.tolist() == true.scores_QK.tolist()


# The seed.

EVERYTHING: dict[str, Any] = {"union": True, "sample_clusters": 2, "sample_random": 6}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("what", [{"sample_clusters": 2}, {"sample_random": 6}, EVERYTHING])
def test_the_seed_says_what_is_drawn(
    make: Callable[..., EmbeddedMemory], what: dict[str, Any], shards: int
) -> None:
    memory = make(600, shards=shards, index=lists())

    def draw(seed: int | None) -> list[list[int]]:
        return memory.search(normal(1, 4), 3, SearchOptions(seed=seed, **what)).slots_QK.tolist()

    first, other = draw(7), draw(8)
    assert draw(7) == first
    assert other != first
    unseeded = [draw(None) for _ in range(4)]
    assert any(slots != unseeded[0] for slots in unseeded[1:])


# The union.


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["exact", "clustered"])
def test_the_union_scores_every_query_against_what_any_found(
    make: Callable[..., EmbeddedMemory], kind: str, shards: int
) -> None:
    memory = make(300, shards=shards, index=lists() if kind == "clustered" else "exact")
    queries, keys = normal(1, 7), normal(0, 300)
    plain = memory.search(queries, 4)
    found = memory.search(queries, 4, SearchOptions(union=True))
    union = np.unique(plain.slots_QK)
    assert found.counts_Q.tolist() == [len(union)] * 7
    assert found.slots_QK.shape == (7, len(union))
    assert (np.sort(found.slots_QK, axis=1) == union).all()
    true_QU = np.take_along_axis(queries @ keys.T, found.slots_QK, axis=1)
    np.testing.assert_allclose(found.scores_QK, true_QU, rtol=1e-5, atol=1e-6)
    assert (np.diff(found.scores_QK, axis=1) <= 0).all()
    assert of(found, *OWN) == plain.slots_QK.tolist()
    assert set(np.unique(found.proposal_QK)) == {*np.unique(plain.proposal_QK), Proposal.UNION}


def test_the_union_holds_what_was_sampled_for_each(make: Callable[..., EmbeddedMemory]) -> None:
    memory = make(600, shards=2, index=lists())
    queries = normal(1, 5)
    apart = memory.search(queries, 3, SearchOptions(sample_clusters=2, sample_random=7, seed=1))
    found = memory.search(queries, 3, SearchOptions(**EVERYTHING | {"sample_random": 7}, seed=1))
    union = np.unique(apart.slots_QK)
    union = union[union != NO_SLOT]
    assert (np.sort(found.slots_QK, axis=1) == union).all()
    for mark in (*OWN, Proposal.SAMPLED_CLUSTER):
        assert of(found, mark) == of(apart, mark)
    shared = {slot for own in of(apart, *OWN, Proposal.SAMPLED_CLUSTER) for slot in own}
    drawn = {slot for own in of(apart, Proposal.RANDOM) for slot in own}
    for own in of(found, Proposal.RANDOM):
        assert set(own) == drawn - shared


def test_an_encoded_memory_is_widened(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        store.create("parts", MemoryConfig(dim=D, index="none")).append(normal(0, 20))
        config = MemoryConfig(
            dim=D,
            records={"a": "int64", "b": "int64"},
            encoding=EncodingConfig(key={"a": "parts", "b": "parts"}),
            index=lists(),
        )
        facts = store.create("facts", config)
        a, b = np.divmod(np.arange(400), 20)
        facts.append(records={"a": a, "b": b})
        facts.reindex()
        found = facts.search(normal(1, 3), 5, SearchOptions(**EVERYTHING, seed=0))
        keys = facts.gather(np.arange(400)).keys_BD
        assert keys is not None
        true = np.take_along_axis(normal(1, 3) @ keys.T, found.slots_QK, axis=1)
        np.testing.assert_allclose(found.scores_QK, true, rtol=1e-5, atol=1e-6)


# What may never come.


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["exact", "clustered"])
@pytest.mark.parametrize("few", [False, True])
def test_erased_rows_and_those_that_fail_the_filter_never_come(
    make: Callable[..., EmbeddedMemory], kind: str, shards: int, few: bool
) -> None:
    clustered = kind == "clustered"
    memory = make(6_000, shards=shards, index=lists() if clustered else "exact")
    memory.erase(np.arange(1_000))
    memory.write([1_001], records={"n": [0]})
    tree = field("n") == 1 if few else field("n") != 0
    what = EVERYTHING | {"sample_clusters": 3 if clustered else 0}
    for seed in range(30):
        options = SearchOptions(filter=tree, seed=seed, **what)
        found = memory.search(normal(seed, 4), 6, options)
        slots = np.unique(found.slots_QK)
        assert slots[0] > 1_001
        passes = slots % 4 == 1 if few else slots % 4 != 0
        assert passes.all()
        assert (found.counts_Q >= 6 + 5).all()


def test_a_row_found_again_in_another_way_stands_once(make: Callable[..., EmbeddedMemory]) -> None:
    memory = make(60, shards=3, index=lists(clusters=3))
    memory.append(normal(9, 20), records={"n": [0] * 20})
    for seed in range(20):
        options = SearchOptions(union=True, sample_clusters=3, sample_random=40, seed=seed)
        found = memory.search(normal(seed, 3), 10, options)
        for slots, count in zip(found.slots_QK.tolist(), found.counts_Q, strict=True):
            assert len(set(slots[:count])) == count


@pytest.mark.parametrize("filtered", [False, True])
def test_what_is_erased_meanwhile_stops_no_search_and_stays_away(
    make: Callable[..., EmbeddedMemory], filtered: bool
) -> None:
    memory = make(4_000, shards=2, index=lists(fresh_limit=300))
    tree = field("n") != 0 if filtered else None
    options = SearchOptions(filter=tree, **EVERYTHING | {"sample_random": 50})
    gone, stop = [0], threading.Event()

    def write() -> None:
        for start in range(0, 3_000, 50):
            memory.erase(np.arange(start, start + 50))
            gone[0] = start + 50
            memory.append(normal(start, 50), records={"n": [1] * 50})
        stop.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        while not stop.is_set() and not writer.done():
            before = gone[0]
            found = memory.search(normal(1, 4), 5, options)
            for slots, count in zip(found.slots_QK.tolist(), found.counts_Q, strict=True):
                assert len(set(slots[:count])) == count >= 5
                assert min(slots[:count]) >= before
        writer.result()


# The edges.


@pytest.mark.parametrize("kind", ["exact", "clustered"])
def test_nothing_to_draw_from(make: Callable[..., EmbeddedMemory], kind: str) -> None:
    clustered = kind == "clustered"
    options = SearchOptions(**EVERYTHING | {"sample_clusters": 2 * clustered})
    memory = make(0, index=kind)
    found = memory.search(normal(0, 2), 3, options)
    assert found.slots_QK.tolist() == [[NO_SLOT] * 3] * 2
    assert found.counts_Q.tolist() == [0, 0]
    memory.append(normal(0, 5), records={"n": [0] * 5})
    found = memory.search(normal(0, 2), 3, options)  # nothing is sealed yet
    assert found.counts_Q.tolist() == [5, 5]
    assert memory.search(normal(0, 0), 3, options).slots_QK.shape == (0, 3)


@pytest.mark.parametrize("kind", ["exact", "none"])
def test_without_clusters_none_can_be_sampled(
    make: Callable[..., EmbeddedMemory], kind: str
) -> None:
    memory = make(9, index=kind)
    with pytest.raises(Unsupported):
        memory.search(normal(0, 1), 1, SearchOptions(sample_clusters=1))


@pytest.mark.parametrize(
    "options",
    [
        {"exact": True, "sample_clusters": 1},
        {"union": 1},
        {"union": "yes"},
        {"union": None},
        *(
            {name: bad}
            for name in ("sample_clusters", "sample_random", "seed")
            for bad in (-1, 1.0)
        ),
        *({name: bad} for name in ("sample_clusters", "sample_random") for bad in (None, True)),
        {"seed": "1"},
        {"seed": False},
        {"seed": 2**63},
        {"sample_random": 2**63},
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        SearchOptions(**options)


def test_numbers_of_numpy_will_do(make: Callable[..., EmbeddedMemory]) -> None:
    memory = make(50, index=lists())
    count = np.int64(2)
    options = SearchOptions(
        union=np.bool_(True),  # type: ignore[arg-type]
        sample_clusters=count,  # type: ignore[arg-type]
        sample_random=count,  # type: ignore[arg-type]
        seed=np.uint32(3),  # type: ignore[arg-type]
    )
    plain = SearchOptions(union=True, sample_clusters=2, sample_random=2, seed=3)
    queries = normal(1, 2)
    found, expected = memory.search(queries, 2, options), memory.search(queries, 2, plain)
    assert found.slots_QK.tolist() == expected.slots_QK.tolist()
