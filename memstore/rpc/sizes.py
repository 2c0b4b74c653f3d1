"""How much a call is answered by: told before it is done, so that too much is not even begun."""

from __future__ import annotations

import math
from typing import Any, cast

from memstore.dtypes import counting, storage
from memstore.durable.checkpoints import base_of
from memstore.errors import TooLong
from memstore.memory import Memory
from memstore.reading import LEAST_MAX_K
from memstore.rpc import arrow
from memstore.rpc.v1 import memory_pb2 as pb

WRAPPED_BYTES = 128
"""What the names and lengths of a reply take beside its rows, and a session around it, at most."""

SHORT_BYTES = 1 << 20
"""Copied in about a tenth of a millisecond."""

WIDENED = 16
"""How much more than a message candidates may take that training adds: most are repeats, and a
reply has each once."""

CANDIDATE_BYTES = 32
"""Of a candidate while queries are widened: slot, score, mark, and their copies."""


def replied(name: str, message: Any, memory: Memory) -> int:
    """About the bytes by which a call is answered, at most; 0 where rows do not tell.

    What a verb refuses all the same, as a negative count, counts as nothing here.
    """
    if name == "append":
        # An encoded memory makes its keys of records.
        keyed = message.HasField("keys")
        return 8 * (_rows(message.keys) if keyed else max(0, arrow.rows_in(message.records)))
    if name == "allocate":
        there = cast(Any, base_of(cast(Any, memory))).next_slot
        return 8 * message.n if message.n <= there else 0
    if name == "gather":
        return _rows(message.slots) * (8 + (0 if message.without_vectors else _row_bytes(memory)))
    if name == "search":
        return _found(message, memory)[0]
    return 0


def is_short(message: pb.GatherRequest, memory: Memory) -> bool:
    """Whether rows are read in about the time in which a thread is woken, and from memory."""
    few = replied("gather", message, memory) <= SHORT_BYTES
    return few and not message.columns and memory.config.storage != "mapped"


def check(name: str, message: Any, memory: Memory, most: int) -> None:
    """Raises `TooLong` where a reply would be of more than so many bytes."""
    check_bytes(replied(name, message, memory), most)
    if name == "search" and (candidates := _found(message, memory)[1]) > WIDENED * most:
        raise TooLong(
            "the search would have too many candidates",
            got=f"up to {candidates} bytes of them",
            expected=f"≤ {WIDENED * most}",
            hint="ask with fewer queries at once, or for fewer candidates",
        )


def check_bytes(size: int, most: int) -> None:
    """Raises `TooLong` where so many bytes are more than a reply may have."""
    if size + WRAPPED_BYTES > most:
        raise TooLong(
            "the reply would be too long",
            got=f"{size} bytes",
            expected=f"≤ {most - WRAPPED_BYTES}",
            hint="ask for less at once",
        )


def rows_of(reply: Any) -> int:
    """Rows that a call wrote, read or found, by its reply."""
    if hasattr(reply, "applied"):
        return int(reply.applied + reply.skipped)
    if hasattr(reply, "generations"):
        return math.prod(reply.generations.shape)
    return math.prod(reply.slots.shape) if hasattr(reply, "slots") else 0


def _rows(tensor: pb.Tensor) -> int:
    """The rows of a tensor that may lie: a row has a byte at least."""
    return max(0, min(tensor.shape[0], len(tensor.data))) if tensor.shape else 0


def _row_bytes(memory: Memory) -> int:
    width = memory.config.dim + (memory.config.value_dim or 0)
    return width * storage(memory.config.dtype).itemsize


def _found(message: pb.SearchRequest, memory: Memory) -> tuple[int, int]:
    """Bytes of the k best, and of all candidates where a search is widened."""
    there = cast(Any, base_of(cast(Any, memory))).next_slot
    queries, k, options = _rows(message.queries), message.k, message.options
    if not 1 <= k <= max(there, LEAST_MAX_K):
        return 0, 0
    best = queries * k * (9 + counting(storage(memory.config.dtype)).itemsize)
    width = k * (1 + (options.sample_clusters > 0))
    shared = min(queries * width, there) if options.union else 0
    shared += min(max(options.sample_random, 0), there)
    return best, queries * (width + shared) * CANDIDATE_BYTES if shared else 0
