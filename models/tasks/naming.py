"""Finds what a question may be about by its longest names, and keeps a row for each name.

Candidates as in Bordes et al. 2015, arXiv 1506.02075: of all n-grams of a question,
those that are names stay, but for those with an interrogative in them, single stop words, and
those that lie within another; of the longest `names` of them the `each` entities that are in most
triples are candidates. Longest is by words, then by characters.

Letters: Q questions, N names, E candidate entities, A distinct names, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memstore import NO_SLOT, Memory, MemoryConfig
from memstore.config import Updates
from memstore.memory import Array, Slots
from models.tasks.answers import lists
from models.tasks.linking import AliasIndex, words
from models.tasks.memories import BLOCK, Holder, unit

_ASKING = "who whom whose what which where when why how"
_COMMON = """
    a an and are as at be been by can could did do does for from had has have he her him his i in
    into is it its me my name of on one or s she so some tell that the their them there they this
    to was we were will with would you your
"""

INTERROGATIVES = frozenset(_ASKING.split())

STOP_WORDS = INTERROGATIVES | frozenset(_COMMON.split())

NAMES = "names"
"""The memory of rows by name."""


@dataclass(frozen=True)
class Named:
    """The names in questions, numbers of the index and slots of the memory `names`, `[Q, N]`, the
    longest first; and the candidate entities `[Q, E]` that bear them, in that order, each once.
    `NO_SLOT` padded."""

    names_QN: Slots
    entities_QE: Slots


class Namer:
    """Reads the names in questions: at most `names` of them, at most `each` entities a name."""

    def __init__(self, aliases: AliasIndex, *, names: int = 5, each: int = 2) -> None:
        self.aliases, self.names, self.each = aliases, names, each

    def read(self, texts: Sequence[str]) -> Named:
        """Names and candidates of Q questions."""
        numbers = [self._longest(text) for text in texts]
        entities = [
            list(
                dict.fromkeys(e for n in own for e in self.aliases.bearers(n)[: self.each].tolist())
            )
            for own in numbers
        ]
        return Named(*(lists([np.array(row, np.int64) for row in r]) for r in (numbers, entities)))

    def _longest(self, text: str) -> list[int]:
        found = []
        for start, alias, number in self.aliases.within(" ".join(words(text))):
            own = alias.split()
            if INTERROGATIVES.isdisjoint(own) and not (len(own) == 1 and own[0] in STOP_WORDS):
                found.append((-len(own), -len(alias), start, number))
        found.sort()
        kept: list[tuple[int, int, int]] = []
        for _, length, start, number in found:
            # Longer ones come first, so that one within another comes behind it.
            if not any(first <= start and start - length <= last for first, last, _ in kept):
                kept.append((start, start - length, number))
        return list(dict.fromkeys(number for _, _, number in kept))[: self.names]


def build(
    holder: Holder,
    aliases: AliasIndex,
    entities: Memory,
    weights_A: Array,
    *,
    each: int,
    shards: int,
    updates: Updates,
) -> Memory:
    """Makes a row for each name, slot by number: the direction of the entities that bear it, the
    first `each` of them, as long as `weights_A` says. So a question that names an entity is near to
    it before training, and one that is never asked about in training is found as one that is.
    """
    config = entities.config
    memory = holder.create(
        NAMES,
        MemoryConfig(
            dim=config.dim,
            index="none",
            optimizer=config.optimizer,
            shards=shards,
            updates=updates,
            records={"name": "string"},
        ),
    )
    for start in range(0, len(aliases), BLOCK):
        numbers = np.arange(start, min(start + BLOCK, len(aliases)))
        bearers_NE = lists([aliases.bearers(number)[:each] for number in numbers.tolist()])
        there_NE = bearers_NE != NO_SLOT
        keys_BD = entities.gather(bearers_NE[there_NE]).keys_BD
        assert keys_BD is not None
        sums_ND = np.zeros((len(numbers), config.dim), np.float32)
        np.add.at(sums_ND, np.nonzero(there_NE)[0], keys_BD)
        rows_ND = unit(sums_ND) * np.asarray(weights_A[numbers], np.float32)[:, None]
        names = pa.array([aliases.alias(number) for number in numbers.tolist()], pa.string())
        memory.append(rows_ND, None, {"name": names})
    return memory


def rarity(names: Sequence[str], counts: dict[str, int], questions: int) -> Array:
    """How much of a name is not ordinary words, float32 `[A]`: the sum over its words of their
    inverse document frequency, 1 − log(n + 1) / log(Q + 1), which is 1 where no question has it.

    counts: of Q questions, in how many a word stands.
    """
    most = np.log(questions + 1.0) or 1.0
    idf = {word: 1.0 - np.log(count + 1.0) / most for word, count in counts.items()}
    told = [sum(idf.get(word, 1.0) for word in name.split()) for name in names]
    return np.array(told, np.float32)
