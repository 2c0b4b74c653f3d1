"""The facts around entities, against a plain walk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import NO_SLOT
from models.tasks.nearby import nearby
from tests.unit.few_facts import FACTS, few


def walked(entity: int, reach: int) -> list[set[int]]:
    """The facts that are 1, 2, … away, each where it is met first."""
    rings: list[set[int]] = []
    met: set[int] = set()
    subjects = {entity}
    for _ in range(reach):
        ring = {i for i, (subject, _, _) in enumerate(FACTS) if subject in subjects} - met
        rings.append(ring)
        met |= ring
        subjects = {o for i in ring for o in FACTS[i][2]}
    return rings


@pytest.mark.parametrize("reach", [1, 2, 3, 4])
def test_facts_are_those_of_the_objects_too(tmp_path: Path, reach: int) -> None:
    entity_Q = np.array([0, 3, NO_SLOT, 2, 5, 0])
    with memstore.open(tmp_path / "store") as store:
        facts = few(store, index="none").facts
        slots_QK, cut_Q = nearby(facts, entity_Q, reach=reach, limit=50)
        short_QK, short_Q = nearby(facts, entity_Q, reach=reach, limit=3)
    assert not cut_Q.any()
    for q, entity in enumerate(entity_Q.tolist()):
        row, rings = slots_QK[q][slots_QK[q] != NO_SLOT].tolist(), walked(entity, reach)
        for ring in rings:
            assert set(row[: len(ring)]) == ring
            row = row[len(ring) :]
        assert not row
        few_of = short_QK[q][short_QK[q] != NO_SLOT].tolist()
        every = sum(map(len, rings))
        assert len(few_of) == min(every, 3)
        assert short_Q[q] == (every > 3)
