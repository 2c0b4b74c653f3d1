"""Questions about films, of one, two and three hops: MetaQA over the WikiMovies knowledge base.

Source: Zhang et al. 2018, "Variational Reasoning for Question Answering with Knowledge Graph",
arXiv 1709.04071, and Miller et al. 2016, arXiv 1606.03126; CC BY 3.0. The published formats:

    metaqa/kb.txt      head|relation|tail
    metaqa/1hop.txt    a question about [an entity]<TAB>answer|answer          also 2hop, 3hop

An entity is its name. What a question is about stands in brackets, as published.

The split is our own: questions about a fifth of the entities, by a hash of their names, are held
out for testing. What is learnt from are the other questions, and as many more as are asked for,
made of the base with the wordings of those: about entities that are not held out, each wording as
often as it was found, asking for what is reached along the relations that lead to its answers.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as File
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from models.tasks import data
from models.tasks.knowledge import (
    ALIAS_SCHEMA,
    ENTITY_SCHEMA,
    Int64s,
    KnowledgeBase,
    TaskDataError,
    Triples,
    group_facts,
    with_reversed,
)
from models.tasks.linking import words
from models.tasks.paths import Facts, Path
from models.tasks.questions import Question, Split

REVERSE = {
    "directed_by": "directed",
    "written_by": "wrote",
    "starred_actors": "acted in",
    "release_year": "year of",
    "in_language": "language of",
    "has_genre": "genre of",
    "has_tags": "tag of",
    "has_imdb_rating": "rating of",
    "has_imdb_votes": "votes of",
}
"""What each relation is called when it is read backwards."""

HELD_OUT = 5
"""One entity of so many is held out."""

VOTES = 12
"""Questions by which the relations that a wording asks for are found."""

_SUBJECT = re.compile(r"\[([^\]]*)\]")


class Given(NamedTuple):
    """A question of a file."""

    text: str
    subject: str
    answers: list[str]

    @property
    def wording(self) -> str:
        """The text with {} in the place of the subject."""
        return _SUBJECT.sub("{}", self.text)


class Wording(NamedTuple):
    """How relations are asked for.  times: questions that ask so."""

    text: str
    path: Path
    times: int


def load_metaqa(*, limit: int | None = None) -> KnowledgeBase:
    """Builds the base over all entities, or over the `limit` that are in most triples.

    Entities are numbered by falling weight, the number of triples that they are in, so those of a
    limited base are the first of the full one. Raises `DataMissing` and `TaskDataError`.
    """
    if limit is not None and limit < 0:
        raise TaskDataError(f"limit={limit}", "None or ≥ 0", "say how many entities to keep")
    return base_of(*triples_of("metaqa/kb.txt"), limit)


def triples_of(name: str) -> tuple[File, list[list[str]]]:
    """A file of the data folder, and its lines of head, relation and tail."""
    path = data.require(name)
    return path, [data.split(path, number, line, "|", 3) for number, line in data.lines(path)]


def base_of(path: File, rows: Sequence[Sequence[str]], limit: int | None = None) -> KnowledgeBase:
    """The base of triples (head, relation, tail) out of a file: see `load_metaqa`."""
    known = {name: number for number, name in enumerate(REVERSE)}
    unknown = sorted({relation for _, relation, _ in rows} - set(known))
    if unknown:
        raise TaskDataError(f"relations {unknown} in {path}", f"some of {list(known)}", "drop them")
    names = list(dict.fromkeys(name for head, _, tail in rows for name in (head, tail)))
    first = {name: number for number, name in enumerate(names)}
    heads, tails = (np.array([first[row[at]] for row in rows], np.int64) for at in (0, 2))
    relations = np.array([known[row[1]] for row in rows], np.int64)
    weights = np.bincount(heads, minlength=len(names)) + np.bincount(tails, minlength=len(names))
    order = np.argsort(-weights, kind="stable")[:limit]
    number = np.full(len(names), len(names))
    number[order] = np.arange(len(order))
    heads, tails = number[heads], number[tails]
    kept = (heads < len(order)) & (tails < len(order))
    triples = Triples(heads[kept], relations[kept], tails[kept])
    both, called = with_reversed(triples, tuple(known), REVERSE)
    kind = np.full(len(order), len(known))
    kind[triples.objects] = triples.relations
    kinds = [*known, "film"]
    kind[triples.subjects] = len(known)
    weights = weights[order].astype(np.int64)
    own = pa.array([names[i] for i in order], pa.string())
    return KnowledgeBase(
        pa.table([own, [kinds[k] for k in kind.tolist()], weights], schema=ENTITY_SCHEMA),
        called,
        group_facts(both, weights),
        pa.table([own, np.arange(len(order))], schema=ALIAS_SCHEMA),
    )


def questions_of(hops: int) -> Callable[..., list[Question]]:
    """What draws questions of 1, 2 or 3 hops, as `workers.tasks.Asks` says."""

    def questions(
        base: KnowledgeBase, *, split: Split, count: int, seed: int, popular_share: float = 0.0
    ) -> list[Question]:
        """Those of a split, in an order that the seed decides, at most `count`.

        Of "train", generated ones join them up to `count`; popular_share, 0 to 1: of their
        subjects, drawn in proportion to their weight. Answers that the base does not have are left
        out, and a question about an entity that it does not have keeps its subject as −1: neither
        can be answered, and both count as asked.
        """
        if split not in ("train", "test"):
            raise TaskDataError(f"split {split!r}", "'train' or 'test'", "choose one")
        rng = np.random.default_rng(seed)
        facts = Facts(base)
        names = base.entities["name"].to_pylist()
        number = {name: i for i, name in enumerate(names)}
        wordings = wordings_of(base, facts, hops)
        held = split == "test"
        given = [question for question in read(hops) if held_out(question.subject) == held]
        path_of = {wording.text: wording.path for wording in wordings}
        asked = [_numbered(facts, number, question, path_of, hops) for question in given]
        asked = [asked[i] for i in rng.permutation(len(asked))[:count]]
        if split == "train":
            subjects = {
                relation: np.array(
                    [s for s in facts.subjects(relation) if not held_out(names[s])], np.int64
                )
                for relation in {wording.path[0] for wording in wordings}
            }
            more = count - len(asked)
            asked += generated(base, facts, wordings, subjects, more, popular_share, rng)
        return asked

    return questions


def vocabulary(hops: int) -> frozenset[str]:
    """The words of the wordings to learn from."""
    taught = (question for question in read(hops) if not held_out(question.subject))
    return frozenset(w for text in {q.wording for q in taught} for w in words(text))


def read(hops: int) -> list[Given]:
    """The questions of a file, as published."""
    path = data.require(f"metaqa/{hops}hop.txt")
    found = []
    for number, line in data.lines(path):
        text, answers = data.split(path, number, line, "\t", 2)
        subject = _SUBJECT.findall(text)
        if len(subject) != 1:
            raise TaskDataError(
                f"{path}:{number}: {text!r}", "one entity in brackets", "mend or drop the line"
            )
        found.append(Given(text, subject[0], answers.split("|")))
    return found


def held_out(name: str) -> bool:
    """Whether questions about an entity are for testing."""
    return zlib.crc32(name.encode()) % HELD_OUT == 0


def _numbered(
    facts: Facts, number: dict[str, int], given: Given, path_of: dict[str, Path], hops: int
) -> Question:
    subject = number.get(given.subject, -1)
    answers = facts.ordered({number[name] for name in given.answers if name in number})
    path = path_of.get(given.wording) or facts.likeliest([(subject, set(answers.tolist()))], hops)
    # Relations say what kind of question it is, for those who count: none is told to a network.
    return Question(given.text, subject, path or (0,) * hops, answers, given.subject)


def wordings_of(base: KnowledgeBase, facts: Facts, hops: int) -> list[Wording]:
    """How the questions to learn from ask."""
    number = {name: i for i, name in enumerate(base.entities["name"].to_pylist())}
    groups: dict[str, list[Given]] = {}
    for given in read(hops):
        if held_out(given.subject):
            continue
        groups.setdefault(given.wording, []).append(given)
    found = []
    for text, group in groups.items():
        sample = group[:: max(1, len(group) // VOTES)][:VOTES]
        asked = [
            (number.get(given.subject, -1), {number[a] for a in given.answers if a in number})
            for given in sample
        ]
        path = facts.likeliest(asked, hops)
        if path is not None:
            found.append(Wording(text, path, len(group)))
    return found


def generated(
    base: KnowledgeBase,
    facts: Facts,
    wordings: Sequence[Wording],
    subjects: Mapping[int, Int64s],
    count: int,
    popular_share: float,
    rng: np.random.Generator,
) -> list[Question]:
    """Makes questions in the wordings, each as often as it was found.

    subjects: by first relation, what may be asked about.
    """
    names = base.entities["name"].to_pylist()
    drawn = {relation: (own, np.cumsum(base.weights[own])) for relation, own in subjects.items()}
    wordings = [wording for wording in wordings if len(subjects[wording.path[0]])]
    shares = np.array([wording.times for wording in wordings], float)
    made: list[Question] = []
    while len(made) < count and wordings:
        wording = wordings[rng.choice(len(wordings), p=shares / shares.sum())]
        own, heaped = drawn[wording.path[0]]
        if rng.random() < popular_share:
            subject = int(own[np.searchsorted(heaped, rng.integers(0, heaped[-1]), side="right")])
        else:
            subject = int(own[rng.integers(0, len(own))])
        answers = facts.follow(subject, wording.path)
        if len(answers):
            name = names[subject]
            text = wording.text.replace("{}", f"[{name}]")
            made.append(Question(text, subject, wording.path, answers, name))
    return made
