"""A job that fails leaves the index as it was, and says so."""

from __future__ import annotations

from typing import Any

import pytest

from memstore import Store
from memstore.index import clustered, maintenance
from tests.congruence.oracle import settle
from tests.unit.maintenance.jobs import check, eventually, job, keys, make, state


@pytest.mark.parametrize("error", [MemoryError("full"), RuntimeError("faiss")])
@pytest.mark.parametrize(("name", "kind"), [("seal", "seal"), ("train", "cluster")])
def test_a_job_that_fails_leaves_the_old_version_and_is_tried_again(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    name: str,
    kind: str,
) -> None:
    monkeypatch.setattr(maintenance, "FIRST_PAUSE_S", 0.01)
    memory = make(store, 100)
    before = state(memory)
    real, fails = getattr(clustered, name), iter([True, True])

    def failing(*arguments: Any) -> Any:
        if next(fails, False):
            raise error
        return real(*arguments)

    monkeypatch.setattr(clustered, name, failing)
    # Five times as many rows as were clustered are clustered anew.
    memory.append(keys(400 if kind == "cluster" else 40, 2))
    eventually(lambda: job(memory, kind).failed > 0)
    assert state(memory).clusters == before.clusters
    check(memory)
    settle(memory)
    assert job(memory, kind).failed == 2
    assert job(memory, kind).runs > 0
    assert state(memory).fresh == 0
    check(memory)
    assert sum(str(error) in record.message for record in caplog.records) == 2


def test_a_reindex_that_fails_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = make(store, 100)
    before = state(memory)

    def failing(*_: Any) -> Any:
        raise MemoryError("full")

    with monkeypatch.context() as patch:
        patch.setattr(clustered, "train", failing)
        with pytest.raises(MemoryError):
            memory.reindex()
    assert state(memory).index_version == before.index_version
    memory.reindex()
    check(memory)
