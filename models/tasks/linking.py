"""Finds which entities a text names, by a dictionary of aliases kept in a memory-mapped trie.

Shapes: N entities, A distinct normalised aliases, C candidates (pairs of alias and entity).

Files of a saved index: `aliases.marisa` (the trie: alias -> number below A),
`offsets.npy` int64 [A + 1], `candidates.npy` int64 [C], `weights.npy` int64 [N], and
`manifest.json` (format, version, and of each file the bytes and the CRC-32), written last.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import marisa_trie
import numpy as np
import pyarrow as pa

from memstore.files import array_at
from models.tasks.knowledge import Int64s, TaskDataError

FORMAT, VERSION = "memstore-aliases", 1
TRIE, MANIFEST = "aliases.marisa", "manifest.json"
ARRAYS = ("offsets", "candidates", "weights")

# Typographic variants that people and sources use for one another; NUL, which a trie cannot hold.
_TYPOGRAPHY = str.maketrans("‘’ʻʼ‐–—\0", "''''--- ")
# Thai to Tibetan, Burmese, Hangul jamo, Khmer, kana and Han, Hangul, Han supplements: written
# without spaces, or (Hangul) with endings joined to the noun, so a name may end after any letter.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u312f\u31f0-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U000323af"
)
# Characters that join the one before: marks, the later jamo of a syllable, half-width voicing.
_JOINING = "".join(c for c in map(chr, range(0x20000)) if unicodedata.category(c)[0] == "M")
_JOINING += "\u1160-\u11ff\uff9e\uff9f"
_TOKEN = re.compile(
    rf"[{_UNSPACED}][{_JOINING}]*|(?:(?![{_UNSPACED}])[\w{_JOINING}])+|\S", flags=re.UNICODE
)
_CLUSTER = re.compile(rf"\s+|.[{_JOINING}]*", flags=re.UNICODE | re.DOTALL)
_WORD = re.compile(r"[^\W_]+")
BLOCK = 65_536
"""Aliases looked at at a time."""

# Bounds the time of a link; the longest alias of GeoNames has 193 characters.
_LONGEST = 256
_LATIN_MARKS = re.compile("[\u0300-\u036f]")


@dataclass(frozen=True, slots=True, eq=False)
class Mention:
    """Says that `text[start:end]` may name one of `candidates` (int64, by falling weight)."""

    start: int
    end: int
    text: str
    candidates: Int64s

    @property
    def ambiguity(self) -> int:
        """How many entities bear the name."""
        return len(self.candidates)


def normalise(text: str) -> str:
    """Folds case, compatibility forms (NFKC), typographic quotes and white space; keeps accents."""
    return " ".join(_fold(text).split())


def words(text: str) -> list[str]:
    """Splits a text into lower-case words, without punctuation."""
    found: list[str] = _WORD.findall(text.casefold())
    return found


def unaccented(alias: str) -> str | None:
    """Takes the accents off a Latin alias; None where it has none, or where more would be lost."""
    plain = _LATIN_MARKS.sub("", unicodedata.normalize("NFD", alias))
    return plain if plain.isascii() and not alias.isascii() else None


class AliasIndex:
    """Maps every alias to the entities that bear it, and finds the aliases within a text.

    Safe to read from many threads. Loaded from a folder it is memory-mapped, so processes share
    it, and nothing of its size is read before it is used (but for the check of its bytes).
    """

    def __init__(
        self, trie: marisa_trie.Trie, offsets: Int64s, candidates: Int64s, weights: Int64s
    ) -> None:
        self._trie, self._offsets = trie, offsets
        self._candidates, self._weights = candidates, weights

    def __len__(self) -> int:
        """The number of distinct normalised aliases, A."""
        return len(self._trie)

    @classmethod
    def build(cls, aliases: pa.Table, weights: Int64s) -> AliasIndex:
        """Indexes the aliases of a knowledge base.

        aliases: table of `alias: string` and `entity: int64` (0 ≤ entity < N), in any order.
        weights: int64 [N], the popularity by which the candidates of an alias fall.

        An alias with accents is indexed without them as well, unless that form is already an
        alias: "Sao Paulo" finds São Paulo, while "Peru" gains no candidate from "Perú".
        """
        return cls.streamed(lambda: aliases.to_batches(BLOCK), weights)

    @classmethod
    def streamed(
        cls, batches: Callable[[], Iterable[pa.RecordBatch]], weights: Int64s
    ) -> AliasIndex:
        """Indexes aliases that are not held, but for 16 bytes each, and a trie of them.

        batches: gives them, as rows of the table of `build`: it is called twice.
        """
        own = marisa_trie.Trie(_texts(batches()))
        plain = marisa_trie.Trie(
            form for text in own.iterkeys() if (form := unaccented(text)) and form not in own
        )
        trie = marisa_trie.Trie(chain(own.iterkeys(), plain.iterkeys())) if len(plain) else own
        del own
        parts = [_numbered(batch, trie, plain, len(weights)) for batch in batches()]
        none = np.empty(0, np.int64)
        alias, entity = (np.concatenate(of) for of in zip((none, none), *parts, strict=True))
        del parts
        order = np.lexsort((entity, -weights[entity], alias))
        alias, entity = alias[order], entity[order]
        fresh = np.ones(len(alias), bool)
        fresh[1:] = (alias[1:] != alias[:-1]) | (entity[1:] != entity[:-1])
        offsets = np.searchsorted(alias[fresh], np.arange(len(trie) + 1)).astype(np.int64)
        return cls(trie, offsets, entity[fresh], np.asarray(weights, np.int64))

    def save(self, folder: Path) -> None:
        """Writes the index to `folder`; a reader of an older one there keeps what it mapped."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        self._trie.save(str(folder / f"{TRIE}.new"))
        for name in ARRAYS:
            with (folder / f"{name}.npy.new").open("wb") as file:
                np.save(file, getattr(self, f"_{name}"), allow_pickle=False)
        files = {}
        for name in (TRIE, *(f"{name}.npy" for name in ARRAYS)):
            (folder / f"{name}.new").replace(folder / name)
            files[name] = _fingerprint(folder / name)
        manifest = {"format": FORMAT, "version": VERSION, "files": files}
        new = folder / f"{MANIFEST}.new"
        new.write_text(json.dumps(manifest, indent=1))
        new.replace(folder / MANIFEST)

    @classmethod
    def load(cls, folder: Path) -> AliasIndex:
        """Maps a saved index; raises `TaskDataError` where it is torn, foreign or incomplete."""
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            known = (manifest["format"], manifest["version"]) == (FORMAT, VERSION)
            files = dict(manifest["files"]) if known else {}
            torn = [name for name, kept in files.items() if _fingerprint(folder / name) != kept]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(folder, repr(error)) from error
        if set(files) != {TRIE, *(f"{name}.npy" for name in ARRAYS)}:
            raise _unreadable(folder, f"a manifest of {str(manifest)[:200]}")
        if torn:
            raise _unreadable(folder, f"changed or cut bytes in {', '.join(torn)}")
        try:
            trie = marisa_trie.Trie().mmap(str(folder / TRIE))
            # As plain arrays: a slice of a `memmap` takes several times as long.
            offsets, candidates, weights = (
                array_at(folder / f"{name}.npy").view(np.ndarray) for name in ARRAYS
            )
        except (RuntimeError, ValueError) as error:
            raise _unreadable(folder, repr(error)) from error
        if len(offsets) != len(trie) + 1 or offsets[-1] != len(candidates):
            raise _unreadable(folder, f"{len(trie)} aliases with {len(offsets)} offsets")
        return cls(trie, offsets, candidates, weights)

    def candidates(self, alias: str) -> Int64s:
        """Returns the entities of an alias, int64 by falling weight; empty where it is unknown."""
        number = self._trie.get(normalise(alias))
        return np.empty(0, np.int64) if number is None else self.bearers(number)

    def link(self, text: str, *, common_words: frozenset[str] = frozenset()) -> list[Mention]:
        """Finds the mentions in a text, the likeliest subject of a question first.

        common_words: ordinary words, normalised; there are places named Of, Same, Time and Do.

        Mentions begin and end at word boundaries and do not overlap. Where aliases do, one whose
        capitals come after a common word gives way ("city of Jordan"), then the shorter. First
        come mentions with a capital within a sentence, then those of more than common words,
        then the longest, then the heaviest. Aliases of over 256 characters are not found.
        """
        folded, origin = _fold_with_origin(text)
        found = []
        for start, alias, number in self._within(folded):
            end = start + len(alias)
            first = start if origin is None else origin[start][0]
            last = end if origin is None else origin[end - 1][1]
            own = _WORD.findall(alias)
            loose = bool(own) and own[0] in common_words and _late(text[first:last])
            found.append((loose, -len(alias), start, first, last, own, number))
        found.sort()
        taken = bytearray(len(folded))
        ranked = []
        for _, length, start, first, last, own, number in found:
            if any(taken[start : start - length]):
                continue
            taken[start : start - length] = b"\1" * -length
            candidates = self.bearers(number)
            # ".to" and "+81" are no ordinary words, nor is punctuation alone a name
            common = common_words.issuperset(own) and (not own or folded[start].isalnum())
            weight = int(self._weights[candidates[0]])
            rank = (not _capitalised(text, first, last), common, length, -weight, start)
            ranked.append((rank, Mention(first, last, text[first:last], candidates)))
        ranked.sort(key=lambda pair: pair[0])
        return [mention for _, mention in ranked]

    def within(self, text: str) -> list[tuple[int, str, int]]:
        """All aliases in a text that begin and end at word boundaries, also those that overlap:
        where each begins in the normalised text, the alias, its number."""
        return list(self._within(normalise(text)))

    def alias(self, number: int) -> str:
        """The normalised alias of a number, 0 ≤ number < A."""
        found: str = self._trie.restore_key(number)
        return found

    def bearers(self, number: int) -> Int64s:
        """The entities of the alias of a number, int64 by falling weight."""
        first, last = self._offsets[number], self._offsets[number + 1]
        return self._candidates[first:last]

    def _within(self, folded: str) -> Iterator[tuple[int, str, int]]:
        tokens = [match.span() for match in _TOKEN.finditer(folded)]
        ends = {end for _, end in tokens}
        for start, _ in tokens:
            for alias, number in self._trie.iter_prefixes_with_ids(
                folded[start : start + _LONGEST]
            ):
                if start + len(alias) in ends:
                    yield start, alias, number


