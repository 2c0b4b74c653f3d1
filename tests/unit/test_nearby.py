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
        slots_QK, away_QK, cut_Q = nearby(facts, entity_Q, reach=reach, limit=50)
        short_QK, _, short_Q = nearby(facts, entity_Q, reach=reach, limit=3)
    assert not cut_Q.any()
    for q, entity in enumerate(entity_Q.tolist()):
        rings = walked(entity, reach)
        for away, ring in enumerate(rings, 1):
            assert sorted(slots_QK[q][away_QK[q] == away].tolist()) == sorted(ring)
        every = sum(map(len, rings))
        assert (slots_QK[q] != NO_SLOT).sum() == every
        assert (np.diff(away_QK[q][:every]) >= 0).all()
        kept = short_QK[q][short_QK[q] != NO_SLOT]
        assert kept.tolist() == slots_QK[q][: min(every, 3)].tolist()
        assert short_Q[q] == (every > 3)
