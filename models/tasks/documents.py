"""Documents as memories: sentences, or windows around entities, after Miller et al. 2016, arXiv
1606.03126, section 3.2.

    a sentence     key = value = its words and entities, a bag
    a window       key = the W tokens around an entity, value = that entity, the centre
    + title        for each window another slot, whose value is the title of the document; which of
                   the two a slot is, is a feature of its key

An entity is one token, and one symbol, whatever the words of its name; a slot is a record, whose
key and value `models.document_reader` computes from the rows of its symbols:

    subject   the title of the document          relation  what kind of slot it is, of `KINDS`
    objects   the value: the centre, the title, or the entities of the sentence
    words     of the key                         entities  of the key, of a window the centre first

Where the paper leaves room. It has the title in the keys of the second kind alone; the authors'
program (facebookarchive/MemNN, `-m`) has it in those of the first, without which a question about a
film would meet only windows that happen to name it: here it is in both, or, with titled=False, in
none. Windows go on over the end of a sentence, and punctuation is no token. Words that occur seldom
are no feature but keep their place.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.tasks.knowledge import Int64s, KnowledgeBase, TaskDataError
from models.tasks.linking import AliasIndex

KINDS = ("sentence", "window", "title")

SCHEMA = pa.schema(
    [
        ("subject", pa.int64()),
        ("relation", pa.int64()),
        ("objects", pa.list_(pa.int64())),
        ("words", pa.list_(pa.int64())),
        ("entities", pa.list_(pa.int64())),
    ]
)

NONE = -1
"""No word, or no entity, at the place of a token."""

LEAST = 5
"""Times that a word must occur in the texts to be a feature."""

ORDINARY = 0.002
"""A word that is in small letters in so large a share of the documents names nothing by itself."""

FOLDED = "has_genre"
"""The relation whose objects are also written in small letters."""

_WORD = re.compile(r"[^\W_]+")
# Behind an initial, or one of a few abbreviations, a full stop ends no sentence.
_BREAK = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[DJMS]r\.)(?<!\bSt\.)(?<!\bMrs\.)[\"”’')\]]*\s+"
)


class Article(NamedTuple):
    """A document: its title, which is the name of an entity, and what it says."""

    title: str
    text: str


@dataclass(frozen=True)
class Texts:
    """Documents as tokens, one behind the other: T of A documents.

    title_A: the entity that is the title. document_T, sentence_T: which it is in, both rising.
    entity_T: or `NONE`. word_T: number in `words`, or `NONE`. counts: how often each word occurs.
    """

    title_A: Int64s
    document_T: Int64s
    sentence_T: Int64s
    entity_T: Int64s
    word_T: Int64s
    words: list[str]
    counts: Int64s

    def vocabulary(self, least: int = LEAST) -> list[str]:
        """The words that occur so often."""
        return [self.words[i] for i in np.flatnonzero(self.counts >= least).tolist()]

    def slots_of(self, vocabulary: Iterable[str]) -> Int64s:
        """The word of each token as its place in a sorted vocabulary, `NONE` where it has none."""
        place = {word: slot for slot, word in enumerate(sorted(set(vocabulary)))}
        slot_W = np.array([place.get(word, NONE) for word in self.words] + [NONE], np.int64)
        return slot_W[self.word_T]


def read(base: KnowledgeBase, articles: Sequence[Article]) -> Texts:
    """Finds tokens, entities and sentences; titles that the base does not have are refused."""
    linker = _Linker(base, [article.text for article in articles])
    titles: list[int] = []
    number: dict[str, int] = {"": NONE}
    document_T, sentence_T, entity_T, word_T = (array("q") for _ in range(4))
    sentence = 0
    for document, (title, text) in enumerate(articles):
        titles.append(linker.named(title))
        if titles[-1] == NONE:
            raise TaskDataError(f"a text about {title!r}", "a film of the base", "leave it out")
        breaks = [match.end() for match in _BREAK.finditer(text)]
        for start, entity, word in linker.tokens(text, titles[-1]):
            document_T.append(document)
            sentence_T.append(sentence + bisect_right(breaks, start))
            entity_T.append(entity)
            word_T.append(number.setdefault(word, len(number) - 1))
        sentence += len(breaks) + 1
    words = np.array(word_T, np.int64)
    return Texts(
        title_A=np.array(titles, np.int64),
        document_T=np.array(document_T, np.int64),
        sentence_T=np.array(sentence_T, np.int64),
        entity_T=np.array(entity_T, np.int64),
        word_T=words,
        words=list(number)[1:],
        counts=np.bincount(words[words != NONE], minlength=len(number) - 1),
    )


class _Linker:
    """Finds the entities of a base in texts about them.

    A mention is spelt as the name is, but for genres, which are written in small letters too. What
    is one ordinary word ("It", "Her") names a film in its own article only.
    """

    def __init__(self, base: KnowledgeBase, texts: Sequence[str]) -> None:
        self._aliases = AliasIndex.build(base.aliases, base.weights)
        self._names: list[str] = base.entities["name"].to_pylist()
        _, relation_G, count_G, objects = base.columns()
        folded = np.repeat(relation_G, count_G) == base.relation(FOLDED)
        self._folded = frozenset(objects[folded].tolist())
        seen = Counter(w for text in texts for w in set(_WORD.findall(text)) if w.islower())
        bound = max(1.0, ORDINARY * len(texts))
        self._ordinary = frozenset(word for word, times in seen.items() if times >= bound)

    def named(self, name: str) -> int:
        return next((e for e in self._candidates(name) if self._names[e] == name), NONE)

    def tokens(self, text: str, title: int) -> Iterator[tuple[int, int, str]]:
        """Where each begins, and its entity, or `NONE` and its word, in small letters."""
        mentions = [
            (mention.start, mention.end, entity)
            for mention in self._aliases.link(text, common_words=self._ordinary)
            if (entity := self._meant(mention.text, mention.candidates.tolist(), title)) != NONE
        ]
        at = 0
        for start, end, entity in [*sorted(mentions), (len(text), len(text), NONE)]:
            for match in _WORD.finditer(text, at, start):
                yield match.start(), NONE, match[0].casefold()
            if entity != NONE:
                yield start, entity, ""
            at = end

    def _meant(self, text: str, candidates: list[int], title: int) -> int:
        for entity in candidates:
            if self._names[entity] == text:
                if entity != title and text.casefold() in self._ordinary:
                    continue
                return entity
        return next((entity for entity in candidates if entity in self._folded), NONE)

    def _candidates(self, name: str) -> list[int]:
        return self._aliases.candidates(name).tolist()


def sentences(texts: Texts, word_T: Int64s, kind: int) -> pa.Table:
    """One slot a sentence that names an entity; the value is the sentence itself, and its entities
    are the answers that may be read from it.

    word_T: as `Texts.slots_of` gives it.  kind: the number of the kind.
    """
    _, first_S, row_T = np.unique(texts.sentence_T, return_index=True, return_inverse=True)
    entities = _lists(row_T, texts.entity_T, len(first_S))
    named_S = np.diff(entities.offsets.to_numpy()) > 0
    table = pa.table(
        [
            texts.title_A[texts.document_T[first_S]],
            np.full(len(first_S), kind),
            entities,
            _lists(row_T, word_T, len(first_S)),
            entities,
        ],
        schema=SCHEMA,
    )
    return table.filter(pa.array(named_S))


def windows(texts: Texts, word_T: Int64s, width: int, kind: int, *, titled: bool) -> pa.Table:
    """One slot for each token that is an entity: the tokens around it, and it.

    width: W, odd, tokens of a window.  titled: whether the title is in the key.
    """
    centre_C = np.flatnonzero(texts.entity_T != NONE)
    title_C = texts.title_A[texts.document_T[centre_C]]
    at_CW = centre_C[:, None] + np.arange(-(width // 2), width // 2 + 1)
    inside_CW = (at_CW >= 0) & (at_CW < len(texts.entity_T))
    at_CW = np.where(inside_CW, at_CW, 0)
    inside_CW &= texts.document_T[at_CW] == texts.document_T[centre_C][:, None]
    entity_CW = np.where(inside_CW, texts.entity_T[at_CW], NONE)
    entity_CW[:, width // 2] = title_C if titled else NONE
    centre_C1 = texts.entity_T[centre_C][:, None]
    return pa.table(
        [
            title_C,
            np.full(len(centre_C), kind),
            _rows(centre_C1),
            _rows(np.where(inside_CW, word_T[at_CW], NONE)),
            _rows(np.concatenate([centre_C1, entity_CW], axis=1)),
        ],
        schema=SCHEMA,
    )


def with_titles(windows: pa.Table, kind: int) -> pa.Table:
    """The windows, and behind each the same with the title of the document as its value."""
    titles = _rows(windows["subject"].to_numpy()[:, None])
    again = windows.set_column(1, SCHEMA.field(1), pa.array(np.full(len(windows), kind)))
    again = again.set_column(2, SCHEMA.field(2), titles)
    # Side by side, so that a limit on what is looked up cuts both alike.
    order = np.arange(2 * len(windows)).reshape(2, -1).T.ravel()
    return pa.concat_tables([windows, again]).take(pa.array(order)).combine_chunks()


def _rows(items_RX: Int64s) -> pa.ListArray:
    """The items of each row that are not `NONE`."""
    row_T = np.repeat(np.arange(len(items_RX)), items_RX.shape[1])
    return _lists(row_T, items_RX.ravel(), len(items_RX))


def _lists(row_T: npt.NDArray[np.int64], items_T: Int64s, rows: int) -> pa.ListArray:
    """Items, each of a row, rising; those that are `NONE` left out."""
    there_T = items_T != NONE
    counts_R = np.bincount(row_T[there_T], minlength=rows)
    offsets = np.concatenate([[0], np.cumsum(counts_R)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, items_T[there_T])
