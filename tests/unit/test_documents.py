"""Documents as memories: tokens, entities and sentences of texts, and the slots made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.tasks import documents, metaqa
from models.tasks.documents import NONE, Article, Texts
from models.tasks.knowledge import KnowledgeBase, TaskDataError

ROWS = [
    ("The Lamp", "starred_actors", "Ann Lee"),
    ("The Lamp", "starred_actors", "J. R. Orr"),
    ("The Lamp", "release_year", "1950"),
    ("The Lamp", "has_genre", "Drama"),
    ("It", "starred_actors", "Ann Lee"),
    ("It", "has_genre", "Western"),
]
LAMP = "The Lamp is a 1950 drama, shot in it. J. R. Orr plays Mr. Ox! It has Ann Lee in it."
IT = "It is a western. It was cheap."


@pytest.fixture
def base() -> KnowledgeBase:
    return metaqa.base_of(Path("kb.txt"), ROWS)


@pytest.fixture
def texts(base: KnowledgeBase) -> Texts:
    return documents.read(base, [Article("The Lamp", LAMP), Article("It", IT)])


def shown(base: KnowledgeBase, texts: Texts) -> list[list[str]]:
    """The tokens of each sentence, entities in brackets."""
    names = base.entities["name"].to_pylist()
    found: list[list[str]] = [[] for _ in range(int(texts.sentence_T[-1]) + 1)]
    for sentence, entity, word in zip(texts.sentence_T, texts.entity_T, texts.word_T, strict=True):
        token = texts.words[word] if entity == NONE else f"[{names[entity]}]"
        found[sentence].append(token)
    return found


def read_back(base: KnowledgeBase, vocabulary: list[str], slots: pa.Table) -> list[tuple]:
    names, words = base.entities["name"].to_pylist(), sorted(vocabulary)
    return [
        (
            names[row["subject"]],
            row["relation"],
            [names[e] for e in row["objects"]],
            [words[w] for w in row["words"]],
            [names[e] for e in row["entities"]],
        )
        for row in slots.to_pylist()
    ]


def test_entities_are_tokens_and_sentences_end_where_they_do(
    base: KnowledgeBase, texts: Texts
) -> None:
    assert shown(base, texts) == [
        ["[The Lamp]", "is", "a", "[1950]", "[Drama]", "shot", "in", "it"],
        ["[J. R. Orr]", "plays", "mr", "ox"],
        # What is an ordinary word names a film in its own article alone.
        ["it", "has", "[Ann Lee]", "in", "it"],
        ["[It]", "is", "a", "[Western]"],
        ["[It]", "was", "cheap"],
    ]
    names = base.entities["name"].to_pylist()
    assert [names[e] for e in texts.title_A] == ["The Lamp", "It"]
    assert texts.document_T.tolist() == [0] * 17 + [1] * 7
    assert dict(zip(texts.words, texts.counts.tolist(), strict=True))["it"] == 3
    assert set(texts.vocabulary(2)) == {"is", "a", "in", "it"}


def test_a_sentence_is_key_and_value(base: KnowledgeBase, texts: Texts) -> None:
    vocabulary = texts.vocabulary(2)
    slots = documents.sentences(texts, texts.slots_of(vocabulary), 7)
    assert slots.schema == documents.SCHEMA
    assert read_back(base, vocabulary, slots) == [
        ("The Lamp", 7, e := ["The Lamp", "1950", "Drama"], ["is", "a", "in", "it"], e),
        ("The Lamp", 7, ["J. R. Orr"], [], ["J. R. Orr"]),
        ("The Lamp", 7, ["Ann Lee"], ["it", "in", "it"], ["Ann Lee"]),
        ("It", 7, ["It", "Western"], ["is", "a"], ["It", "Western"]),
        ("It", 7, ["It"], [], ["It"]),
    ]


def test_a_window_is_what_is_around_an_entity_in_its_document(
    base: KnowledgeBase, texts: Texts
) -> None:
    vocabulary = texts.vocabulary(1)
    word_T = texts.slots_of(vocabulary)
    slots = documents.windows(texts, word_T, 5, 8, titled=False)
    found = read_back(base, vocabulary, slots)
    assert len(found) == int((texts.entity_T != NONE).sum())
    assert found[0] == ("The Lamp", 8, ["The Lamp"], ["is", "a"], ["The Lamp"])
    assert found[1] == ("The Lamp", 8, ["1950"], ["is", "a", "shot"], ["1950", "Drama"])
    # Over the end of a sentence, not over that of a document.
    assert found[3] == ("The Lamp", 8, ["J. R. Orr"], ["in", "it", "plays", "mr"], ["J. R. Orr"])
    assert found[4] == ("The Lamp", 8, ["Ann Lee"], ["it", "has", "in", "it"], ["Ann Lee"])
    assert found[5] == ("It", 8, ["It"], ["is", "a"], ["It"])
    titled = documents.windows(texts, word_T, 5, 8, titled=True)
    assert read_back(base, vocabulary, titled)[1][4] == ["1950", "The Lamp", "Drama"]
    seldom = documents.windows(texts, texts.slots_of(["is", "in"]), 5, 8, titled=False)
    assert read_back(base, ["is", "in"], seldom)[1][3] == ["is"]


def test_with_titles_each_window_is_there_once_more(base: KnowledgeBase, texts: Texts) -> None:
    vocabulary = texts.vocabulary(1)
    slots = documents.windows(texts, texts.slots_of(vocabulary), 3, 8, titled=True)
    both = read_back(base, vocabulary, documents.with_titles(slots, 9))
    plain = read_back(base, vocabulary, slots)
    assert both[::2] == plain
    assert both[1::2] == [
        (title, 9, [title], words, entities) for title, _, _, words, entities in plain
    ]


def test_what_the_base_does_not_have_is_refused(base: KnowledgeBase) -> None:
    with pytest.raises(TaskDataError, match="'The Lamb'"):
        documents.read(base, [Article("The Lamb", "A text.")])


def test_no_texts_are_no_slots(base: KnowledgeBase) -> None:
    texts = documents.read(base, [])
    word_T = texts.slots_of(["is"])
    for slots in (
        documents.sentences(texts, word_T, 0),
        documents.with_titles(documents.windows(texts, word_T, 7, 0, titled=True), 1),
    ):
        assert (slots.num_rows, slots.schema) == (0, documents.SCHEMA)


def test_many_windows_are_what_a_loop_makes_of_them(base: KnowledgeBase) -> None:
    rng = np.random.default_rng(0)
    pieces = ["The Lamp", "Ann Lee", "1950", "drama", "the", "light", "of", "day."]
    articles = [
        Article(title, " ".join(rng.choice(pieces, 40))) for title in ["The Lamp", "It"] * 10
    ]
    texts = documents.read(base, articles)
    word_T = texts.slots_of(texts.words)
    slots = documents.windows(texts, word_T, 7, 0, titled=True).to_pylist()
    expected = []
    for t in np.flatnonzero(texts.entity_T != NONE).tolist():
        title = int(texts.title_A[texts.document_T[t]])
        around = [
            u
            for u in range(max(t - 3, 0), min(t + 4, len(word_T)))
            if u != t and texts.document_T[u] == texts.document_T[t]
        ]
        before = [u for u in around if u < t]
        named = [
            *(int(texts.entity_T[u]) for u in before),
            title,
            *(int(texts.entity_T[u]) for u in around if u > t),
        ]
        centre = int(texts.entity_T[t])
        expected.append(
            {
                "subject": title,
                "relation": 0,
                "objects": [centre],
                "words": [int(word_T[u]) for u in around if word_T[u] != NONE],
                "entities": [centre, *(e for e in named if e != NONE)],
            }
        )
    assert slots == expected
