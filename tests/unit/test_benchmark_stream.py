"""The streaming benchmark: its runbook keeps its promises, and engines go through it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import engine_stream
from tests.benchmarks.data import grouped
from tests.benchmarks.engine_stream import FIRST, TURNED, _floor, runbook
from tests.benchmarks.runner import Curve, Figure, Missing


def test_a_runbook_names_live_tags_and_uses_each_vector_once() -> None:
    vectors, groups = 1_000, 5
    live: set[int] = set()
    used: list[int] = []
    kinds = []
    for step in runbook(vectors, groups):
        tags = step.tags.tolist()
        assert len(set(tags)) == len(tags)
        assert len(step.vectors) == (0 if step.do == "delete" else len(tags))
        if step.do == "insert":
            assert live.isdisjoint(tags)
            live.update(tags)
        else:
            assert live.issuperset(tags)
            live.difference_update(tags if step.do == "delete" else ())
        used += step.vectors.tolist()
        kinds.append(step.do)
    assert sorted(used) == list(range(vectors))
    assert len(live) == FIRST * vectors
    assert kinds == ["insert"] * groups + ["replace", "delete", "insert"] * groups


def test_replacements_stay_in_their_group() -> None:
    vectors, groups = 1_000, 5
    size = vectors // groups
    group_of: dict[int, int] = {}
    for step in runbook(vectors, groups):
        for tag, vector in zip(step.tags.tolist(), step.vectors.tolist(), strict=False):
            assert group_of.setdefault(tag, vector // size) == vector // size
    assert len(group_of) == round((FIRST + TURNED) * vectors)


def test_grouped_keys_lie_nearest_to_their_own_group() -> None:
    keys_ND, queries_QD = grouped(4_000, 8, groups=4)
    unit_ND = keys_ND / np.linalg.norm(keys_ND, axis=1, keepdims=True)
    near = (unit_ND @ unit_ND.T - 2 * np.eye(len(keys_ND), dtype=np.float32)).argmax(axis=1)
    group_N = np.arange(4_000) // 1_000
    assert (group_N[near] == group_N).mean() > 0.9
    assert queries_QD.shape == (8, keys_ND.shape[1])


def test_the_floor_is_the_kth_score_of_what_lives() -> None:
    rng = np.random.default_rng(0)
    table, queries = rng.normal(size=(500, 8)), rng.normal(size=(20, 8))
    alive = rng.random(500) < 0.5
    found = _floor(queries, table, alive, block=64)
    scores = np.sort(queries @ table[alive].T, axis=1)
    np.testing.assert_allclose(found, scores[:, -engine_stream.K], rtol=1e-12)


def test_engines_go_through_the_runbook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEMSTORE_SCRATCH", str(tmp_path))
    monkeypatch.setenv("MEMSTORE_PEERS", str(tmp_path / "none"))
    told = list(engine_stream.measure(4_000, 4))
    assert [lacking.name for lacking in told if isinstance(lacking, Missing)] == ["hnswlib"]
    figures = [figure for figure in told if isinstance(figure, Figure)]
    assert [f.name for f in figures] == ["mean_recall", "least_recall", "runbook_s", "runbook_s"]
    assert figures[0].met
    curves = [curve for curve in told if isinstance(curve, Curve)]
    assert [len(curve.points) for curve in curves] == [16, 16, 16]
    # The peers search at the effort that is enough, found from the true answers.
    assert all(np.mean([y for _, y in c.points]) >= engine_stream.WANTED for c in curves[1:])
