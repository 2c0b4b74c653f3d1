"""A step of sparse access memory (Rae et al. 2016, section 3), forward and back, all in one call.

With prev = the K words that head h read before, u_h the h-th least used word, H heads:

    M   ← M, but M[u_h] ← 0                                            erase, for all h
    M   ← M + Σ_h α_h (γ_h w^R_prev,h + (1 − γ_h) 1[u_h]) a_hᵀ          write
    s_h = the K words of highest score c with q_h                       search
    w_h = softmax_k(β_h c_hk),  r_h = Σ_k w_hk M[s_hk]                  read
    words whose w^W + w^R, over all heads, is an access are touched in the order they came up

The way back takes the gradients of w_h and r_h, has those of the rows of M in grads_BFD by their
number among the fresh (sealed rows are constants), and leaves M as it was before the step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memstore.kernels.compiling import compiled
from memstore.kernels.episode import (
    FRESH,
    GROUPS,
    LEAVES,
    LOOSE,
    ROWS,
    TOUCHES,
    Fresh,
    Journal,
    Numbers,
    Sealed,
    Words,
    save_row,
    undo_rows,
)
from memstore.kernels.episode_tree import Probe, find
from memstore.kernels.episode_usage import Rule, Usage, least_used, touch_row, undo_touches
from memstore.memory import Array


class Asked(NamedTuple):
    """What the heads emit: queries q, strengths β, added vectors a, gates α and γ."""

    query_BHD: Array
    strength_BH: Array
    add_BHD: Array
    write_BH: Array
    previous_BH: Array


class Read(NamedTuple):
    """rows_BHK: words read, −1 for none; weights_BHK: their w^R; scores_BHK: c."""

    rows_BHK: Numbers
    weights_BHK: Array
    scores_BHK: Array


@compiled()
def mark(journal: Journal, step: int) -> None:
    """Notes where step `step` begins."""
    for b in range(len(journal.ends_B2)):
        journal.marks_BS2[b, step, ROWS] = journal.ends_B2[b, ROWS]
        journal.marks_BS2[b, step, TOUCHES] = journal.ends_B2[b, TOUCHES]


@compiled()
def undo(words: Words, fresh: Fresh, usage: Usage, journal: Journal, step: int) -> None:
    """Takes back step `step` and all behind it."""
    for b in range(len(journal.ends_B2)):
        undo_rows(words, fresh, journal, b, journal.marks_BS2[b, step, ROWS])
        undo_touches(usage, journal, b, journal.marks_BS2[b, step, TOUCHES])


@compiled()
def filled(fresh: Fresh, journal: Journal) -> tuple[int, int, int, int, int, int]:
    """The most, of all memories: journalled rows, touches, fresh rows, loose ones, leaves and
    groups."""
    rows, touches, numbers, loose, leaves, groups = 0, 0, 0, 0, 0, 0
    for b in range(len(journal.ends_B2)):
        rows = max(rows, journal.ends_B2[b, ROWS])
        touches = max(touches, journal.ends_B2[b, TOUCHES])
        numbers = max(numbers, fresh.counts_BC[b, FRESH])
        loose = max(loose, fresh.counts_BC[b, LOOSE])
        leaves = max(leaves, fresh.counts_BC[b, LEAVES])
        groups = max(groups, fresh.counts_BC[b, GROUPS])
    return rows, touches, numbers, loose, leaves, groups


@compiled()
def blend(
    words: Words,
    fresh: Fresh,
    journal: Journal,
    rows_BR: Numbers,
    weights_BR: Array,
    erase_BRD: Array,
    add_BRD: Array,
    step: int,
) -> None:
    """M ← M∘(1 − w·e) + w·a, in the order given; a row < 0 is none."""
    one = weights_BR.dtype.type(1)
    for b in range(rows_BR.shape[0]):
        for r in range(rows_BR.shape[1]):
            row, weight = rows_BR[b, r], weights_BR[b, r]
            if row >= 0:
                save_row(words, fresh, journal, b, row, step)
                for d in range(add_BRD.shape[2]):
                    kept = words.rows_BND[b, row, d] * (one - weight * erase_BRD[b, r, d])
                    words.rows_BND[b, row, d] = kept + weight * add_BRD[b, r, d]


@compiled()
def access(
    words: Words,
    sealed: Sealed,
    fresh: Fresh,
    usage: Usage,
    journal: Journal,
    asked: Asked,
    before: Read,
    probe: Probe,
    rule: Rule,
    step: int,
    first: int,
    last: int,
    least_BH: Numbers,
    found: Read,
    read_BHD: Array,
) -> None:
    """One step of the memories `first` to `last`, `mark`ed before; others may be in work beside it.

    Fills in least_BH (the words u_h), found and read_BHD.
    """
    heads = asked.query_BHD.shape[1]
    rows_R = np.empty(heads * (1 + before.rows_BHK.shape[2] + found.rows_BHK.shape[2]), np.int32)
    sums_R = np.empty(len(rows_R), read_BHD.dtype)
    for b in range(first, last):
        least_used(usage, b, least_BH[b])
        count = write(words, fresh, journal, asked, before, step, b, least_BH, rows_R, sums_R)
        rows_HK, scores_HK = found.rows_BHK[b], found.scores_BHK[b]
        find(words, sealed, fresh, b, asked.query_BHD[b], probe, rows_HK, scores_HK)
        for h in range(heads):
            softmax(asked.strength_BH[b, h], rows_HK[h], scores_HK[h], found.weights_BHK[b, h])
            count = read(words, b, h, found, read_BHD, count, rows_R, sums_R)
        for r in range(count):
            touch_row(usage, journal, b, rows_R[r], sums_R[r], step, rule)


@compiled()
def write(
    words: Words,
    fresh: Fresh,
    journal: Journal,
    asked: Asked,
    before: Read,
    step: int,
    b: int,
    least_BH: Numbers,
    rows_R: Numbers,
    sums_R: Array,
) -> int:
    """Erases and writes, for all heads; returns how many rows were, with their weights."""
    heads, one, count = asked.query_BHD.shape[1], sums_R.dtype.type(1), 0
    for h in range(heads):
        save_row(words, fresh, journal, b, least_BH[b, h], step)
        words.rows_BND[b, least_BH[b, h], :] = 0
    for h in range(heads):
        share = asked.write_BH[b, h] * (one - asked.previous_BH[b, h])
        _add(words, b, least_BH[b, h], share, asked.add_BHD, h)
        count = add_up(rows_R, sums_R, count, least_BH[b, h], share)
        share = asked.write_BH[b, h] * asked.previous_BH[b, h]
        for i in range(before.rows_BHK.shape[2]):
            row, weight = before.rows_BHK[b, h, i], share * before.weights_BHK[b, h, i]
            if row >= 0:
                save_row(words, fresh, journal, b, row, step)
                _add(words, b, row, weight, asked.add_BHD, h)
                count = add_up(rows_R, sums_R, count, row, weight)
    return count


@compiled()
def softmax(strength: Array, rows_K: Numbers, scores_K: Array, weights_K: Array) -> None:
    """Weights of the words found, best first; where there is none, weight and score are 0."""
    total = weights_K.dtype.type(0)
    for i in range(len(rows_K)):
        # Best first, so none is above the first.
        weights_K[i] = 0
        if rows_K[i] >= 0:
            weights_K[i] = np.exp(strength * (scores_K[i] - scores_K[0]))
            total += weights_K[i]
    for i in range(len(rows_K)):
        if rows_K[i] >= 0:
            weights_K[i] /= total
        else:
            scores_K[i] = 0


@compiled()
def read(
    words: Words,
    b: int,
    h: int,
    found: Read,
    read_BHD: Array,
    count: int,
    rows_R: Numbers,
    sums_R: Array,
) -> int:
    """Sums what a head reads; returns how many rows were written or read so far."""
    read_BHD[b, h, :] = 0
    for i in range(found.rows_BHK.shape[2]):
        row, weight = found.rows_BHK[b, h, i], found.weights_BHK[b, h, i]
        if row >= 0:
            for d in range(read_BHD.shape[2]):
                read_BHD[b, h, d] += weight * words.rows_BND[b, row, d]
            count = add_up(rows_R, sums_R, count, row, weight)
    return count


@compiled()
def _add(words: Words, b: int, row: int, weight: Array, add_BHD: Array, h: int) -> None:
    for d in range(words.rows_BND.shape[2]):
        words.rows_BND[b, row, d] += weight * add_BHD[b, h, d]


@compiled()
def add_up(rows_R: Numbers, sums_R: Array, count: int, row: int, weight: Array) -> int:
    """Adds a weight to what its row has; returns how many rows have some."""
    for r in range(count):
        if rows_R[r] == row:
            sums_R[r] += weight
            return count
    rows_R[count], sums_R[count] = row, weight
    return count + 1
