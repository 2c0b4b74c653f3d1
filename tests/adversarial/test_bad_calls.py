"""Whatever a caller does wrong is a typed error, and the data is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import memstore
from memstore import EncodingConfig, MemoryConfig, Store
from memstore.errors import (
    InvalidArgument,
    MemoryExists,
    MemoryInUse,
    MemstoreError,
    UnknownMemory,
    UnknownSlot,
    Unsupported,
    WrongShape,
)
from tests.adversarial.bad_calls import BAD_CALLS, ENCODED_CALLS, MOST, Call, marked
from tests.adversarial.stores import ROWS, fill, fingerprints, keys, records, values


class Shared:
    """One store for all calls that should change nothing; made anew after one that did.

    is_first: whether it is known to be as it was made.
    """

    def __init__(self, shards: int, paths: pytest.TempPathFactory) -> None:
        self.shards, self.paths = shards, paths
        self.make()

    def make(self) -> None:
        self.store = memstore.open(self.paths.mktemp("shared"))
        fill(self.store, self.shards)
        self.first, self.is_first = fingerprints(self.store), True

    def as_first(self) -> Store:
        if not self.is_first and fingerprints(self.store) != self.first:
            self.store.close()
            self.make()
        self.is_first = False
        return self.store

    def refuses(self, error: type[MemstoreError], call: Callable[[Store], Any]) -> None:
        store = self.as_first()
        with pytest.raises(error):
            call(store)
        assert fingerprints(store) == self.first
        self.is_first = True


@pytest.fixture(scope="module", params=[1, 3], ids=["1 shard", "3 shards"])
def sharing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    one = Shared(request.param, tmp_path_factory)
    yield one
    one.store.close()


@pytest.fixture
def shared(sharing: Shared) -> Store:
    return sharing.as_first()


@pytest.mark.parametrize(("error", "call"), BAD_CALLS)
def test_a_bad_call_changes_nothing(
    sharing: Shared, error: type[MemstoreError], call: Call
) -> None:
    sharing.refuses(error, lambda store: call(store.memory("m")))


@pytest.mark.parametrize(("error", "call"), marked(ENCODED_CALLS))
def test_a_bad_call_of_an_encoded_memory_changes_nothing(
    sharing: Shared, error: type[MemstoreError], call: Call
) -> None:
    sharing.refuses(error, lambda store: call(store.memory("facts")))


@pytest.mark.parametrize(
    ("error", "call"),
    [
        pytest.param(Unsupported, lambda m: m.search(keys(), 1), id="search without an index"),
        pytest.param(InvalidArgument, lambda m: m.append(keys(), values()), id="append values"),
        pytest.param(InvalidArgument, lambda m: m.write([0], None, values()), id="write values"),
        pytest.param(InvalidArgument, lambda m: m.update([0], None, values()), id="update values"),
        pytest.param(InvalidArgument, lambda m: m.append(keys(), records=records()), id="records"),
        pytest.param(InvalidArgument, lambda m: m.lookup("name", ["a"], 1), id="lookup"),
    ],
)
def test_a_memory_refuses_what_it_was_not_made_for(
    sharing: Shared, error: type[MemstoreError], call: Call
) -> None:
    sharing.refuses(error, lambda store: call(store.memory("entities")))


def test_an_error_says_what_was_got_and_expected(shared: Store) -> None:
    with pytest.raises(WrongShape, match=r"keys .*got \(1, 5\), expected \(rows, 3\)"):
        shared.memory("m").append(keys(width=5), values(), records())
    with pytest.raises(UnknownSlot, match=r"got 2 unknown or erased: 40, 2, expected"):
        shared.memory("m").erase([40, 2])


def test_a_lookup_may_ask_for_all(shared: Store) -> None:
    assert shared.memory("m").lookup("number", [7], MOST).counts_Q.tolist() == [ROWS - 1]


def facts_over(part: str, dim: int = 3, dtype: Any = "float32") -> MemoryConfig:
    encoding = EncodingConfig(key={"part": part})
    return MemoryConfig(dim=dim, dtype=dtype, records={"part": "int64"}, encoding=encoding)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (MemoryExists, lambda s: s.create("m", MemoryConfig(dim=3))),
        (InvalidArgument, lambda s: s.create("n", {"dim": 3})),
        (UnknownMemory, lambda s: s.memory("n")),
        (UnknownMemory, lambda s: s.drop("n")),
        (MemoryInUse, lambda s: s.drop("entities")),
        (MemoryInUse, lambda s: s.drop("relations")),
        (UnknownMemory, lambda s: s.create("n", facts_over("nowhere"))),
        (UnknownMemory, lambda s: s.create("n", facts_over("n"))),
        (InvalidArgument, lambda s: s.create("n", facts_over("facts"))),
        (InvalidArgument, lambda s: s.create("n", facts_over("entities", dim=4))),
        (InvalidArgument, lambda s: s.create("n", facts_over("entities", dtype="float64"))),
    ],
)
def test_a_bad_call_of_the_store_changes_nothing(
    sharing: Shared, error: type[MemstoreError], call: Callable[[Store], Any]
) -> None:
    sharing.refuses(error, call)
