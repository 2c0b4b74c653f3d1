"""A step of the sparse differentiable neural computer, forward and back, all in one call.

Rae et al. 2016, arXiv 1610.09027, appendix D. A step of `episode_access`, but that each head links
what it writes and reads in three modes, of weights π that sum to 1:

    w^R = π_1 b + π_2 c + π_3 f,  r = Σ w^R(i) M(i)

backward along its links, by content (c = the softmax over the K nearest), and forward. Columns of
what is read are K words of each mode, in this order; a word may be among those of several.

Links are constants in the way back, as in the paper. What f and b are followed from, w^R_{t−1}, has
its gradient here, as the links of each step are had again by taking back; the paper has none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memstore.kernels.compiling import compiled
from memstore.kernels.episode import Fresh, Journal, Numbers, Sealed, Words
from memstore.kernels.episode_access import Asked, Read, read, softmax, undo, write
from memstore.kernels.episode_back import dot, read_back, write_back
from memstore.kernels.episode_links import Links, follow, follow_back, link, undo_links
from memstore.kernels.episode_tree import Probe, find
from memstore.kernels.episode_usage import Rule, Usage, least_used, touch_row
from memstore.memory import Array

MODES = 3
BACKWARD, CONTENT, FORWARD = range(MODES)


class Shares(NamedTuple):
    """shares_BHK: b, c and f as they are before π weighs them.  scales_BH3: what b and f were
    divided by."""

    shares_BHK: Array
    scales_BH3: Array


@compiled()
def access_linked(
    words: Words,
    sealed: Sealed,
    fresh: Fresh,
    usage: Usage,
    journal: Journal,
    links: Links,
    asked: Asked,
    modes_BH3: Array,
    before: Read,
    probe: Probe,
    rule: Rule,
    step: int,
    first: int,
    last: int,
    least_BH: Numbers,
    found: Read,
    shares: Shares,
    read_BHD: Array,
) -> None:
    """One step of the memories `first` to `last`, marked before; others may be in work beside it.

    Fills in least_BH (the words u_h), found, of which scores_BHK are cosines, shares and read_BHD.
    """
    heads, k = asked.query_BHD.shape[1], found.rows_BHK.shape[2] // MODES
    rows_R = np.empty(heads * (1 + before.rows_BHK.shape[2] + found.rows_BHK.shape[2]), np.int32)
    sums_R = np.empty(len(rows_R), read_BHD.dtype)
    for b in range(first, last):
        least_used(usage, b, least_BH[b])
        count = write(words, fresh, journal, asked, before, step, b, least_BH, rows_R, sums_R)
        rows_HK = found.rows_BHK[b, :, CONTENT * k : (CONTENT + 1) * k]
        scores_HK = found.scores_BHK[b, :, CONTENT * k : (CONTENT + 1) * k]
        find(words, sealed, fresh, b, asked.query_BHD[b], probe, rows_HK, scores_HK)
        for h in range(heads):
            link(words, links, asked, before, least_BH, b, h, step)
            for mode in range(MODES):
                start, stop = mode * k, (mode + 1) * k
                rows_K = found.rows_BHK[b, h, start:stop]
                shares_K = shares.shares_BHK[b, h, start:stop]
                scores_K = found.scores_BHK[b, h, start:stop]
                if mode == CONTENT:
                    softmax(asked.strength_BH[b, h], rows_K, scores_K, shares_K)
                    scale = shares_K.dtype.type(1)
                else:
                    scale = follow(words, links, before, b, h, mode == FORWARD, rows_K, shares_K)
                    scores_K[:] = 0
                shares.scales_BH3[b, h, mode] = scale
                for i in range(k):
                    weight = modes_BH3[b, h, mode] * shares_K[i]
                    found.weights_BHK[b, h, start + i] = weight
            count = read(words, b, h, found, read_BHD, count, rows_R, sums_R)
        for r in range(count):
            touch_row(usage, journal, b, rows_R[r], sums_R[r], step, rule)


@compiled()
def retreat_linked(
    words: Words,
    fresh: Fresh,
    usage: Usage,
    journal: Journal,
    links: Links,
    asked: Asked,
    modes_BH3: Array,
    before: Read,
    found: Read,
    shares: Shares,
    least_BH: Numbers,
    cosine: bool,
    step: int,
    read_grad_BHD: Array,
    weight_grad_BHK: Array,
    grads_BFD: Array,
    asked_grad: Asked,
    modes_grad_BH3: Array,
    before_grad_BHK: Array,
) -> None:
    """Adds the gradients of `asked`, π and the weights before, then takes the step back.

    The memory is as `access_linked` left it, with the same arguments. grads_BFD: of the rows of M
    after the step, by their number, in place: then of M before it.
    """
    k = found.rows_BHK.shape[2] // MODES
    for b in range(len(least_BH)):
        for h in range(asked.query_BHD.shape[1]):
            for mode in range(MODES):
                start, stop = mode * k, (mode + 1) * k
                rows_K = found.rows_BHK[b, h, start:stop]
                shares_K = shares.shares_BHK[b, h, start:stop]
                grads_K = weight_grad_BHK[b, h, start:stop]
                weight = modes_BH3[b, h, mode]
                modes_grad_BH3[b, h, mode] = _mode_back(
                    words, b, rows_K, shares_K, read_grad_BHD[b, h], grads_K
                )
                if mode == CONTENT:
                    read_back(
                        words,
                        b,
                        h,
                        asked,
                        rows_K,
                        shares_K,
                        found.scores_BHK[b, h, start:stop],
                        cosine,
                        weight * read_grad_BHD[b, h],
                        weight * grads_K,
                        grads_BFD,
                        asked_grad,
                    )
                else:
                    follow_grad_K = _followed_back(
                        words, b, rows_K, shares_K, shares.scales_BH3[b, h, mode], weight,
                        read_grad_BHD[b, h], grads_K, grads_BFD,
                    )  # fmt: skip
                    follow_back(
                        words, links, before, b, h, mode == FORWARD, rows_K, follow_grad_K,
                        before_grad_BHK,
                    )  # fmt: skip
        write_back(
            words, journal, asked, before, least_BH, step, b, grads_BFD, asked_grad,
            before_grad_BHK,
        )  # fmt: skip
    undo_links(links, step)
    undo(words, fresh, usage, journal, step)


@compiled()
def _mode_back(
    words: Words,
    b: int,
    rows_K: Numbers,
    shares_K: Array,
    read_grad_D: Array,
    weight_grad_K: Array,
) -> Array:
    """The gradient of a mode's weight π."""
    grad = read_grad_D.dtype.type(0)
    for i in range(len(rows_K)):
        if rows_K[i] >= 0:
            grad += shares_K[i] * (weight_grad_K[i] + dot(words, b, rows_K[i], read_grad_D))
    return grad  # type: ignore[no-any-return]


@compiled()
def _followed_back(
    words: Words,
    b: int,
    rows_K: Numbers,
    shares_K: Array,
    scale: Array,
    weight: Array,
    read_grad_D: Array,
    weight_grad_K: Array,
    grads_BFD: Array,
) -> Array:
    """Adds the gradients of the rows followed to; returns those of f, or b, before it was scaled.

    weight: π.
    """
    grads_K, mean = np.zeros(len(rows_K), shares_K.dtype), shares_K.dtype.type(0)
    for i in range(len(rows_K)):
        row = rows_K[i]
        if row >= 0:
            grads_K[i] = weight * (weight_grad_K[i] + dot(words, b, row, read_grad_D))
            mean += shares_K[i] * grads_K[i]
            number = words.fresh_BN[b, row]
            for d in range(len(read_grad_D)):
                grads_BFD[b, number, d] += weight * shares_K[i] * read_grad_D[d]
    if scale > 1:
        for i in range(len(rows_K)):
            grads_K[i] = (grads_K[i] - mean) / scale
    return grads_K
