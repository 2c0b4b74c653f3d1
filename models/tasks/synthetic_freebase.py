"""Makes facts that look like those of Freebase, of any size: block by block, and seeded.

Freebase's subsets FB2M and FB5M (Bordes et al. 2015, arXiv 1506.02075) are of known size, which
the statistics below say. What is made has these, or for another number of facts those that
`Statistics.scaled` makes of them:

exactly      entities, subjects, relations, facts, rows (one for each subject and relation), those
             who have one row, and the relations that occur once
nearly       the rows of the largest relation, and the objects of the largest subject, which are
             no more than stated
by choice    how rows fall from relation to relation (Mandelbrot's law), rows of a subject (the
             same), objects of a row (Zipf's law): of these nothing but the above is known

Subjects come one after the other, entity 0 first, and so do their relations; entities that are no
subject are behind them, and are the object of one row each. Relation 0 is the largest. A relation
has objects out of a range of entities of its own, the first of them far more often than the last.

The texts, and files of them, are in `models.tasks.synthetic_texts` and `synthetic_files`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.tasks.fitted import Floats, classes, falling, inclusions
from models.tasks.knowledge import FACT_SCHEMA, Int64s, TaskDataError

LEAST_FACTS, MOST_FACTS = 10_000, 1_000_000_000

SUBJECTS = 1 << 16
"""Made at a time, with some 400,000 facts."""

ROWS_EXPONENT = 4.0
"""Of Mandelbrot's law for the rows of a subject."""

MOST_ROWS = 256
"""Of a subject."""

SECOND = 0.4
"""Rows of the second largest relation, of those of the largest."""

COMMON = 0.001
"""A relation that so many of the subjects have is drawn subject by subject, others row by row."""

FEWEST = 10
"""Rows of a common relation: those drawn subject by subject are but about so many."""

POPULARITY = 3
"""The first object of a row is number ⌊P·u^3⌋ of the P of its relation, u uniform in 0 to 1."""

RELATIONS_EXPONENT = 0.252
"""Of the facts, to which relations grow: ln(7,523 / 6,701) / ln(22,441,880 / 14,180,937)."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is known of a knowledge base.

    facts: atomic ones, an object each.  rows: these grouped by subject and relation.
    single_relations: that occur in one row.  single_subjects: that have one row.
    largest_relation: its rows.  largest_subject: its objects.
    """

    entities: int
    subjects: int
    relations: int
    facts: int
    rows: int
    largest_relation: int
    single_relations: int
    largest_subject: int
    single_subjects: int

    def scaled(self, facts: int) -> Statistics:
        """The same for so many facts, 10^4 to 10^9; raises `TaskDataError` beyond these.

        What counts entities, subjects and rows grows with the facts, what counts relations with
        the power of them that took FB2M to FB5M, the largest subject with their root.
        """
        if not LEAST_FACTS <= facts <= MOST_FACTS:
            raise TaskDataError(
                f"{facts:,} facts", f"{LEAST_FACTS:,} to {MOST_FACTS:,}", "choose another number"
            )
        by = facts / self.facts
        of_relations = by**RELATIONS_EXPONENT
        return Statistics(
            facts=facts,
            largest_subject=round(self.largest_subject * by**0.5),
            **{
                name: round(getattr(self, name) * by)
                for name in ("entities", "subjects", "rows", "largest_relation", "single_subjects")
            },
            **{
                name: round(getattr(self, name) * of_relations)
                for name in ("relations", "single_relations")
            },
        )


FB2M = Statistics(
    entities=2_150_604,
    subjects=1_959_820,
    relations=6_701,
    facts=14_180_937,
    rows=10_843_106,
    largest_relation=1_762_467,
    single_relations=998,
    largest_subject=2_397,
    single_subjects=127_568,
)

FB5M = replace(
    # As many rows a subject, and so on, as FB2M has: published are but the four below.
    FB2M.scaled(round(FB2M.facts * 12_010_500 / FB2M.rows)),
    entities=4_904_397,
    relations=7_523,
    facts=22_441_880,
    rows=12_010_500,
)

PUBLISHED = {"FB2M": FB2M, "FB5M": FB5M}


