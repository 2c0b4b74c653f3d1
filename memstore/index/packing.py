"""Packing: codes of 4 bits laid out in blocks of rows, which the processor scans at once.

A row is coded by what its centroid leaves of it, two dimensions by one of 16 centroids of their
own (product quantization: Jégou, Douze & Schmid 2011). The 16 partial scores of a query stand in a
register, where one instruction looks up those of many rows (fast scan: André, Kermarrec & Le
Scouarnec 2015, VLDB 9(4)). That kernel is faiss's, and so are the blocks. They are made of
ordinary lists, and taken apart to be joined: faiss assigns anew what is added to blocks, and where
it appends to a list of them it may write past its end.
"""

from __future__ import annotations

import faiss
import numpy as np

from memstore.index.reductions import lengths
from memstore.memory import Array, Slots

BLOCK_ROWS = 32
"""Rows of a block: faiss then scans a list once for several queries."""

TRAINED = 4_096
"""Rows that codes are trained on: 256 for each of the 16 centroids, as faiss would draw."""

LARGEST = 1e6
"""Units that an element of a row has at most, of those trained on."""

LEAST = 16
"""Rows without which there are not 16 centroids; fewer are taken several times."""


def telling(keys_RD: Array, seed: int) -> Slots:
    """Rows to train on, rising: the longer, the likelier, as the fourth power of their length.

    Of rows of unequal length the long ones are those found. Where lengths are log-normal
    (σ = 0.5), codes trained on rows drawn alike need twice the candidates for the same recall.
    """
    lengths_R = lengths(keys_RD)
    chances_R = np.maximum(lengths_R / max(lengths_R.max(), 1e-60), 1e-60) ** 4
    waits_R = np.random.default_rng(seed).standard_exponential(len(keys_RD)) / chances_R
    return np.sort(np.argsort(waits_R)[:TRAINED])


def trained(
    quantizer: faiss.IndexFlatIP, keys_RD: Array, lists_R: Slots
) -> tuple[faiss.IndexIVFPQ, float]:
    """Lists for 4-bit codes, trained on rows of the lists named, and the unit of rows in them.

    Centroids are of length 1. A row is divided by the unit, about its length along its centroid,
    before it is coded, so that the centroid leaves little of it. Where the number of dimensions
    is odd, each has a code of its own.
    """
    centroids_CD = faiss.rev_swig_ptr(quantizer.get_xb(), quantizer.ntotal * quantizer.d)
    centroids_RD = centroids_CD.reshape(quantizer.ntotal, -1)[lists_R]
    along = np.vdot(keys_RD.astype(np.float64), centroids_RD)
    along /= max(np.vdot(centroids_RD, centroids_RD), 1)
    # In units the largest stays where its square does not overflow: faiss ends the process there.
    unit = max(float(along), float(np.abs(keys_RD).max()) / LARGEST, LARGEST**-5)
    left_RD = keys_RD / np.float32(unit) - centroids_RD
    codes = quantizer.d if quantizer.d % 2 else quantizer.d // 2
    metric = faiss.METRIC_INNER_PRODUCT
    lists = faiss.IndexIVFPQ(quantizer, quantizer.d, quantizer.ntotal, codes, 4, metric)
    lists.pq.cp.min_points_per_centroid = 1
    lists.pq.train(np.resize(left_RD, (max(len(left_RD), LEAST), quantizer.d)))
    lists.is_trained = True
    return lists, unit


def packed(lists: faiss.IndexIVF) -> faiss.IndexIVF:
    """The same rows in blocks, if they are of 4-bit codes."""
    if not isinstance(lists, faiss.IndexIVFPQ):
        return lists
    blocks = faiss.IndexIVFPQFastScan(lists, BLOCK_ROWS)
    # They lean on the lists that they are made of, but only by the centroids. A copy of all would
    # touch what faiss sets aside behind each list, up to as much again, and takes no memory yet.
    centroids = faiss.clone_index(lists.quantizer)
    centroids.this.disown()
    blocks.quantizer, blocks.own_fields = centroids, True
    blocks.referenced_objects.clear()
    return blocks


def unpacked(lists: faiss.IndexIVF) -> faiss.IndexIVF:
    """A copy of the lists, row by row."""
    if not isinstance(lists, faiss.IndexIVFPQFastScan):
        return faiss.clone_index(lists)
    arguments = (lists.d, lists.nlist, lists.M, lists.nbits, lists.metric_type)
    plain = faiss.IndexIVFPQ(faiss.clone_index(lists.quantizer), *arguments)
    plain.pq, plain.is_trained, plain.ntotal = lists.pq, True, lists.ntotal
    packer, pointer = lists.get_CodePacker(), faiss.swig_ptr
    held = faiss.downcast_InvertedLists(lists.invlists)
    for number in range(lists.nlist):
        size = held.list_size(number)
        codes = np.empty((-(-size // packer.nvec), packer.nvec * packer.code_size), np.uint8)
        blocks = faiss.rev_swig_ptr(held.get_codes(number), len(codes) * packer.block_size)
        for at, into in enumerate(codes):
            packer.unpack_all(pointer(blocks[at * packer.block_size :]), pointer(into))
        plain.invlists.add_entries(number, size, held.get_ids(number), pointer(codes))
    return plain


def widest(lists: faiss.IndexIVFPQFastScan) -> float:
    """By how much the partial scores of a code differ at most, for a query within ±1."""
    centroids = faiss.vector_to_array(lists.pq.centroids).reshape(-1, lists.pq.dsub)
    return 2 * float(np.abs(centroids).sum(axis=1).max())


def lifted(
    lists: faiss.IndexIVFPQFastScan,
    span: float,
    queries_QD: Array,
    lists_QP: Slots,
    scores_QP: Array,
) -> tuple[Array, Slots, Array]:
    """The arguments of a search of packed lists in which no row is lost; span: their `widest`.

    faiss rounds scores to 16 bits, with 0 for the lowest that there could be, and takes what
    scores 0 for nothing: of equal rows, or for a query of zeros, it finds none. So each query
    visits one list more, that does not exist and whose centroid scores lower than all: two steps
    of the rounding at the least.
    """
    size_Q1 = np.abs(queries_QD).max(axis=1, keepdims=True)
    size_Q1[size_Q1 == 0] = 1
    scores_QP = scores_QP / size_Q1
    # A step is the larger of 1 / 255 of one code's range and 1 / 65,535 of that of all together.
    depth = span / 100 + (lists.M * span + 2 * lists.d**0.5) / 10_000
    lowest_Q1 = scores_QP.min(axis=1, keepdims=True) - np.float32(depth)
    none_Q1 = np.full(lowest_Q1.shape, -1, np.int64)
    return (
        queries_QD / size_Q1,
        np.concatenate([lists_QP, none_Q1], axis=1),
        np.concatenate([scores_QP, lowest_Q1], axis=1),
    )
