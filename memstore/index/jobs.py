"""The jobs that keep an index right while rows change: seal, merge, measure, cluster, lay.

When each is due stands in `memstore.index.due`. A job takes the index as it is, builds beside it
while rows go on changing, and swaps in what it built while writers are kept off for a moment. Rows
that were written, erased or drifted off since it began are stale in what it built, and fresh if
they are there. Nothing here is timed: the same calls and the same seed give the same index.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from memstore.index import clustered, due, graph, tuning
from memstore.index.clustered import Codebook, Reader
from memstore.index.drift import Sealing
from memstore.index.recall import Recall
from memstore.index.reductions import Reduction
from memstore.index.segment import Segment
from memstore.index.two_tier import EMPTY, TwoTierIndex, Version, Work
from memstore.kernels.group import distinct
from memstore.kernels.topk import drop_repeats, top_k
from memstore.memory import Array, Slots

CHECKED_BY = 64
"""Recent queries by which it is looked whether what was measured still holds."""

ROUNDS = 3
"""Times that a clustering encodes what was written while it ran, before it is swapped in."""


@dataclass(frozen=True)
class Source:
    """The rows of a shard as jobs read them.

    read, travel: keys of rows, and how far each has gone.  live: the rows that are there, rising.
    count: how many those are.  alive: which of some rows are there.  version: the number of the
    rows' version.  stored: keys change with that alone.  writers: held, keeps off all that changes
    rows.
    """

    read: Reader
    live: Callable[[], Slots]
    count: Callable[[], int]
    alive: Callable[[Slots], Array]
    writers: AbstractContextManager[object]
    travel: Reader = lambda rows_R: np.zeros(len(rows_R))
    version: Callable[[], int] = lambda: 0
    stored: bool = False


def seal(index: TwoTierIndex, source: Source, most: int | None = None) -> int:
    """Encodes fresh rows, at most so many, into a segment; returns how many."""
    with _working(index, source) as work:
        book, before = work.version.codebook, work.version.fresh
        rows_R, behind = before.oldest(most)
        if book is None or not len(rows_R):
            return 0
        sealing = Sealing(source.read, source.travel)
        segment = clustered.seal(book, source.read, rows_R, sealing)
        with source.writers:
            now, changed = index.version, work.take()
            if now.built != work.version.built:
                return 0  # These rows were clustered anew with all others.
            index.drift.sealed(sealing)
            index.drift.forget(changed)
            sealed_R = np.setdiff1d(rows_R, changed, assume_unique=True)
            fresh = now.fresh.since(behind) if now.fresh.first == before.first else now.fresh
            index.version = replace(
                now,
                number=now.number + 1,
                segments=(*now.segments, segment.without(changed)),
                # Those that moved since they were read lie further on.
                fresh=index.queue.without(fresh, sealed_R),
                encoded=now.encoded + len(rows_R),
                unmeasured=now.unmeasured + len(rows_R),
            )
            _drifted(index, source, sealing)
        return len(rows_R)


def merge(index: TwoTierIndex, source: Source) -> int:
    """Joins the youngest segments, without what is stale; returns the rows of the new one."""
    with _working(index, source) as work:
        first = due.settled(work.version)
        young = work.version.segments[first:]
        if len(young) < 2:
            return 0
        joined = young[0].joined(*young[1:])
        with source.writers:
            now = index.version
            # Joined, the oldest would lose the graph that it got meanwhile.
            if now.built == work.version.built and (first or not due.stays(now)):
                segments = (*now.segments[:first], joined.without(work.take()))
                index.version = replace(now, number=now.number + 1, segments=segments)
        return len(joined)


def measure(index: TwoTierIndex, source: Source) -> int:
    """Measures recall by probe on the sealed rows; returns how many there are."""
    row_version = source.version()  # Before it is seen which rows are there.
    with _working(index, source, source.live) as work:
        version, book = work.version, work.version.codebook
        sealed_R = np.setdiff1d(work.live_R, version.fresh_F, assume_unique=True)
        if book is None or not len(sealed_R):
            return 0
        if not due.measuring_all(index) and _holds(index, source, version, sealed_R):
            with source.writers:
                now = index.version
                if now.built == version.built:
                    index.version = replace(now, checked=version.unmeasured)
            return len(sealed_R)
        known = tuning.truth(source.read, sealed_R, index.recent, index.seed)
        known = _renewed(known, row_version, book, version.segments, source)
        again = tuning.measured(book, version.segments, source.read, known, _wanted(index))
        walks = None
        laying = False
        if version.segments[0].graph is not None:
            walks = tuning.measure_walks(
                again, version.segments, source.read, known, _wanted(index)
            )
        else:
            laying = due.graph_pays(index, len(work.live_R), again, version.segments[0], known)
        with source.writers:
            now = index.version
            if now.built == version.built and now.codebook is not None:
                promise = now.promise
                other = book.recall is None or book.recall.asked != known.asked
                if other and (promise is None or index.config.recall_target is None):
                    promise = _promise(index, again)
                index.version = replace(
                    now,
                    number=now.number + 1,
                    codebook=replace(now.codebook, recall=again.recall, depth=again.depth),
                    segments=_walked(now.segments, walks),
                    unmeasured=now.unmeasured - version.unmeasured,
                    checked=0,
                    promise=promise,
                    laying=laying,
                )
        return len(sealed_R)


def _holds(index: TwoTierIndex, source: Source, version: Version, sealed_R: Slots) -> bool:
    """Whether recall is about what was measured, as far as a few queries tell."""
    book = version.codebook
    assert book is not None
    known = tuning.truth(source.read, sealed_R, index.recent, index.seed, CHECKED_BY)
    probe = min(index.probe(book), book.clusters)
    return tuning.holds(book, version.segments, source.read, known, probe)


def cluster(index: TwoTierIndex, source: Source, *, tune: bool = True) -> int:
    """Clusters and encodes all rows; returns how many there were.

    Nothing is fresh afterwards but what was written meanwhile. Much of that is encoded before.
    tune: choose the reduction and the number of clusters anew, whatever was chosen before.
    """
    row_version = source.version()
    with _working(index, source, source.live) as work:
        live_R = work.live_R
        if not index.config.sealed or not len(live_R):
            with source.writers:
                number = index.version.number + 1
                fresh = index.queue.anew(index.version.fresh, _there(work.take(), source))
                index.version = replace(EMPTY, number=number, fresh=fresh, built=number)
            return 0
        book, known = _train(index, source.read, live_R, tune)
        sealing = Sealing(source.read, source.travel)
        segments = [clustered.seal(book, source.read, live_R, sealing)]
        known = _renewed(known, row_version, book, tuple(segments), source)
        book = tuning.measured(book, tuple(segments), source.read, known, _wanted(index))
        told = index.config.kind == "graph"
        if told or due.graph_pays(index, len(live_R), book, segments[0], known):
            laid = graph.lay(source.read, live_R, index.seed)
            segments = [replace(segments[0], graph=laid)]
            walks = tuning.measure_walks(book, tuple(segments), source.read, known, _wanted(index))
            segments = list(_walked(tuple(segments), walks))
        encoded, owed_R = 0, live_R[:0]
        for _ in range(ROUNDS):
            with source.writers:
                changed = work.take()
            segments = [segment.without(changed) for segment in segments]
            owed_R = distinct(np.concatenate([owed_R, changed]))
            there_R = _there(owed_R, source)
            outgrown = source.count() > due.GROWTH * book.rows
            if len(there_R) <= index.config.fresh_limit or outgrown:
                break
            segments.append(clustered.seal(book, source.read, there_R, sealing))
            encoded += len(there_R)
            owed_R = np.setdiff1d(owed_R, there_R, assume_unique=True)
        with source.writers:
            changed = distinct(np.concatenate([owed_R, work.take()]))
            index.excess_s = 0.0
            index.drift.anew(sealing)
            index.drift.forget(changed)
            number = index.version.number + 1
            index.version = Version(
                number,
                book,
                tuple(segment.without(changed) for segment in segments),
                index.queue.anew(index.version.fresh, _there(changed, source)),
                built=number,
                row_version=row_version,
                encoded=encoded,
                unmeasured=encoded,
                promise=_promise(index, book),
            )
            _drifted(index, source, sealing)
        return len(live_R)


def lay(index: TwoTierIndex, source: Source) -> int:
    """Lays a graph over the oldest segment, without what is stale; returns how many rows that has.

    No search walks it before recall was measured of it, which is due then.
    """
    with _working(index, source) as work:
        old = work.version.segments[0]
        oldest = old.joined() if old.stale else old
        laid = graph.lay(source.read, oldest.rows, index.seed)
        with source.writers:
            now = index.version
            if now.built == work.version.built and now.segments[0].lists is old.lists:
                oldest = replace(oldest, graph=laid).without(work.take())
                segments = (oldest, *now.segments[1:])
                index.version = replace(now, number=now.number + 1, segments=segments, laying=False)
        return len(oldest)


def _train(
    index: TwoTierIndex, read: Reader, live_R: Slots, tune: bool
) -> tuple[Codebook, tuning.Truth]:
    config, seed, old = index.config, index.seed, index.version.codebook
    reduction, tuned = Reduction(), 0
    clusters = config.clusters or clustered.choose_clusters(len(live_R))
    known = tuning.truth(read, live_R, index.recent, seed)
    if config.recall_target is not None and len(live_R) >= due.FEWEST_TUNED:
        fits = not due.many_beyond(index.version)
        if not tune and fits and old is not None and _still_tuned(old, known, len(live_R)):
            reduction, clusters, tuned = old.reduction, old.clusters, old.tuned
        else:
            target = config.recall_target
            reduction, clusters = tuning.choose(config, read, live_R, known, target, seed)
            tuned = len(live_R)
    size = clustered.sample_size(len(live_R), clusters)
    sample_R = np.sort(np.random.default_rng(seed).choice(live_R, size, replace=False))
    sample_RD = np.ascontiguousarray(read(sample_R), np.float32)
    # From centroids that do not fit, k-means does not find those that do: where rows came that are
    # unlike those of before, lists stayed ten times as many to visit.
    start = None if due.suffering(index, len(live_R)) else old
    book = clustered.train(config, sample_RD, len(live_R), seed, reduction, clusters, start)
    return replace(book, room=index.room, tuned=tuned), known


def _still_tuned(book: Codebook, known: tuning.Truth, live: int) -> bool:
    """Whether what was chosen before was chosen for such queries, and for rows not much fewer."""
    recall = book.recall
    return recall is not None and recall.asked == known.asked and live <= due.GROWTH * book.tuned


def _renewed(
    known: tuning.Truth,
    row_version: int,
    book: Codebook,
    segments: tuple[Segment, ...],
    source: Source,
) -> tuning.Truth:
    """The same queries and their best rows as the rows are now.

    row_version: of before it was seen which rows are there.

    To search all rows takes a while, in which they move on: the best of before score less now,
    and more would seem to be found than is. So those that took their places are looked for, among
    what the index proposes out of very many lists.
    """
    if source.stored:
        with source.writers:  # A mutation counts once it is through.
            if source.version() == row_version:
                return known
    probe = max(book.clusters // tuning.WIDEST, 32)
    other = clustered.propose(book, segments, known.queries_QD, tuning.K, probe)
    rows_QC = np.concatenate([known.rows_QK, other.rows_QC], axis=1)
    (rows_QC,) = drop_repeats(rows_QC)
    scores_QC = tuning.scores(known.queries_QD, source.read, rows_QC)
    rows_QK, _ = top_k(rows_QC, scores_QC, tuning.K)
    return replace(known, rows_QK=rows_QK)


def _walked(segments: tuple[Segment, ...], walks: Recall | None) -> tuple[Segment, ...]:
    """The segments, with the recall measured of walks through the graph of the oldest."""
    oldest, *young = segments
    if oldest.graph is None or walks is None:
        return segments
    return (replace(oldest, graph=oldest.graph.with_recall(walks)), *young)


def _promise(index: TwoTierIndex, book: Codebook) -> tuple[int, float] | None:
    recall: Recall | None = book.recall
    probe = min(index.probe(book), book.clusters)
    return None if recall is None else (probe, recall.at(probe))


def _wanted(index: TwoTierIndex) -> float:
    return index.config.recall_target or 0.0


def _there(rows_R: Slots, source: Source) -> Slots:
    return rows_R[source.alive(rows_R)]


def _drifted(index: TwoTierIndex, source: Source, sealing: Sealing) -> None:
    """Makes those fresh that went too far while they were sealed; block by block, since what is
    counted a row is half as much as the row, and the index before is still there."""
    for rows_B in sealing.rows:
        index.drifted(rows_B, source.travel(rows_B))


@contextlib.contextmanager
def _working(
    index: TwoTierIndex, source: Source, live: Callable[[], Slots] = lambda: np.empty(0, np.int64)
) -> Iterator[Work]:
    with source.writers:
        work = index.begin(live())
    try:
        yield work
    finally:
        with source.writers:
            index.end(work)
