"""Meter: how often each verb of a memory is called, how long it takes, and what it raises.

Kept beside each memory whether anybody reads it or not, for less than 2 µs a call;
`memstore.metrics` exports it.
"""

from __future__ import annotations

import functools
import threading
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

C = TypeVar("C", bound=type)

VERBS = (
    *("append", "write", "blend", "update", "touch", "allocate", "erase"),
    *("search", "gather", "lookup", "reindex", "refresh", "describe"),
)

NOTED = "noted_verb"
"""Of a verb that notes its calls: the one that does not."""

BOUNDS_S = tuple(digit * 10.0**power for power in range(-5, 1) for digit in (1.0, 2.5, 5.0))
"""Upper bounds of the buckets of a latency, 10 µs to 5 s; a last bucket takes what is longer."""


@dataclass(frozen=True, kw_only=True)
class MeasuredRecall:
    """What `memstore.recall.measure_recall` found.

    recall: mean over the queries of the share of k results that score no less than the true k-th
    score.  error: its standard error.  at_s: when, in seconds since 1970.
    """

    recall: float
    error: float
    queries: int
    k: int
    at_s: float


@dataclass(slots=True)
class Calls:
    """counts: calls by bucket, those that raised included.  seconds: all of them took."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    seconds: float = 0.0


class Meter:
    """The calls of one memory. Any number of threads may note one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = {verb: Calls() for verb in VERBS}
        self._errors: dict[tuple[str, str], int] = {}
        self.recall: MeasuredRecall | None = None

    def note(self, verb: str, seconds: float) -> None:
        calls = self._calls[verb]
        with self._lock:
            calls.counts[bisect_left(BOUNDS_S, seconds)] += 1
            calls.seconds += seconds

    def failed(self, verb: str, error: BaseException) -> None:
        kind = verb, type(error).__name__
        with self._lock:
            self._errors[kind] = self._errors.get(kind, 0) + 1

    def calls(self) -> dict[str, Calls]:
        """A copy, by verb that was called."""
        with self._lock:
            called = {verb: c for verb, c in self._calls.items() if any(c.counts)}
            return {verb: Calls([*c.counts], c.seconds) for verb, c in called.items()}

    def errors(self) -> dict[tuple[str, str], int]:
        """A copy, by verb and name of the exception."""
        with self._lock:
            return dict(self._errors)


def metered(memory_class: C) -> C:
    """Lets the verbs of a class note their calls in `self.meter`; those inherited from one that
    does so do it already."""
    for verb in VERBS:
        method = getattr(memory_class, verb)
        if not hasattr(method, NOTED):
            setattr(memory_class, verb, _noted(verb, method))
    return memory_class


def unmetered(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The same bound verb, not noted: for what the store itself asks."""
    plain = getattr(verb, NOTED, None)
    return verb if plain is None else functools.partial(plain, verb.__self__)  # type: ignore[attr-defined]


def _noted(verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return method(self, *args, **kwargs)
        except BaseException as error:
            self.meter.failed(verb, error)
            raise
        finally:
            self.meter.note(verb, perf_counter() - start)

    setattr(noted, NOTED, method)
    return noted
