"""Products of many rows with a batch of queries: near enough to say which rows are worth scoring.

Where the processor multiplies in bfloat16, and torch is installed to ask it, that is how: seven
times as fast as in float32 by matrix units, and 2.8 times by vectors (64 queries, 4,096 rows of
128, one thread). Each product comes with a bound on how far it is from what the scoring kernel
gives, so nothing is lost.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memstore.kernels.compiling import compiled
from memstore.kernels.half import widened
from memstore.kernels.score import inner_product
from memstore.memory import Array

GROUP = 16
"""Rows whose highest product is looked at before any of them is."""

LEAST_ROWS = 256
"""Fewer rows are multiplied as they are: laying them out anew would cost as much."""

FEW_QUERIES = 64
"""So many are rounded in some microseconds."""

SHAPES_ROWS, SHAPES_QUERIES = 512, 16
"""The fewest rows and queries that are multiplied as bfloat16. For each pair of counts, matrix
units are told anew how to multiply, which takes two thirds of a millisecond and 0.7 MB for good:
so rows are cut into powers of two of this, up to `MOST_ROWS`, and queries filled up to one of few
counts."""

MOST_ROWS = 16_384

ROUNDING = 2.0**-8
"""Unit roundoff of bfloat16: a number and what it is rounded to differ by at most this share."""

SMALLEST = 2.0**-126
"""Products of bfloat16 take numbers below this for zero."""

UNITS = ("amx_bf16", "avx512_bf16")
"""Those of processors that multiply in bfloat16, the fastest first."""

VANISHING = np.float32(1e-30)
"""Sums of squares are exact enough above this."""


class Operand:
    """Rows [R, D] laid out for products with queries."""

    def __init__(self, keys_RD: Array) -> None:
        self._keys_RD = np.ascontiguousarray(keys_RD)
        self._laid_RD, self._extent = self._keys_RD, Extent()
        if len(keys_RD) >= LEAST_ROWS and halves(keys_RD.dtype):
            self._laid_RD = np.empty(keys_RD.shape, np.int16)
        self._extent.raise_by(lay_out(self._keys_RD, self._laid_RD))

    def __len__(self) -> int:
        return len(self._keys_RD)

    @property
    def bytes(self) -> int:
        apart = self._laid_RD is not self._keys_RD
        return self._keys_RD.nbytes + (self._laid_RD.nbytes if apart else 0)

    def products(self, queries_QD: Array) -> Array:
        """Inner products `[R, Q]`, in the dtype of the rows or as the bits of bfloat16, int16."""
        # A query alone is scored as it is.
        return products([self._keys_RD if len(queries_QD) == 1 else self._laid_RD], queries_QD)

    def slack(self, queries_QD: Array) -> Array:
        """How far a product may be from the score of the same row, `[Q]`."""
        rounded = self._laid_RD is not self._keys_RD and len(queries_QD) > 1
        return self._extent.slack(queries_QD, rounded=rounded)


class Extent:
    """What is known of rows laid out: `lost`, the largest share of its length that one lost by
    rounding; `longest`, the largest ‖x‖, rounded up. Neither falls."""

    def __init__(self, lost: float = 0.0, longest: float = 0.0) -> None:
        self.lost = lost
        self.longest = longest

    def raise_by(self, other: Extent) -> None:
        self.lost = max(self.lost, other.lost)
        self.longest = max(self.longest, other.longest)

    def slack(self, queries_QD: Array, *, rounded: bool) -> Array:
        """How far a product may be from its score, `[Q]`. rounded: whether the rows were."""
        return bound(queries_QD, self.longest, 2 * ROUNDING + self.lost if rounded else None)


def halves(dtype: np.dtype[Any]) -> bool:
    """Whether rows of a dtype are laid out as bfloat16."""
    return dtype == np.float32 and halving_units() is not None


def lay_out(keys_RD: Array, laid_RD: Array) -> Extent:
    """Copies rows, to bits of bfloat16 where `laid_RD` is int16; the same array stays as it is."""
    if laid_RD.dtype == np.int16:
        return Extent(*rounded(keys_RD, laid_RD))
    if laid_RD is not keys_RD:
        laid_RD[:] = keys_RD
    squares_R: Array = np.einsum("rd,rd->r", keys_RD, keys_RD, dtype=np.float64)
    longest = float(np.sqrt(squares_R.max(initial=0.0)))
    if longest < VANISHING:
        longest = float(_lengths(keys_RD).max(initial=0.0))
    return Extent(0.0, longest)


def products(parts: Sequence[Array], queries_QD: Array) -> Array:
    """Inner products `[R, Q]` of rows laid out, at least one part of them, all of one dtype.

    In the dtype of the rows, or for many queries as the bits of bfloat16, int16.
    """
    count = len(queries_QD)
    halved = parts[0].dtype == np.int16
    dtype = np.int16 if halved and count > 1 else queries_QD.dtype
    near_RQ = np.empty((sum(map(len, parts)), count), dtype)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    places = [near_RQ[end - len(part) : end] for end, part in zip(ends, parts, strict=True)]
    if count == 1:
        query_D = np.ascontiguousarray(queries_QD[0])
        for part_RD, place_RQ in zip(parts, places, strict=True):
            _score(query_D, part_RD, place_RQ)
    elif not halved or not count:
        # All numbers are finite and small enough; BLAS was seen to raise the flag all the same.
        with np.errstate(invalid="ignore"):
            for part_RD, place_RQ in zip(parts, places, strict=True):
                np.matmul(part_RD, queries_QD.T, out=place_RQ)
    else:
        queries_QD = np.ascontiguousarray(queries_QD, np.float32)
        bits_QD = np.zeros((filled_up(count), queries_QD.shape[1]), np.int16)
        (rounded_few if count <= FEW_QUERIES else rounded)(queries_QD, bits_QD)
        filled = len(bits_QD) > count
        if filled:
            near_RQ = np.empty((len(near_RQ), len(bits_QD)), np.int16)
            places = [near_RQ[end - len(part) : end] for end, part in zip(ends, parts, strict=True)]
        with _openmp().limit(limits=1):
            for part_RD, place_RQ in zip(parts, places, strict=True):
                _multiply(part_RD, bits_QD, place_RQ)
        if filled:
            near_RQ = np.ascontiguousarray(near_RQ[:, :count])
    return near_RQ


def filled_up(queries: int) -> int:
    """The next of the counts of queries that are multiplied: 16, 32, 48, 64, 96, 128, 192, 256,
    320, 384, …"""
    step = SHAPES_QUERIES if queries <= 64 else 32 if queries <= 128 else 64
    return -(-queries // step) * step


def _multiply(part_RD: Array, bits_QD: Array, place_RQ: Array) -> None:
    """Products of rows and queries laid out as bfloat16, in pieces of few lengths."""
    import torch

    queries_DQ = _tensor(bits_QD).t()
    whole = len(part_RD) - len(part_RD) % SHAPES_ROWS
    start = 0
    while start < whole:
        size = min(MOST_ROWS, 1 << (whole - start).bit_length() - 1)
        piece = slice(start, start + size)
        torch.mm(_tensor(part_RD[piece]), queries_DQ, out=_tensor(place_RQ[piece]))
        start += size
    rest = len(part_RD) - whole
    if rest:
        rest_RD = np.zeros((SHAPES_ROWS, part_RD.shape[1]), np.int16)
        rest_RD[:rest] = part_RD[whole:]
        near_RQ = torch.mm(_tensor(rest_RD), queries_DQ)
        place_RQ[whole:] = near_RQ[:rest].view(torch.int16).numpy()


def bound(queries_QD: Array, longest: float, lost: float | None) -> Array:
    """How far products with rows of at most `longest` may be from the scores of them, `[Q]`.

    Sums of D products in two orders differ by at most 2·γ·‖q‖·‖x‖, γ = D·ε / (1 − D·ε)
    (Higham 2002, eq. 3.5). Rounding q and x first adds what they lost by it (Cauchy-Schwarz),
    rounding the sum a last share.

    lost: the shares of all three that bfloat16 loses; None where numpy multiplies.
    """
    unit = queries_QD.shape[1] * np.finfo(queries_QD.dtype).eps
    share = 2.0 * unit / (1.0 - unit)
    lengths_Q = _lengths(queries_QD)
    if lost is not None:
        share = 1.02 * (share + lost)
    slack_Q = share * longest * lengths_Q
    if lost is not None:
        slack_Q += 2.0 * SMALLEST * queries_QD.shape[1] * (lengths_Q + longest)
    least = np.finfo(queries_QD.dtype).tiny
    bound_Q: Array = np.where(lengths_Q > 0, np.maximum(1.001 * slack_Q, least), 0.0)
    return bound_Q.astype(queries_QD.dtype)


def _lengths(rows_RD: Array) -> Array:
    """‖x‖ of each row, float64; of small ones too, whose squares would vanish."""
    largest_R = np.abs(rows_RD).max(axis=1, initial=0.0).astype(np.float64)
    scale_R1 = np.where(largest_R == 0, 1.0, largest_R)[:, None]
    lengths_R: Array = largest_R * np.linalg.norm(rows_RD / scale_R1, axis=1)
    return lengths_R


@functools.cache
def halving_units() -> str | None:
    """What of this processor multiplies in bfloat16, as its maker names it; None where nothing
    does, or where torch is not there to ask it. Matrix units go before vectors."""
    information = Path("/proc/cpuinfo")
    if not information.exists() or importlib.util.find_spec("torch") is None:
        return None
    there = information.read_text(encoding="utf-8").split()
    return next((units for units in UNITS if units in there), None)


@functools.cache
def _openmp() -> Any:
    """The OpenMP pools, torch's among them. A product takes a tenth of a millisecond: threads
    that wait for one another take a hundred times as long on a machine that has other work."""
    import torch  # noqa: F401 - loads its pool
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")


def _tensor(bits_RD: Array) -> Any:
    import torch

    return torch.from_numpy(bits_RD).view(torch.bfloat16)


@compiled(error_model="numpy", fastmath={"reassoc"})
def rounded(keys_RD: Array, bits_RD: Array) -> tuple[float, float]:
    """Leaves float32 rows in bits_RD, int16, as the bits of bfloat16, to nearest even; returns
    what that loses at most of the length of a row, as a share of it, and the largest length,
    rounded up."""
    worst, longest = np.float32(0), np.float32(0)
    for r in range(keys_RD.shape[0]):
        lost, whole = np.float32(0), np.float32(0)
        for d in range(keys_RD.shape[1]):
            number = np.float32(keys_RD[r, d])
            bits = number.view(np.uint32)
            bits = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
            bits_RD[r, d] = np.int16(bits >> np.uint32(16))
            rest = number - np.uint32(bits & np.uint32(0xFFFF0000)).view(np.float32)
            lost += rest * rest
            whole += number * number
        # The squares of small numbers vanish: then only bounds are known.
        longest = max(longest, whole, VANISHING)
        worst = max(worst, lost / whole if whole > VANISHING else np.float32(ROUNDING**2))
    return np.sqrt(worst) * 1.001, np.sqrt(longest) * 1.001


@compiled(nogil=False)
def rounded_few(keys_RD: Array, bits_RD: Array) -> tuple[float, float]:
    """`rounded`, for as few rows that it keeps the GIL."""
    return rounded(keys_RD, bits_RD)


@compiled()
def _score(query_D: Array, keys_RD: Array, scores_RQ: Array) -> None:
    """One query: threads that a matrix product would start take longer to meet than to work."""
    for r in range(keys_RD.shape[0]):
        scores_RQ[r, 0] = inner_product(query_D, keys_RD, r)


def peaks(near_RQ: Array) -> Array:
    """The highest product with each query in every `GROUP` rows, `[G, Q]`."""
    dtype = np.float32 if near_RQ.dtype == np.int16 else near_RQ.dtype
    peaks_GQ = np.empty((-(-len(near_RQ) // GROUP), near_RQ.shape[1]), dtype)
    highest(near_RQ, peaks_GQ)
    return peaks_GQ


@compiled(error_model="numpy")
def highest(near_RQ: Array, peaks_GQ: Array) -> None:
    """Fills in `peaks`."""
    for g in range(len(peaks_GQ)):
        peak_Q = peaks_GQ[g]
        peak_Q[:] = -np.inf
        for r in range(g * GROUP, min(len(near_RQ), (g + 1) * GROUP)):
            near_Q = near_RQ[r]
            for q in range(len(near_Q)):
                number = widened(near_Q[q])
                peak_Q[q] = number if number > peak_Q[q] else peak_Q[q]
