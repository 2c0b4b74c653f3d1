"""What was written by each version of the format that is still read is read as it was written."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import memstore
from memstore import RequestId
from memstore.durable.verify import verify
from memstore.errors import RequestConflict, WrongPart
from tests.vectors.make import FOLDER, NAME, PART, PART_NAME, told

VECTORS = sorted(FOLDER.glob("format-*.zip"))
PARTS = sorted(FOLDER.glob("part-format-*.zip"))


def test_the_present_format_has_vectors() -> None:
    assert FOLDER / NAME in VECTORS
    assert FOLDER / PART_NAME in PARTS


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_what_was_written_is_read(tmp_path: Path, path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    expected = json.loads((tmp_path / "told.json").read_text())
    assert list(verify(tmp_path / "store")) == []
    with memstore.open(tmp_path / "store", read_only=True) as store:
        assert told(store) == expected
    with memstore.open(tmp_path / "store") as store:
        assert told(store) == expected
        memory = store.memory("float32")
        assert memory.erase([1, 2], request_id=RequestId("vectors", 1)).applied == 2
        with pytest.raises(RequestConflict):
            memory.erase([3], request_id=RequestId("vectors", 1))
        store.snapshot(tmp_path / "again", at="filled")
        width = memory.config.value_dim
        for _ in range(2):
            rows = np.ones((3, memory.config.dim)), np.ones((3, width or 0))
            memory.append(*rows, {"name": ["late", "later", "last"]})
            memory.write([5], rows[0][:1], rows[1][:1], records={"name": ["anew"]})
            store.checkpoint()
        now = told(store)["float32"]
    with memstore.open(tmp_path / "store", read_only=True) as store:
        assert told(store)["float32"] == now
    memstore.restore(tmp_path / "snapshots", tmp_path / "restored")
    memstore.restore(tmp_path / "again", tmp_path / "copied")
    with memstore.open(tmp_path / "restored") as one, memstore.open(tmp_path / "copied") as other:
        assert told(one) == told(other)
        assert told(one)["float32"] != expected["float32"]


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_a_part_is_read_as_it_was_written(tmp_path: Path, path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    expected = json.loads((tmp_path / "told.json").read_text())
    assert list(verify(tmp_path / "store")) == []
    with pytest.raises(WrongPart):
        memstore.open(tmp_path / "store")
    with memstore.open(tmp_path / "store", part=PART) as store:
        assert told(store) == expected
        memory = store.memory("m")
        assert memory.erase([1, 5], request_id=RequestId("vectors", 2)).applied == 2
