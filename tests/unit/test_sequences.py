"""Sequences to learn an algorithm on, and the curriculum that makes them longer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from memstore.errors import InvalidArgument
from models.tasks.sequences import Bits, Copy, Episodes, Recall, Sort
from workers.curriculum import Curriculum

TASKS = [Copy(3), Recall(5, 2, cues=3), Sort(4)]


def drawn(task: Bits, length: int, batch: int = 4, seed: int = 0) -> Episodes:
    return task.draw(np.random.default_rng(seed), batch, length)


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_the_same_seed_gives_the_same_episodes(task: Bits, length: int) -> None:
    episodes, again, other = (drawn(task, length, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(episodes.inputs_TBX, again.inputs_TBX)
    assert torch.equal(episodes.targets_TB, again.targets_TB)
    assert not torch.equal(episodes.inputs_TBX, other.inputs_TBX)
    steps, batch, inputs = episodes.inputs_TBX.shape
    assert (batch, inputs) == (4, task.inputs)
    assert episodes.targets_TB.shape == (steps, batch, task.outputs)
    assert episodes.asked_TB.any(0).all()
    part = episodes.share(slice(1, 3))
    assert torch.equal(part.inputs_TBX, episodes.inputs_TBX[:, 1:3])
    assert torch.equal(part.asked_TB, episodes.asked_TB[:, 1:3])


def test_a_copy_is_answered_in_order_once_it_has_ended() -> None:
    episodes = drawn(Copy(3), 5)
    inputs_TBX = episodes.inputs_TBX
    assert torch.equal(inputs_TBX[:5, :, :3] > 0, episodes.targets_TB[6:] > 0)
    assert (inputs_TBX[:5, :, :3].abs() == 1).all()
    assert inputs_TBX[:, 0, 3].tolist() == [0] * 5 + [1] + [0] * 5
    assert not inputs_TBX[6:].any()
    assert episodes.asked_TB[:, 0].tolist() == [False] * 6 + [True] * 5


@pytest.mark.parametrize(("pairs", "cues"), [(2, 2), (20, 3), (32, 3)])
def test_a_key_is_answered_by_the_value_it_came_with(pairs: int, cues: int) -> None:
    episodes = drawn(Recall(5, 2, cues=3), pairs)
    assert len(episodes.inputs_TBX) == pairs + cues
    for b in range(4):
        given = {}
        for t in range(pairs):
            row = episodes.inputs_TBX[t, b]
            assert row[7] == 0
            given[tuple(row[:5].tolist())] = row[5:7] > 0
        assert len(given) == pairs  # no two keys are equal
        asked = episodes.inputs_TBX[pairs:, b]
        assert len({tuple(row[:5].tolist()) for row in asked}) == cues
        for t, row in enumerate(asked, pairs):
            assert row[5:].tolist() == [0, 0, 1]
            assert torch.equal(given[tuple(row[:5].tolist())], episodes.targets_TB[t, b] > 0)
            assert episodes.asked_TB[t, b]
    assert not episodes.asked_TB[:pairs].any()


def test_more_keys_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="got 33, expected ≤ 32 pairs"):
        drawn(Recall(5, 2), 33)


def test_the_items_of_highest_priority_are_answered_first() -> None:
    for length, answers in ((1, 1), (6, 5), (20, 16)):
        episodes = drawn(Sort(4), length)
        assert len(episodes.inputs_TBX) == length + 1 + answers
        for b in range(4):
            items = episodes.inputs_TBX[:length, b]
            best = sorted(items, key=lambda row: -row[4])[:answers]
            expected = torch.stack([row[:4] > 0 for row in best])
            assert torch.equal(episodes.targets_TB[length + 1 :, b] > 0, expected)
        assert episodes.asked_TB[:, 0].tolist() == [False] * (length + 1) + [True] * answers


def test_what_an_answer_costs_and_when_it_is_right() -> None:
    task, targets_AY = Copy(3), torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    ignorant = task.loss(torch.zeros(2, 3), targets_AY)
    assert float(ignorant) == pytest.approx(3.0)  # a bit a bit
    said_AY = torch.tensor([[-2.0, 1.0, 3.0], [1.0, -1.0, -1.0]])
    chances = torch.where(targets_AY > 0, said_AY.sigmoid(), 1 - said_AY.sigmoid())
    expected = -chances.log2().sum() / 2
    assert float(task.loss(said_AY, targets_AY)) == pytest.approx(float(expected), rel=1e-6)
    assert task.right(said_AY, targets_AY).tolist() == [True, False]
    assert math.isfinite(float(task.loss(said_AY * 1e4, targets_AY)))


def test_tests_are_longer_than_training_and_draw_nothing_of_it() -> None:
    cases = list(Copy(8).tests(seed=0, batch=3, episodes=7, level=2))
    assert [case.name for case in cases] == [
        "2 items",
        "4 items",
        "10 items",
        "40 items",
    ]
    batches = list(cases[1].batches)
    assert [tuple(batch.inputs_TBX.shape) for batch in batches] == [(9, 3, 9)] * 3
    trained = [Copy(8).draw(np.random.default_rng((0, step)), 3, 4) for step in range(20)]
    assert not any(torch.equal(batches[0].inputs_TBX, one.inputs_TBX) for one in trained)


def test_a_level_is_doubled_once_its_losses_are_low() -> None:
    curriculum = Curriculum(3, 10, bound=0.5, window=3)
    levels = []
    for loss in [0.1, 0.1, 2.0, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4, 0.1, 0.1, 0.1]:
        curriculum.took(loss)
        levels.append(curriculum.level)
    # A window begins anew with a level; the longest is the last.
    assert levels == [3, 3, 3, 3, 3, 6, 6, 6, 10, 10, 10, 10]
    rng = np.random.default_rng(0)
    assert {curriculum.length(rng) for _ in range(300)} == set(range(1, 11))


def test_a_curriculum_goes_on_from_where_it_was() -> None:
    one, other = (Curriculum(1, 64, bound=0.5, window=4) for _ in range(2))
    losses = np.random.default_rng(0).uniform(0, 0.8, 60).tolist()
    for loss in losses[:30]:
        one.took(loss)
    other.go_on(one.position())
    for loss in losses[30:]:
        one.took(loss)
        other.took(loss)
    assert one.position() == other.position()
    assert one.level > 1
