"""Tasks: what is known, and what is asked of it, as a recipe names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from memstore.errors import InvalidArgument
from models.tasks.geography_questions import Question, Split
from models.tasks.knowledge import KnowledgeBase
from workers import named


class Asks(Protocol):
    """Draws questions about a knowledge base; the same arguments give the same ones."""

    def __call__(
        self, base: KnowledgeBase, /, *, split: Split, count: int, seed: int, popular_share: float
    ) -> list[Question]: ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a network learns about.

    source: where the knowledge is from, for people. base: reads it, cut to the most popular so
    many where it is told a number. questions: see `Asks`. vocabulary: the ordinary words of the
    training questions.
    """

    source: str
    base: Callable[[int | None], KnowledgeBase]
    questions: Asks
    vocabulary: Callable[[], Iterable[str]]


def _geography() -> Task:
    from models.tasks.geography import load_geography
    from models.tasks.geography_questions import questions, vocabulary

    return Task(
        source="GeoNames",
        base=lambda limit: load_geography(limit=limit),
        questions=questions,
        vocabulary=vocabulary,
    )


NAMES: dict[str, Callable[[], Task]] = {"geography": _geography}
"""By name, what returns the task: it needs what not everybody has installed."""


def task_of(name: str) -> Task:
    """The task of a name, or what `module:function` returns; raises `InvalidArgument`."""
    make = named.find("task", name, NAMES)
    made = make() if callable(make) else make
    if not isinstance(made, Task):
        raise InvalidArgument(
            f"task {name!r} is none", got=type(made).__name__, expected="a workers.tasks.Task"
        )
    return made
