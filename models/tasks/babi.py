"""The bAbI tasks: short stories about a made-up world, with questions in between.

Source: Weston et al. 2015, arXiv 1502.05698. The published format, `babi/qa1_train.txt` or
`babi/qa1_single-supporting-fact_train.txt`, and the same of `test`:

    1 Mary moved to the bathroom.
    2 Where is Mary?<TAB>bathroom<TAB>1

A line of number 1 begins a story. Which lines support an answer is not read.

As in Graves et al. 2016 (Nature 538) and Rae et al. 2016, arXiv 1610.09027, appendix G, a story is
one sequence of words of small letters, one a step, one-hot; `.` and `?` are words. Behind a
question stands a `-` for each word of its answer: there it is to be said, and nowhere else. One
network learns all tasks; a question is answered rightly where all words of its answer are.

A twentieth of the training stories, by a hash of their text, is held out for validation.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from models.tasks import data
from models.tasks.knowledge import TaskDataError
from models.tasks.sequences import Case, Episodes, SequenceTask

TASKS = {
    1: "single supporting fact",
    2: "two supporting facts",
    3: "three supporting facts",
    4: "two argument relations",
    5: "three argument relations",
    6: "yes/no questions",
    7: "counting",
    8: "lists/sets",
    9: "simple negation",
    10: "indefinite knowledge",
    11: "basic coreference",
    12: "conjunction",
    13: "compound coreference",
    14: "time reasoning",
    15: "basic deduction",
    16: "basic induction",
    17: "positional reasoning",
    18: "size reasoning",
    19: "path finding",
    20: "agent's motivations",
}

ANSWER = "-"
"""Stands where a word of an answer is to be said."""

HELD_OUT = 20
"""One story of so many is for validation."""

CHOICE = 8
"""A batch is one of so many that are drawn together and sorted by length."""

Part = Literal["train", "validation", "test"]
Int16s = npt.NDArray[np.int16]

_WORD = re.compile(r"[\w']+|[.?]")
_LINE = re.compile(r"(\d+) (.*)")


class Story(NamedTuple):
    """heard_T: words by their number.  said_T: the word to be said, −1 for none."""

    heard_T: Int16s
    said_T: Int16s


class Line(NamedTuple):
    """answer: None where nothing is asked."""

    text: str
    answer: str | None


class Stories(NamedTuple):
    """words: of the training stories, by number.  parts: stories by task number."""

    words: tuple[str, ...]
    parts: dict[Part, dict[int, list[Story]]]


class Babi(SequenceTask):
    """All tasks of the data folder as one. Raises `DataMissing` and `TaskDataError`."""

    source = "bAbI"
    credit = "Stories: bAbI tasks (Weston et al. 2015); of their generator, BSD."
    failed = 0.05

    def __init__(self) -> None:
        self.words, self.parts = load(data.require("babi"))
        self.inputs = self.outputs = len(self.words)
        trained = self.parts["train"]
        self._first = np.cumsum([0, *map(len, trained.values())])
        self._stories = [story for stories in trained.values() for story in stories]
        self._lengths = np.array([len(story.heard_T) for story in self._stories])

    def draw(self, rng: np.random.Generator, batch: int, length: int = 1) -> Episodes:
        """Training stories, each of a task drawn from all alike, of lengths near one another.

        length: is not asked.
        """
        task = rng.integers(0, len(self._first) - 1, CHOICE * batch)
        drawn = rng.integers(self._first[task], self._first[task + 1])
        drawn = drawn[np.argsort(self._lengths[drawn], kind="stable")]
        first = batch * int(rng.integers(0, CHOICE))
        return self.episodes([self._stories[i] for i in drawn[first : first + batch]])

    def loss(self, said_AY: Tensor, targets_A: Tensor) -> Tensor:
        """The mean cost of a word of an answer, in bits."""
        return functional.cross_entropy(said_AY, targets_A) / math.log(2)

    def right(self, said_AY: Tensor, targets_A: Tensor) -> Tensor:
        return said_AY.argmax(1) == targets_A

    def judged(self, asked_TB: Tensor, right_A: Tensor) -> Tensor:
        """Which questions are answered rightly: those of whose answers all words are right.

        Words asked for in steps that follow one another are of one answer.
        """
        right_TB = torch.zeros_like(asked_TB)
        right_TB[asked_TB] = right_A
        asked_BT, right_BT = asked_TB.T, right_TB.T
        begins_BT = asked_BT & ~functional.pad(asked_BT[:, :-1], (1, 0))
        question_A = begins_BT.flatten().cumsum(0)[asked_BT.flatten()] - 1
        wrong_Q = torch.zeros(int(begins_BT.sum()), dtype=torch.int64)
        return wrong_Q.index_add(0, question_A, (~right_BT[asked_BT]).long()) == 0

    def tests(self, seed: int, batch: int, episodes: int, level: int) -> Iterator[Case]:
        """The test stories of each task, the first so many."""
        return self.cases("test", batch, episodes)

    def cases(self, part: Part, batch: int, episodes: int) -> Iterator[Case]:
        """The first so many stories of each task, those of near lengths together."""
        for number, stories in self.parts[part].items():
            if stories:
                taken = sorted(stories[:episodes], key=lambda story: len(story.heard_T))
                blocks = (taken[i : i + batch] for i in range(0, len(taken), batch))
                yield Case(f"{number}: {TASKS[number]}", map(self.episodes, blocks))

    def episodes(self, stories: list[Story]) -> Episodes:
        """Stories side by side; behind the end of one nothing is heard."""
        longest = max(len(story.heard_T) for story in stories)
        inputs_TBX = torch.zeros(longest, len(stories), self.inputs)
        said_TB = np.full((longest, len(stories)), -1)
        for b, story in enumerate(stories):
            heard_T = torch.from_numpy(story.heard_T.astype(np.int64))
            inputs_TBX[torch.arange(len(heard_T)), b, heard_T] = 1
            said_TB[: len(heard_T), b] = story.said_T
        return Episodes(inputs_TBX, torch.from_numpy(said_TB), torch.from_numpy(said_TB >= 0))


def commonest(stories: Iterable[Story]) -> tuple[int, ...]:
    """The answer given most often, the first of equal ones: its words by number."""
    found = Counter(answer for story in stories for answer in answers(story))
    return max(found, key=found.__getitem__)


def answers(story: Story) -> Iterator[tuple[int, ...]]:
    """The answers of a story, each its words by number."""
    asked = np.flatnonzero(story.said_T >= 0)
    for words in np.split(asked, np.flatnonzero(np.diff(asked) > 1) + 1):
        if len(words):
            yield tuple(story.said_T[words].tolist())


@lru_cache(maxsize=1)
def load(folder: Path) -> Stories:
    """Reads all tasks of a folder that have both files."""
    number: dict[str, int] = {ANSWER: 0}
    parts: dict[Part, dict[int, list[Story]]] = {"train": {}, "validation": {}, "test": {}}
    files = {task: [_file(folder, task, part) for part in ("train", "test")] for task in TASKS}
    there = {task: (train, test) for task, (train, test) in files.items() if train and test}
    if not there:
        raise data.DataMissing(f"no task of bAbI in {folder}: expected qa1_train.txt, qa1_test.txt")
    for task, (train, _) in there.items():
        parts["train"][task], parts["validation"][task] = [], []
        for lines in read(train):
            held_out = zlib.crc32("\n".join(line.text for line in lines).encode()) % HELD_OUT == 0
            story = _encoded(lines, number)
            parts["validation" if held_out else "train"][task].append(story)
        if not parts["train"][task]:
            raise TaskDataError(
                f"no story to learn from in {train}", "some", "get more of the task"
            )
    known = len(number)
    for task, (_, test) in there.items():
        parts["test"][task] = [_encoded(lines, number) for lines in read(test)]
        if len(number) > known:
            new = list(number)[known:][:5]
            raise TaskDataError(
                f"words {new} in {test}", "those of the training files", "test on the same tasks"
            )
    return Stories(tuple(number), parts)


def read(path: Path) -> Iterator[list[Line]]:
    """The stories of a file that ask anything."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TaskDataError(f"{path}: {error}", "UTF-8", "convert the file") from error
    story: list[Line] = []
    before = 0
    for at, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        numbered = _LINE.match(line)
        number = int(numbered[1]) if numbered else 0
        if numbered is None or number not in (1, before + 1):
            raise TaskDataError(
                f"{path}:{at}: {line!r}", f"a line of number 1 or {before + 1}", "mend it"
            )
        if number == 1:
            if any(line.answer for line in story):
                yield story
            story = []
        before = number
        sentence, *columns = numbered[2].split("\t")
        if len(columns) not in (0, 1, 2) or (columns and not _WORD.search(columns[0])):
            raise TaskDataError(
                f"{path}:{at}: {line!r}", "a sentence, or question, answer and lines", "mend it"
            )
        story.append(Line(sentence, columns[0] if columns else None))
    if any(line.answer for line in story):
        yield story


def _encoded(lines: list[Line], number: dict[str, int]) -> Story:
    """A story by the numbers of its words, which new ones get here."""
    heard: list[int] = []
    said: list[int] = []
    for line in lines:
        heard += _numbered(line.text, number)
        said += [-1] * (len(heard) - len(said))
        if line.answer is not None:
            said += _numbered(line.answer, number)
            heard += [number[ANSWER]] * (len(said) - len(heard))
    return Story(np.array(heard, np.int16), np.array(said, np.int16))


def _numbered(text: str, number: dict[str, int]) -> list[int]:
    return [number.setdefault(word, len(number)) for word in _WORD.findall(text.lower())]


def _file(folder: Path, task: int, part: str) -> Path | None:
    """The file of a task, by its short name or its published one."""
    found = [*folder.glob(f"qa{task}_{part}.txt"), *sorted(folder.glob(f"qa{task}_*_{part}.txt"))]
    return found[0] if found else None
