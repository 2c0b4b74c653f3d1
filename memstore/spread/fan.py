"""Fan: several calls at once, to the parts of a memory, and what becomes of them all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from memstore.changes import Change, Outline
from memstore.deadline import Deadline
from memstore.errors import HalfDone, Held, MemstoreError, ShardUnavailable, Unreachable
from memstore.memory import (
    Applied,
    Array,
    Description,
    LookupResult,
    Rows,
    SearchOptions,
    SearchResult,
    SlotsLike,
)
from memstore.retries import Asked
from memstore.spread.held import Given, LeastUsed
from memstore.spread.holding import PAUSE_S
from memstore.widening import Candidates

HELD_S = 30.0
"""How long a mutation waits at most while cuts through all parts are made, one after the other."""


class Fan(Protocol):
    """Does several calls at once; gives what each returned, or the `MemstoreError` that it raised.

    spare: those that take much longer than the others are not waited for, and raise `Unreachable`.
    """

    def __call__(self, calls: Sequence[Callable[[], Any]], *, spare: bool = ...) -> list[Any]: ...


SearchAll = Callable[[Array, int, SearchOptions], list[Any]]
"""Searches all parts at once; gives what each found, or the `MemstoreError` that it raised."""


class MemoryPart(Protocol):
    """A part of a memory, as `HeldMemory` says it."""

    def search(self, queries: Array, k: int, options: SearchOptions = ...) -> SearchResult: ...

    def gather(
        self,
        slots: SlotsLike,
        *,
        vectors: bool = ...,
        columns: Sequence[str] = ...,
        list_limit: int | None = ...,
    ) -> Rows: ...

    def lookup(
        self,
        column: str,
        values: Sequence[Any] | Array,
        limit: int,
        cursor: SlotsLike | None = ...,
    ) -> LookupResult: ...

    def describe(self) -> Description: ...

    @property
    def candidates(self) -> Candidates: ...

    def reindex(self) -> None: ...

    def prepare(self, outline: Outline, asked: Asked, deadline: Deadline) -> float: ...

    def apply(self, change: Change, given: Given, asked: Asked, deadline: Deadline) -> Applied: ...

    def give_out(self, count: int, asked: Asked, deadline: Deadline) -> int: ...

    def least(self, count: int, asked: Asked, deadline: Deadline) -> LeastUsed: ...


def insisted(fan: Fan, calls: Sequence[Callable[[], Any]], deadline: Deadline) -> list[Any]:
    """Does several calls at once, those that are held off again until that is over; as `Fan`."""
    outcomes, until = fan(calls), Deadline(max(min(deadline.left_s, HELD_S), PAUSE_S))
    while held := [i for i, each in enumerate(outcomes) if isinstance(each, Held)]:
        pause_s = outcomes[held[0]].retry_after_s * random.uniform(1.0, 2.0)
        if pause_s >= until.left_s:
            break
        time.sleep(pause_s)
        for i, each in zip(held, fan([calls[i] for i in held]), strict=True):
            outcomes[i] = each
    return outcomes


def all_of(outcomes: Iterable[Any]) -> list[Any]:
    """What all returned; raises what the first of them raised that cannot be helped, or is lost."""
    found = list(outcomes)
    errors = [each for each in found if isinstance(each, MemstoreError)]
    for error in errors:
        if not isinstance(error, Unreachable):
            raise error
    if errors:
        raise lost_by(errors)
    return found


def done_by(outcomes: Sequence[Any], asked: Asked) -> list[Applied]:
    """What all did; where some did not, raises what those raised, or `HalfDone`."""
    errors = [each for each in outcomes if isinstance(each, MemstoreError)]
    if errors and len(errors) < len(outcomes):
        raise HalfDone(
            "some shards did their part of a mutation, others did not",
            got="; ".join(str(error) for error in errors),
            hint=f"send it again as request {asked.id.number} of {asked.id.client!r}: "
            "what is left is done then",
        ) from errors[0]
    return all_of(outcomes)


def lost_by(errors: Sequence[MemstoreError]) -> MemstoreError:
    """What is raised where parts do not answer: one error for all their shards."""
    if len(errors) == 1:
        return errors[0]
    return ShardUnavailable(
        "servers of some shards do not answer",
        got="; ".join(str(error) for error in errors),
        hint="try again, or search with SearchOptions(partial=True)",
    )
