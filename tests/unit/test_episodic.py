"""Episodic memory beside a plain one that copies itself; rollback to the bit; recall; errors."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memstore.episodic import Asked, EpisodicMemory
from memstore.episodic import memory as episodic
from memstore.errors import InvalidArgument, NotFinite, UnknownSlot, WrongShape, WrongType
from memstore.kernels.permute import permute
from memstore.memory import Array
from tests.unit.episodes import PlainMemory

BATCH, WORDS, WIDTH = 2, 9, 3

BEGINNINGS = [
    ({}, 0),
    ({"metric": "inner_product"}, WORDS),
    ({"usage": "discounted", "discount": 0.8}, 4),
]


def beginning(options: dict[str, Any], count: int) -> tuple[EpisodicMemory, list[PlainMemory]]:
    """A memory with its first `count` words filled, and its oracle."""
    memory = EpisodicMemory(BATCH, WORDS, WIDTH, threshold=0.5, **options)
    if count:
        rows_BRD = np.random.default_rng(0).standard_normal((BATCH, count, WIDTH))
        slots_BR = memory.fill(rows_BRD)
        np.testing.assert_array_equal(memory.gather(slots_BR), rows_BRD.astype(np.float32))
    discount = options.get("discount")
    filled = [rows_ND[:count] if count else None for rows_ND in memory.rows_BND]
    return memory, [PlainMemory.begin(WORDS, WIDTH, rows, discount) for rows in filled]


def agree(memory: EpisodicMemory, plain: list[PlainMemory], rng: np.random.Generator) -> None:
    np.testing.assert_array_equal(memory.rows_BND, [one.rows_ND for one in plain])
    assert memory.allocate(WORDS).tolist() == [one.least(WORDS) for one in plain]
    # Some are scored side by side, and some are left.
    queries_BQD = rng.standard_normal((BATCH, 7, WIDTH)).astype(np.float32)
    for exact in (True, False):
        found = memory.search(queries_BQD, 4, exact=exact)
        for b, q in np.ndindex(BATCH, 7):
            scores_N = plain[b].scores(queries_BQD[b, q], memory.metric == "cosine")
            best_K = np.sort(scores_N)[::-1][:4]
            np.testing.assert_allclose(found.scores_BQK[b, q], best_K, rtol=1e-4, atol=1e-5)
            slots_K = found.slots_BQK[b, q]
            got_K = np.where(slots_K < 0, -np.inf, scores_N[slots_K])
            np.testing.assert_allclose(got_K, best_K, rtol=1e-4, atol=1e-5)
            some = slots_K[slots_K >= 0].tolist()
            assert len(set(some)) == len(some)


@pytest.mark.parametrize(("options", "count"), BEGINNINGS)
@settings(max_examples=15, deadline=None)
@given(verbs=st.lists(st.sampled_from("abbttr"), max_size=12), seed=st.integers(0, 2**32 - 1))
def test_every_history_is_that_of_a_plain_memory(
    options: dict[str, Any], count: int, verbs: list[str], seed: int
) -> None:
    memory, plain = beginning(options, count)
    rng = np.random.default_rng(seed)
    for verb in ["a", *verbs]:
        if verb == "r":
            step = int(rng.integers(memory.step + 1))
            memory.rollback(step)
            for one in plain:
                one.rollback(step)
        elif verb == "a" or not memory.step:
            assert memory.advance() == len(plain[0].before) + 1
            for one in plain:
                one.advance()
        else:
            slots_BR = rng.integers(-1, WORDS, (BATCH, 3))
            weights_BR = rng.random((BATCH, 3), np.float32)
            erase_BRD, add_BRD = rng.random((2, BATCH, 3, WIDTH), np.float32)
            if verb == "b":
                memory.blend(slots_BR, weights_BR, erase_BRD, add_BRD)
            else:
                memory.touch(slots_BR, weights_BR)
            for b, r in zip(*np.nonzero(slots_BR >= 0), strict=True):
                slot, weight = int(slots_BR[b, r]), weights_BR[b, r]
                if verb == "b":
                    plain[b].blend(slot, weight, erase_BRD[b, r], add_BRD[b, r])
                else:
                    plain[b].touch(slot, float(weight), 0.5)
    agree(memory, plain, rng)
    memory.rollback(0)
    for one in plain:
        one.rollback(0)
    agree(memory, plain, rng)


def test_what_was_written_is_filed_and_found_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two episodes of many writes: the second finds what the first found, to the bit."""
    monkeypatch.setattr(episodic, "MOST_LOOSE", 200)
    rng = np.random.default_rng(1)
    memory = EpisodicMemory(1, 3_000, 8, probe=(4, 4))
    held = memory.rows_BND.copy()
    episodes = []
    words_RD = rng.standard_normal((4_000, 8)).astype(np.float32)
    queries_QD = words_RD[-500:] + 0.05 * rng.standard_normal((500, 8)).astype(np.float32)
    for _ in range(2):
        for first in range(0, 4_000, 50):
            memory.advance()
            slots_BR = memory.allocate(50)
            ones_BR = np.ones((1, 50))
            add_BRD = words_RD[None, first : first + 50]
            memory.blend(slots_BR, ones_BR, np.ones_like(add_BRD), add_BRD)
            memory.touch(slots_BR)
            memory.search(queries_QD[None, :1], 1)
        found, exact = (memory.search(queries_QD[None], 4, exact=how) for how in (False, True))
        overlap = (found.slots_BQK[..., 0] == exact.slots_BQK[..., 0]).mean()
        assert overlap > 0.8
        episodes.append((found.slots_BQK, found.scores_BQK, memory.rows_BND.copy()))
        memory.rollback(40)
        memory.search(queries_QD[None, :1], 1)
        memory.rollback(0)
        np.testing.assert_array_equal(memory.rows_BND, held)
        assert memory.allocate(3_000)[0].tolist() == list(range(3_000))
        assert (memory.search(queries_QD[None, :1], 1).slots_BQK == -1).all()
    for first_episode, second in zip(*episodes, strict=True):
        np.testing.assert_array_equal(first_episode, second)