def _texts(batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    for batch in batches:
        yield from filter(None, map(normalise, batch["alias"].to_pylist()))


def _numbered(
    batch: pa.RecordBatch, trie: marisa_trie.Trie, plain: marisa_trie.Trie, entities: int
) -> tuple[Int64s, Int64s]:
    """The numbers of aliases, and of those without their accents, and their entities."""
    entity = np.asarray(batch["entity"].to_numpy())
    bad = entity[(entity < 0) | (entity >= entities)]
    if len(bad):
        raise TaskDataError(
            f"alias entity {bad[0]}", f"0 ≤ entity < {entities}", "pass its own weights"
        )
    texts = [normalise(alias) for alias in batch["alias"].to_pylist()]
    forms = [
        (row, form)
        for row, text in enumerate(texts)
        if (form := unaccented(text)) and form in plain
    ]
    alias = [trie.get(text, -1) for text in texts] + [trie[form] for _, form in forms]
    rows = np.array([*range(len(texts)), *(row for row, _ in forms)], np.int64)
    numbers = np.array(alias, np.int64)
    return numbers[numbers >= 0], entity[rows][numbers >= 0]


def _fold(text: str) -> str:
    if text.isascii():
        return text.casefold().replace("\0", " ")
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", folded).translate(_TYPOGRAPHY)


def _fold_with_origin(text: str) -> tuple[str, list[tuple[int, int]] | None]:
    """Normalises a text, and says of each character from which span of the text it came.

    The origin is None where every character came from the one at its own place.
    """
    if text.isascii() and "  " not in text and text.isprintable():
        return text.casefold(), None
    folded, origin = "", []
    for match in _CLUSTER.finditer(text):
        piece = " " if match[0].isspace() else _fold(match[0])
        if piece[:1] == " " == folded[-1:]:  # a lone accent folds to a space and a mark
            piece = piece[1:]
        folded += piece
        origin += [match.span()] * len(piece)
    return folded, origin


def _late(span: str) -> bool:
    """Whether a span has capitals, but not at its beginning."""
    return span[0] == span[0].lower() and span != span.lower()


def _capitalised(text: str, start: int, end: int) -> bool:
    """Whether the span has a capital that the beginning of a sentence does not explain."""
    before = text[:start].rstrip(" \t\n\"'“‘«(¿¡")
    begins = not before or before[-1] in ".!?。！？"
    own = text[start + begins : end]
    return own != own.lower()


def _fingerprint(file: Path) -> list[int]:
    crc, length = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            crc, length = zlib.crc32(block, crc), length + len(block)
    return [length, crc]


def _unreadable(folder: Path, got: str) -> TaskDataError:
    return TaskDataError(got, f"an alias index in {folder}", "build it again and save it there")
