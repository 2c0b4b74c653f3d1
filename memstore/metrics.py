"""Metrics of a store for Prometheus: what `describe` says, calls by verb, and measured recall.

    from prometheus_client import start_http_server
    start_http_server(9464, addr="127.0.0.1", registry=memstore.metrics.registry(store))

Everything is read when it is scraped. Nothing is put into the registry that prometheus-client
shares among all libraries of a process, so that two stores in one do not meet.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.errors import MemstoreError
from memstore.extras import install
from memstore.memory import Memory
from memstore.meter import BOUNDS_S, unmetered
from memstore.store import Store

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(f"metrics need prometheus-client: {install('metrics')}") from error

Labels = tuple[tuple[str, str], ...]


Refusals = Mapping[tuple[str, str], int]
"""How often a caller was refused, by its name and by the limit, or the quota, that it met."""


def registry(store: Store, refused: Refusals | None = None) -> CollectorRegistry:
    """A registry of this store alone.  refused: of the server of it, `Server.gate.refused`.

    | metric | labels | |
    |---|---|---|
    | `memstore_FIELD` | memory | each number of `Description`, such as `memstore_drift` |
    | `memstore_shard_FIELD` | memory, shard | each of `ShardDescription`, in the unit given there |
    | `memstore_call_seconds` | memory, verb | histogram of all calls, those that raised included |
    | `memstore_errors_total` | memory, verb, error | calls that raised, by class of the error |
    | `memstore_recall` | memory, k | of the last `memstore.recall.measure_recall` |
    | `memstore_recall_error` | memory, k | its standard error |
    | `memstore_recall_timestamp_seconds` | memory, k | when it was measured |
    | `memstore_refused_total` | caller, limit | calls that were told to come again |

    Calls of an encoded memory are counted there; what it reads of its parts, with the parts too.
    """
    made = CollectorRegistry(auto_describe=False)
    made.register(StoreCollector(store))
    if refused is not None:
        made.register(RefusalCollector(refused))
    return made


class StoreCollector(Collector):
    """Reads a store when it is scraped; once that is closed there is nothing to read."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for memory in self._memories():
            for metric in itertools.chain(_state(memory), _use(memory)):
                family = families.setdefault(metric.name, metric)
                if family is not metric:
                    family.samples += metric.samples
        return families.values()

    def _memories(self) -> Iterator[Memory]:
        try:
            for name in self._store.list():
                yield self._store.memory(name)
        except MemstoreError:
            return  # closed, or this one dropped since: the next scrape shows what is left


class RefusalCollector(Collector):
    """Reads what a server refused."""

    def __init__(self, refused: Refusals) -> None:
        self._refused = refused

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "memstore_refused", "Calls that were told to come again", labels=["caller", "limit"]
        )
        for (caller, limit), count in list(self._refused.items()):
            family.add_metric([caller, limit], count)
        yield family


def _state(memory: Memory) -> Iterator[Metric]:
    try:
        description = unmetered(memory.describe)()
    except MemstoreError:
        return
    for name, labels, number in _numbers("memory", description):
        path = "_".join(("memstore", *(kind for kind, _ in labels[1:]), name))
        yield _gauge(path, f"{name} of {type(description).__name__}", labels, number)


def _numbers(kind: str, item: Any, above: Labels = (), at: int = 0) -> Iterator[Any]:
    """Every number in a description: its name, its labels and itself.

    An item of several is told apart by its first text, or by its place among them.
    """
    values = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    own = next((value for value in values.values() if isinstance(value, str)), str(at))
    labels = (*above, (kind, own))
    for name, value in values.items():
        if isinstance(value, int | float):
            yield name, labels, float(value)
        elif isinstance(value, tuple):
            for place, part in enumerate(value):
                yield from _numbers(name.removesuffix("s"), part, labels, place)


def _use(memory: Memory) -> Iterator[Metric]:
    assert isinstance(memory, EmbeddedMemory | EncodedMemory)
    meter = memory.meter
    for verb, calls in meter.calls().items():
        below = itertools.accumulate(calls.counts)
        buckets = list(zip((*map(str, BOUNDS_S), "+Inf"), below, strict=True))
        family = HistogramMetricFamily(
            "memstore_call_seconds", "How long calls took", labels=["memory", "verb"]
        )
        family.add_metric([memory.name, verb], buckets, calls.seconds)
        yield family
    for (verb, error), count in meter.errors().items():
        raised = CounterMetricFamily(
            "memstore_errors", "Calls that raised", labels=["memory", "verb", "error"]
        )
        raised.add_metric([memory.name, verb, error], count)
        yield raised
    measured = meter.recall
    if measured is not None:
        labels = (("memory", memory.name), ("k", str(measured.k)))
        share = "Share of results that score no less than the true k-th"
        yield _gauge("memstore_recall", share, labels, measured.recall)
        yield _gauge("memstore_recall_error", "Its standard error", labels, measured.error)
        when = "When recall was measured"
        yield _gauge("memstore_recall_timestamp_seconds", when, labels, measured.at_s)


def _gauge(name: str, text: str, labels: Labels, number: float) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=[key for key, _ in labels])
    gauge.add_metric([value for _, value in labels], number)
    return gauge
