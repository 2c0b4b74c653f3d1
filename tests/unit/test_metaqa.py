"""Questions about films: the published formats, the split by entity, what is generated."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import memstore
from models.tasks import answers, data, memories, metaqa
from models.tasks.asking import QuestionReader
from models.tasks.data import DataMissing
from models.tasks.knowledge import KnowledgeBase, TaskDataError
from models.tasks.linking import AliasIndex
from models.tasks.paths import Facts
from tests.training import films


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnowledgeBase:
    films.write(tmp_path / "data")
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "data"))
    return metaqa.load_metaqa()


def name(base: KnowledgeBase, number: int) -> str:
    return str(base.entities["name"][number].as_py())


def named(base: KnowledgeBase, wanted: str) -> int:
    return base.entities["name"].to_pylist().index(wanted)


def test_the_base_has_each_triple_forwards_and_backwards(base: KnowledgeBase) -> None:
    film = named(base, "Film 7")
    [director] = base.objects(film, base.relation("directed_by"))
    assert film in base.objects(int(director), base.relation("directed"))
    assert len(base.objects(film, base.relation("starred_actors"))) == 2
    assert base.entities["kind"][film].as_py() == "film"
    weights = base.weights
    assert (np.diff(weights) <= 0).all()
    assert weights[film] == 4
    small = metaqa.load_metaqa(limit=20)
    assert small.entities["name"].to_pylist() == base.entities["name"].to_pylist()[:20]


def test_paths_lead_from_an_entity_and_are_found_by_what_they_reach(base: KnowledgeBase) -> None:
    facts = Facts(base)
    path = (base.relation("directed_by"), base.relation("directed"))
    film = next(f for f in range(len(base.weights)) if len(facts.follow(f, path)) > 1)
    reached = facts.follow(film, path)
    assert film not in reached
    director = base.objects(film, path[0])
    assert set(reached) == set(base.objects(int(director[0]), path[1])) - {film}
    assert facts.likeliest([(film, set(reached.tolist()))], 2) == path
    assert facts.likeliest([(film, {film})], 1) is None


@pytest.mark.parametrize("hops", [1, 2])
def test_the_split_is_by_entity_and_more_is_generated(base: KnowledgeBase, hops: int) -> None:
    ask = metaqa.questions_of(hops)
    given = {q.text: q for q in metaqa.read(hops)}
    train = ask(base, split="train", count=400, seed=1, popular_share=0.5)
    test = ask(base, split="test", count=400, seed=1)
    assert len(train) == 400
    assert {q.text for q in test} < set(given)
    assert 0 < len(test) < len(given) / 2
    assert all(metaqa.held_out(q.surface) for q in test)
    assert not any(metaqa.held_out(q.surface) for q in train)
    asked = [q for q in train if q.text in given]
    taught = {text for text, q in given.items() if not metaqa.held_out(q.subject)}
    assert {q.text for q in asked} == taught
    facts, wordings = Facts(base), {q.wording for q in given.values()}
    for question in [*train, *test]:
        assert len(question.relations) == hops
        assert re.sub(r"\[.*\]", "{}", question.text) in wordings
        if question.text in given:
            answers_of = given[question.text].answers
            assert {name(base, a) for a in question.answers} == set(answers_of)
        else:
            expected = facts.follow(question.subject, question.relations)
            assert np.array_equal(question.answers, expected)
    again = ask(base, split="train", count=400, seed=1, popular_share=0.5)
    assert [q.text for q in again] == [q.text for q in train]
    assert len(ask(base, split="train", count=5, seed=2)) == 5


def test_what_stands_in_brackets_is_what_a_question_is_about(
    base: KnowledgeBase, tmp_path: Path
) -> None:
    with memstore.open(tmp_path / "store") as store:
        found = memories.build(store, base, metaqa.vocabulary(1), dim=8)
        reader = QuestionReader(found, AliasIndex.build(base.aliases, base.weights))
        texts = ["a film about [horror]", "a film of type [Horror]", "who acted in [Film 3]"]
        read = reader.read([*texts, "who is in [nothing]", "who acted in Film 3"])
    about = [name(base, e) if e >= 0 else None for e in read.entity_Q]
    assert about == ["horror", "Horror", "Film 3", None, "Film 3"]


def test_what_cannot_be_read_is_refused_by_its_line(
    base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data/metaqa"
    kept = (folder / "1hop.txt").read_text()
    for wrong, said in (("who is [A] [B]\tC\n", "one entity"), ("who is [A]\n", "2 parts")):
        (folder / "1hop.txt").write_text(kept + wrong)
        with pytest.raises(TaskDataError, match=said) as error:
            metaqa.read(1)
        assert f"1hop.txt:{len(kept.splitlines()) + 1}:" in str(error.value)
    (folder / "kb.txt").write_text("A|likes|B\n")
    with pytest.raises(TaskDataError, match="likes"):
        metaqa.load_metaqa()
    with pytest.raises(TaskDataError, match="limit=-1"):
        metaqa.load_metaqa(limit=-1)
    with pytest.raises(TaskDataError, match="'train' or 'test'"):
        metaqa.questions_of(1)(base, split="seen_entity", count=1, seed=0)
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(DataMissing, match=data.VARIABLE):
        metaqa.load_metaqa()


def test_the_published_files() -> None:
    try:
        base = metaqa.load_metaqa()
    except DataMissing as missing:
        pytest.skip(str(missing))
    assert base.facts.num_rows > 100_000
    assert len(base.relations) == 18
    test = metaqa.questions_of(1)(base, split="test", count=10_000, seed=0)
    assert len(test) > 1_000
    # Nearly all are answered by facts of what they are about, along the relation of their wording.
    followed = Facts(base)
    right_QA = answers.lists([q.answers for q in test])
    reached = [followed.follow(q.subject, q.relations) for q in test]
    met = [len(np.intersect1d(a[a >= 0], b)) > 0 for a, b in zip(right_QA, reached, strict=True)]
    assert np.mean(met) > 0.97
