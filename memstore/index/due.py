"""When a job of the index is due: what was sealed, measured and searched since the last one.

Nothing here is changed, and nothing is timed but what searches suffered. What a job does stands in
`memstore.index.jobs`.
"""

from __future__ import annotations

from memstore.index import tuning
from memstore.index.clustered import Codebook
from memstore.index.segment import Segment
from memstore.index.two_tier import TwoTierIndex, Version

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

FEWEST_TUNED = 4_096
"""Rows below which a plain clustering serves: there is little to gain."""

CHECKED_AGAIN = 1 / 32
"""After so large a share it is looked, by few recent queries, whether what was measured still
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


def sealing(index: TwoTierIndex) -> bool:
    """Whether too many rows are fresh."""
    return index.config.sealed and index.version.fresh.count > index.config.fresh_limit


def merging(version: Version) -> bool:
    """Whether there are too many segments, or the young ones hold too much."""
    return settled(version) < len(version.segments) - 1


def settled(version: Version) -> int:
    """The number of old segments that stay as they are; the last one is never among them."""
    sizes = [len(segment) - segment.stale for segment in version.segments]
    first = len(sizes) - 1
    if first > 0 and sizes[0] < TIER * sum(sizes[1:]) and not stays(version):
        return 0
    if len(sizes) > MAX_SEGMENTS:
        first -= 1
        while first > 1 and sizes[first - 1] < TIER * sum(sizes[first:]):
            first -= 1
    return first


def stays(version: Version) -> bool:
    """Whether the oldest segment has a graph, or is to get one: then it stays whatever the sizes,
    for a walk is worth more than few segments."""
    laid = bool(version.segments) and version.segments[0].graph is not None
    return laid or version.laying


def measuring(index: TwoTierIndex, live: int) -> bool:
    """Whether recall is worth measuring again: other rows, or real queries at last."""
    version = index.version
    if version.codebook is None or live <= version.fresh.count:
        return False
    return measuring_all(index) or _checking(index)


def measuring_all(index: TwoTierIndex) -> bool:
    """Whether recall is to be measured whatever a check would say."""
    version = index.version
    recall = None if version.codebook is None else version.codebook.recall
    if recall is None:
        return True
    laid = version.segments[0].graph
    new = not recall.asked or (laid is not None and laid.recall is None)
    if new and index.recent.enough():
        return True
    return version.unmeasured > MEASURED_AGAIN * recall.rows


def _checking(index: TwoTierIndex) -> bool:
    version = index.version
    recall = None if version.codebook is None else version.codebook.recall
    if recall is None or not recall.asked or not index.recent.enough() or version.graph is not None:
        return False
    assert version.codebook is not None
    if 2 * index.probe(version.codebook) >= version.clusters:
        return False  # It finds nearly all there is, and what more lists find is of no use.
    return version.unmeasured - version.checked > CHECKED_AGAIN * recall.rows


def clustering(index: TwoTierIndex, live: int) -> bool:
    """Whether there are too many rows for the codebook, too many others, or too few found."""
    version = index.version
    book, fresh = version.codebook, version.fresh.count
    if book is None:
        return sealing(index)
    if live > GROWTH * book.rows or version.encoded + fresh > live:
        return True
    if many_beyond(version):
        return True
    if suffering(index, live) and version.encoded + fresh > UNLIKE * live:
        return True
    if version.promise is None or book.recall is None:
        return False
    probe, recall = version.promise
    lost = book.recall.at(probe) < recall - RECALL_LOST
    if index.config.recall_target is None:
        return lost
    return lost and version.encoded > OTHERS * live


def suffering(index: TwoTierIndex, live: int) -> bool:
    """Whether searches have cost as much beyond the usual as a clustering."""
    return index.excess_s > CLUSTERING_S * live


def many_beyond(version: Version) -> bool:
    """Whether too many rows are longer than the reach of the reduction."""
    return sum(s.beyond for s in version.segments) > MOST_BEYOND * version.sealed


def laying(index: TwoTierIndex, live: int) -> bool:
    """Whether a graph was found to pay, and the queries are known that say how it is walked."""
    if not index.version.laying or not index.recent.enough() or clustering(index, live):
        return False
    oldest = index.version.segments[0]
    return len(oldest) - oldest.stale >= FEWEST_TUNED


def graph_pays(
    index: TwoTierIndex, live: int, book: Codebook, oldest: Segment, known: tuning.Truth
) -> bool:
    """Whether a graph is worth laying over the oldest rows, for queries that were really asked.

    For others it would be laid in vain: what is asked for may be found in far fewer lists.
    """
    config, before = index.config, index.version
    if config.kind != "auto" or config.recall_target is None or live < FEWEST_TUNED:
        return False
    if not known.asked:
        return False
    if before.codebook is not None:
        added = max(live - before.codebook.rows, 0)
        if before.encoded + before.fresh.count - added > MOST_REWRITTEN * live:
            return False
    probe = min(index.probe(book), book.clusters)
    lists = tuning.visit_cost(book, oldest, known.queries_QD, probe)
    return lists > LAYING_PAYS * tuning.walk_cost(live, config.recall_target)
