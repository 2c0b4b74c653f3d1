"""Which word of a private memory a head wrote after which: sparse links, taken back with the rows.

The temporal linkage of Graves et al. 2016 (Nature 538), sparse as in Rae et al. 2016, arXiv
1610.09027, appendix D.1. With w = w^W_t of one head, p_0 = 0 and N_0 = 0:

    N_t(i, j) = (1 − w(i)) N_{t−1}(i, j) + w(i) p_{t−1}(j)     i was written after j       eq. 19
    p_t       = (1 − Σ w) p_{t−1} + w                          how lately each was         eq. 11
    f_t(i)    = Σ_j N_t(i, j) w^R_{t−1}(j)                     what came after the words read
    b_t(i)    = Σ_j N_t(j, i) w^R_{t−1}(j)                     what came before them

N(i, i) is 0. Of w, of p and of each row of N the L greatest entries are kept. P, which stands for
Nᵀ, has for each word j the L words i of greatest N(i, j), and no weights of its own: equation 20
lets entries of P fade that are in rows without number, here they are those of N, so that what N
lets go P has lost too. Equations 21 and 22 take f from columns of N and b from those of P, which
may be of any length; here f is read off rows of P, b off rows of N. Of both the K greatest entries
are kept, and scaled to a sum of 1 where it is more: columns of N are not bounded as by eq. 13.

Each head has links of its own, as the paper's equations are those of one head. Links are held for
words written in the episode, by their number among the fresh; a step takes time and space for the
words that it reads and writes. Letters beside those of `kernels.episode`: H heads, L links.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memstore.kernels.compiling import compiled
from memstore.kernels.episode import Numbers, Words
from memstore.kernels.episode_access import Asked, Read, add_up
from memstore.memory import Array


class Links(NamedTuple):
    """earlier_BFHL: j of N(i, j), −1 for none, weight_BFHL: N(i, j), by number of i, greatest
    first.  later_BFHL: i, by number of j.  recent_BSHL, share_BSHL: p, by step.
    saved_BFH: the step that last kept the links of a word in the journal.  kept_*_BJL: links as
    they were, of number and head kept_BJ = number · H + head; ends_B: how many; marks_BS: the same
    when a step began."""

    earlier_BFHL: Numbers
    weight_BFHL: Array
    later_BFHL: Numbers
    recent_BSHL: Numbers
    share_BSHL: Array
    saved_BFH: Numbers
    kept_earlier_BJL: Numbers
    kept_weight_BJL: Array
    kept_later_BJL: Numbers
    kept_BJ: Numbers
    ends_B: npt.NDArray[np.int64]
    marks_BS: npt.NDArray[np.int64]


@compiled()
def mark_links(links: Links, step: int) -> None:
    """Begins step `step`: nothing was written in it yet."""
    for b in range(len(links.ends_B)):
        links.marks_BS[b, step] = links.ends_B[b]
        links.recent_BSHL[b, step] = links.recent_BSHL[b, step - 1]
        links.share_BSHL[b, step] = links.share_BSHL[b, step - 1]


@compiled()
def undo_links(links: Links, step: int) -> None:
    """Takes back step `step` and all behind it."""
    heads = links.saved_BFH.shape[2]
    for b in range(len(links.ends_B)):
        while links.ends_B[b] > links.marks_BS[b, step]:
            end = links.ends_B[b] - 1
            links.ends_B[b] = end
            number, h = links.kept_BJ[b, end] // heads, links.kept_BJ[b, end] % heads
            links.earlier_BFHL[b, number, h] = links.kept_earlier_BJL[b, end]
            links.weight_BFHL[b, number, h] = links.kept_weight_BJL[b, end]
            links.later_BFHL[b, number, h] = links.kept_later_BJL[b, end]
            links.saved_BFH[b, number, h] = 0


@compiled()
def linked(links: Links) -> int:
    """How many links, of one word and head, are in the journal: the most of all memories."""
    most = 0
    for b in range(len(links.ends_B)):
        most = max(most, links.ends_B[b])
    return most


@compiled()
def link(
    words: Words,
    links: Links,
    asked: Asked,
    before: Read,
    least_BH: Numbers,
    b: int,
    h: int,
    step: int,
) -> None:
    """Links what a head writes in a step, `mark_links` before, to what it wrote last."""
    most = links.later_BFHL.shape[3]
    rows_W, weights_W = np.full(most, -1, np.int32), np.zeros(most, links.weight_BFHL.dtype)
    rows_C, sums_C = np.empty(2 * most, np.int32), np.empty(2 * most, weights_W.dtype)
    count = _written(asked, before, least_BH, b, h, rows_W, weights_W)
    number_N = words.fresh_BN[b]
    earlier_FL, weight_FL = links.earlier_BFHL[b, :, h], links.weight_BFHL[b, :, h]
    recent_L, share_L = links.recent_BSHL[b, step - 1, h], links.share_BSHL[b, step - 1, h]
    one, total = weights_W.dtype.type(1), weights_W.dtype.type(0)
    _save(links, b, number_N, rows_W, h, step)
    _save(links, b, number_N, recent_L, h, step)
    for w in range(count):
        row, weight = rows_W[w], weights_W[w]
        total += weight
        number = number_N[row]
        _mix(
            earlier_FL[number], weight_FL[number], one - weight,
            recent_L, share_L, len(recent_L), weight, row, rows_C, sums_C,
        )  # fmt: skip
    for earlier in recent_L:
        if earlier >= 0:
            later_L = links.later_BFHL[b, number_N[earlier], h]
            _lead(number_N, earlier_FL, weight_FL, later_L, earlier, rows_W, count, rows_C, sums_C)
    recent_L, share_L = links.recent_BSHL[b, step, h], links.share_BSHL[b, step, h]
    _mix(recent_L, share_L, one - total, rows_W, weights_W, count, one, -1, rows_C, sums_C)


@compiled()
def follow(
    words: Words,
    links: Links,
    before: Read,
    b: int,
    h: int,
    forward: bool,
    rows_K: Numbers,
    shares_K: Array,
) -> Array:
    """Fills in the K words of greatest f, or b, best first, −1 for none, and scales them.

    Returns by what: 1, or the sum of those kept where that is more.
    """
    most = before.rows_BHK.shape[2] * links.later_BFHL.shape[3]
    rows_C, sums_C, count = np.empty(most, np.int32), np.empty(most, shares_K.dtype), 0
    number_N = words.fresh_BN[b]
    earlier_FL, weight_FL = links.earlier_BFHL[b, :, h], links.weight_BFHL[b, :, h]
    other_FL = links.later_BFHL[b, :, h] if forward else earlier_FL
    for i in range(before.rows_BHK.shape[2]):
        row, weight = before.rows_BHK[b, h, i], before.weights_BHK[b, h, i]
        if row >= 0:
            number = number_N[row]
            for k in range(other_FL.shape[1]):
                other = other_FL[number, k]
                if other >= 0:
                    share = weight_FL[number, k]
                    if forward:
                        share = _weight(earlier_FL, weight_FL, number_N[other], row)
                    count = add_up(rows_C, sums_C, count, other, weight * share)
    rows_K[:], shares_K[:] = -1, 0
    for c in range(count):
        _keep(rows_K, shares_K, rows_C[c], sums_C[c])
    scale = max(shares_K.sum(), shares_K.dtype.type(1))
    shares_K /= scale
    return scale  # type: ignore[no-any-return]


@compiled()
def follow_back(
    words: Words,
    links: Links,
    before: Read,
    b: int,
    h: int,
    forward: bool,
    rows_K: Numbers,
    grads_K: Array,
    before_grad_BHK: Array,
) -> None:
    """Adds the gradient of w^R_{t−1}.  grads_K: of f, or b, before it was scaled."""
    number_N = words.fresh_BN[b]
    earlier_FL, weight_FL = links.earlier_BFHL[b, :, h], links.weight_BFHL[b, :, h]
    for i in range(before.rows_BHK.shape[2]):
        row = before.rows_BHK[b, h, i]
        if row < 0:
            continue
        number = number_N[row]
        for k in range(len(rows_K)):
            other = rows_K[k]
            if other < 0:
                continue
            if not forward:
                weight = _weight(earlier_FL, weight_FL, number, other)
                before_grad_BHK[b, h, i] += weight * grads_K[k]
            elif other in links.later_BFHL[b, number, h]:
                weight = _weight(earlier_FL, weight_FL, number_N[other], row)
                before_grad_BHK[b, h, i] += weight * grads_K[k]


@compiled()
def _weight(earlier_FL: Numbers, weight_FL: Array, number: int, earlier: int) -> Array:
    """N of the word of a number, and one written before it; 0 where that was let go."""
    for k in range(earlier_FL.shape[1]):
        if earlier_FL[number, k] == earlier:
            return weight_FL[number, k]  # type: ignore[no-any-return]
    return weight_FL.dtype.type(0)  # type: ignore[no-any-return]


@compiled()
def _written(
    asked: Asked, before: Read, least_BH: Numbers, b: int, h: int, rows_W: Numbers, weights_W: Array
) -> int:
    """The greatest entries of w^W of a head, α (γ w^R + (1 − γ) 1[u]); returns how many."""
    most = 1 + before.rows_BHK.shape[2]
    rows_C, sums_C = np.empty(most, np.int32), np.empty(most, weights_W.dtype)
    write, previous = asked.write_BH[b, h], asked.previous_BH[b, h]
    rows_C[0], sums_C[0], end = least_BH[b, h], write * (sums_C.dtype.type(1) - previous), 1
    for i in range(before.rows_BHK.shape[2]):
        row, share = before.rows_BHK[b, h, i], write * previous * before.weights_BHK[b, h, i]
        if row >= 0:
            end = add_up(rows_C, sums_C, end, row, share)
    for c in range(end):
        _keep(rows_W, weights_W, rows_C[c], sums_C[c])
    return int((rows_W >= 0).sum())


@compiled()
def _save(links: Links, b: int, number_N: Numbers, rows_L: Numbers, h: int, step: int) -> None:
    """Keeps the links of words in the journal, once a step, before they change."""
    for row in rows_L:
        if row < 0 or links.saved_BFH[b, number_N[row], h] == step:
            continue
        number, end = number_N[row], links.ends_B[b]
        for k in range(links.later_BFHL.shape[3]):
            links.kept_earlier_BJL[b, end, k] = links.earlier_BFHL[b, number, h, k]
            links.kept_weight_BJL[b, end, k] = links.weight_BFHL[b, number, h, k]
            links.kept_later_BJL[b, end, k] = links.later_BFHL[b, number, h, k]
        links.kept_BJ[b, end] = number * links.saved_BFH.shape[2] + h
        links.ends_B[b] = end + 1
        links.saved_BFH[b, number, h] = step


@compiled()
def _mix(
    rows_L: Numbers,
    weights_L: Array,
    kept: Array,
    rows_W: Numbers,
    weights_W: Array,
    count: int,
    share: Array,
    none: int,
    rows_C: Numbers,
    sums_C: Array,
) -> None:
    """x ← kept · x + share · w without word `none`, of that the L greatest entries."""
    end = 0
    for k in range(len(rows_L)):
        if rows_L[k] >= 0:
            rows_C[end], sums_C[end] = rows_L[k], kept * weights_L[k]
            end += 1
    for w in range(count):
        if rows_W[w] >= 0 and rows_W[w] != none:
            end = add_up(rows_C, sums_C, end, rows_W[w], share * weights_W[w])
    rows_L[:], weights_L[:] = -1, 0
    for c in range(end):
        _keep(rows_L, weights_L, rows_C[c], sums_C[c])


@compiled()
def _lead(
    number_N: Numbers,
    earlier_FL: Numbers,
    weight_FL: Array,
    later_L: Numbers,
    earlier: int,
    rows_W: Numbers,
    count: int,
    rows_C: Numbers,
    sums_C: Array,
) -> None:
    """Has the L words written after `earlier` by greatest N, of those it had and of rows_W."""
    end, none = 0, sums_C.dtype.type(0)
    for later in later_L:
        if later >= 0:
            rows_C[end] = later
            end += 1
    for w in range(count):
        end = add_up(rows_C, sums_C, end, rows_W[w], none)
    weights_L = sums_C[: len(later_L)]
    later_L[:], weights_L[:] = -1, 0
    for c in range(end):
        row = rows_C[c]
        weight = _weight(earlier_FL, weight_FL, number_N[row], earlier)
        _keep(later_L, weights_L, row, weight)


@compiled()
def _keep(rows_L: Numbers, weights_L: Array, row: int, weight: Array) -> None:
    """Puts in what belongs among the greatest, greatest first, in place of the last; no zeros."""
    at = len(rows_L) - 1
    if weight > weights_L[at]:
        while at > 0 and weight > weights_L[at - 1]:
            rows_L[at], weights_L[at] = rows_L[at - 1], weights_L[at - 1]
            at -= 1
        rows_L[at], weights_L[at] = row, weight
