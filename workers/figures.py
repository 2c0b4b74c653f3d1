"""What a test of a network gives: the figures that all tasks have, and those of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """counts: of those of kind i, how many were taken for kind j. names: of the kinds."""

    names: list[str]
    counts: list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one test.

    case: in which way, or of which part of the task.  questions: or episodes.
    hits_1: share of them whose first answer is right: the accuracy.
    candidate_recall: share whose right answer could be reached from the rows proposed.
    scored: cells (rows of a memory, words of an episode's) scored for a question, the mean.
    seconds: of the whole test.  bytes: of main memory that rows, index and records take.
    None is what the network does not have.
    more: figures by what they are called.  kinds: by kind of question: how many, hits@1, candidate
    recall.  confusion: of kinds, where they can be mixed up.
    """

    case: str
    questions: int
    hits_1: float
    candidate_recall: float | None = None
    scored: float | None = None
    seconds: float
    bytes: int | None = None
    more: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    confusion: Confusion | None = None

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Evaluation:
        mixed = told["confusion"]
        confusion = None if mixed is None else Confusion(**mixed)
        return cls(**{**told, "confusion": confusion})


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a paper reports of such a network on such a task.

    figure: share of questions answered rightly.  source: who reports it.  note: how data or
    training differ from here.
    """

    figure: float
    source: str
    note: str = ""
