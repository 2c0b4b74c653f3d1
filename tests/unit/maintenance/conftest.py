"""A store whose memories are maintained in the background."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import memstore
from memstore import Store
from tests.unit.maintenance.jobs import threads


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as store:
        yield store
    assert threads() == []
