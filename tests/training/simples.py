"""A few made-up people and books, as SimpleQuestions and SimpleDBpediaQA write them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.tasks import data, simple_questions
from models.tasks.simple_questions import SimpleQuestions
from workers.tasks import SimpleTask

PEOPLE, BOOKS, PLACES = 60, 40, 12

WORDINGS = {
    "/people/person/place_of_birth": ("where was {} born", "what is the birthplace of {}"),
    "/people/person/profession": ("what does {} do", "what is the profession of {}"),
    "/book/written_work/author": ("who wrote {}", "which author wrote {}"),
    "/book/author/works_written": ("what did {} write", "name a book by {}"),
}

PATHS = {
    "/people/person/place_of_birth": [("ontology/birthPlace", "forward")],
    "/people/person/profession": [
        ("ontology/occupation", "forward"),
        ("property/occupation", "forward"),
    ],
    "/book/written_work/author": [("ontology/author", "forward")],
    "/book/author/works_written": [("ontology/author", "backward")],
}

SITE = "www.freebase.com"


def mid(kind: str, number: int) -> str:
    return f"/m/{kind}{number:02d}"


def called(kind: str, number: int) -> str:
    return {"p": f"Person Zu{number}", "b": f"The Book of Zo{number}", "l": f"Town Zi{number}"}[
        kind
    ]


def write(folder: Path) -> None:
    """Writes both files of questions, the triples and the names into a data folder."""
    rng = np.random.default_rng(4)
    triples = []
    for person in range(PEOPLE):
        places = rng.integers(0, PLACES)
        triples.append((mid("p", person), "/people/person/place_of_birth", mid("l", int(places))))
        triples.append((mid("p", person), "/people/person/profession", "/m/job"))
    for book in range(BOOKS):
        author = mid("p", int(rng.integers(0, PEOPLE)))
        triples.append((mid("b", book), "/book/written_work/author", author))
        triples.append((author, "/book/author/works_written", mid("b", book)))
        triples.append((mid("b", book), "/book/book/genre", "/m/genre"))
    made = folder / "freebase"
    made.mkdir(parents=True)
    (made / "triples.tsv").write_text("".join("\t".join(t) + "\n" for t in triples))
    labels: dict[str, dict[str, Any]] = {
        mid(kind, number): {"label": called(kind, number), "alternatives": []}
        for kind, count in (("p", PEOPLE), ("b", BOOKS), ("l", PLACES))
        for number in range(count)
    }
    labels["/m/p00"]["alternatives"] = ["The Great Zu0"]
    (made / "labels.json").write_text(json.dumps(labels))
    annotated, listed = [], []
    for at, (subject, relation, object_) in enumerate(triples):
        if relation not in WORDINGS:
            continue
        name = labels[subject]["label"].lower()
        wordings = WORDINGS[relation]
        text = wordings[at % len(wordings)].format(name)
        annotated.append((SITE + subject, SITE + relation, SITE + object_, text))
        listed.append(
            {
                "ID": f"{at:05d}",
                "Query": text,
                "Subject": "http://dbpedia.org/resource/"
                + labels[subject]["label"].replace(" ", "_"),
                "FreebasePredicate": SITE + relation,
                "PredicateList": [
                    {
                        "Predicate": f"http://dbpedia.org/{path}",
                        "Direction": direction,
                        "Constraint": None,
                    }
                    for path, direction in PATHS[relation]
                ],
            }
        )
    # One of which SimpleQuestions, as it is here, has no triple; one about who has no name.
    listed.append({**listed[0], "ID": "99999", "Query": "in which town did person zu0 come to be"})
    annotated.append(
        (
            f"{SITE}/m/nobody",
            f"{SITE}/people/person/profession",
            f"{SITE}/m/job",
            "what does nobody do",
        )
    )
    made = folder / "simplequestions"
    made.mkdir()
    (made / "annotated_fb_data.txt").write_text("".join("\t".join(a) + "\n" for a in annotated))
    (made / "dbpedia.json").write_text(json.dumps(listed))


def task() -> SimpleTask:
    """The questions of DBpedia, for who is told of no data folder."""

    def load() -> SimpleQuestions:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            write(Path(folder))
            patch.setenv(data.VARIABLE, folder)
            return simple_questions.load_dbpedia()

    return SimpleTask(source="made-up people and books", load=load)
