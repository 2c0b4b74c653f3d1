"""From the text of a question to what a network takes: linked entity, words, proposed facts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memstore import NO_SLOT, Memory
from memstore.memory import Slots
from models.asked import Asked
from models.tasks.linking import AliasIndex, Mention, words
from models.tasks.memories import KnowledgeMemories
from models.tasks.nearby import nearby

RARE = 1_000
"""Names that a word may be in and still say which is meant (arXiv 1606.03126, section 3.1, hashes
on words of frequency below 1,000)."""


_MARKED = re.compile(r"\[([^\[\]]+)\]")


@dataclass(frozen=True)
class Questions:
    """Many questions, read once: words_QW and entity_Q as in `Asked`; mentions as they were
    linked, None where the entity was found by its rare words, or not at all."""

    texts: list[str]
    words_QW: Slots
    entity_Q: Slots
    mentions: list[Mention | None]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, at: Slots) -> Questions:
        """The questions at some positions."""
        return Questions(
            [self.texts[i] for i in at],
            self.words_QW[at],
            self.entity_Q[at],
            [self.mentions[i] for i in at],
        )


class QuestionReader:
    """Links entities and looks words up; words it does not know are passed over.

    by: the column of the facts by whose entities they are hashed: their subject, or, of documents,
        any entity of the key.
    reach: facts away that are hashed too: those of the objects of these, and so on.
    """

    def __init__(
        self,
        memories: KnowledgeMemories,
        aliases: AliasIndex,
        *,
        by: str = "subject",
        reach: int = 1,
    ) -> None:
        self.memories, self.aliases, self.by, self.reach = memories, aliases, by, reach
        live = np.arange(memories.words.describe().next_slot)
        records = memories.words.gather(live, vectors=False, columns=["word"]).records
        assert records is not None
        self._common = frozenset(records["word"].to_pylist())

    def read(self, texts: Sequence[str]) -> Questions:
        """Reads the texts of Q questions."""
        mentions = [self._mention(text) for text in texts]
        bags = [
            words(text if m is None else text[: m.start] + " " + text[m.end :])
            for text, m in zip(texts, mentions, strict=True)
        ]
        entity_Q = np.array(
            [
                self._by_rare_words(bag) if m is None else m.candidates[0]
                for m, bag in zip(mentions, bags, strict=True)
            ],
            np.int64,
        )
        return Questions(list(texts), slots_of(self.memories.words, bags), entity_Q, mentions)

    def ask(self, questions: Questions, at: Slots, key_limit: int | None) -> Asked:
        """The questions at some positions; with a key_limit, facts proposed by key hashing: those
        whose key shares the linked entity, at most so many a question."""
        entity_Q = questions.entity_Q[at]
        if key_limit is None:
            return Asked(questions.words_QW[at], entity_Q)
        slots_QK, away_QK, _ = self.hashed(entity_Q, key_limit)
        return Asked(questions.words_QW[at], entity_Q, slots_QK, away_QK)

    def hashed(
        self, entity_Q: Slots, key_limit: int
    ) -> tuple[Slots, Slots | None, npt.NDArray[np.bool_]]:
        """Facts whose key has the entity, and those near to them, at most so many a question; how
        far away they are, where some are not its own; and whose were cut."""
        facts = self.memories.facts
        if self.reach > 1:
            return nearby(facts, entity_Q, reach=self.reach, limit=key_limit)
        found = facts.lookup(self.by, entity_Q, key_limit)
        return found.padded(), None, found.truncated_Q

    def _by_rare_words(self, bag: list[str]) -> int:
        """The entity whose name shares most rare words with a question that names none in full,
        the heaviest of equals; `NO_SLOT` if there is none."""
        rare = sorted(set(bag) - self._common)
        entities = self.memories.entities
        if not rare or "words" not in entities.config.lookup:
            return NO_SLOT
        found = entities.lookup("words", rare, RARE)
        kept = np.repeat(~found.truncated_Q, found.counts_Q)
        sharing, shared = np.unique(found.slots[kept], return_counts=True)
        if not len(sharing):
            return NO_SLOT
        best = sharing[shared == shared.max()]
        records = entities.gather(best, vectors=False, columns=["weight"]).records
        assert records is not None
        return int(best[np.argmax(records["weight"].to_numpy())])

    def _mention(self, text: str) -> Mention | None:
        """What stands in brackets, if that is a name, or the likeliest mention; ordinary words in
        small letters name nothing ("is", Icelandic)."""
        marked = _MARKED.search(text)
        if marked and len(candidates := self.aliases.candidates(marked[1])):
            start, end = marked.span()
            return Mention(start, end, marked[1], self._so_named(candidates, marked[1]))
        for mention in self.aliases.link(text, common_words=self._common):
            if mention.text != mention.text.lower() or not self._common.issuperset(
                words(mention.text)
            ):
                return mention
        return None

    def _so_named(self, candidates: Slots, name: str) -> Slots:
        """Entities, first those that are spelt so: Horror is a genre, horror a tag."""
        if len(candidates) == 1:
            return candidates
        other = [own != name for own in self.memories.named(candidates)]
        return candidates[np.argsort(other, kind="stable")]


def slots_of(memory: Memory, bags: Sequence[Sequence[str]]) -> Slots:
    """The slots of words, by their record `word`, `[Q, W]`, `NO_SLOT` padded; those that the memory
    has not are left out."""
    flat = [word for bag in bags for word in bag]
    found = memory.lookup("word", flat, 1).padded(1)[:, 0]
    counts = np.array([len(bag) for bag in bags])
    row = np.repeat(np.arange(len(bags)), counts)[found != NO_SLOT]
    found = found[found != NO_SLOT]
    column = np.arange(len(row)) - np.searchsorted(row, row)
    slots_QW = np.full((len(bags), int(column.max(initial=0)) + 1), NO_SLOT, np.int64)
    slots_QW[row, column] = found
    return slots_QW
