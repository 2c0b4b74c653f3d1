"""Facts like those of FB5M of which some go through mediators, and what a plain join makes of them;
no benchmark itself.

Published of Freebase without its metadata (Shirvani-Mahdavi et al. 2023, FB+CVT+REV beside
FB-CVT+REV) are 13,819,369 mediators beside 46,077,533 entities, and that there are 0.37 facts a
mediator fewer, and 603 relations more, once they are removed. Here are as many mediators for the
entities of a base; the rest is by choice. A mediator stands for some facts that follow each other
in the base. It has a fact from, and one to, the subject of the first and each of the objects, since
Freebase says facts both ways round. It has 1 to 4 of these `PARTIES`, one of 1,000 has 40, which
are too many to be joined, and one of 20 has a fact to another mediator: 0.37 facts a mediator
become fewer. It is of one of 150 kinds, whose relations say which party is which, so that there are
600 more of them.

direct.txt   the facts that stay as they are, and those from the first parties into mediators
into.txt     those from other parties into mediators
out.txt      those out of mediators, and from one to another
named.txt    the names of the mediators
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from models.tasks.knowledge import Int64s
from models.tasks.questions import mixed
from models.tasks.synthetic_files import SITE, texts_of
from models.tasks.synthetic_freebase import LEAST_FACTS, PUBLISHED
from models.tasks.synthetic_texts import lines
from tests.benchmarks.synthetic import LIKE, base_of
from workers.ingest.joining import JOINT, MOST_PAIRS

SHARE = 13_819_369 / 46_077_533
"""Mediators for each entity, as published."""

PARTIES = {1: 0.04, 2: 0.38, 3: 0.43, 4: 0.149, 40: 0.001}
"""How many of them a mediator has, with which chance."""

BETWEEN = 0.05
"""Of mediators, those with a fact to the next."""

NOUNS = ("first", "second", "third", "fourth")

KINDS, ROLES, SKEW = 150, len(NOUNS), 3
"""A mediator is of kind ⌊KINDS · u^SKEW⌋, u uniform in 0 to 1."""

SOURCES, NAMED = ("direct.txt", "into.txt", "out.txt"), "named.txt"

SLICE = 1 << 16
"""Facts of the base whose mediators are drawn together; of few facts a 64th."""

SPARE = 1.02
"""How much more there is of the base than is needed on average."""


def write(facts: int, folder: Path) -> dict[str, int]:
    """Writes so many facts, a line each; tells what an ingest past the mediators tells, and of the
    facts that are left how many there are, and the sum of their hashes.

    facts: at least 10,000.  What is held is of a block of the base, a byte an entity, and 8 bytes a
    fact past a mediator.
    """
    with ExitStack() as open_:
        paths = [folder / name for name in (*SOURCES, NAMED)]
        made = _Made(facts, [open_.enter_context(path.open("wb")) for path in paths])
        for subject, relation, object_ in made.slices():
            made.put(subject, relation, object_)
    return made.told()


def hashed(subjects: np.ndarray, relations: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """A hash of each fact, uint64.  subjects, objects: as of `ends`.  relations: as of `hashes`."""
    return mixed(mixed(mixed(relations, 0) + subjects, 0) + objects, 0)


def summed(facts: np.ndarray) -> int:
    """The sum of hashes modulo 2⁶⁴, whatever their order."""
    return int(facts.sum(dtype=np.uint64))


def ends(identifiers: pa.Array) -> np.ndarray:
    """The last eight bytes of each identifier, in which no two are the same, uint64."""
    kind = "i8" if pa.types.is_large_string(identifiers.type) else "i4"
    _, offsets, letters = identifiers.buffers()
    begin = identifiers.offset + 1
    end = np.frombuffer(offsets, kind)[begin : begin + len(identifiers)]
    last = np.frombuffer(letters, np.uint8)[end[:, None] + np.arange(-8, 0)]
    return np.asarray(last.view(np.uint64).ravel())


def hashes(relations: Iterable[str]) -> np.ndarray:
    """A hash of each name of a relation, uint64."""
    return np.fromiter((xxh3_64_intdigest(name.encode()) for name in relations), np.uint64)


class _Made:
    """Letters: F facts of the base, M mediators, P parties of them, J facts past them."""

    def __init__(self, facts: int, files: list[IO[bytes]]) -> None:
        like = PUBLISHED[LIKE]
        self._rate = SHARE * like.entities / like.facts
        parties = sum(count * share for count, share in PARTIES.items())
        # A mediator has two facts for each party, and takes one fewer than these away.
        grown = 1 + self._rate * (parties + 1 + BETWEEN)
        self._base = base_of(max(round(facts / grown * SPARE), LEAST_FACTS))
        self._entities = self._base.statistics.entities
        self._texts, self._rng = texts_of(self._base), np.random.default_rng((self._base.seed, 4))
        self._facts, self._slice, self._files = facts, min(SLICE, facts // 64), files
        direct = [SITE + name for name in self._texts.relation_names]
        out = [f"{SITE}/mediated/kind_{k}/{noun}" for k in range(KINDS) for noun in NOUNS]
        into = [f"{name}_of" for name in out]
        names = [*direct, *into, *out, f"{SITE}/mediated/next"]
        self._relations = pa.array(names, pa.large_string())
        self._into, self._out = len(direct), len(direct) + len(into)
        self._direct_hash = hashes(direct)
        self._past_hash = hashes(
            into[kind + one] + JOINT + out[kind + other]
            for kind in range(0, KINDS * ROLES, ROLES)
            for one in range(ROLES)
            for other in range(ROLES)
        )
        self._is_left = np.zeros(self._entities, bool)
        self._past = [np.empty(0, np.uint64)]
        self._count = Counter[str]()

    def slices(self) -> Iterator[tuple[Int64s, Int64s, Int64s]]:
        """Subjects, relations and objects of the base, in its order."""
        for block in self._base.blocks():
            objects = block["objects"].combine_chunks()
            row = pc.list_parent_indices(objects).to_numpy()
            subject, relation = (block[name].to_numpy()[row] for name in ("subject", "relation"))
            columns = subject, relation, objects.flatten().to_numpy()
            for first in range(0, len(row), self._slice):
                subject_F, relation_F, object_F = (c[first : first + self._slice] for c in columns)
                yield subject_F, relation_F, object_F

    def put(self, subject_F: Int64s, relation_F: Int64s, object_F: Int64s) -> None:
        """Writes facts of the base, some of them through mediators, unless there are enough."""
        parties_M, is_next_M, facts = self._drawn(len(subject_F))
        before_M = np.cumsum(parties_M) - parties_M
        free = facts - int((parties_M - 1).sum())
        place_M = np.sort(self._rng.integers(0, free + 1, len(parties_M)))
        place_M += before_M - np.arange(len(parties_M))
        kind_M = (KINDS * self._rng.random(len(parties_M)) ** SKEW).astype(np.int64)
        owner_P = np.repeat(np.arange(len(parties_M)), parties_M)
        nth_P = np.arange(len(owner_P)) - before_M[owner_P]
        fact_P = place_M[owner_P] + np.maximum(nth_P - 1, 0)
        is_first_P = nth_P == 0
        is_direct_F = np.ones(facts, bool)
        is_direct_F[fact_P[~is_first_P]] = False
        fact_P = np.minimum(fact_P, facts - 1)  # one of one party may stand behind the last
        entity_P = np.where(is_first_P, subject_F[fact_P], object_F[fact_P])
        role_P = nth_P % ROLES
        name_M = self._entities + self._count["mediators"] + np.arange(len(parties_M))
        name_P, of_kind_P = name_M[owner_P], kind_M[owner_P] * ROLES + role_P

        direct = [each[:facts][is_direct_F] for each in (subject_F, relation_F, object_F)]
        into = entity_P, self._into + of_kind_P, name_P
        both = [np.append(a, b[is_first_P]) for a, b in zip(direct, into, strict=True)]
        at = np.append(np.flatnonzero(is_direct_F), fact_P[is_first_P])
        order = np.argsort(at, kind="stable")
        self._write(0, *(column[order] for column in both))
        self._write(1, *(column[~is_first_P] for column in into))
        next_M = np.flatnonzero(is_next_M)
        relation = np.full(len(next_M), len(self._relations) - 1)
        out = name_P, self._out + of_kind_P, entity_P
        between = name_M[next_M], relation, name_M[next_M + 1]
        self._write(2, *(np.append(a, b) for a, b in zip(out, between, strict=True)))
        self._files[-1].write(lines(self._names(name_M)))

        self._count["mediators"] += len(parties_M)
        self._count["between"] += len(next_M)
        self._keep(*direct)
        self._join(owner_P, role_P, entity_P, kind_M)

    def _drawn(self, facts: int) -> tuple[Int64s, np.ndarray, int]:
        """How many parties each mediator of some facts has, whether it has a fact to the next one,
        and how many of the facts are wanted: where these are the last, none is at a mediator."""
        chances = list(PARTIES.values())
        parties_M = self._rng.choice(
            list(PARTIES), self._rng.binomial(facts, self._rate), p=chances
        )
        is_next_M = self._rng.random(len(parties_M)) < BETWEEN
        is_next_M[-1:] = False
        taken, sides = int((parties_M - 1).sum()), 2 * int(parties_M.sum())
        left = self._facts - self._count["lines"]
        if taken <= facts and facts - taken + sides + int(is_next_M.sum()) <= left:
            return parties_M, is_next_M, facts
        return parties_M[:0], is_next_M[:0], min(facts, left)

    def told(self) -> dict[str, int]:
        past = np.unique(np.concatenate(self._past))
        facts, sum_ = self._count["facts"] + len(past), self._count["sum"] + summed(past)
        entities = int(np.count_nonzero(self._is_left))
        return {**self._count, "facts": facts, "sum": sum_ % 2**64, "entities": entities}

    def _write(self, file: int, subject: Int64s, relation: Int64s, object_: Int64s) -> None:
        texts = self._relations.take(pa.array(relation))
        self._files[file].write(lines(self._names(subject), texts, self._names(object_)))
        self._count["lines"] += len(subject)

    def _names(self, entity: Int64s) -> pa.Array:
        return self._texts.identifiers(entity, f"{SITE}/", "", "/")

    def _keep(self, subject: Int64s, relation: Int64s, object_: Int64s) -> None:
        """Counts facts that stay as they are: of a base no two are the same."""
        self._is_left[subject] = self._is_left[object_] = True
        subjects, objects = (ends(self._names(each)) for each in (subject, object_))
        self._count["facts"] += len(subject)
        self._count["sum"] += summed(hashed(subjects, self._direct_hash[relation], objects))

    def _join(self, owner_P: Int64s, role_P: Int64s, entity_P: Int64s, kind_M: Int64s) -> None:
        """Counts the facts past mediators, by each pair of different parties."""
        key_P = (owner_P * ROLES + role_P) * self._entities + entity_P
        # Among 40 parties some may be the same, as whom they take part too.
        _, first, times_P = np.unique(key_P, return_index=True, return_counts=True)
        owner_P, role_P, entity_P = (each[first] for each in (owner_P, role_P, entity_P))
        parties_M = np.bincount(owner_P, minlength=len(kind_M))
        is_crowded_P = (parties_M**2 > MOST_PAIRS)[owner_P]
        one = np.flatnonzero(~is_crowded_P)
        width = parties_M[owner_P[one]]
        nth_J = np.arange(width.sum()) - np.repeat(np.cumsum(width) - width, width)
        one_J = np.repeat(one, width)
        other_J = (np.cumsum(parties_M) - parties_M)[owner_P[one_J]] + nth_J
        is_apart = entity_P[one_J] != entity_P[other_J]
        one_J, other_J = one_J[is_apart], other_J[is_apart]
        self._count["made"] += len(one_J)
        # A party that has another one is joined by its fact into and by its fact out.
        is_joined_P = np.bincount(one_J, minlength=len(owner_P)) > 0
        for what, which_P in (
            ("joined", is_joined_P),
            ("crowded", is_crowded_P),
            ("alone", ~is_joined_P & ~is_crowded_P),
        ):
            self._count[what] += 2 * int(times_P[which_P].sum())
        self._is_left[entity_P[is_joined_P]] = True
        name_P = ends(self._names(entity_P))
        pair_J = (kind_M[owner_P[one_J]] * ROLES + role_P[one_J]) * ROLES + role_P[other_J]
        past = hashed(name_P[one_J], self._past_hash[pair_J], name_P[other_J])
        self._past.append(np.unique(past))
