"""Memory: the verbs, the same embedded and remote, and what they return.

Shape letters here and in every file: N slots in a memory, Q queries, K results a query, B slots
in a call, D key width, V value width, S shards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memstore.config import MemoryConfig, check_recall_target
from memstore.errors import InvalidArgument, WrongType
from memstore.filters import Filter

Array = npt.NDArray[Any]
Slots = npt.NDArray[np.int64]
SlotsLike: TypeAlias = npt.NDArray[np.integer[Any]] | Sequence[int]
Numbers: TypeAlias = Array | Sequence[float]
Records: TypeAlias = pa.Table | pa.RecordBatch | Mapping[str, Sequence[Any] | Array | pa.Array]

NO_SLOT = -1
"""Fills a ragged result behind its last slot."""

MOST = 2**63 - 1
"""The largest seed, and number of rows or clusters to draw."""


@dataclass(frozen=True)
class RequestId:
    """Who asks, and under which number: with it a mutation may be sent again and is done once.

    client: 1 to 255 bytes of UTF-8 without NUL, a name that nobody else uses.  number: ≥ 1; a
    client numbers its requests rising and each once, and sends a retry under the number, and with
    the content, of the first time. The replies to its last 4,096 are kept.
    """

    client: str
    number: int

    def __post_init__(self) -> None:
        client: object = self.client
        if not (isinstance(client, str) and 1 <= _utf8_bytes(client) <= 255 and "\0" not in client):
            raise InvalidArgument(
                "not the name of a client",
                got=repr(client),
                expected="1 to 255 bytes of UTF-8 without NUL",
            )
        number: object = self.number
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not (whole and 1 <= self.number <= MOST):
            raise InvalidArgument(
                "the request's number is out of range", got=repr(number), expected="1 to 2^63 − 1"
            )


def _utf8_bytes(text: str) -> int:
    """How many bytes a text takes; 0 where it is none that UTF-8 has."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return 0


