"""Simple questions: one fact answers each, found by its subject and its relation.

SimpleQuestions, Bordes et al. 2015, arXiv 1506.02075, and SimpleDBpediaQA, Azmy et al. 2018,
"Farewell Freebase: Migrating the SimpleQuestions Dataset to DBpedia"; CC BY 3.0, Freebase CC BY.
The published formats, an entity or relation of Freebase with or without www.freebase.com before:

    simplequestions/annotated_fb_data.txt   subject<TAB>relation<TAB>object<TAB>question
    simplequestions/dbpedia.json            [{"Query", "Subject", "FreebasePredicate",
                                              "PredicateList": [{"Predicate", "Direction"}]}]
    freebase/triples.tsv                    subject<TAB>relation<TAB>object
    freebase/labels.json                    {entity: {"label", "alternatives": []}}

The split is our own, since the official training file is not to be had: questions about a fifth
of the subjects, by a hash of their names, are held out for testing, so that no question to learn
from is about a subject of the test.

The bases are what is at hand, and smaller than the published ones:

* `freebase`: the triples of Freebase and those of the questions. Tested are questions whose subject
  has a name in labels.json, about one in six.
* `dbpedia`: the facts that the questions ask for, named in the terms of DBpedia, and as facts
  beside them all triples of Freebase. An entity of Freebase that a question of both files is about
  is that of DBpedia. A relation of Freebase is that of DBpedia for which it stands most often in
  the questions to learn from, or else keeps its own name. What is asked of a subject is not told a
  second time in Freebase's terms. SimpleDBpediaQA has no objects: those of Freebase are taken
  where the question is in both files, and else one entity that stands for what is not known.

Questions of SimpleQuestions about subjects without a name, and those that SimpleDBpediaQA left out
but whose relation stands for one of DBpedia, are learnt from as well: they say which words ask for
which relation.

A relation that a question of DBpedia reads backwards is one of its own. Constraints on the kind
of the answer are passed over: what is looked for is the fact, by (subject, relation), any of those
that a question lists.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from models.tasks import data
from models.tasks.knowledge import (
    ALIAS_SCHEMA,
    ENTITY_SCHEMA,
    KnowledgeBase,
    TaskDataError,
    Triples,
    group_facts,
)
from models.tasks.linking import words

HELD_OUT = 5
"""One subject of so many is held out."""

UNKNOWN = "?"
"""The object of a fact of which no object is known."""

SITE = "www.freebase.com"

PREFIXES = {
    "http://dbpedia.org/ontology/": "dbo:",
    "http://dbpedia.org/property/": "dbp:",
    "http://purl.org/linguistics/gold/": "gold:",
    "http://xmlns.com/foaf/0.1/": "foaf:",
}

_RESOURCE = "http://dbpedia.org/resource/"
_BRACKETS = re.compile(r"\s*\([^)]*\)")
_APOSTROPHES = re.compile("['’ʻʼ]")


@dataclass(frozen=True, slots=True, eq=False)
class SimpleQuestion:
    """Asks for one fact.

    subject: the entity. relations: their numbers, of which each is right, rising.
    """

    text: str
    subject: int
    relations: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SimpleQuestions:
    """A base, and questions about it: those to learn from, and those about held-out subjects.

    others: to learn from as well, about subjects that no name need lead to.
    """

    base: KnowledgeBase
    train: list[SimpleQuestion]
    test: list[SimpleQuestion]
    others: list[SimpleQuestion]

    @property
    def taught(self) -> list[SimpleQuestion]:
        """All that are learnt from."""
        return [*self.train, *self.others]

    def vocabulary(self, least: int = 2) -> frozenset[str]:
        """Words, and pairs of neighbours, that stand in at least so many training questions."""
        counts = Counter(gram for q in self.taught for gram in set(grams(q.text)))
        return frozenset(gram for gram, count in counts.items() if count >= least)


class Annotated(NamedTuple):
    """A question of SimpleQuestions, with the triple that answers it."""

    subject: str
    relation: str
    object: str
    text: str


class Listed(NamedTuple):
    """A question of SimpleDBpediaQA. relation: that of Freebase. paths: those of DBpedia."""

    text: str
    subject: str
    relation: str
    paths: tuple[str, ...]


Fact = tuple[str, str, str]

T = TypeVar("T")


def grams(text: str) -> list[str]:
    """The words of a text, and its pairs of neighbours with a space between."""
    own = words(text)
    return [*own, *(f"{a} {b}" for a, b in itertools.pairwise(own))]


def held_out(subject: str) -> bool:
    """Whether questions about a subject are for testing."""
    return zlib.crc32(subject.encode()) % HELD_OUT == 0


def load_freebase() -> SimpleQuestions:
    """SimpleQuestions about subjects that have a name. Raises `DataMissing`, `TaskDataError`."""
    annotated, names = read_annotated(), read_labels()
    facts = [*read_triples(), *(question[:3] for question in annotated)]
    base, number, relations = _base(facts, names)
    asked = [
        (q.subject, SimpleQuestion(q.text, number[q.subject], (relations[q.relation],)))
        for q in annotated
    ]
    named = [one for one in asked if one[0] in names]
    return _split(base, named, [one for one in asked if one[0] not in names])


def load_dbpedia() -> SimpleQuestions:
    """SimpleDBpediaQA. Raises `DataMissing` and `TaskDataError`."""
    listed, annotated, labels = read_dbpedia(), read_annotated(), read_labels()
    triple_of = {(q.text.strip(), q.relation): q for q in annotated}
    known = [triple_of.get((q.text.strip(), q.relation)) for q in listed]
    resource = {a.subject: q.subject for q, a in zip(listed, known, strict=True) if a is not None}
    stands_for = _stands_for(q for q in listed if not held_out(q.subject))

    def entity(key: str) -> str:
        return resource.get(key, key)

    asked = {(q.subject, q.relation) for q in listed}
    texts = {q.text.strip() for q in listed}
    left_out = [q for q in annotated if q.text.strip() not in texts]
    facts = [
        (entity(subject), stands_for.get(relation, relation), entity(object_))
        for subject, relation, object_ in [*read_triples(), *(q[:3] for q in left_out)]
        if (entity(subject), relation) not in asked
    ]
    for question, triple in zip(listed, known, strict=True):
        object_ = UNKNOWN if triple is None else entity(triple.object)
        facts += ((question.subject, path, object_) for path in question.paths)
    names = {entity(key): called for key, called in labels.items()}
    for question in listed:
        title = unquote(question.subject.removeprefix(_RESOURCE)).replace("_", " ")
        names[question.subject] = [title, *names.get(question.subject, ())]
    base, number, relations = _base(facts, names)

    def numbered(text: str, subject: str, paths: Iterable[str]) -> tuple[str, SimpleQuestion]:
        right = tuple(sorted(relations[path] for path in paths))
        return subject, SimpleQuestion(text, number[subject], right)

    return _split(
        base,
        [numbered(q.text, q.subject, q.paths) for q in listed],
        [
            numbered(q.text, entity(q.subject), [stands_for[q.relation]])
            for q in left_out
            if q.relation in stands_for and (entity(q.subject), q.relation) not in asked
        ],
    )


def _stands_for(listed: Iterable[Listed]) -> dict[str, str]:
    """For which relation of DBpedia one of Freebase stands most often."""
    votes: dict[str, Counter[str]] = {}
    for question in listed:
        votes.setdefault(question.relation, Counter()).update(question.paths)
    return {
        relation: min(counts, key=lambda path: (-counts[path], path))
        for relation, counts in votes.items()
    }


def read_annotated() -> list[Annotated]:
    """The questions of SimpleQuestions."""
    path = data.require("simplequestions/annotated_fb_data.txt")
    return [Annotated(*map(_bare, parts)) for parts in _rows(path, 4)]


def read_triples() -> list[Fact]:
    """The triples of Freebase."""
    path = data.require("freebase/triples.tsv")
    return [(_bare(s), _bare(r), _bare(o)) for s, r, o in _rows(path, 3)]


def read_labels() -> dict[str, list[str]]:
    """The names of entities of Freebase, the first of each its label."""
    told = _json(data.require("freebase/labels.json"), dict)
    return {_bare(key): [of["label"], *of.get("alternatives", ())] for key, of in told.items()}


def read_dbpedia() -> list[Listed]:
    """The questions of SimpleDBpediaQA."""
    path = data.require("simplequestions/dbpedia.json")
    found = []
    for told in _json(path, list):
        try:
            paths = dict.fromkeys(_path(one) for one in told["PredicateList"])
            subject, relation = told["Subject"], _bare(told["FreebasePredicate"])
            found.append(Listed(told["Query"], subject, relation, tuple(paths)))
        except (KeyError, TypeError) as error:
            raise TaskDataError(
                f"{path}: {str(told)[:200]} ({error!r})", "a question as published", "mend it"
            ) from error
    return found


def spelt(name: str) -> list[str]:
    """How a name may stand in a question, as words: whole, without what stands in brackets, and
    without what follows a comma (Robert Harris (painter), Clyde, Missouri); with an apostrophe
    between two words, or with none (Zeke's Pad)."""
    plain = _BRACKETS.sub("", name)
    forms = [name, plain, plain.partition(",")[0]]
    forms += [_APOSTROPHES.sub("", form) for form in forms]
    found = (" ".join(words(form)) for form in forms)
    return [form for form in dict.fromkeys(found) if form]


def _base(
    facts: list[Fact], names: Mapping[str, list[str]]
) -> tuple[KnowledgeBase, dict[str, int], dict[str, int]]:
    """The base, and the numbers of entities and relations. Entities are numbered by falling
    weight, the number of triples that they are in; who has no name is called as in the source,
    and no alias leads there."""
    keys = list(dict.fromkeys(key for subject, _, object_ in facts for key in (subject, object_)))
    relations = {name: i for i, name in enumerate(sorted({fact[1] for fact in facts}))}
    first = {key: i for i, key in enumerate(keys)}
    subjects, objects = (np.array([first[fact[at]] for fact in facts], np.int64) for at in (0, 2))
    weights = np.bincount(np.concatenate([subjects, objects]), minlength=len(keys))
    order = np.argsort(-weights, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    triples = Triples(
        rank[subjects], np.array([relations[fact[1]] for fact in facts], np.int64), rank[objects]
    )
    weights = weights[order].astype(np.int64)
    ranked = [keys[i] for i in order]
    called = [names.get(key, ()) for key in ranked]
    aliases = [
        (form, number)
        for number, own in enumerate(called)
        for form in dict.fromkeys(form for name in own for form in spelt(name))
    ]
    base = KnowledgeBase(
        pa.table(
            [
                [own[0] if own else key for own, key in zip(called, ranked, strict=True)],
                ["named" if own else "unnamed" for own in called],
                weights,
            ],
            schema=ENTITY_SCHEMA,
        ),
        tuple(relations),
        group_facts(triples, weights),
        pa.table([[form for form, _ in aliases], [n for _, n in aliases]], schema=ALIAS_SCHEMA),
    )
    return base, {key: i for i, key in enumerate(ranked)}, relations


def _split(
    base: KnowledgeBase,
    asked: list[tuple[str, SimpleQuestion]],
    others: list[tuple[str, SimpleQuestion]],
) -> SimpleQuestions:
    train, test = (
        [question for subject, question in asked if held_out(subject) == held]
        for held in (False, True)
    )
    kept = [question for subject, question in others if not held_out(subject)]
    return SimpleQuestions(base, train, test, kept)


def _path(told: Mapping[str, str]) -> str:
    uri, direction = told["Predicate"], told["Direction"]
    for long, short in PREFIXES.items():
        uri = uri.replace(long, short)
    return uri if direction == "forward" else f"{uri} backward"


def _bare(text: str) -> str:
    return text.removeprefix(SITE)


def _rows(path: Path, parts: int) -> list[list[str]]:
    return [data.split(path, number, line, "\t", parts) for number, line in data.lines(path)]


def _json(path: Path, kind: type[T]) -> T:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TaskDataError(f"{path}: {error}", "JSON", "get it again") from error
    if not isinstance(told, kind):
        raise TaskDataError(
            f"{path}: {type(told).__name__}", f"a JSON {kind.__name__}", "get it again"
        )
    return told
