"""Values at the edge of what a memory takes: huge, tiny, none at all, or of another form."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

import memstore
from memstore import NO_SLOT, IndexConfig, MemoryConfig, OptimizerConfig, SearchOptions
from memstore.config import DType, OptimizerKind
from memstore.errors import InvalidArgument, NotFinite
from tests.adversarial.stores import RECORDS, keys, python, records
from tests.congruence.oracle import fingerprint


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(records(3), id="python"),
        pytest.param(pa.table(records(3)), id="table"),
        pytest.param(pa.RecordBatch.from_pydict(records(3)), id="batch"),
        pytest.param(pa.concat_tables([pa.table(records(1))] * 3), id="chunks"),
        pytest.param(pa.table(records(9)).slice(4, 3), id="slice"),
        pytest.param(
            pa.table(records(3, tags=[["x"], ["a", None], ["a"]])).slice(0, 1), id="null outside"
        ),
    ],
)
def test_records_come_in_any_form(tmp_path: Path, rows: Any) -> None:
    with memstore.open(tmp_path) as store:
        memory = store.create("m", MemoryConfig(dim=3, records=RECORDS, lookup=tuple(RECORDS)))
        count = len(rows["name"])
        memory.append(keys(count), records=rows)
        held = memory.gather(np.arange(count), columns=list(RECORDS)).records
        plain = rows if isinstance(rows, dict) else rows.to_pydict()
        assert held is not None
        assert held.to_pydict() == {name: plain[name] for name in RECORDS}
        assert memory.lookup("name", ["seven"], 99).counts_Q.tolist() == [count]


def test_a_step_out_of_float32_is_refused(tmp_path: Path) -> None:
    with memstore.open(tmp_path) as store:
        config = MemoryConfig(dim=3, index="none", optimizer=OptimizerConfig(kind="sgd"))
        memory = store.create("m", config)
        memory.append(keys())
        before = fingerprint(memory)
        with pytest.raises(NotFinite):
            memory.update([0, 0], keys(2, fill=3e38), lr=1.0)
        assert fingerprint(memory) == before


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_decay_past_zero_is_refused(tmp_path: Path, kind: Any) -> None:
    with memstore.open(tmp_path) as store:
        optimizer = OptimizerConfig(kind=kind, weight_decay=0.5)
        memory = store.create("m", MemoryConfig(dim=3, index="none", optimizer=optimizer))
        memory.append(keys())
        before = fingerprint(memory)
        with pytest.raises(InvalidArgument, match=r"lr ≤ 2"):
            memory.update([0], keys(1), lr=2.5)
        assert fingerprint(memory) == before
        memory.update([0], keys(1), lr=2.0)


@pytest.mark.parametrize("dtype", get_args(DType))
@pytest.mark.parametrize("kind", get_args(OptimizerKind))
@pytest.mark.parametrize("size", [1e-45, 1e-25, 1e13])
def test_rows_stay_finite_at_the_edges(tmp_path: Path, kind: Any, dtype: Any, size: float) -> None:
    with memstore.open(tmp_path) as store:
        optimizer = OptimizerConfig(kind=kind, eps=1e-20, clip_norm=1e14, max_norm=1e15)
        memory = store.create("m", MemoryConfig(dim=3, dtype=dtype, optimizer=optimizer))
        memory.append(keys())
        for fill in (size, 0.0, -size, 1e-30):
            memory.update([0, 0], keys(2, fill=fill), lr=0.1)
        found = memory.search(keys(1), 1)
        assert np.isfinite(found.scores_QK).all()


HUGE = ("float32 1e18", "float32 3e38", "float64 1e200", "float16 6e4", "bfloat16 1e14")
SEARCH_HUGE = """
import numpy as np
from memstore import IndexConfig, MemoryConfig, SearchOptions
kind = sys.argv[2]
with memstore.open(path) as store:
    for number, case in enumerate(sys.argv[3:]):
        dtype, size = case.split()
        try:
            index = IndexConfig(kind=kind, fresh_limit=8, codec="flat")
            memory = store.create(f"m{number}", MemoryConfig(dim=3, dtype=dtype, index=index))
            memory.append(np.full((20, 3), float(size)))
            options = SearchOptions(exact=kind == "none")
            queries = [[1, 1, 1], [-1, -1, -1], [0, 0, 0], [1, -1, 0]]
            found = memory.search(np.array(queries), 5, options).counts_Q
        except memstore.errors.NotFinite:
            found = "refused"
        print(case, found, flush=True)
"""


# In a process of its own, which faiss may abort.
@pytest.mark.parametrize("kind", ["none", "exact", "clustered", "graph", "auto"])
def test_huge_rows_are_found_or_refused(tmp_path: Path, kind: str) -> None:
    told = python(SEARCH_HUGE, tmp_path, 0, kind, *HUGE).splitlines()
    for case, line in zip(HUGE, told, strict=True):
        assert line in (f"{case} [5 5 5 5]", f"{case} refused")


@pytest.mark.parametrize("kind", ["none", "exact", "clustered", "graph", "auto"])
@pytest.mark.parametrize("shards", [1, 3])
def test_nothing_to_find(tmp_path: Path, kind: Any, shards: int) -> None:
    with memstore.open(tmp_path) as store:
        index = IndexConfig(kind=kind, fresh_limit=1)
        memory = store.create("m", MemoryConfig(dim=3, shards=shards, index=index))
        options = SearchOptions(exact=kind == "none")
        for _ in ("empty", "all erased", "erased and reindexed"):
            result = memory.search(keys(2), 4, options)
            assert result.slots_QK.tolist() == [[NO_SLOT] * 4] * 2
            assert result.scores_QK.tolist() == [[-np.inf] * 4] * 2
            assert result.counts_Q.tolist() == [0, 0]
            memory.erase(memory.append(keys(9)))
            memory.reindex()
        assert memory.search(keys(0), 4, options).slots_QK.shape == (0, 4)