def test_a_filled_memory_finds_what_is_near() -> None:
    rng = np.random.default_rng(2)
    rows_BRD = rng.standard_normal((2, 20_000, 32), np.float32)
    memory = EpisodicMemory(2, 20_000, 32)
    slots_BR = memory.fill(rows_BRD.copy(), copy=False)
    np.testing.assert_array_equal(memory.gather(slots_BR), rows_BRD)
    asked_BQ = rng.integers(0, 20_000, (2, 100))
    stored_BQD = np.take_along_axis(rows_BRD, asked_BQ[..., None], 1)
    queries_BQD = stored_BQD + 0.2 * rng.standard_normal(stored_BQD.shape)
    found = memory.search(queries_BQD, 4)
    right_BQ1 = np.take_along_axis(slots_BR, asked_BQ, 1)[..., None]
    assert (found.slots_BQK == right_BQ1).any(2).mean() > 0.9
    np.testing.assert_array_equal(
        found.scores_BQK[..., 0] <= memory.search(queries_BQD, 1, exact=True).scores_BQK[..., 0],
        True,
    )


def test_equal_scores_go_to_the_smaller_slot() -> None:
    memory = EpisodicMemory(1, 6, 2)
    memory.advance()
    memory.blend([[4, 1, 3]], [[1, 1, 1]], np.zeros((1, 3, 2)), [[[1, 0]] * 3])
    assert memory.search([[[1, 0]] * 5], 2).slots_BQK.tolist() == [[[1, 3]] * 5]


def test_permute() -> None:
    order_R = np.random.default_rng(3).permutation(20)
    rows_ND = np.arange(44.0).reshape(22, 2)
    expected_ND = np.concatenate([rows_ND[order_R], rows_ND[20:]])
    permute(rows_ND, order_R)
    np.testing.assert_array_equal(rows_ND, expected_ND)


def accessed(memory: EpisodicMemory, **changed: Array) -> Any:
    """An access of two heads that have read nothing, with some of what they ask changed."""
    gates = np.full((memory.batch, 2), 0.5, np.float32)
    vectors = np.ones((memory.batch, 2, memory.width), np.float32)
    return memory.access(
        Asked(vectors, gates, vectors, gates, gates)._replace(**changed), memory.unread(2, 3), 3
    )


ONES = np.ones((2, 1))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: EpisodicMemory(0, 1, 1), InvalidArgument, "batch"),
        (lambda m: EpisodicMemory(1, 2**31, 1), InvalidArgument, "2³¹"),
        (lambda m: EpisodicMemory(1, 1, 1, metric=cast(Any, "l2")), InvalidArgument, "metric"),
        (lambda m: EpisodicMemory(1, 1, 1, usage=cast(Any, "most")), InvalidArgument, "usage"),
        (lambda m: EpisodicMemory(1, 1, 1, discount=0.0), InvalidArgument, "discount"),
        (lambda m: m.fill(np.ones((2, 10, 3))), WrongShape, "rows"),
        (lambda m: m.fill(np.full((2, 9, 3), np.nan)), NotFinite, "rows"),
        (lambda m: m.fill(np.ones((2, 9, 3)), copy=False), InvalidArgument, "taken over"),
        (lambda m: (m.advance(), m.fill(np.ones((2, 9, 3)))), InvalidArgument, "rollback"),
        (lambda m: m.search(np.ones((2, 3)), 1), WrongShape, "queries"),
        (lambda m: m.search(np.full((2, 1, 3), np.inf), 1), NotFinite, "queries"),
        (lambda m: m.search(np.ones((2, 1, 3)), 0), InvalidArgument, "k"),
        (lambda m: m.gather([[9], [0]]), UnknownSlot, "9"),
        (lambda m: m.gather([[0.5], [0]]), WrongType, "slots"),
        (lambda m: m.gather([0, 1]), WrongShape, "slots"),
        (lambda m: m.allocate(10), InvalidArgument, "9"),
        (lambda m: m.touch([[0], [0]]), InvalidArgument, "advance"),
        (lambda m: (m.advance(), m.touch([[0], [0]], [["a"], ["b"]])), WrongType, "weights"),
        (lambda m: (m.advance(), m.blend([[0], [0]], ONES, ONES, ONES)), WrongShape, "erase"),
        (lambda m: m.rollback(1), InvalidArgument, "step"),
        (lambda m: m.rollback(0.5), InvalidArgument, "step"),
        (lambda m: accessed(m, write_BH=np.ones((2, 2))), WrongType, "write_BH"),
        (lambda m: accessed(m, write_BH=np.ones((2, 1), np.float32)), WrongShape, "write_BH"),
        (
            lambda m: accessed(m, add_BHD=np.full((2, 2, 3), np.nan, np.float32)),
            NotFinite,
            "add_BHD",
        ),
    ],
)
def test_bad_calls_are_told_and_change_nothing(
    call: Any, error: type[Exception], words: str
) -> None:
    memory = EpisodicMemory(2, 9, 3)
    with pytest.raises(error, match=words):
        call(memory)
    assert not memory.rows_BND.any()
    assert memory.allocate(9).tolist() == [list(range(9))] * 2
