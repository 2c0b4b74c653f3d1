"""The geography base says what is true, and its questions hold out what they say."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pyarrow.compute as pc
import pytest

from models.tasks.geography import load_geography
from models.tasks.geography_questions import WORDINGS, questions, vocabulary
from models.tasks.knowledge import KnowledgeBase, TaskDataError
from models.tasks.linking import AliasIndex, words
from models.tasks.questions import Question, Split, held_out
from models.tasks.worded import SPLITS


@pytest.fixture(scope="module")
def kb() -> KnowledgeBase:
    """The base over the 1,000 most populous places: Kyoto is one of them."""
    return load_geography(limit=1_000)


@pytest.fixture(scope="module")
def full() -> KnowledgeBase:
    """The base over all places."""
    return load_geography()


def entity(kb: KnowledgeBase, kind: str, name: str) -> int:
    """The heaviest entity of a kind and name."""
    same = pc.and_(pc.equal(kb.entities["kind"], kind), pc.equal(kb.entities["name"], name))
    found = np.flatnonzero(same.to_numpy())
    return int(found[np.argmax(kb.weights[found])])


def told(kb: KnowledgeBase, kind: str, name: str, relation: str) -> list[str]:
    objects = kb.objects(entity(kb, kind, name), kb.relation(relation))
    names: list[str] = kb.entities["name"].take(objects).to_pylist()
    return names


@pytest.mark.parametrize(
    ("kind", "name", "relation", "objects"),
    [
        ("place", "Kyoto", "country", ["Japan"]),
        ("place", "Kyoto", "currency", ["Yen"]),
        ("place", "Kyoto", "timezone", ["Asia/Tokyo"]),
        ("place", "Kyoto", "population class", ["metropolis"]),
        ("place", "Kyoto", "internet domain", [".jp"]),
        ("place", "Kyoto", "region", []),
        ("place", "Chicago", "region", ["Illinois"]),
        ("place", "Sydney", "hemisphere", ["Southern Hemisphere"]),
        ("place", "Tokyo", "capital of", ["Japan"]),
        ("place", "Bogotá", "capital of", ["Colombia"]),  # the source writes Bogota
        ("country", "Japan", "capital", ["Tokyo"]),
        ("country", "Portugal", "neighbour", ["Spain"]),
        ("country", "Dominican Republic", "calling code", ["+1-809", "+1-829"]),
        ("currency", "Yen", "countries using currency", ["Japan"]),
        ("internet domain", ".jp", "countries with internet domain", ["Japan"]),
    ],
)
def test_facts(kb: KnowledgeBase, kind: str, name: str, relation: str, objects: list[str]) -> None:
    assert told(kb, kind, name, relation) == objects


def test_objects_fall_by_weight(kb: KnowledgeBase) -> None:
    assert told(kb, "continent", "South America", "countries in continent")[:2] == [
        "Brazil",
        "Colombia",
    ]
    assert told(kb, "region", "Illinois", "places in region")[0] == "Chicago"
    assert told(kb, "population class", "megacity", "places of population class")[0] == "Shanghai"


def test_names_codes_and_other_scripts_are_aliases(kb: KnowledgeBase) -> None:
    index = AliasIndex.build(kb.aliases, kb.weights)
    for alias, kind, name in (
        ("京都", "place", "Kyoto"),
        ("JPY", "currency", "Yen"),
        ("ja", "language", "Japanese"),
        ("Netherlands", "country", "The Netherlands"),
        ("UK", "country", "United Kingdom"),
        ("+1 809", "calling code", "+1-809"),
        ("New York time", "timezone", "America/New_York"),
        ("Singapore", "country", "Singapore"),  # not the city of that name
    ):
        assert index.candidates(alias)[0] == entity(kb, kind, name)


def test_every_fact_is_reversed(kb: KnowledgeBase) -> None:
    subjects, relations, counts, objects = kb.columns()
    subjects, relations = np.repeat(subjects, counts), np.repeat(relations, counts)
    forward = set(zip(subjects.tolist(), objects.tolist(), strict=True))
    assert forward == {(entity, subject) for subject, entity in forward}
    used = {kb.relations[relation] for relation in np.unique(relations)}
    assert used == set(kb.relations)


def test_places_and_countries_are_told_apart_backwards(kb: KnowledgeBase) -> None:
    kinds = kb.entities["kind"]
    yen = entity(kb, "currency", "Yen")
    for relation, kind in (
        ("countries using currency", "country"),
        ("places using currency", "place"),
    ):
        objects = kb.objects(yen, kb.relation(relation))
        assert set(kinds.take(objects).to_pylist()) == {kind}


def test_limits(kb: KnowledgeBase) -> None:
    small = load_geography(limit=10)
    assert small.entities.equals(kb.entities.slice(0, small.entities.num_rows))
    assert small.entities.num_rows == kb.entities.num_rows - 990
    with pytest.raises(TaskDataError, match="limit=-1"):
        load_geography(limit=-1)


def test_the_whole_base(full: KnowledgeBase) -> None:
    """All places of the source: its size, its ambiguity, and what a thousand places do not show."""
    kinds = Counter(full.entities["kind"].to_pylist())
    assert kinds["place"] == 234_908
    assert kinds["country"] == 250
    assert full.facts.num_rows > 1_900_000
    assert len(told(full, "currency", "Euro", "places using currency")) > 50_000
    capitals = np.count_nonzero(full.columns()[1] == full.relation("capital"))
    assert capitals == 243  # of the 244 stated; of Melekeok there is no place
    assert told(full, "country", "Kazakhstan", "capital") == ["Astana"]  # by an older name
    names = full.entities.filter(pc.equal(full.entities["name"], "Santa Cruz"))
    assert names.num_rows == 69

    index = AliasIndex.build(full.aliases, full.weights)
    santa_cruz = index.candidates("Santa Cruz")
    assert len(santa_cruz) >= 69
    assert np.all(np.diff(full.weights[santa_cruz]) <= 0)
    common = vocabulary()
    for text, name in (
        ("Which currency is used in New York City?", "New York City"),
        ("Which currency is used in York?", "York"),
        ("What time is it in Kyoto?", "Kyoto"),
        ("Where is 京都?", "Kyoto"),
        ("Name the capital city of Jordan.", "Jordan"),
    ):
        best = index.link(text, common_words=common)[0].candidates[0]
        assert full.entities["name"][int(best)].as_py() == name

    asked = questions(full, split="test", count=1_000, seed=0)
    found = [index.link(question.text, common_words=common)[0] for question in asked]
    hits = [q.subject in mention.candidates for q, mention in zip(asked, found, strict=True)]
    assert np.mean(hits) > 0.98


def test_wordings_are_natural_templates() -> None:
    texts = [wording for wordings in WORDINGS.values() for wording in wordings]
    assert len(WORDINGS) >= 14
    assert len(set(texts)) == len(texts)
    assert all(text.count("{}") == 1 for text in texts)
    assert min(map(len, WORDINGS.values())) >= 8


def test_held_out_wordings_can_be_recognised_by_their_words() -> None:
    """A naive Bayes classifier over the words of the training wordings names their relations."""
    used = {
        name: Counter(word for text in wordings[:-1] for word in set(words(text.format(""))))
        for name, wordings in WORDINGS.items()
    }
    for name, wordings in WORDINGS.items():
        unseen = set(words(wordings[-1].format("")))
        scores = {
            other: sum(math.log(used[other][word] + 0.1) for word in unseen) for other in used
        }
        assert max(scores, key=lambda other: scores[other]) == name


def test_words_and_vocabulary() -> None:
    assert words("What's the Capital of São Tomé?") == [
        "what",
        "s",
        "the",
        "capital",
        "of",
        "são",
        "tomé",
    ]
    assert "currency" in vocabulary()
    assert "travel" in vocabulary("test") - vocabulary("train")


@pytest.mark.parametrize("split", SPLITS)
def test_splits_hold_out_what_they_say(kb: KnowledgeBase, split: Split) -> None:
    unseen = held_out(kb.entities.num_rows)
    held_wording, held_entity = SPLITS[split]
    asked = questions(kb, split=split, count=2_000, seed=1, alias_share=0)
    for question in asked:
        wordings = WORDINGS[kb.relations[question.relation]]
        allowed = wordings[-1:] if held_wording else wordings[:-1]
        assert question.text in [wording.format(question.surface) for wording in allowed]
        assert unseen[question.subject] == held_entity
    assert {kb.relations[question.relation] for question in asked} >= set(WORDINGS) - {
        "countries in continent"  # of seven continents none may be held out
    }


def test_held_out_entities_are_a_tenth_and_stay_the_same() -> None:
    unseen = held_out(200_000)
    assert unseen.dtype == bool
    assert unseen.mean() == pytest.approx(0.1, abs=0.005)
    assert np.array_equal(held_out(1_000), unseen[:1_000])
    assert not np.array_equal(held_out(1_000, seed=1), unseen[:1_000])


def test_answers_are_the_objects_of_the_fact(kb: KnowledgeBase) -> None:
    for question in questions(kb, split="train", count=200, seed=2):
        assert question.answers.dtype == np.int64
        assert np.array_equal(question.answers, kb.objects(question.subject, question.relation))


def test_surfaces_are_names_or_other_names(kb: KnowledgeBase) -> None:
    names = kb.entities["name"].to_pylist()
    aliases = set(zip(*(column.to_pylist() for column in kb.aliases.columns), strict=True))
    asked = questions(kb, split="train", count=4_000, seed=3, relations=["country"])
    other = [question for question in asked if question.surface != names[question.subject]]
    assert len(other) / len(asked) == pytest.approx(0.2, abs=0.03)
    assert all((question.surface, question.subject) in aliases for question in asked)
    assert all(question.surface in question.text for question in asked)


def test_relations_and_subjects_are_drawn_uniformly(kb: KnowledgeBase) -> None:
    asked = questions(kb, split="train", count=19_000, seed=4)
    drawn = Counter(question.relation for question in asked)
    assert len(drawn) == len(WORDINGS)
    assert 850 < min(drawn.values()) <= max(drawn.values()) < 1_150
    capitals = questions(kb, split="train", count=20_000, seed=4, relations=["capital"])
    subjects = np.array(list(Counter(question.subject for question in capitals).values()))
    expected = 20_000 / len(subjects)
    assert np.all(np.abs(subjects - expected) < 6 * math.sqrt(expected))


def test_a_seed_decides_all(kb: KnowledgeBase) -> None:
    def told(asked: list[Question]) -> list[tuple[str, int, int]]:
        return [(question.text, question.subject, question.relation) for question in asked]

    first = told(questions(kb, split="test", count=300, seed=5))
    assert first == told(questions(kb, split="test", count=300, seed=5))
    assert first != told(questions(kb, split="test", count=300, seed=6))


def test_bad_requests_are_refused(kb: KnowledgeBase) -> None:
    assert questions(kb, split="train", count=0, seed=0) == []
    with pytest.raises(TaskDataError, match="split 'dev'"):
        questions(kb, split="dev", count=1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(TaskDataError, match="count=-1"):
        questions(kb, split="train", count=-1, seed=0)
    with pytest.raises(TaskDataError, match=r"alias_share=1\.5"):
        questions(kb, split="train", count=1, seed=0, alias_share=1.5)
    with pytest.raises(TaskDataError, match="altitude"):
        questions(kb, split="train", count=1, seed=0, relations=["altitude"])
    with pytest.raises(TaskDataError, match="no subject of"):  # no continent is held out then
        questions(
            kb, split="test", count=1, seed=0, relations=["countries in continent"], split_seed=1
        )
