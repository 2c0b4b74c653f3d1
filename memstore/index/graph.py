"""Graph: links laid over the rows of a segment, which a query walks instead of visiting lists.

Each row is linked to near ones and long ones; a walk from a few entries finds the rows of highest
inner product after scoring some hundreds. It takes many times as long to lay as lists do, so it
is laid over the oldest segment when rows are clustered, or later, and left as it is. The lists
stay, for what a walk cannot do: filtered searches, sampled clusters, and rows sealed since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from memstore.files import NewFile, arrays_of, arrays_to
from memstore.index.recall import Recall
from memstore.index.reductions import lengths
from memstore.index.scanning import Found
from memstore.kernels.codes import BLOCK
from memstore.kernels.graph import Bits, Places, choose, link, walk
from memstore.memory import Array, Slots

LINKS, ROOM = 48, 64
"""Links that a row keeps, and those that it may have before they are pruned to so many."""

WINDOW = 128
"""Rows in view of the walk that looks for the links of a row."""

SHARE, POWER = 0.9, 0.65
"""A row is not linked to another where a third that leads there scores nearly as high with it,
products taken over the lengths of the two to this power. Between products alone (0), which make
everything end at the longest rows, and angles (1), which know of no longest ones."""

ENTRIES, SAMPLE = 32, 64
"""Rows where a walk may begin: the longest, one in `SAMPLE`, of a sample."""

BLOCK_ROWS, BLOCK_SHARE, PART_ROWS = 512, 16, 64
"""Rows read and linked at a time, about a tenth of a second: then a job that is wanted no more
ends. One in `BLOCK_SHARE` of those linked before at most. Rows that one thread takes."""

FEW = 10
"""While fewer than one row in so many is stale, they are left out of what a walk found."""

HIDDEN = 1_024
"""Stale rows that a walk keeps in view at most: that many of the best may have been erased."""


@dataclass(frozen=True)
class Graph:
    """Rows by place: codes and scales, links and how many, the number of each.

    codes_ND int8, scale_N: a row is about scale · codes.  entries_E: places where walks begin.
    recall: measured by window; None before.
    """

    codes_ND: npt.NDArray[np.int8]
    scale_N: Array
    links_NL: Places
    degree_N: Places
    rows_N: Slots
    entries_E: Slots
    recall: Recall | None = None

    def __len__(self) -> int:
        return len(self.rows_N)

    @property
    def bytes(self) -> int:
        arrays = (self.codes_ND, self.scale_N, self.links_NL, self.degree_N, self.rows_N)
        return sum(array.nbytes for array in arrays)

    def with_recall(self, recall: Recall) -> Graph:
        return replace(self, recall=recall)

    def search(self, queries_QD: Array, k: int, window: int, valid: Bits, stale: int) -> Found:
        """Rows for the k best of each query.

        window: rows kept in view, k at least.  valid, stale: of the segment; no stale row is found.
        """
        few = stale * FEW <= len(self)
        if few:
            window += -(-window * stale // len(self))
        window = min(max(window, k), len(self))
        found = walk(
            queries_QD,
            self.codes_ND,
            self.scale_N,
            self.links_NL,
            self.degree_N,
            self.rows_N,
            valid,
            self.entries_E,
            window,
            min(stale, HIDDEN),
            min(k + k // 4 + 2, window),  # codes of a byte are nearly exact
            min(k, window, len(self) - stale) if few else 0,
        )
        return Found(*found)

    def save(self, file: NewFile) -> None:
        arrays = {name: getattr(self, name) for name in ARRAYS}
        if self.recall is not None:
            arrays |= {f"recall_{name}": part for name, part in self.recall.arrays().items()}
        arrays_to(file, arrays)

    @classmethod
    def load(cls, path: Path) -> Graph:
        arrays, prefix = arrays_of(path), "recall_"
        parts = {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}
        recall = Recall.of(parts) if parts else None
        return cls(**{name: arrays[name] for name in ARRAYS}, recall=recall)


ARRAYS = ("codes_ND", "scale_N", "links_NL", "degree_N", "rows_N", "entries_E")


def lay(read: Callable[[Slots], Array], rows_R: Slots, seed: int) -> Graph:
    """Lays a graph over rows, read a block at a time, in an order that the seed gives.

    As many threads work as faiss may use here; the graph is the same whatever their number.
    """
    rng = np.random.default_rng(seed)
    order_N = rng.permutation(len(rows_R))
    length_N = np.empty(len(rows_R), np.float32)
    first_BD = np.asarray(read(rows_R[order_N[:1]]), np.float32)
    graph = _empty(rows_R, encoded(first_BD)[0].shape[1], order_N[:1])
    with ThreadPoolExecutor(faiss.omp_get_max_threads()) as pool:
        for new_B in _blocks(order_N):
            keys_BD = np.asarray(read(rows_R[new_B]), np.float32)
            graph.codes_ND[new_B], graph.scale_N[new_B] = encoded(keys_BD)
            length_N[new_B] = lengths(keys_BD) ** POWER
            _grow(graph, length_N, new_B, pool)
        # Again, now that every row is there to be linked to.
        for new_B in _blocks(order_N):
            read(rows_R[:0])  # which a job that is wanted no more ends at
            _grow(graph, length_N, new_B, pool)
    some = rng.choice(len(rows_R), min(SAMPLE * ENTRIES, len(rows_R)), replace=False)
    entries_E = np.sort(some[np.argsort(-length_N[some], kind="stable")[:ENTRIES]])
    return replace(graph, entries_E=entries_E)


def _blocks(order_N: Slots) -> Iterator[Slots]:
    """Blocks of places: the rows of one are not linked to one another when it is new, so the
    first are small."""
    start = 0
    while start < len(order_N):
        stop = start + min(BLOCK_ROWS, 1 + start // BLOCK_SHARE)
        yield order_N[start:stop]
        start = stop


def _grow(graph: Graph, length_N: Array, new_B: Slots, pool: Executor) -> None:
    tables = graph.codes_ND, graph.scale_N, length_N, graph.links_NL, graph.degree_N
    chosen_BL = np.empty((len(new_B), LINKS), np.int32)

    def some(part: slice) -> None:
        choose(*tables, new_B[part], graph.entries_E, WINDOW, SHARE, chosen_BL[part])

    list(pool.map(some, [slice(at, at + PART_ROWS) for at in range(0, len(new_B), PART_ROWS)]))
    link(*tables, new_B, chosen_BL, SHARE)


def encoded(keys_RD: Array) -> tuple[npt.NDArray[np.int8], Array]:
    """Codes `[R, D]`, filled up to whole blocks, and scales float32 `[R]`: about scale · codes."""
    scale_R = np.abs(keys_RD).max(axis=1, initial=0.0).astype(np.float32) / np.float32(127)
    scale_R[scale_R < np.finfo(np.float32).tiny] = 1.0
    codes_RD = np.zeros((len(keys_RD), -(-keys_RD.shape[1] // BLOCK) * BLOCK), np.int8)
    np.rint(keys_RD / scale_R[:, None], out=codes_RD[:, : keys_RD.shape[1]], casting="unsafe")
    return codes_RD, scale_R


def _empty(rows_R: Slots, width: int, entries_E: Slots) -> Graph:
    """A graph over rows without a link."""
    return Graph(
        np.zeros((len(rows_R), width), np.int8),
        np.ones(len(rows_R), np.float32),
        np.zeros((len(rows_R), ROOM), np.int32),
        np.zeros(len(rows_R), np.int32),
        rows_R,
        entries_E,
    )
