"""Questions about films that texts can answer: what is known, and what is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.tasks import data, films, metaqa
from models.tasks.data import DataMissing
from models.tasks.knowledge import KnowledgeBase, TaskDataError
from models.tasks.linking import words
from tests.training import articles


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnowledgeBase:
    articles.write(tmp_path / "data")
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "data"))
    return films.load_films()


def test_a_film_is_its_title_and_has_a_text(base: KnowledgeBase) -> None:
    names, kinds = (base.entities[column].to_pylist() for column in ("name", "kind"))
    titles = {name for name, kind in zip(names, kinds, strict=True) if kind == "film"}
    assert titles == {f"Story {i}" for i in range(1, articles.FILMS - 1)}
    shared = base.objects(names.index("Story 1"), base.relation("release_year"))
    assert sorted(names[year] for year in shared) == ["1990", "1991"]
    found = films.articles(base)
    assert [article.title for article in found[:3]] == ["Story 1", "Story 1", "Story 2"]
    assert {article.title for article in found} == titles
    small = films.load_films(limit=20)
    kept = {article.title for article in films.articles(small)}
    assert len(kept) == 20
    assert kept < titles


@pytest.mark.parametrize("split", ["train", "test"])
def test_asked_is_only_what_a_text_answers(base: KnowledgeBase, split: str) -> None:
    names = base.entities["name"].to_pylist()
    made = films.questions(base, split=split, count=300, seed=3)  # type: ignore[arg-type]
    assert len(made) == 300
    texts: dict[str, str] = {}
    for title, text in films.articles(base):
        texts[title] = texts.get(title, "") + " ".join(words(text)) + " "
    relations = set()
    for question in made:
        (relation,) = question.relations
        relations.add(base.relations[relation])
        right = base.objects(question.subject, relation)
        assert question.answers.tolist() == right.tolist()
        assert metaqa.held_out(names[question.subject]) == (split == "test")
        assert f"[{names[question.subject]}]" in question.text
        backwards = base.relations[relation] == "acted in"
        pairs = [(o, question.subject) if backwards else (question.subject, o) for o in right]
        assert any(names[o].lower() in texts[names[film]] for film, o in pairs)
    assert relations == {"starred_actors", "acted in", "release_year", "has_genre"}


def test_the_ceiling_is_told_by_relation(base: KnowledgeBase) -> None:
    asked = films.asked(base)
    assert set(asked) == {"starred_actors", "acted in", "release_year", "has_genre"}
    assert asked["release_year"].facts == articles.FILMS - 2
    assert len(asked["release_year"].subjects) == articles.FILMS - 2
    assert 0 < len(asked["acted in"].subjects) <= asked["acted in"].facts
    film = base.entities["name"].to_pylist().index("Story 5")
    assert film in asked["starred_actors"].subjects
    assert (np.diff(asked["starred_actors"].subjects) > 0).all()


def test_other_splits_and_limits_are_refused(
    base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TaskDataError, match="'train' or 'test'"):
        films.questions(base, split="seen_entity", count=1, seed=0)
    with pytest.raises(TaskDataError, match="limit=-1"):
        films.load_films(limit=-1)
    path = tmp_path / "data" / films.TEXTS
    path.write_text("Story 1 (1990) without a tab\n")
    with pytest.raises(TaskDataError, match=r"plots.tsv:1"):
        films.load_films()
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(DataMissing, match=data.VARIABLE):
        films.load_films()


def test_the_published_files() -> None:
    try:
        base = films.load_films(limit=400)
    except DataMissing as missing:
        pytest.skip(str(missing))
    asked = films.asked(base)
    assert set(asked) == {"starred_actors", "acted in", "release_year", "has_genre"}
    for of in asked.values():
        assert 0.3 < len(of.subjects) / of.facts <= 1.0
