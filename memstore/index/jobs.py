"""The jobs that keep an index right while rows change: seal, merge, measure, cluster.

A job takes the index as it is, builds beside it while rows go on changing, and swaps in what it
built while writers are kept off for a moment. Rows that were written, erased or drifted off since
it began are stale in what it built, and fresh if they are there. Nothing here is timed: the same
calls and the same seed give the same index.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from memstore.index import clustered, graph, tuning
from memstore.index.clustered import Codebook, Reader
from memstore.index.drift import Sealing
from memstore.index.recall import Recall
from memstore.index.reductions import Reduction
from memstore.index.segment import Segment
from memstore.index.two_tier import EMPTY, TwoTierIndex, Version, Work
from memstore.kernels.group import distinct
from memstore.kernels.topk import drop_repeats, top_k
from memstore.memory import Array, Slots

GROWTH = 4
"""A codebook trained for n rows serves until there are GROWTH·n; then rows are clustered anew."""

MOST_BEYOND = 0.05
"""Share of the sealed rows that may be longer than the reach of the reduction."""

RECALL_LOST = 0.02
"""Recall, at the probe chosen when the rows were clustered, whose loss clusters them anew: four
standard errors of what is measured."""

MEASURED_AGAIN = 0.25
"""Recall measured on n rows is measured again when so large a share of n was sealed since."""

LAYING_PAYS = 1.25
"""A graph is laid where visiting lists costs so many times as much as walking; to lay one takes
many times as long as to cluster."""

MOST_REWRITTEN = 0.25
"""Nor is one laid where more than this share of the rows was written again since the last
clustering: then the next one is near."""

CHECKED_AGAIN, CHECKED_BY = 1 / 32, 64
"""After so large a share it is looked, by so many recent queries, whether what was measured still
holds: what comes in may be unlike what was there."""

OTHERS = 0.5
"""Where lists are visited for a target of recall, more of them make up for clusters that no longer
fit. Rows are clustered anew for it once so large a share of them was sealed since the last time."""

UNLIKE, CLUSTERING_S = 1 / 32, 1e-5
"""Or once searches took longer, beyond what is usual, than clustering takes, so many seconds a row;
if such a share was sealed since, for clustering the same rows again would change nothing."""

MAX_SEGMENTS, TIER = 4, 2
"""Segments a query visits at most, and how many times as many rows the oldest holds as all that are
younger; else they are joined to it. Beyond so many segments the youngest are joined, and to them
each that holds fewer than so many times as many rows. While all of 10^6 rows are overwritten,
16,384 a sealing, a row is joined 5 times; 7 times if each segment were to be 4 times as large as
all that are younger, at once."""

FEWEST_TUNED = 4_096
"""Rows below which a plain clustering serves: there is little to gain."""

ROUNDS = 3
"""Times that a clustering encodes what was written while it ran, before it is swapped in."""


@dataclass(frozen=True)
class Source:
    """The rows of a shard as jobs read them.

    read, travel: keys of rows, and how far each has gone.  live: the rows that are there, rising.
    count: how many those are.  alive: which of some rows are there.  version: the number of the
    rows' version.  writers: held, keeps off all that changes rows.
    """

    read: Reader
    live: Callable[[], Slots]
    count: Callable[[], int]
    alive: Callable[[Slots], Array]
    writers: AbstractContextManager[object]
    travel: Reader = lambda rows_R: np.zeros(len(rows_R))
    version: Callable[[], int] = lambda: 0


def wants_sealing(index: TwoTierIndex) -> bool:
    return index.config.sealed and index.version.fresh.count > index.config.fresh_limit


def wants_merging(version: Version) -> bool:
    return _settled(version) < len(version.segments) - 1


def wants_measuring(index: TwoTierIndex, live: int) -> bool:
    """Whether recall is worth measuring again: other rows, or real queries at last."""
    version = index.version
    sealed = live - version.fresh.count
    if version.codebook is None or sealed <= 0:
        return False
    return _wants_all(index) or _wants_check(index)


def _wants_all(index: TwoTierIndex) -> bool:
    """Whether recall is to be measured whatever a check would say."""
    version = index.version
    recall = None if version.codebook is None else version.codebook.recall
    if recall is None or (index.recent.enough() and not recall.asked):
        return True
    return version.unmeasured > MEASURED_AGAIN * recall.rows


def _wants_check(index: TwoTierIndex) -> bool:
    version = index.version
    recall = None if version.codebook is None else version.codebook.recall
    if recall is None or not recall.asked or not index.recent.enough() or version.graph is not None:
        return False
    assert version.codebook is not None
    if 2 * index.probe(version.codebook) >= version.clusters:
        return False  # It finds nearly all there is, and what more lists find is of no use.
    return version.unmeasured - version.checked > CHECKED_AGAIN * recall.rows


def wants_clustering(index: TwoTierIndex, live: int) -> bool:
    """Whether there are too many rows for the codebook, too many others, or too few found."""
    version = index.version
    book, fresh = version.codebook, version.fresh.count
    if book is None:
        return wants_sealing(index)
    if live > GROWTH * book.rows or version.encoded + fresh > live:
        return True
    if _many_beyond(version):
        return True
    if _suffers(index, live) and version.encoded + fresh > UNLIKE * live:
        return True
    if version.promise is None or book.recall is None:
        return False
    probe, recall = version.promise
    lost = book.recall.at(probe) < recall - RECALL_LOST
    if index.config.recall_target is None:
        return lost
    return lost and version.encoded > OTHERS * live


def _suffers(index: TwoTierIndex, live: int) -> bool:
    """Whether searches have cost as much beyond the usual as a clustering."""
    return index.excess_s > CLUSTERING_S * live


def _many_beyond(version: Version) -> bool:
    """Whether too many rows are longer than the reach of the reduction."""
    return sum(s.beyond for s in version.segments) > MOST_BEYOND * version.sealed


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
        first = _settled(work.version)
        young = work.version.segments[first:]
        if len(young) < 2:
            return 0
        joined = young[0].joined(*young[1:])
        with source.writers:
            now = index.version
            if now.built == work.version.built:
                segments = (*now.segments[:first], joined.without(work.take()))
                index.version = replace(now, number=now.number + 1, segments=segments)
        return len(joined)


def measure(index: TwoTierIndex, source: Source) -> int:
    """Measures recall by probe on the sealed rows; returns how many there are."""
    with _working(index, source, source.live) as work:
        version, book = work.version, work.version.codebook
        sealed_R = np.setdiff1d(work.live_R, version.fresh_F, assume_unique=True)
        if book is None or not len(sealed_R):
            return 0
        if not _wants_all(index) and _holds(index, source, version, sealed_R):
            with source.writers:
                now = index.version
                if now.built == version.built:
                    index.version = replace(now, checked=version.unmeasured)
            return len(sealed_R)
        known = tuning.truth(source.read, sealed_R, index.recent, index.seed)
        known = _renewed(known, book, version.segments, source.read)
        again = tuning.measured(book, version.segments, source.read, known, _wanted(index))
        walks = None
        if version.segments[0].graph is not None:
            walks = tuning.measure_walks(
                again, version.segments, source.read, known, _wanted(index)
            )
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
    with _working(index, source, source.live) as work:
        live_R, row_version = work.live_R, source.version()
        if not index.config.sealed or not len(live_R):
            with source.writers:
                number = index.version.number + 1
                fresh = index.queue.anew(index.version.fresh, _there(work.take(), source))
                index.version = replace(EMPTY, number=number, fresh=fresh, built=number)
            return 0
        book, known = _train(index, source.read, live_R, tune)
        sealing = Sealing(source.read, source.travel)
        segments = [clustered.seal(book, source.read, live_R, sealing)]
        known = _renewed(known, book, tuple(segments), source.read)
        book = tuning.measured(book, tuple(segments), source.read, known, _wanted(index))
        if _wants_graph(index, len(live_R), book, segments[0], known):
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
            outgrown = source.count() > GROWTH * book.rows
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


def _train(
    index: TwoTierIndex, read: Reader, live_R: Slots, tune: bool
) -> tuple[Codebook, tuning.Truth]:
    config, seed, old = index.config, index.seed, index.version.codebook
    reduction, tuned = Reduction(), 0
    clusters = config.clusters or clustered.choose_clusters(len(live_R))
    known = tuning.truth(read, live_R, index.recent, seed)
    if config.recall_target is not None and len(live_R) >= FEWEST_TUNED:
        fits = not _many_beyond(index.version)
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
    start = None if _suffers(index, len(live_R)) else old
    book = clustered.train(config, sample_RD, len(live_R), seed, reduction, clusters, start)
    return replace(book, room=index.room, tuned=tuned), known


def _still_tuned(book: Codebook, known: tuning.Truth, live: int) -> bool:
    """Whether what was chosen before was chosen for such queries, and for rows not much fewer."""
    recall = book.recall
    return recall is not None and recall.asked == known.asked and live <= GROWTH * book.tuned


def _renewed(
    known: tuning.Truth, book: Codebook, segments: tuple[Segment, ...], read: Reader
) -> tuning.Truth:
    """The same queries and their best rows as the rows are now.

    To search all rows takes a while, in which they move on: the best of before score less now,
    and more would seem to be found than is. So those that took their places are looked for, among
    what the index proposes out of very many lists.
    """
    probe = max(book.clusters // tuning.WIDEST, 32)
    other_QC = clustered.propose(book, segments, known.queries_QD, tuning.K, probe)
    rows_QC = np.concatenate([known.rows_QK, other_QC], axis=1)
    (rows_QC,) = drop_repeats(rows_QC)
    scores_QC = tuning.scores(known.queries_QD, read, rows_QC)
    rows_QK, _ = top_k(rows_QC, scores_QC, tuning.K)
    return replace(known, rows_QK=rows_QK)


def _wants_graph(
    index: TwoTierIndex, live: int, book: Codebook, segment: Segment, known: tuning.Truth
) -> bool:
    """Whether a graph is told, or is worth laying over rows that are just clustered."""
    config, before = index.config, index.version
    if config.kind != "auto" or config.recall_target is None or live < FEWEST_TUNED:
        return config.kind == "graph"
    if before.codebook is not None:
        added = max(live - before.codebook.rows, 0)
        if before.encoded + len(before.fresh_F) - added > MOST_REWRITTEN * live:
            return False
    probe = min(index.probe(book), book.clusters)
    lists = tuning.visit_cost(book, segment, known.queries_QD, probe)
    return lists > LAYING_PAYS * tuning.walk_cost(live, config.recall_target)


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


def _settled(version: Version) -> int:
    """The number of old segments that stay as they are; the last one is never among them.

    One with a graph stays whatever the sizes: a walk is worth more than few segments.
    """
    sizes = [len(segment) - segment.stale for segment in version.segments]
    first = len(sizes) - 1
    walked = bool(sizes) and version.segments[0].graph is not None
    if first > 0 and sizes[0] < TIER * sum(sizes[1:]) and not walked:
        return 0
    if len(sizes) > MAX_SEGMENTS:
        first -= 1
        while first > 1 and sizes[first - 1] < TIER * sum(sizes[first:]):
            first -= 1
    return first


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
