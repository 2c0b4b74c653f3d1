"""Aliases are found in running text, in any script, and survive the disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tasks.knowledge import TaskDataError
from models.tasks.linking import ARRAYS, MANIFEST, TRIE, AliasIndex, normalise, unaccented


def index_of(*names: str, weights: list[int] | None = None) -> AliasIndex:
    """Indexes one entity per name; the first is the heaviest unless weights are given."""
    rising = range(len(names), 0, -1) if weights is None else weights
    entity = pa.array(range(len(names)), pa.int64())
    return AliasIndex.build(
        pa.table({"alias": list(names), "entity": entity}), np.array(rising, np.int64)
    )


def texts(index: AliasIndex, text: str, *common: str) -> list[str]:
    return [mention.text for mention in index.link(text, common_words=frozenset(common))]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  New \t York\n", "new york"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("São", "são"),  # accents are kept, composed
        ("Sa\u0303o", "são"),
        ("Ｋｙｏｔｏ", "kyoto"),
        ("St. John’s", "st. john's"),
        ("", ""),
        ("\0", ""),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("alias", "plain"),
    [("são tomé", "sao tome"), ("kyoto", None), ("क्योटो", None), ("øst", None), ("київ", None)],
)
def test_unaccented(alias: str, plain: str | None) -> None:
    assert unaccented(alias) == plain


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Where is New York City?", ["New York City"]),
        ("Where is new york?", ["new york"]),
        ("York, not Yorkshire", ["York"]),
        ("Is York in New York?", ["New York", "York"]),
        ("New Yorker", []),
        ("", []),
    ],
)
def test_the_longest_whole_words_are_found(text: str, found: list[str]) -> None:
    assert texts(index_of("York", "New York", "New York City"), text) == found


@pytest.mark.parametrize(
    ("alias", "text", "start", "end"),
    [
        ("京都", "京都の通貨は何ですか", 0, 2),
        ("京都", "What is 京都's currency?", 8, 10),
        ("เคียวโตะ", "เคียวโตะอยู่ที่ไหน", 0, 8),
        ("क्योटो", "क्योटो कहाँ है?", 0, 6),
        ("교토", "교토는 어디에 있나요", 0, 2),
        ("Kyōto", "in Kyo\u0304to?", 3, 9),  # the text is longer than what it folds to
        ("Straße", "die STRASSE hier", 4, 11),
        ("St. John's", "in  St.  John’s now", 4, 15),
        ("+81", "Who has +81?", 8, 11),
        (".to", "Who has .to?", 8, 11),
        ("Asia/Tokyo", "the Asia/Tokyo zone", 4, 14),
    ],
)
def test_spans_are_those_of_the_text(alias: str, text: str, start: int, end: int) -> None:
    (mention,) = index_of(alias).link(text)
    assert (mention.start, mention.end, mention.text) == (start, end, text[start:end])


@given(st.text(min_size=1, max_size=20))
def test_every_alias_finds_itself(alias: str) -> None:
    if not normalise(alias):
        return
    mentions = index_of(alias).link(f"{alias} ")
    assert [mention.candidates.tolist() for mention in mentions] == [[0]]


def test_candidates_fall_by_weight_and_are_counted() -> None:
    aliases = pa.table(
        {
            "alias": ["Cruz", "cruz", "CRUZ", "Cruz", "Bolivia"],
            "entity": pa.array([2, 0, 1, 2, 3], pa.int64()),
        }
    )
    index = AliasIndex.build(aliases, np.array([5, 9, 5, 1]))
    (mention,) = index.link("Cruz")
    assert mention.candidates.tolist() == [1, 0, 2]
    assert mention.candidates.dtype == np.int64
    assert mention.ambiguity == 3
    assert len(index) == 2
    assert index.candidates("CRUZ ").tolist() == [1, 0, 2]
    assert index.candidates("Oslo").tolist() == []


def test_an_accent_may_be_left_out_unless_that_is_another_alias() -> None:
    index = index_of("São Paulo", "Perú", "Peru")
    assert index.candidates("sao paulo").tolist() == [0]
    assert index.candidates("peru").tolist() == [2]
    assert index.candidates("PERÚ").tolist() == [1]


@pytest.mark.parametrize(
    ("text", "ranked"),
    [
        ("Is the time the same in Oslo?", ["Oslo", "time", "same"]),
        ("is the time the same in oslo?", ["oslo", "time", "same"]),
        ("Same or Oslo Oslo Town?", ["Oslo Town", "Oslo", "Same"]),
        ("is the time in Same?", ["Same", "time"]),  # a capital within the sentence decides
        ("Oslo is big. Same is not. Lund is old.", ["Oslo", "Lund", "Same"]),
    ],
)
def test_ranking(text: str, ranked: list[str]) -> None:
    index = index_of("Oslo", "Time", "Same", "Oslo Town", "Lund", weights=[9, 8, 7, 1, 1])
    assert texts(index, text, "time", "same", "is", "the", "in", "big") == ranked


def test_a_lower_common_word_before_the_capital_gives_way() -> None:
    index = index_of("City of Jordan", "Jordan")
    assert texts(index, "Name the capital city of Jordan.", "city", "of", "name")[0] == "Jordan"
    assert texts(index, "Where is City of Jordan?", "city", "of")[0] == "City of Jordan"
    assert texts(index_of("The Hague"), "Who lives in the Hague?", "the") == ["the Hague"]


def test_a_saved_index_links_the_same(tmp_path: Path) -> None:
    index = index_of("York", "New York", "São Paulo", "京都")
    index.save(tmp_path / "index")
    loaded = AliasIndex.load(tmp_path / "index")
    text = "From 京都 by York to Sao Paulo"
    described = [[(m.start, m.end, *m.candidates) for m in i.link(text)] for i in (index, loaded)]
    assert described[0] == described[1]
    assert len(described[0]) == 3
    index_of("Oslo").save(tmp_path / "index")
    assert len(loaded.link(text)) == 3
    assert len(AliasIndex.load(tmp_path / "index")) == 1


@pytest.mark.parametrize("name", [TRIE, *(f"{name}.npy" for name in ARRAYS), MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "changed"])
def test_a_damaged_index_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    index_of("York", "New York").save(tmp_path)
    file = tmp_path / name
    whole = file.read_bytes()
    file.unlink()
    if damage != "missing":
        cut = {"cut": whole[:-7], "empty": b"", "changed": whole[:-9] + b"?" + whole[-8:]}
        file.write_bytes(cut[damage])
    with pytest.raises(TaskDataError, match="an alias index"):
        AliasIndex.load(tmp_path)


@pytest.mark.parametrize("manifest", [[], {}, {"format": "memstore-aliases", "version": 99}, 3])
def test_a_foreign_manifest_is_refused(tmp_path: Path, manifest: object) -> None:
    index_of("York").save(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(TaskDataError, match="build it again"):
        AliasIndex.load(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskDataError, match="FileNotFoundError"):
        AliasIndex.load(tmp_path / "nothing")


def test_an_alias_of_no_entity_is_refused() -> None:
    aliases = pa.table({"alias": ["York"], "entity": pa.array([3], pa.int64())})
    with pytest.raises(TaskDataError, match="entity 3"):
        AliasIndex.build(aliases, np.ones(3, np.int64))


def test_an_index_without_aliases_links_nothing(tmp_path: Path) -> None:
    index = index_of()
    assert index.link("Where is York?") == []
    index.save(tmp_path)
    assert AliasIndex.load(tmp_path).link("York") == []
