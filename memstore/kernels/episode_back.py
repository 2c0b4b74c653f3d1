"""A step of sparse access memory back: gradients, and the memory as it was before the step."""

from __future__ import annotations

import numpy as np

from memstore.kernels.compiling import compiled
from memstore.kernels.episode import ROWS, Fresh, Journal, Numbers, Words
from memstore.kernels.episode_access import Asked, Read, undo
from memstore.kernels.episode_tree import length
from memstore.kernels.episode_usage import Usage
from memstore.memory import Array


@compiled()
def retreat(
    words: Words,
    fresh: Fresh,
    usage: Usage,
    journal: Journal,
    asked: Asked,
    before: Read,
    found: Read,
    least_BH: Numbers,
    cosine: bool,
    step: int,
    read_grad_BHD: Array,
    weight_grad_BHK: Array,
    grads_BFD: Array,
    asked_grad: Asked,
    before_grad_BHK: Array,
) -> None:
    """Adds the gradients of `asked` and of the weights before, then takes the step back.

    The memory is as `episode_access.access` left it, with the same arguments. grads_BFD: of the
    rows of M after the step, by their number, in place: then of M before it.
    """
    for b in range(len(least_BH)):
        for h in range(asked.query_BHD.shape[1]):
            read_back(
                words,
                b,
                h,
                asked,
                found.rows_BHK[b, h],
                found.weights_BHK[b, h],
                found.scores_BHK[b, h],
                cosine,
                read_grad_BHD[b, h],
                weight_grad_BHK[b, h],
                grads_BFD,
                asked_grad,
            )
        write_back(
            words, journal, asked, before, least_BH, step, b, grads_BFD, asked_grad,
            before_grad_BHK,
        )  # fmt: skip
    undo(words, fresh, usage, journal, step)


@compiled()
def write_back(
    words: Words,
    journal: Journal,
    asked: Asked,
    before: Read,
    least_BH: Numbers,
    step: int,
    b: int,
    grads_BFD: Array,
    asked_grad: Asked,
    before_grad_BHK: Array,
) -> None:
    """Adds the gradients of what all heads wrote and erased; grads_BFD are then of M before."""
    one = grads_BFD.dtype.type(1)
    for h in range(asked.query_BHD.shape[1]):
        write, previous = asked.write_BH[b, h], asked.previous_BH[b, h]
        least = words.fresh_BN[b, least_BH[b, h]]
        grad = _add_back(b, h, least, write * (one - previous), asked, grads_BFD, asked_grad)
        asked_grad.write_BH[b, h] += (one - previous) * grad
        asked_grad.previous_BH[b, h] -= write * grad
        for i in range(before.rows_BHK.shape[2]):
            row, weight = before.rows_BHK[b, h, i], before.weights_BHK[b, h, i]
            if row >= 0:
                share = write * previous * weight
                number = words.fresh_BN[b, row]
                grad = _add_back(b, h, number, share, asked, grads_BFD, asked_grad)
                asked_grad.write_BH[b, h] += previous * weight * grad
                asked_grad.previous_BH[b, h] += write * weight * grad
                before_grad_BHK[b, h, i] += write * previous * grad
    for row in least_BH[b]:
        grads_BFD[b, words.fresh_BN[b, row], :] = 0
    # Rows that were not fresh before are constants there, and their numbers another's.
    for end in range(journal.marks_BS2[b, step, ROWS], journal.ends_B2[b, ROWS]):
        if journal.row_BJ[b, end] < 0:
            grads_BFD[b, words.fresh_BN[b, ~journal.row_BJ[b, end]], :] = 0


@compiled()
def _add_back(
    b: int, h: int, number: int, share: Array, asked: Asked, grads_BFD: Array, asked_grad: Asked
) -> Array:
    """Adds to the gradient of a_h; returns that of the weight with which it was added."""
    grad = grads_BFD.dtype.type(0)
    for d in range(grads_BFD.shape[2]):
        asked_grad.add_BHD[b, h, d] += share * grads_BFD[b, number, d]
        grad += grads_BFD[b, number, d] * asked.add_BHD[b, h, d]
    return grad  # type: ignore[no-any-return]


@compiled()
def read_back(
    words: Words,
    b: int,
    h: int,
    asked: Asked,
    rows_K: Numbers,
    weights_K: Array,
    scores_K: Array,
    cosine: bool,
    read_grad_D: Array,
    weight_grad_K: Array,
    grads_BFD: Array,
    asked_grad: Asked,
) -> None:
    """Adds the gradients of what a head read by content: of query, strength and rows."""
    width, count = grads_BFD.shape[2], len(rows_K)
    dtype, strength = grads_BFD.dtype, asked.strength_BH[b, h]
    query_D = asked.query_BHD[b, h]
    norm = length(query_D) if cosine else dtype.type(1)
    grads_K = np.zeros(count, dtype)
    mean = dtype.type(0)
    for i in range(count):
        if rows_K[i] >= 0:
            grads_K[i] = weight_grad_K[i] + dot(words, b, rows_K[i], read_grad_D)
            mean += weights_K[i] * grads_K[i]
    for i in range(count):
        row, weight = rows_K[i], weights_K[i]
        if row < 0:
            continue
        grad, score = weight * (grads_K[i] - mean), scores_K[i]
        asked_grad.strength_BH[b, h] += grad * score
        grad *= strength
        far = length(words.rows_BND[b, row]) if cosine else dtype.type(1)
        # ∂c/∂q = x / (|q| |x|) − c·q / |q|², and the same of x; without the second term for q·x.
        both = grad / (norm * far)
        back = grad * score / (norm * norm) if cosine else dtype.type(0)
        number = words.fresh_BN[b, row]
        for d in range(width):
            held = words.rows_BND[b, row, d]
            asked_grad.query_BHD[b, h, d] += both * held - back * query_D[d]
        if number >= 0:
            back = grad * score / (far * far) if cosine else dtype.type(0)
            for d in range(width):
                held = words.rows_BND[b, row, d]
                grads_BFD[b, number, d] += weight * read_grad_D[d] + both * query_D[d] - back * held


@compiled()
def dot(words: Words, b: int, row: int, vector_D: Array) -> Array:
    """The inner product of a row with a vector."""
    product = vector_D.dtype.type(0)
    for d in range(len(vector_D)):
        product += vector_D[d] * words.rows_BND[b, row, d]
    return product  # type: ignore[no-any-return]
