"""Questions about films, 1900 to 2023, that the text of their Wikipedia articles can answer.

Source: English Wikipedia, CC BY-SA; the triples after its lists and boxes, MIT. The formats:

    wikipedia_movies/kb.txt       title (year)|relation|tail, of MetaQA's relations
    wikipedia_movies/plots.tsv    title (year)<TAB>the beginning of the article

A film is its title without the year, which questions ask for; films that share a title are one
entity, as in WikiMovies. Films without a text are left out.

No questions about these films are published. They are made here of the triples, in the wordings in
which those of MetaQA (`models.tasks.metaqa`) ask for the same relations, each as often as there,
and of them only those that can be answered by reading: an answer is named in the article of the
film. Any answer of the triples counts as right. The split is our own, by a hash of the name of what
is asked about.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from pathlib import Path as File
from typing import NamedTuple

import numpy as np

from models.tasks import data, metaqa
from models.tasks.documents import Article
from models.tasks.knowledge import Int64s, KnowledgeBase, TaskDataError
from models.tasks.linking import words
from models.tasks.metaqa import REVERSE, Wording
from models.tasks.paths import Facts
from models.tasks.questions import Question, Split

KB, TEXTS = "wikipedia_movies/kb.txt", "wikipedia_movies/plots.tsv"

_YEAR = re.compile(r" \(\d{4}\)$")


class Asked(NamedTuple):
    """Of the facts of a relation: `facts` there are, and those of `subjects` (int64, rising) have
    an answer in a text."""

    facts: int
    subjects: Int64s


def load_films(*, limit: int | None = None) -> KnowledgeBase:
    """Builds the base of the films that have a text, or of `limit` of them by a hash of the title.

    Entities are numbered as in `metaqa.load_metaqa`. Raises `DataMissing` and `TaskDataError`.
    """
    if limit is not None and limit < 0:
        raise TaskDataError(f"limit={limit}", "None or ≥ 0", "say how many films to keep")
    path, rows = metaqa.triples_of(KB)
    told = {article.title for article in _articles()}
    titles = {_title(head) for head, _, _ in rows} & told
    kept = set(sorted(titles, key=lambda title: (zlib.crc32(title.encode()), title))[:limit])
    triples = [(_title(head), relation, tail) for head, relation, tail in rows]
    return metaqa.base_of(path, [t for t in dict.fromkeys(triples) if t[0] in kept])


def articles(base: KnowledgeBase) -> list[Article]:
    """The texts about the films of a base, in the order of the file."""
    kinds = base.entities["kind"].to_pylist()
    pairs = zip(base.entities["name"].to_pylist(), kinds, strict=True)
    films = {name for name, kind in pairs if kind == "film"}
    return [article for article in _articles() if article.title in films]


def asked(base: KnowledgeBase) -> dict[str, Asked]:
    """By relation that is asked for, the facts that can be asked for: the ceiling of who reads."""
    texts: dict[str, str] = {}
    for title, text in articles(base):
        texts[title] = f"{texts.get(title, '')} {' '.join(words(text))} | "
    names = base.entities["name"].to_pylist()
    said = [f" {' '.join(words(name))} " for name in names]
    subject_G, relation_G, count_G, objects = base.columns()
    start_G = np.cumsum(count_G) - count_G
    found = {}
    for relation in sorted({wording.path[0] for wording in _wordings(base)}):
        rows = np.flatnonzero(relation_G == relation)
        forward = base.relations[relation] in REVERSE
        subjects = []
        for g in rows.tolist():
            subject = int(subject_G[g])
            for other in objects[start_G[g] : start_G[g] + count_G[g]].tolist():
                film, answer = (subject, other) if forward else (other, subject)
                if said[answer] in texts.get(names[film], ""):
                    subjects.append(subject)
                    break
        found[base.relations[relation]] = Asked(len(rows), np.array(subjects, np.int64))
    return found


def questions(
    base: KnowledgeBase, *, split: Split, count: int, seed: int, popular_share: float = 0.0
) -> list[Question]:
    """Makes `count` questions of a split; see `workers.tasks.Asks`."""
    if split not in ("train", "test"):
        raise TaskDataError(f"split {split!r}", "'train' or 'test'", "choose one")
    names = base.entities["name"].to_pylist()
    own = {}
    for name, (_, subjects) in asked(base).items():
        held = np.array([metaqa.held_out(names[s]) for s in subjects.tolist()], bool)
        own[base.relation(name)] = subjects[held == (split == "test")]
    rng = np.random.default_rng(seed)
    return metaqa.generated(base, Facts(base), _wordings(base), own, count, popular_share, rng)


def vocabulary() -> frozenset[str]:
    """The words of the wordings to learn from."""
    return metaqa.vocabulary(1)


def _wordings(base: KnowledgeBase) -> list[Wording]:
    """Those of MetaQA that ask for relations of this base, by its numbers."""
    _, relation_G, _, _ = base.columns()
    used = {base.relations[relation] for relation in np.unique(relation_G).tolist()}
    return [
        Wording(text, (base.relation(name),), times)
        for text, name, times in _named_wordings(data.data_dir())
        if name in used
    ]


@lru_cache(maxsize=1)
def _named_wordings(folder: File) -> list[tuple[str, str, int]]:
    """The wordings of a data folder, by the name of their relation."""
    base = metaqa.load_metaqa()
    found = metaqa.wordings_of(base, Facts(base), 1)
    return [(text, base.relations[path[0]], times) for text, path, times in found]


def _articles() -> list[Article]:
    path = data.require(TEXTS)
    rows = [data.split(path, number, line, "\t", 2) for number, line in data.lines(path)]
    return [Article(_title(title), text) for title, text in rows]


def _title(titled: str) -> str:
    return _YEAR.sub("", titled)