@dataclass(frozen=True)
class SyntheticFreebase:
    """A knowledge base of such statistics; the same seed makes the same one."""

    statistics: Statistics
    seed: int = 0

    def blocks(self) -> Iterator[pa.Table]:
        """The facts, some at a time: rows of `FACT_SCHEMA`, rising in (subject, relation).

        Each time it is begun the same ones come. What is held is of a block, and of the relations.
        """
        told = self.statistics
        rng = np.random.default_rng((self.seed, 1))
        rows_of = _Urn(self.rows_S)
        objects_of = _Urn(self.objects_C)
        rare_R = self.relations_R[self._common :]
        # The first row of a subject is of a common relation.
        rare_of = _Urn(np.append(rare_R, told.rows - told.subjects - rare_R.sum()))
        leaf = told.subjects
        rows_left = told.rows
        for first in range(0, told.subjects, SUBJECTS):
            count = min(SUBJECTS, told.subjects - first)
            rows_B = rows_of.draw(rng, count)
            rare = rare_of.draw(rng, int(rows_B.sum()) - count)
            subject, relation = self._related(rng, rows_B, rare)
            objects_G = objects_of.draw(rng, len(subject))
            _limit(rng, subject, objects_G, told.largest_subject)
            leaves = _share(rng, told.entities - leaf, rows_left, len(subject))
            rows_left -= len(subject)
            objects = self._objects(rng, relation, objects_G)
            starts = np.cumsum(objects_G) - objects_G
            with_leaf = rng.choice(len(subject), leaves, replace=False, shuffle=False)
            objects[starts[with_leaf]] = np.arange(leaf, leaf + leaves)
            leaf += leaves
            offsets = np.append(starts, len(objects)).astype(np.int32)
            lists = pa.ListArray.from_arrays(offsets, objects)
            yield pa.table([subject + first, relation, lists], schema=FACT_SCHEMA)

    @cached_property
    def relations_R(self) -> Int64s:
        """How many rows each relation has, falling, int64 [R]."""
        told = self.statistics
        others = told.relations - told.single_relations - 1
        left = told.rows - told.largest_relation - told.single_relations
        middle = falling(others, round(told.largest_relation * SECOND), 2, left)
        single = np.ones(told.single_relations, np.int64)
        return np.concatenate([[told.largest_relation], middle, single])

    @cached_property
    def _common(self) -> int:
        """How many relations are common; they are the first."""
        least = max(COMMON * self.statistics.subjects, FEWEST)
        return int(np.count_nonzero(self.relations_R >= least))

    @cached_property
    def rows_S(self) -> Int64s:
        """How many subjects have 0, 1, 2, … rows."""
        told, single = self.statistics, self.statistics.single_subjects
        most = min(MOST_ROWS, self._common // 2, told.largest_subject // 3)
        found = classes(2, most, told.subjects - single, told.rows - single, ROWS_EXPONENT)
        found[1] = single
        return found

    @cached_property
    def objects_C(self) -> Int64s:
        """How many rows have 0, 1, 2, … objects."""
        told = self.statistics
        others = round((told.rows / told.subjects - 1) * told.facts / told.rows)
        return classes(1, told.largest_subject - others, told.rows, told.facts, None)

    @cached_property
    def _order(self) -> Int64s:
        """The common relations in the order in which they are drawn from: those of a subject are
        one apart in the sum of their probabilities, so subjects have the same ones together."""
        return np.random.default_rng((self.seed, 0)).permutation(self._common)

    @cached_property
    def _sums(self) -> Floats:
        """The sums of the probabilities of common relations, for each number of rows a subject has
        of them; each behind all of the number before."""
        told, rows_S = self.statistics, self.rows_S
        lines_R = self.relations_R[: self._common]
        share = (int(lines_R.sum()) - told.subjects) / (told.rows - told.subjects)
        common_D = np.append(0.0, _thinned(rows_S[1:], share))
        chances = inclusions(common_D, lines_R)[:, self._order]
        sums = np.cumsum(chances, axis=1)
        sums[:, -1] = np.arange(len(rows_S))
        return np.asarray((sums + self._apart * np.arange(len(rows_S))[:, None]).ravel())

    @property
    def _apart(self) -> int:
        return len(self.rows_S)

    def _related(
        self, rng: np.random.Generator, rows_B: Int64s, rare: Int64s
    ) -> tuple[Int64s, Int64s]:
        """The subjects and relations of the rows of a block, rising, and no two alike.

        rows_B: of each subject.  rare: of each row but the first of a subject which rare relation
        it has, or, as the last, that it has a common one.
        """
        relations = self.statistics.relations
        subject = np.repeat(np.arange(len(rows_B)), rows_B - 1)
        is_rare = rare < relations - self._common
        # One that a subject has already is given up for a common one.
        kept = np.unique(subject[is_rare] * relations + self._common + rare[is_rare])
        common_B = rows_B - np.bincount(kept // relations, minlength=len(rows_B))
        subject = np.repeat(np.arange(len(rows_B)), common_B)
        nth = np.arange(len(subject)) - np.repeat(np.cumsum(common_B) - common_B, common_B)
        place = (rng.random(len(rows_B)) * (1 - 1e-12))[subject] + nth
        lines = common_B[subject]
        found = np.searchsorted(self._sums, place + self._apart * lines, side="right")
        common = subject * relations + self._order[found - lines * self._common]
        rows = np.sort(np.concatenate([kept, common]))
        return rows // relations, rows % relations

    def _objects(self, rng: np.random.Generator, relation_G: Int64s, objects_G: Int64s) -> Int64s:
        """The objects of rows, those of one all different, one row behind the other."""
        size_R, first_R = self._ranges
        size_G = size_R[relation_G]
        first_G = (size_G * rng.random(len(relation_G)) ** POPULARITY).astype(np.int64)
        # Odd steps through a power of two meet each number once.
        step_G = rng.integers(0, size_G // 2) * 2 + 1
        row = np.repeat(np.arange(len(objects_G)), objects_G)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(objects_G) - objects_G, objects_G)
        within = (first_G[row] + nth * step_G[row]) & (size_G[row] - 1)
        return (first_R[relation_G][row] + within) % self.statistics.subjects

    @cached_property
    def _ranges(self) -> tuple[Int64s, Int64s]:
        """How many entities each relation has objects among, a power of two, and the first."""
        told = self.statistics
        rng = np.random.default_rng((self.seed, 2))
        least = int(told.largest_subject).bit_length()
        bits_R = rng.integers(least, told.subjects.bit_length(), told.relations)
        return 1 << bits_R, rng.integers(0, told.subjects, told.relations)


class _Urn:
    """Has so many balls of each colour, which are drawn and not put back."""

    def __init__(self, counts: Int64s) -> None:
        self.counts = counts.copy()

    def draw(self, rng: np.random.Generator, count: int) -> Int64s:
        """The colours of so many balls, in no order, int64."""
        drawn = rng.multivariate_hypergeometric(self.counts, count, method="marginals")
        self.counts -= drawn
        balls = np.repeat(np.arange(len(drawn)), drawn)
        rng.shuffle(balls)
        return balls


def _limit(rng: np.random.Generator, subject_G: Int64s, objects_G: Int64s, largest: int) -> None:
    """Takes from subjects with too many objects: their largest row changes with one of one."""
    while len(over := np.flatnonzero(np.bincount(subject_G, objects_G) > largest)):
        for first, last in np.searchsorted(subject_G, [over, over + 1]).T.tolist():
            row = first + int(np.argmax(objects_G[first:last]))
            other = rng.choice(np.flatnonzero(objects_G == 1))
            objects_G[[row, other]] = objects_G[[other, row]]


def _share(rng: np.random.Generator, marked: int, left: int, count: int) -> int:
    """How many of `count` balls are marked, of `left` of which `marked` are."""
    return int(rng.hypergeometric(marked, left - marked, count)) if count else 0


def _thinned(things_C: Int64s, share: float) -> Floats:
    """How many things have 0, 1, 2, … on average, when each of what they have is kept by chance."""
    last = len(things_C) - 1
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, last + 1)))])
    whole, kept = np.arange(last + 1)[:, None], np.arange(last + 1)
    gone = np.maximum(whole - kept, 0)
    chance = logs[whole] - logs[kept] - logs[gone] + kept * np.log(share)
    chance = chance + gone * np.log1p(-share) if share < 1 else np.where(gone, -np.inf, chance)
    chances: NDArray[np.float64] = np.where(whole >= kept, np.exp(chance), 0.0)
    return np.asarray(things_C @ chances)
