"""Simple questions: the published formats, the bases made of them, the split by subject."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.tasks import data, simple_questions
from models.tasks.data import DataMissing
from models.tasks.knowledge import TaskDataError
from models.tasks.simple_questions import SimpleQuestions, grams, spelt
from tests.training import simples


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    simples.write(tmp_path / "data")
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


def number(asked: SimpleQuestions, name: str) -> int:
    return asked.base.entities["name"].to_pylist().index(name)


def relations(asked: SimpleQuestions, name: str) -> set[str]:
    subject, relation, _, _ = asked.base.columns()
    own = relation[subject == number(asked, name)]
    return {asked.base.relations[r] for r in own}


def test_freebase_has_all_triples_and_asks_about_those_with_a_name(folder: Path) -> None:
    asked = simple_questions.load_freebase()
    assert relations(asked, "The Book of Zo3") == {"/book/written_work/author", "/book/book/genre"}
    nobody = number(asked, "/m/nobody")
    assert asked.base.entities["kind"][nobody].as_py() == "unnamed"
    assert len(asked.base.objects(nobody, asked.base.relation("/people/person/profession"))) == 1
    assert not any(q.subject == nobody for q in [*asked.train, *asked.test])
    # Nobody finds them, but their questions say what asks for a relation.
    assert [q.text for q in asked.others if q.subject == nobody] == ["what does nobody do"]
    assert not {q.subject for q in asked.others} & {q.subject for q in asked.test}
    assert nobody not in asked.base.aliases["entity"].to_pylist()
    own = asked.base.aliases.filter(
        np.equal(asked.base.aliases["entity"].to_numpy(), number(asked, "Person Zu0"))
    )
    assert set(own["alias"].to_pylist()) == {"person zu0", "the great zu0"}
    assert (np.diff(asked.base.weights) <= 0).all()


def test_dbpedia_names_what_is_asked_for_and_what_stands_beside_it(folder: Path) -> None:
    asked = simple_questions.load_dbpedia()
    # Asked for in the terms of DBpedia, once; what nobody asks for keeps its own name.
    assert relations(asked, "The Book of Zo3") == {"dbo:author", "/book/book/genre"}
    people = relations(asked, "Person Zu0")
    assert people >= {"dbo:birthPlace", "dbo:occupation", "dbp:occupation"}
    assert not any(name.startswith("/people") for name in people)
    assert "dbo:author backward" in asked.base.relations
    for question in [*asked.train, *asked.test]:
        for relation in question.relations:
            assert len(asked.base.objects(question.subject, relation))
        assert len(question.relations) == 2 * (
            "prof" in question.text or " do" in question.text
        ) or (len(question.relations) == 1)
    # A fact of Freebase that nobody asks for, about a subject of both, in the terms of DBpedia.
    path = folder / "freebase/triples.tsv"
    path.write_text(path.read_text() + "/m/l05\t/people/person/profession\t/m/job\n")
    assert relations(simple_questions.load_dbpedia(), "Town Zi5") == {"dbo:occupation"}
    # One that DBpedia left out is learnt from in its terms, where there are some.
    assert [q.text for q in asked.others] == ["what does nobody do"]
    assert [asked.base.relations[r] for r in asked.others[0].relations] == ["dbo:occupation"]
    # What is not known of an object is one entity.
    [question] = [q for q in [*asked.train, *asked.test] if "come to be" in q.text]
    objects = asked.base.objects(question.subject, question.relations[0])
    assert asked.base.entities["name"][int(objects[-1])].as_py() == simple_questions.UNKNOWN


@pytest.mark.parametrize("load", [simple_questions.load_freebase, simple_questions.load_dbpedia])
def test_no_subject_is_in_both_parts_of_the_split(folder: Path, load) -> None:
    asked = load()
    train, test = ({q.subject for q in part} for part in (asked.train, asked.test))
    assert train
    assert test
    assert not train & test
    vocabulary = asked.vocabulary(2)
    assert {"who", "wrote", "who wrote", "profession of"} <= vocabulary
    assert not any(gram.startswith("zu") for gram in asked.vocabulary(5))


def test_words_and_ways_to_spell_a_name() -> None:
    assert grams("Who wrote it?") == ["who", "wrote", "it", "who wrote", "wrote it"]
    assert spelt("Robert Harris (painter)") == ["robert harris painter", "robert harris"]
    assert spelt("Clyde, Missouri") == ["clyde missouri", "clyde"]
    assert spelt("Zeke's Pad") == ["zeke s pad", "zekes pad"]
    assert spelt("?") == []


def test_what_cannot_be_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "simplequestions/annotated_fb_data.txt"
    lines = len(path.read_text().splitlines())
    path.write_text(path.read_text() + "a\tb\n")
    with pytest.raises(TaskDataError, match=f"annotated_fb_data.txt:{lines + 1}:.*4 parts"):
        simple_questions.load_freebase()
    path = folder / "simplequestions/dbpedia.json"
    for wrong, said in (
        ("[", "JSON"),
        ("{}", "a JSON list"),
        (json.dumps([{"Query": "who?"}]), "PredicateList"),
    ):
        path.write_text(wrong)
        with pytest.raises(TaskDataError, match=said):
            simple_questions.read_dbpedia()
    monkeypatch.setenv(data.VARIABLE, str(folder / "nowhere"))
    with pytest.raises(DataMissing, match=data.VARIABLE):
        simple_questions.load_dbpedia()


def test_the_published_files() -> None:
    try:
        listed, annotated = simple_questions.read_dbpedia(), simple_questions.read_annotated()
        names = simple_questions.read_labels()
    except DataMissing as missing:
        pytest.skip(str(missing))
    assert len(listed) > 8_000
    assert {name.split(":")[0] for q in listed for name in q.paths} == {
        "dbo",
        "dbp",
        "gold",
        "foaf",
    }
    assert len(annotated) > 20_000
    # Most subjects of Freebase have no name here, which is why the named ones alone are asked.
    assert 0.1 < np.mean([q.subject in names for q in annotated]) < 0.2
