"""The bAbI tasks: the published format, words and answers by step, batches, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from models.tasks import babi, data
from models.tasks.babi import Babi
from models.tasks.data import DataMissing
from models.tasks.knowledge import TaskDataError

STORY = """1 Mary moved to the {0}.
2 Where is Mary?\t{0}\t1
3 John took the apple there.
4 What is John carrying?\tapple,milk\t3
"""

PLACES = ("garden", "office", "hallway", "kitchen")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tasks 1 and 8, one of them by its published name."""
    stories = tmp_path / "babi"
    stories.mkdir()
    many = [PLACES[i % 4] + "s" * (i // 4) for i in range(80)]
    (stories / "qa8_train.txt").write_text("".join(map(STORY.format, many)))
    (stories / "qa8_test.txt").write_text("".join(map(STORY.format, PLACES)))
    first = "".join(STORY.split("3 ")[0].format(place) for place in many)
    (stories / "qa1_single-supporting-fact_train.txt").write_text(first + "1 No question.\n")
    (stories / "qa1_single-supporting-fact_test.txt").write_text(first)
    (stories / "qa2_train.txt").write_text(first)  # has no test
    monkeypatch.setenv(data.VARIABLE, str(tmp_path))
    return stories


def spelt(task: Babi, story: babi.Story) -> tuple[str, str]:
    """What is heard, and what is to be said, `.` for nothing."""
    heard = " ".join(task.words[word] for word in story.heard_T)
    return heard, " ".join(task.words[word] if word >= 0 else "." for word in story.said_T)


def test_a_story_is_words_one_a_step_and_answers_where_they_are_asked_for(folder: Path) -> None:
    task = Babi()
    assert sorted(task.parts["test"]) == [1, 8]
    story = task.parts["test"][8][0]
    assert spelt(task, story) == (
        "mary moved to the garden . where is mary ? - "
        "john took the apple there . what is john carrying ? - -",
        ". " * 10 + "garden " + ". " * 11 + "apple milk",
    )
    assert [[task.words[w] for w in answer] for answer in babi.answers(story)] == [
        ["garden"],
        ["apple", "milk"],
    ]
    assert babi.commonest(task.parts["train"][8]) == (
        task.words.index("apple"),
        task.words.index("milk"),
    )


def test_each_story_is_of_one_part_and_those_without_questions_of_none(folder: Path) -> None:
    task = Babi()
    for number in (1, 8):
        trained, validated = (task.parts[part][number] for part in ("train", "validation"))
        assert len(trained) + len(validated) == 80
        assert 0 < len(validated) < 20
        told = {story.heard_T.tobytes() for story in trained}
        assert not told & {story.heard_T.tobytes() for story in validated}


def test_batches_are_of_the_training_part_and_the_same_for_the_same_seed(folder: Path) -> None:
    task = Babi()
    episodes, again = (task.draw(np.random.default_rng(3), 6) for _ in range(2))
    for one, other in zip(vars(episodes).values(), vars(again).values(), strict=True):
        assert torch.equal(one, other)
    trained = {story.heard_T.tobytes() for part in task.parts["train"].values() for story in part}
    lengths = set()
    for seed in range(20):
        drawn = task.draw(np.random.default_rng(seed), 6)
        lengths.add(len(drawn.inputs_TBX))
        for b in range(6):
            heard = drawn.inputs_TBX[:, b]
            length = int(heard.sum())
            assert (heard[:length].sum(1) == 1).all()
            assert heard[:length].argmax(1).numpy().astype(np.int16).tobytes() in trained
            assert torch.equal(drawn.asked_TB[:, b], drawn.targets_TB[:, b] >= 0)
            assert (heard[drawn.asked_TB[:, b]].argmax(1) == 0).all()
    assert lengths == {11, 24}


def test_a_question_is_right_where_all_words_of_its_answer_are(folder: Path) -> None:
    task = Babi()
    [case] = [case for case in task.cases("test", batch=3, episodes=3) if case.name[0] == "8"]
    assert case.name == "8: lists/sets"
    [batch] = case.batches
    right_TB = batch.asked_TB.clone()
    assert task.judged(batch.asked_TB, right_TB[batch.asked_TB]).tolist() == [True] * 6
    last = batch.asked_TB[:, 1].nonzero()[-1]
    right_TB[last, 1] = False
    right = task.judged(batch.asked_TB, right_TB[batch.asked_TB])
    assert right.tolist() == [True, True, True, False, True, True]
    said_AY = torch.nn.functional.one_hot(batch.targets_TB[batch.asked_TB], task.outputs).float()
    assert task.right(said_AY, batch.targets_TB[batch.asked_TB]).all()
    assert not task.right(-said_AY, batch.targets_TB[batch.asked_TB]).any()
    assert task.loss(50 * said_AY, batch.targets_TB[batch.asked_TB]) < 1e-6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Mary moved.\n", "expected a line of number 1 or 1"),
        ("2 Mary moved.\n", "expected a line of number 1 or 1"),
        ("1 Mary moved.\n3 Where is Mary?\tgarden\t1\n", "expected a line of number 1 or 2"),
        ("1 Where is Mary?\t,\t1\n", "expected a sentence, or question, answer and lines"),
        ("1 Where is Mary?\tgarden\t1\t2\n", "expected a sentence, or question, answer and lines"),
        ("1 Mary moved.\n", "no story to learn from"),
    ],
)
def test_files_that_are_broken_are_refused(folder: Path, text: str, said: str) -> None:
    (folder / "qa8_train.txt").write_text(text)
    with pytest.raises(TaskDataError, match=re.escape(said)):
        Babi()


def test_what_is_no_text_or_of_another_world_is_refused(folder: Path) -> None:
    (folder / "qa8_test.txt").write_text("1 Where is Zoe?\tgarden\t1\n")
    with pytest.raises(TaskDataError, match=r"words \['zoe'\]"):
        Babi()
    (folder / "qa8_test.txt").write_bytes(b"1 \xff\n")
    with pytest.raises(TaskDataError, match="UTF-8"):
        Babi()
    (folder / "qa8_test.txt").unlink()
    (folder / "qa1_single-supporting-fact_test.txt").unlink()
    with pytest.raises(DataMissing, match="no task of bAbI"):
        Babi()


def test_the_real_stories_are_read() -> None:
    """Those of the tests, which are few."""
    try:
        files = sorted(data.require("babi").glob("qa*_test.txt"))
    except DataMissing as missing:
        pytest.skip(str(missing))
    assert files
    for file in files:
        stories = list(babi.read(file))
        asked = [line for lines in stories for line in lines if line.answer]
        assert len(asked) >= len(stories) > 0
        assert all(line.text.endswith("?") for line in asked)
