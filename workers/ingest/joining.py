"""Between stages 1 and 2: facts into and out of a mediator m become facts past it.

(s, r₁, m) and (m, r₂, o) make (s, r₁.r₂, o), for each of the one and of the other with s ≠ o, as
Bordes et al. 2015 (arXiv 1506.02075) remove mediators from Freebase. The relation is named as in
FB15k: /film/actor/film./film/performance/film.

mediators/sides.npy              int64 [ranges + 1, runs]: where ranges of mediators begin
runs/joined-RANGE-BLOCK.…        a run of facts that were made, as of a block
runs/joined-RANGE.json           that all of a range are there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memstore import files
from workers.ingest import cutting, keeping, mediators, runs

MOST_PAIRS = 1_024
"""Of facts into and out of one mediator; one that has more makes none. It would be no fact of a few
entities, but a node that many facts share, of which all pairs are not knowledge but its square."""

JOINT = "."
"""Between the names of two relations."""

COUNTED = ("joined", "made", "alone", "crowded")
"""Of each range. Facts at mediators: part of one that was made, or of none, or of a mediator of too
many pairs; and facts made. Double ones count as often as they were read."""


def cut(work: Path, names: Sequence[str], most_bytes: int) -> int:
    """Cuts the facts at mediators into ranges of about so many bytes; returns how many ranges."""
    path = work / "mediators" / "sides.npy"
    if not path.exists():
        bounds = cutting.bounds(
            len(names),
            lambda run: mediators.sides(work, names[run]),
            most_bytes,
            lambda table, place: table["mediator"][place].as_py(),
        )
        keeping.put_array(path, bounds)
    return len(keeping.array(path)) - 1


def join(work: Path, names: Sequence[str], number: int, most_facts: int) -> runs.Made:
    """Makes the runs of one range, each of about `most_facts`; returns what was made."""
    done = work / "runs" / f"joined-{number:06}.json"
    if not done.exists():
        bounds = keeping.array(work / "mediators" / "sides.npy")
        parts = [
            _own(mediators.sides(work, run).slice(first, last - first))
            for run, first, last in zip(names, bounds[number], bounds[number + 1], strict=True)
            if first < last
        ]
        made = _Range(parts).join(done.with_suffix(""), most_facts)
        files.replace_json(done, made)
        del parts
        keeping.give_back()
    return files.read_json(done)


def names(made: list[runs.Made]) -> list[str]:
    """The names of the runs that were made."""
    counts = enumerate(each["blocks"] for each in made)
    return [f"joined-{number:06}-{block:06}" for number, of in counts for block in range(of)]


@dataclass(frozen=True)
class _Part:
    """What a run has of a range."""

    mediator: np.ndarray
    into: np.ndarray
    relation: pa.DictionaryArray
    entity: pa.DictionaryArray


def _own(table: pa.Table) -> _Part:
    """A copy, behind which the file is let go: what was looked at of it is resident."""
    numbers, into = (np.array(table[name].to_numpy()) for name in ("mediator", "into"))
    relation, entity = (
        mediators.coded(column.indices.to_numpy(), column.dictionary)
        for column in (table[name].chunk(0) for name in ("relation", "entity"))
    )
    return _Part(numbers, into, relation, entity)


class _Range:
    """The facts at some mediators, each once: sorted by mediator, those out of it first."""

    def __init__(self, parts: list[_Part]) -> None:
        self._relations, relation = _merged([part.relation for part in parts])
        self._entities, entity = _merged([part.entity for part in parts])
        mediator = np.concatenate([np.empty(0, np.int64), *(part.mediator for part in parts)])
        into = np.concatenate([np.empty(0, bool), *(part.into for part in parts)])
        order = np.lexsort((entity, relation, into, mediator))
        columns = [each[order] for each in (mediator, into, relation, entity)]
        fresh = np.zeros(len(order), bool)
        fresh[:1] = True
        for column in columns:
            fresh[1:] |= column[1:] != column[:-1]
        first = np.flatnonzero(fresh)
        self._times = np.diff(first, append=len(order))
        mediator, self._into, self._relation, self._entity = (each[first] for each in columns)
        self._group = np.cumsum(np.diff(mediator, prepend=-1) > 0) - 1

    def join(self, stem: Path, most_facts: int) -> runs.Made:
        group, into = self._group, self._into
        count = int(group[-1]) + 1 if len(group) else 0
        outs = np.bincount(group[~into], minlength=count)
        pairs = np.bincount(group[into], minlength=count) * outs
        first_out = np.searchsorted(group, np.arange(count))
        is_crowded = pairs > MOST_PAIRS
        ins = np.flatnonzero(into & (pairs > 0)[group] & ~is_crowded[group])
        widths = outs[group[ins]]
        ends = np.cumsum(widths)
        is_used, made, blocks, begin = np.zeros(len(group), bool), 0, 0, 0
        while begin < len(ins):
            before = ends[begin] - widths[begin]
            end = max(int(np.searchsorted(ends, before + most_facts, side="right")), begin + 1)
            width = widths[begin:end]
            left = np.repeat(ins[begin:end], width)
            first = first_out[group[ins[begin:end]]] - (ends[begin:end] - width - before)
            right = np.repeat(first, width) + np.arange(len(left))
            is_apart = self._entity[left] != self._entity[right]
            left, right = left[is_apart], right[is_apart]
            is_used[left] = is_used[right] = True
            self._put(stem.with_name(f"{stem.name}-{blocks:06}"), left, right)
            made, blocks, begin = made + len(left), blocks + 1, end
        joined, crowded = (int(self._times[of].sum()) for of in (is_used, is_crowded[group]))
        alone = int(self._times.sum()) - joined - crowded
        counts = zip(COUNTED, (joined, made, alone, crowded), strict=True)
        return {"blocks": blocks, **dict(counts)}

    def _put(self, run: Path, left: np.ndarray, right: np.ndarray) -> None:
        """Keeps the facts that go on from those of `left` by those of `right`."""
        subjects, objects = self._entity[left], self._entity[right]
        is_named = np.zeros(len(self._entities), bool)
        is_named[subjects] = is_named[objects] = True
        place = np.cumsum(is_named) - 1
        relations = len(self._relations)
        both = self._relation[left].astype(np.int64) * relations + self._relation[right]
        both, of_pair = np.unique(both, return_inverse=True)
        halves = (self._relations.take(pa.array(half)) for half in np.divmod(both, relations))
        names, rank = runs.ranked(pc.binary_join_element_wise(*halves, JOINT))
        codes = np.empty((3, len(left)), np.int32)
        codes[0], codes[1], codes[2] = place[subjects], rank[of_pair], place[objects]
        runs.put(run, self._entities.filter(pa.array(is_named)), names, codes, {})


def _merged(columns: list[pa.DictionaryArray]) -> tuple[pa.Array, np.ndarray]:
    """The distinct texts of columns, rising, and the number of each text of these."""
    texts, codes, before = [pa.array([], pa.string())], [np.empty(0, np.int64)], 0
    for column in columns:
        texts.append(column.dictionary)
        codes.append(column.indices.to_numpy() + np.int64(before))
        before += len(column.dictionary)
    names, rank = runs.ranked(pa.concat_arrays(texts))
    return names, rank[np.concatenate(codes)]
