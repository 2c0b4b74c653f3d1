"""The texts of a synthetic knowledge base: identifiers, names that several share, questions.

An identifier is as Freebase has it, `/m/0` and six digits of its 32; no two entities share one.
A name is two or three made-up words. Names are drawn by a power law, so that two fifths of the
entities share theirs with others and the most frequent names have many bearers; a quarter have an
alias, an initial with the last words of the name, which is shared more often still.

Letters: B entities, Q questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.tasks.knowledge import Int64s
from models.tasks.questions import Split, held_out_of, mixed
from models.tasks.worded import SPLITS

DIGITS = np.frombuffer(b"0123456789bcdfghjklmnpqrstvwxyz_", np.uint8)
BITS = 30
"""Of an identifier, in digits of five each."""

LARGEST = "/people/person/profession"
"""The name of relation 0."""

TYPES = 521
"""At most; a prime, so that neighbours among relations are of different ones."""

ALIASED = 0.25
"""The share of entities with an alias."""

NAMES, SHARING = 2, 1.5
"""Name number ⌊NAMES · N · u^SHARING⌋ for N entities, u uniform in 0 to 1."""

# Of the names of relations and their types.
_DOMAINS = """
arts astronomy aviation biology boats books business chemistry commerce computing cooking
education film finance fashion food games geography history language law library location medicine
military music nature opera organization physics politics religion royalty science sports theater
transport travel war weather
"""
_THINGS = """
account agency archive artist association award board body building bridge camp castle category
character city club collection college comet company compound court creator culture device disease
district dynasty edition engine event exhibit festival field fleet forest fund gallery garden
genre group guild harbor house industry institution instrument island journal judge lake league
lesson machine manager market material meeting mine mission monument mountain museum network
office orbit orchestra owner park party performer period person place plant player port prize
program project province railway region river road route school season series service ship site
society species stadium station statue street studio style team temple theory tower town trial
tribe union valley vehicle venue village vessel voyage wall work workshop writer zone
"""
_QUALIFIERS = """
ancient annual assigned associated central chief current declared early eastern elected favored
final first foreign former founding general grand granted hidden high honorary initial inner joint
junior large last late legal local lost lower main major married middle minor named native new
noble northern notable official old open opposed original outer own parallel past permanent
planned popular present primary prior private proper proposed public published recent registered
related reported rival royal rural sacred second senior shared single smaller southern special
standard supporting third titular traditional upper urban usual western winning written young
"""

WORDINGS = (
    "what is the {} of {}?",
    "which {} does {} have?",
    "name the {} of {}.",
    "tell me which {} belongs to {}.",
    "what {} is known for {}?",
    "for {1}, what is the {0}?",
    "the {} that {} has is which?",
)
"""Of all relations: {} is the relation, then the subject. The LAST is held out for testing."""

_SYLLABLES = [consonant + vowel for consonant in "bdklmnrs" for vowel in "aeio"]
_WORD_BITS = 10


@dataclass(frozen=True)
class Texts:
    """The texts of a base of so many entities and relations; of the same seed the same ones."""

    entities: int
    relations: int
    seed: int = 0

    def identifiers(self, entity_B: Int64s, before: str, behind: str, slash: str) -> pa.Array:
        """Identifiers, with something before and behind each; slash: what stands behind the m."""
        start = np.frombuffer(f"{before}m{slash}0".encode(), np.uint8)
        end = np.frombuffer(behind.encode(), np.uint8)
        digits = BITS // 5
        letters_BW = np.empty((len(entity_B), len(start) + digits + len(end)), np.uint8)
        letters_BW[:, : len(start)] = start
        letters_BW[:, len(start) + digits :] = end
        shift = int(mixed(np.array([self.seed]), 3)[0] >> np.uint64(64 - BITS))
        # An odd factor turns the numbers below a power of two into one another.
        code_B = (entity_B * 0x2545F491 + shift) & ((1 << BITS) - 1)
        for place in range(digits):
            at = len(start) + digits - 1 - place
            letters_BW[:, at] = DIGITS[(code_B >> (5 * place)) & 31]
        width = letters_BW.shape[1]
        ends = np.arange(len(entity_B) + 1, dtype=np.int64) * width
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(letters_BW)]
        return pa.Array.from_buffers(pa.large_string(), len(entity_B), buffers)

    def names(self, entity_B: Int64s) -> pa.Array:
        """The names of entities."""
        first, rest = self._words(entity_B)
        return joined(first, rest, between=" ")

    def aliases(self, entity_B: Int64s) -> pa.Array:
        """The aliases of entities, null where one has none."""
        first, rest = self._words(entity_B)
        alias = joined(pc.utf8_slice_codeunits(first, 0, 1), rest, between=". ")
        return pc.if_else(
            pa.array(held_out_of(entity_B, seed=self.seed, share=ALIASED)), alias, None
        )

    @cached_property
    def relation_names(self) -> tuple[str, ...]:
        """The names of all relations, `/domain/type/property`; no two properties are the same."""
        domains, things, qualifiers = (each.split() for each in (_DOMAINS, _THINGS, _QUALIFIERS))
        number = np.arange(self.relations - 1)
        of_type = (mixed(number, self.seed) % np.uint64(TYPES)).astype(np.int64)
        thing, round_ = number % len(things), number // len(things)
        qualifier, again = round_ % len(qualifiers), round_ // len(qualifiers)
        made = (
            f"/{domains[t % len(domains)]}/{things[t % len(things)]}"
            f"/{qualifiers[(q + o) % len(qualifiers)]}_{things[o]}{f'_{a + 1}' if a else ''}"
            for t, q, o, a in zip(
                *(column.tolist() for column in (of_type, qualifier, thing, again)), strict=True
            )
        )
        return (LARGEST, *made)

    @cached_property
    def types(self) -> tuple[tuple[str, ...], Int64s]:
        """The types that relations are of, `domain.type`, and that of each relation, int64 [R]."""
        of_relation = [
            name.rpartition("/")[0][1:].replace("/", ".") for name in self.relation_names
        ]
        names, numbers = np.unique(of_relation, return_inverse=True)
        return tuple(names.tolist()), numbers.astype(np.int64)

    def questions(
        self, rng: np.random.Generator, subject_Q: Int64s, relation_Q: Int64s, split: Split
    ) -> pa.Array:
        """Asks for what subjects have by relations, in one of the wordings of a split."""
        wordings = WORDINGS[-1:] if SPLITS[split][0] else WORDINGS[:-1]
        asked = [name.rpartition("/")[2].replace("_", " ") for name in self.relation_names]
        drawn = rng.integers(0, len(wordings), len(subject_Q)).tolist()
        names = self.names(subject_Q).to_pylist()
        rows = zip(drawn, relation_Q.tolist(), names, strict=True)
        texts = [wordings[wording].format(asked[r], name) for wording, r, name in rows]
        return pa.array(texts, pa.large_string())

    def _words(self, entity_B: Int64s) -> tuple[pa.Array, pa.Array]:
        """The first word of the names of entities, and the others."""
        bits = max(2 * _WORD_BITS, int(NAMES * self.entities - 1).bit_length())
        uniform_B = (mixed(entity_B, self.seed + 1) >> np.uint64(11)) * 2.0**-53
        number_B = (NAMES * self.entities * uniform_B**SHARING).astype(np.int64)
        code_B = (number_B * 0x9E3779B1 + self.seed) & ((1 << bits) - 1)
        words = [
            _VOCABULARY.take(pa.array((code_B >> place) & ((1 << _WORD_BITS) - 1)))
            for place in range(0, bits, _WORD_BITS)
        ]
        return words[0], joined(*words[1:], between=" ")


_VOCABULARY = pa.array(
    [(one + two).capitalize() for one in _SYLLABLES for two in _SYLLABLES], pa.large_string()
)


def joined(*columns: pa.Array | str, between: str) -> pa.Array:
    """The texts of each row as one, with `between` in between; a text stands for each row."""
    texts = [pa.scalar(c, pa.large_string()) if isinstance(c, str) else c for c in columns]
    return pc.binary_join_element_wise(*texts, pa.scalar(between, pa.large_string()))


def lines(*columns: pa.Array | str) -> pa.Buffer:
    """Lines, each of the texts of a row with tabs in between, as the bytes of a file."""
    texts = joined(joined(*columns, between="\t"), "", between="\n")
    if not len(texts):
        return pa.py_buffer(b"")
    return texts.buffers()[2].slice(0, int(np.frombuffer(texts.buffers()[1], np.int64)[len(texts)]))
