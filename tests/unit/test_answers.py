"""Candidate answers: sampling, ranking, padding."""

from __future__ import annotations

import numpy as np
import pytest

from memstore import NO_SLOT
from models.tasks import answers

RIGHT = np.array([[5, 6, NO_SLOT], [9, NO_SLOT, NO_SLOT]])


def test_ragged_lays_lists_out() -> None:
    rows = answers.ragged(np.array([1, 2, 3]), np.array([2, 0, 1]))
    assert rows.tolist() == [[1, 2], [NO_SLOT, NO_SLOT], [3, NO_SLOT]]


def test_is_right_belongs_to_the_question() -> None:
    found = answers.is_right(np.array([[5, 9, NO_SLOT], [5, 9, 6]]), RIGHT)
    assert found.tolist() == [[True, False, False], [False, True, False]]


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [
        ([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], [1, 2]),
        ([[1.0, 2.0, 3.0], [1.0, 9.0, 3.0]], [3, 1]),
        ([[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]], [1, 3]),
    ],
)
def test_first_right_ranks_by_score_then_slot(scores: list, ranks: list) -> None:
    candidates = np.array([[5, 7, 8], [4, 9, 6]])
    assert answers.first_right(candidates, np.array(scores), RIGHT).tolist() == ranks


def test_first_right_is_zero_where_no_right_answer_is_a_candidate() -> None:
    candidates = np.array([[1, 2], [3, NO_SLOT]])
    assert answers.first_right(candidates, np.zeros((2, 2)), RIGHT).tolist() == [0, 0]
    assert answers.first_right(candidates[:, :0], np.zeros((2, 0)), RIGHT).tolist() == [0, 0]


def test_samples_put_a_right_answer_first_and_no_other_right_one_behind() -> None:
    read = np.array([[5, 6, 7], [9, 8, NO_SLOT]])
    rng = np.random.default_rng(0)
    firsts = set()
    for _ in range(50):
        sampled = answers.sample(RIGHT, read, 10, 8, rng)
        assert sampled.shape == (2, 9)
        firsts.add(int(sampled[0, 0]))
        assert sampled[1, 0] == 9
        assert not answers.is_right(sampled[:, 1:], RIGHT).any()
    assert firsts == {5, 6}


def test_samples_may_put_right_answers_first_that_were_read() -> None:
    right = np.array([[5, 6, 7], [9, 8, NO_SLOT], [3, 4, NO_SLOT]])
    read = np.array([[1, 7, 6], [8, NO_SLOT, 2], [1, 2, NO_SLOT]])
    firsts: list[set[int]] = [set(), set(), set()]
    rng = np.random.default_rng(0)
    for _ in range(50):
        sampled = answers.sample(right, read, 10, 8, rng, reachable=True)
        assert not answers.is_right(sampled[:, 1:], right).any()
        for seen, first in zip(firsts, sampled[:, 0].tolist(), strict=True):
            seen.add(first)
    # The last question read none: any will do.
    assert firsts == [{6, 7}, {8}, {3, 4}]