class Proposal(IntEnum):
    """What proposed a candidate, the first of these that did; `NONE` fills a ragged result.

    SEALED, FRESH, EXACT: the query's own k best.  SAMPLED_CLUSTER, UNION, RANDOM: what
    `sample_clusters`, `union` and `sample_random` put behind them.
    """

    NONE = 0
    SEALED = 1
    FRESH = 2
    EXACT = 3
    SAMPLED_CLUSTER = 4
    UNION = 5
    RANDOM = 6


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of one search.

    probe: lists of the clustered index visited for a query; None takes the memory's own. Where a
        graph is walked, which is where there is one and no filter, the rows that the walk keeps
        in view, no fewer than k: from 10 up to a few hundred. Rows sealed since the graph was laid
        are looked for in as many lists as find as much of them.
    recall_target: visit as many as reach this recall@10 on average, as the index measured it.
    exact: score every row; the only way to search a memory with `index="none"`.
    filter: find only rows whose record passes, as the records are now. Where few pass they are
        all scored, so the answer is exact; else the index proposes among those that pass, and
        without `probe` it visits more lists the fewer pass.

    partial: where servers of a memory on several do not answer, find what the others have, and say
        in `missing_shards` what is missing; else that raises `ShardUnavailable`.

    The others are for training. A softmax over the k best alone is biased: rows that no query
    found have no share in it and get no gradient (Chandar et al. 2016, arXiv 1605.07427). They add
    candidates, scored like all others; each passes the filter, no slot stands twice for a query,
    and `Proposal` says what each came by.

    union: every query is scored against what was found for any query of the call: its own k
        best, those of the others, and what is sampled. All have the same slots, each its own
        scores and order.
    sample_clusters: so many further clusters a query (a shard), none of them visited, drawn
        without replacement with chances in proportion to exp ⟨q, centroid⟩; the k best rows in
        them join the candidates. Needs an index with clusters, so of a kind other than `none` and
        `exact`. Where rows are scored without it, since none is sealed or few pass a filter, none
        is drawn.
    sample_random: so many live slots, or all where there are fewer, drawn uniformly without
        replacement, once for all queries of the call, whatever the number of shards. One that
        was found anyhow keeps that mark, so that those marked `RANDOM` are a uniform sample of
        the rows that nothing else proposed.
    seed: ≥ 0; the same seed draws the same of the same memory. None draws anew in each call.
    """

    probe: int | None = None
    exact: bool = False
    filter: Filter | None = None
    recall_target: float | None = None
    partial: bool = False
    union: bool = False
    sample_clusters: int = 0
    sample_random: int = 0
    seed: int | None = None

    @property
    def widens(self) -> bool:
        """Whether a query has other candidates than its own k best."""
        return bool(self.union or self.sample_clusters or self.sample_random)

    def __post_init__(self) -> None:
        probe: object = self.probe
        whole = isinstance(probe, int | np.integer) and not isinstance(probe, bool)
        if probe is not None and not (whole and int(self.probe or 0) >= 1):
            raise InvalidArgument("probe is out of range", got=repr(probe), expected="≥ 1")
        if self.exact and self.probe is not None:
            raise InvalidArgument(
                "exact and probe contradict each other",
                got=f"exact=True, probe={self.probe}",
                hint="an exact search visits every row; leave probe out",
            )
        allowed: object = self.filter
        if allowed is not None and not isinstance(allowed, Filter):
            raise WrongType(
                "the filter of a search is no Filter",
                got=type(allowed).__name__,
                hint="build it by memstore.field(…), or by memstore.filters.from_dict",
            )
        if self.recall_target is not None:
            check_recall_target(self.recall_target, self.probe)
            if self.exact:
                raise InvalidArgument(
                    "exact and recall_target contradict each other",
                    got=f"exact=True, recall_target={self.recall_target}",
                    hint="an exact search finds every row; leave recall_target out",
                )
        for name in ("partial", "union"):
            flag = getattr(self, name)
            if not isinstance(flag, bool | np.bool_):
                raise InvalidArgument(
                    f"{name} is no flag", got=repr(flag), expected="True or False"
                )
        for name in ("sample_clusters", "sample_random", "seed"):
            count = getattr(self, name)
            whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
            if count is None and name == "seed":
                continue
            if not (whole and 0 <= count <= MOST):
                raise InvalidArgument(
                    f"{name} is out of range",
                    got=repr(count),
                    expected="an integer from 0 to 2^63 − 1",
                )
        if self.exact and self.sample_clusters:
            raise InvalidArgument(
                "exact and sample_clusters contradict each other",
                got=f"exact=True, sample_clusters={self.sample_clusters}",
                hint="an exact search leaves no cluster out; sample_random adds rows to it",
            )


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The slots of highest inner product, best first; equal scores in order of slot.

    K is the k asked for, or with `union` and the samples the most candidates of a query, if more.
    slots_QK int64, `NO_SLOT` behind the `counts_Q` found.  scores_QK, −inf there: inner products
    with the rows as they were when they were scored, each of them whole, in the memory's dtype, or
    in float32 where that is narrower.  proposal_QK uint8, a `Proposal`.  scored_Q int64: rows and
    centroids that a query was compared with: the centroids by which lists were chosen, the rows of
    these lists by their codes, or those that a walk met, the fresh rows, all rows of an exact
    search, and what `union` and the samples added. The few whose codes are best are scored again by
    their keys, and not counted again.  row_versions_S, index_versions_S int64: what was searched, a
    number a shard that rises with every mutation and sealing. Every mutation up to it was seen; of
    those that came meanwhile, some rows may be.  missing_shards: those that did not answer a search
    with `partial`, rising; their versions are −1.
    """

    slots_QK: Slots
    scores_QK: Array
    counts_Q: npt.NDArray[np.int64]
    proposal_QK: npt.NDArray[np.uint8]
    scored_Q: npt.NDArray[np.int64]
    row_versions_S: npt.NDArray[np.int64]
    index_versions_S: npt.NDArray[np.int64]
    missing_shards: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows and records by address, in the order asked for.

    slots_B int64.  generations_B int64: which tenant of its slot each row is.  keys_BD and
    values_BV are copies in the memory's dtype, bfloat16 that of `ml_dtypes`; values_BV is None
    where the key is the value; both are None where `vectors=False` was asked for.  records has B
    rows and the columns asked for, or is None.
    """

    slots_B: Slots
    generations_B: npt.NDArray[np.int64]
    keys_BD: Array | None
    values_BV: Array | None
    records: pa.Table | None


@dataclass(frozen=True, kw_only=True)
class LookupResult:
    """Slots by record, ragged: those of value i are `slots[offsets[i]:offsets[i + 1]]`, rising.

    truncated_Q bool: the limit cut the slots of value i short.  cursor int64 `[Q]`: the slot to
    go on from, behind the last one given, or `NO_SLOT` where none is left.
    """

    slots: Slots
    offsets: npt.NDArray[np.int64]
    truncated_Q: npt.NDArray[np.bool_]
    cursor: Slots

    @property
    def counts_Q(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)

    def padded(self, width: int | None = None) -> Slots:
        """The slots as int64 `[Q, width]`, `NO_SLOT` behind the last of each row."""
        counts = self.counts_Q
        width = int(counts.max(initial=0)) if width is None else width
        slots_QW = np.full((len(counts), width), NO_SLOT, np.int64)
        column = np.arange(len(self.slots)) - np.repeat(self.offsets[:-1], counts)
        keep = column < width
        slots_QW[np.repeat(np.arange(len(counts)), counts)[keep], column[keep]] = self.slots[keep]
        return slots_QW


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a mutation did: rows changed, and rows left alone on purpose.

    delay_s: seconds that it waited before, because too many rows were fresh; where it is not 0,
    the caller writes faster than the index is sealed.
    """

    applied: int
    skipped: int = 0
    delay_s: float = dataclasses.field(default=0.0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What `refresh` did to an encoded memory: slots encoded anew, and the largest bound of a
    part row's relative drift before and after, without steps that were taken meanwhile."""

    encoded: int
    drift_before: float
    drift_after: float


@dataclass(frozen=True, kw_only=True)
class JobDescription:
    """What a kind of job on the index has cost since the memory was opened.

    kind: `seal` encodes fresh rows into a segment, `merge` joins segments, `measure` measures
    recall, `cluster` clusters and encodes all rows, `lay` lays a graph over rows that are clustered
    already.  runs, failed: how often it ended, and how
    often with an error.  rows, seconds: worked on and taken, by those that did not fail.
    """

    kind: str
    runs: int = 0
    failed: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ShardDescription:
    """The state of one shard; sizes in bytes, versions as in `SearchResult`.

    row_bytes: what the rows take of main memory now; rows and optimizer state that were never
    touched take none.  index_bytes: centroids, codes, row numbers, graphs, and copies of fresh
    rows.

    alpha, reach: α and M of the reduction that the rows are clustered under.  probe: lists that a
    search visits unless told otherwise, or rows that its walk keeps in view.  walked: rows that a
    graph is laid over.  recall: recall@10 measured with the probe when the index was built, on
    recent queries if `recall_asked`, else on jittered rows; None while nothing is sealed.
    device_bytes: about what copies of the rows, sealed or as they are, take on a GPU.
    drift: the largest bound of ‖now − as sealed‖ / ‖as sealed‖ of a sealed row.  drifted: the
    share of sealed rows past `drift_limit`; past its default where it is off.  sealed_age: row
    versions since the rows were last clustered, and the oldest copies encoded.  jobs: what they
    cost; overloaded: mutations refused for too many fresh rows.
    """

    rows: int
    erased: int
    row_version: int
    index_version: int
    sealed: int
    fresh: int
    segments: int
    clusters: int
    row_bytes: int
    index_bytes: int
    record_bytes: int
    alpha: float = 0.0
    reach: float = 0.0
    probe: int = 0
    walked: int = 0
    recall: float | None = None
    recall_asked: bool = False
    device_bytes: int = 0
    drift: float = 0.0
    drifted: float = 0.0
    sealed_age: int = 0
    jobs: tuple[JobDescription, ...] = dataclasses.field(default=(), compare=False)
    overloaded: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Description:
    """The state of a memory: what it is, how much it holds, how old its index is.

    made: the number under which it was made, or restored; whoever has a memory of another number
    has a former one of that name, and changes nothing here. 0 is none, of memories made before
    there were such numbers.
    """

    name: str
    config: MemoryConfig
    next_slot: int
    shards: tuple[ShardDescription, ...]
    drift: float | None = None
    made: int = dataclasses.field(default=0, compare=False)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


class Memory(Protocol):
    """A named table of slots that is searched by content and trained by row.

    Every verb checks its arguments before it changes anything. Within a shard a mutation is
    applied whole or not at all; between shards nothing is promised. A caller reads its own
    writes: what `append`, `write`, `update` and `erase` did is seen by the next read.

    Who writes faster than the index is sealed in the background is slowed: `append`, `write` of
    keys, `blend`, `update` of keys and `allocate` wait before they apply anything, and raise
    `Overloaded` where that does not help. What has a result says how long it waited.

    Of every mutation: with a `request_id` it may be sent again, whatever became of it, also after
    a crash; shards that did their part before leave it at that, and the reply is that of the
    first time (`delay_s` aside). Raises `RequestConflict` where the number was used for another
    content, `RequestTooOld` where nobody knows any more, and changes nothing then. deadline_s:
    seconds, > 0, that it may wait before it begins; then it raises `DeadlineExceeded`, with
    nothing changed. None is as long as it takes.
    """

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> MemoryConfig: ...

    def append(
        self,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        """Adds rows and returns their new slots, int64 `[B]`, rising; no slot is ever reused.

        keys `[B, D]`, values `[B, V]`, records of B rows with exactly the declared columns. An
        encoded memory takes no keys: it sums them from the parts that the records name. step:
        counts as a use at that step of the caller's, as in `touch`. Where the memory has a
        capacity, the least used rows are erased to make room; more than fit at all are refused.
        """
        ...

    def write(
        self,
        slots: SlotsLike,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        """Overwrites rows; None leaves that part as it is; optimizer state stays.

        Raises `InvalidArgument` on a repeated slot, `UnknownSlot` on a missing one.
        """
        ...

    def blend(
        self,
        slots: SlotsLike,
        weights: Numbers,
        erase: Array,
        add: Array,
        *,
        step: int | None = None,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        """Writes keys sparsely: M ← M∘(1 − w·e) + w·a, row by row in the order given.

        weights `[B]`, erase and add `[B, D]` (Graves et al. 2014, arXiv 1410.5401, eq. 3-4). A
        slot named twice is blended twice. generations: as in `update`. Values stay as they are.
        """
        ...

    def update(
        self,
        slots: SlotsLike,
        key_grads: Array | None = None,
        value_grads: Array | None = None,
        lr: float | None = None,
        *,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        """Takes one optimizer step a row; gradients of equal slots are summed in order first.

        key_grads `[B, D]`, value_grads `[B, V]`: row i is the gradient of `slots[i]`.
        generations `[B]`: the tenant that each is meant for; where another has moved in since,
        it is left alone and counted as skipped.
        """
        ...

    def touch(
        self,
        slots: SlotsLike,
        step: int,
        weights: Numbers | None = None,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        """Notes that rows were used at `step`, ≥ 0, in the caller's count; a read is no use.

        weights `[B]`, ≥ 0: how much, for discounted usage; None is 1 each.
        """
        ...

    def allocate(
        self,
        n: int,
        *,
        step: int | None = None,
        records: Records | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        """Hands the n least used slots, smallest (usage, slot) first, to new tenants.

        Their generation rises by one; key and value are zero, optimizer state and usage gone.
        records: of the new tenants, required where the memory has records.
        """
        ...

    def erase(
        self,
        slots: SlotsLike,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        """Takes rows away for good; raises `InvalidArgument` on a repeated slot."""
        ...

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> SearchResult:
        """Finds the k slots of highest inner product for queries `[Q, D]`."""
        ...

    def gather(
        self,
        slots: SlotsLike,
        *,
        vectors: bool = True,
        columns: Sequence[str] = (),
        list_limit: int | None = None,
    ) -> Rows:
        """Reads rows by address; slots may repeat.

        columns: record columns to read. list_limit: cut each list of a list column to its first
        so many items. Raises `UnknownSlot` on a slot that is not there.
        """
        ...

    def lookup(
        self,
        column: str,
        values: Sequence[Any] | Array,
        limit: int,
        cursor: SlotsLike | None = None,
    ) -> LookupResult:
        """Finds the slots whose record holds a value: at most `limit`, the smallest, a value.

        cursor `[Q]`: for each value the first slot that may be given, or `NO_SLOT` for none.
        With the cursor of the result before, repeated calls give every slot of a value once, in
        rising order; what is appended, written or erased meanwhile behind the cursor is seen.
        """
        ...

    def reindex(self) -> None:
        """Builds the index anew from the rows as they are now, before it returns.

        Searches and mutations go on meanwhile; what they change is in the new index too.
        """
        ...

    def refresh(self, limit: int | None = None) -> Refreshed:
        """Encodes anew the slots of an encoded memory whose parts drifted most.

        limit: of slots, no more but those that were written meanwhile; a part row that more are
        made of counts as encoded once all are, by later calls. None encodes all that drifted.
        """
        ...

    def describe(self) -> Description:
        """Says what the memory is, how much it holds and how old its index is."""
        ...
