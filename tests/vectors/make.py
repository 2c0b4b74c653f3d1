"""Makes the vectors of the present format: `python -m tests.vectors.make whole`, or `part`.

They are made once for each version and never again: what was written then is to be read for ever.
A store is left as the death of its process would leave it, so that its logs are of use, with a
memory of each kind, a mark, and a snapshot beside it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

import memstore
from memstore import EncodingConfig, IndexConfig, MemoryConfig, RequestId, SearchOptions, Store
from memstore.deadline import NO_DEADLINE
from memstore.durable.manifest import FORMAT, PART_FORMAT
from memstore.memory import Memory
from memstore.placement import Part
from memstore.retries import Asked
from memstore.shard import log_format
from memstore.spread.held import Given

FOLDER = Path(__file__).parent
NAME = f"format-{FORMAT}-log-{log_format.VERSION}.zip"
"""The one without a word of its log has version 1 of it."""

PART_NAME = f"part-format-{PART_FORMAT}-log-{log_format.VERSION}.zip"
PART = Part(1, 2)

WIDTH = 4


def fill(store: Store) -> None:
    """Memories of each dtype and kind, small enough to be kept for ever, their records in several
    pieces."""
    rng = np.random.default_rng(0)
    index = IndexConfig(clusters=2, fresh_limit=16, maintenance="inline")
    for dtype, optimizer in (("float32", "adam"), ("float16", "adagrad"), ("bfloat16", "sgd")):
        how: Any = {"dtype": dtype, "optimizer": optimizer, "updates": "logged", "shards": 2}
        config = MemoryConfig(
            dim=WIDTH, value_dim=2, records={"name": "string"}, index=index, **how
        )
        memory = store.create(dtype, config)
        names = {"name": [f"{dtype} {i}" for i in range(40)]}
        memory.append(rng.normal(size=(40, WIDTH)), rng.normal(size=(40, 2)), names, step=1)
    store.create("words", MemoryConfig(dim=WIDTH, index="none")).append(rng.normal(size=(6, WIDTH)))
    encoding = EncodingConfig(key={"a": "words", "b": "words"})
    records = {"a": "int64", "b": "int64"}
    facts = store.create("facts", MemoryConfig(dim=WIDTH, records=records, encoding=encoding))
    facts.append(records={"a": [0, 1, 2], "b": [3, 4, 5]})
    encoding = EncodingConfig(key={"b": "words", "a": "words"}, stored=False)
    how = {"dim": WIDTH, "records": records, "encoding": encoding}
    summed = store.create("sums", MemoryConfig(**how))
    summed.append(records={"a": [0, 1, 2], "b": [3, 4, 5]})
    store.checkpoint()
    for dtype in ("float32", "float16", "bfloat16"):
        named = {"name": ["named anew", "another"]}
        rows = rng.normal(size=(2, WIDTH)), rng.normal(size=(2, 2))
        store.memory(dtype).write([8, 9], *rows, records=named)
    store.mark("filled")
    summed.write([1], records={"a": [5], "b": [2]})
    for dtype in ("float32", "float16", "bfloat16"):
        memory = store.memory(dtype)
        some = np.arange(0, 40, 3)
        memory.update(some, rng.normal(size=(14, WIDTH)), rng.normal(size=(14, 2)), 0.1)
        memory.erase([1, 2], request_id=RequestId("vectors", 1))
        memory.touch([4, 5], 7)
        memory.allocate(2, records={"name": ["new", "newer"]})
        weights, erase = np.full(2, 0.5), np.full((2, WIDTH), 0.5)
        memory.blend([6, 7], weights, erase, rng.normal(size=(2, WIDTH)))


def fill_part(store: Store) -> None:
    """Two of four shards of a memory, with a checkpoint between what was done."""
    rng = np.random.default_rng(1)
    config = MemoryConfig(dim=WIDTH, records={"name": "string"}, index="exact", shards=4)
    memory: Any = store.create("m", config)
    names = {"name": [f"row {i}" for i in range(20)]}
    change = memory.changes.append(rng.normal(size=(20, WIDTH)), None, names, 1)
    change = change.of(np.arange(20)).taken(np.arange(20)[np.arange(20) % 2 == 1])
    asked = Asked.of(RequestId("vectors", 1), *change.content)
    memory.put_given(change, Given(20, 0), asked, NO_DEADLINE)
    store.mark("filled")
    memory.erase([1, 5], request_id=RequestId("vectors", 2))


def told(store: Store) -> dict[str, Any]:
    """What is in a store, to the bit, as JSON."""
    found = {name: _of(store.memory(name)) for name in store.list()} | {"marks": store.marks()}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _of(memory: Memory) -> dict[str, Any]:
    slots = memory.live_slots() if hasattr(memory, "live_slots") else np.arange(3)
    rows = memory.gather(slots, columns=tuple(memory.config.records))
    assert rows.keys_BD is not None
    best = memory.search(np.ones((1, WIDTH)), 5, SearchOptions(exact=True))
    return {
        "config": memory.config.to_dict(),
        "next_slot": memory.describe().next_slot,
        "slots": slots.tolist(),
        "generations": rows.generations_B.tolist(),
        "keys": rows.keys_BD.tobytes().hex(),
        "values": None if rows.values_BV is None else rows.values_BV.tobytes().hex(),
        "records": None if rows.records is None else rows.records.to_pydict(),
        "best": best.slots_QK.tolist(),
    }


def part() -> None:
    from tests.faults.changes import died

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store = memstore.open(place / "store", fsync="always", part=PART)
        fill_part(store)
        expected = told(store)
        died(store)
        _archive(FOLDER / PART_NAME, place, ("store",), expected)


def whole() -> None:
    from tests.faults.changes import died

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store = memstore.open(place / "store", fsync="always")
        fill(store)
        expected = told(store)
        died(store)
        with memstore.open(place / "other") as other:
            fill(other)
            other.snapshot(place / "snapshots", at="filled")
        _archive(FOLDER / NAME, place, ("store", "snapshots"), expected)


def _archive(path: Path, place: Path, folders: tuple[str, ...], expected: dict[str, Any]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in folders:
            for file in sorted((place / name).rglob("*")):
                if file.is_file() and file.name != "LOCK":
                    archive.write(file, file.relative_to(place))
        archive.writestr("told.json", json.dumps(expected, indent=1))


if __name__ == "__main__":
    {"whole": whole, "part": part}[sys.argv[1]]()
