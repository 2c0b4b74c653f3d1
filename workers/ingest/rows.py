"""Rows of the memories, as they are before training, from place to place.

Entities are in order of their names, relations too, and the words that are in names of relations;
facts in order of (subject, relation), and the objects of a fact by falling weight, then by rising
entity. So what comes out depends on the
facts and on the seed alone: not on the order of sources, how they were cut, or who read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from memstore.memory import Array
from models.tasks.linking import words
from models.tasks.memories import Initial, around, commons, unit
from workers.ingest import dictionary, keeping
from workers.ingest.spelling import spelt

DRAWN = 8_192
"""Rows drawn at a time, each time by a generator of their own."""

OBJECTS = 8
"""For each row of a batch of facts, how many objects it may have, on the whole."""

Batch = tuple[Array | None, pa.Table]
"""Keys, where they are not sums, and records."""


class Rows:
    """What a work folder has of the memories, once all is grouped."""

    def __init__(
        self,
        work: Path,
        firsts: dict[str, np.ndarray],
        groups: list[int],
        *,
        dim: int,
        seed: int,
        batch: int,
        initial: Initial = Initial(),
        spelt: bool = False,
    ) -> None:
        """firsts: by kind, the number of the first name of each range of names, and the count of
        all.  groups: how many fact rows each range has.  batch: most rows given at a time.
        initial, spelt: as of a `Layout`."""
        self._work, self._firsts, self._batch = work, firsts, batch
        self._groups = np.cumsum([0, *groups])
        self._dim, self._seed, self._initial = dim, seed, initial
        self._spelt = spelt
        self._split = dim - round(dim * self._initial.relation_share)
        self.count = {kind: int(each[-1]) for kind, each in firsts.items()}
        self.count["facts"] = int(self._groups[-1])
        self.count["words"] = len(self._words)

    def between(self, name: str, first: int, last: int) -> Iterator[Batch]:
        """The rows of a memory from one to another, batch by batch, the same each time."""
        if name == "facts":
            yield from self._facts(first, last)
            return
        make = {
            "words": self._rows_of_words,
            "entities": self._entities,
            "relations": self._relations,
        }[name]
        for start in range(first, last, self._batch):
            yield make(start, min(start + self._batch, last))

    @cached_property
    def weights(self) -> np.ndarray:
        """How many facts each entity is in, as a subject or an object, int64 [N]."""
        weights = np.zeros(self.count["entities"], np.int64)
        for number in range(len(self._groups) - 1):
            facts = self._group(number)
            if len(facts):
                lists = _one(facts["objects"])
                subjects = facts["subject"].to_numpy()
                least = int(subjects[0])
                own = np.bincount(subjects - least, np.diff(lists.offsets.to_numpy()))
                weights[least : least + len(own)] += own.astype(np.int64)
                np.add.at(weights, lists.flatten().to_numpy(), 1)
        return weights

    def _entities(self, first: int, last: int) -> Batch:
        names = dictionary.names_between(
            self._work, "entities", self._firsts["entities"], first, last
        )
        keys_BD = np.zeros((last - first, self._dim), np.float32)
        for at, rows_BD in self._drawn(first, last, 1, self._split):
            keys_BD[at, : self._split] = self._initial.entity * rows_BD
        return keys_BD, pa.table({"name": names, "weight": self.weights[first:last]})

    @cached_property
    def _common_CD(self) -> Array:
        rng = np.random.default_rng((self._seed, 0))
        return commons(rng, self.count["entities"], self._split)

    def _drawn(
        self, first: int, last: int, memory: int, width: int
    ) -> Iterator[tuple[slice, Array]]:
        """Unit rows from one to another, part by part, and where among them the part is.

        memory: 1 for entities, which are gathered around common directions, 2 for relations, 3 for
            words.
        """
        for block in range(first // DRAWN, -(-last // DRAWN)):
            rng = np.random.default_rng((self._seed, memory, block))
            rows_BD = unit(rng.standard_normal((DRAWN, width), np.float32))
            if memory == 1:
                rows_BD = around(rng, rows_BD, self._common_CD, self._initial.gathered)
            start = block * DRAWN
            begin, end = max(first, start), min(last, start + DRAWN)
            yield slice(begin - first, end - first), rows_BD[begin - start : end - start]

    def _relations(self, first: int, last: int) -> Batch:
        names = dictionary.names_between(
            self._work, "relations", self._firsts["relations"], first, last
        )
        keys_BD = self._about(first, last, 2, self._initial.relation)
        if self._spelt:
            keys_BD = self._of_words(names.to_pylist(), keys_BD)
        return keys_BD, pa.table({"name": names})

    def _of_words(self, names: list[str], drawn_BD: Array) -> Array:
        """The directions of the words of names together, as long as what was drawn; that where a
        name has none."""
        words_WD = self._about(0, len(self._words), 3, 1.0)
        spoken, owner, counts = spelt(names)
        keys_BD = np.zeros_like(drawn_BD)
        np.add.at(keys_BD, owner, counts[:, None] * words_WD[np.searchsorted(self._words, spoken)])
        lengths_B1 = np.linalg.norm(keys_BD, axis=1, keepdims=True)
        keys_BD *= self._initial.relation / np.maximum(lengths_B1, 1e-6)
        return np.where(lengths_B1 > 1e-6, keys_BD, drawn_BD)

    def _rows_of_words(self, first: int, last: int) -> Batch:
        keys_BD = self._about(first, last, 3, self._initial.word)
        return keys_BD, pa.table({"word": pa.array(self._words[first:last], pa.string())})

    @cached_property
    def _words(self) -> list[str]:
        """What names of relations are made of, sorted: with what questions may speak of them."""
        firsts = self._firsts["relations"]
        names = dictionary.names_between(self._work, "relations", firsts, 0, int(firsts[-1]))
        return sorted({word for name in names.to_pylist() for word in words(name)})

    def _about(self, first: int, last: int, memory: int, norm: float) -> Array:
        """Rows of what is said of entities: in the last dimensions.  memory: as in `_drawn`."""
        keys_BD = np.zeros((last - first, self._dim), np.float32)
        for at, rows_BD in self._drawn(first, last, memory, self._dim - self._split):
            keys_BD[at, self._split :] = norm * rows_BD
        return keys_BD

    def _facts(self, first: int, last: int) -> Iterator[Batch]:
        begin, end = np.searchsorted(self._groups, [first, last - 1], side="right") - 1
        for number in range(begin, end + 1):
            start = int(self._groups[number])
            facts = self._group(number)[max(first - start, 0) : last - start]
            while len(facts):
                offsets = _one(facts["objects"]).offsets.to_numpy()
                most = offsets[0] + self._batch * OBJECTS
                rows = int(np.searchsorted(offsets[: self._batch + 1], most, side="right")) - 1
                part = facts[: max(rows, 1)].combine_chunks()
                yield None, part.set_column(2, "objects", self._ordered(_one(part["objects"])))
                facts = facts[len(part) :]

    @cached_property
    def _by_weight(self) -> tuple[np.ndarray, np.ndarray]:
        """The entities by falling weight, and the place of each among them."""
        order = np.argsort(-self.weights, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return order, rank

    def _ordered(self, lists: pa.ListArray) -> pa.ListArray:
        order, rank = self._by_weight
        offsets = lists.offsets.to_numpy()
        rows = np.repeat(np.arange(len(lists)) * len(rank), np.diff(offsets))
        places = rows + rank[lists.flatten().to_numpy()]
        places.sort()
        objects = order[places - rows]
        return pa.ListArray.from_arrays((offsets - offsets[0]).astype(np.int32), objects)

    def _group(self, number: int) -> pa.Table:
        return keeping.table(self._work / "groups" / f"{number:06}.arrow")


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
