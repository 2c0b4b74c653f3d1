"""Facts for the tests, files of them, and what a plain reading of them gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import memstore
from models.tasks.linking import words
from workers.ingest import Layout

SMALL = Layout(dim=16, index="exact", window=300)
"""Facts are loaded three hundred at a time."""

Fact = tuple[str, str, str]

MEMORIES = ("words", "entities", "relations", "facts")


def facts(count: int, seed: int = 0, entities: int = 400, relations: int = 9) -> list[Fact]:
    """Facts about few names, many of them double, some names not in ASCII."""
    rng = np.random.default_rng(seed)
    subjects = rng.zipf(1.4, count) % entities
    objects = rng.integers(0, entities, count)
    used = rng.integers(0, relations, count)
    return [
        (f"/m/{s:03x}é" if s % 7 == 0 else f"/m/{s:03x}", f"/r/{r}", f"/m/{o:03x}")
        for s, r, o in zip(subjects.tolist(), used.tolist(), objects.tolist(), strict=True)
    ]


def write_tsv(path: Path, rows: Iterable[Fact]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def expected(rows: Iterable[Fact]) -> dict[str, list[dict[str, Any]]]:
    """The records of the memories, slot by slot, by a plain reading of the rules."""
    distinct = set(rows)
    names = sorted({n for s, _, o in distinct for n in (s, o)}, key=str.encode)
    relations = sorted({r for _, r, _ in distinct}, key=str.encode)
    number = {name: i for i, name in enumerate(names)}
    of_relation = {name: i for i, name in enumerate(relations)}
    weight = Counter(name for s, _, o in distinct for name in (s, o))
    grouped: dict[tuple[int, int], list[int]] = {}
    for s, r, o in distinct:
        grouped.setdefault((number[s], of_relation[r]), []).append(number[o])
    return {
        "words": [{"word": word} for word in sorted({w for r in relations for w in words(r)})],
        "entities": [{"name": name, "weight": weight[name]} for name in names],
        "relations": [{"name": name} for name in relations],
        "facts": [
            {
                "subject": s,
                "relation": r,
                "objects": sorted(objects, key=lambda o: (-weight[names[o]], o)),
            }
            for (s, r), objects in sorted(grouped.items())
        ],
    }


def records(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of the memories of a store, slot by slot."""
    return {name: table.to_pylist() for name, (_, table) in contents(path).items()}


def contents(path: Path) -> dict[str, tuple[bytes, pa.Table]]:
    """The keys, as bytes, and the records of the memories, slot by slot, with no holes."""
    found = {}
    with memstore.open(path, read_only=True) as store:
        for name in MEMORIES:
            memory = store.memory(name)
            slots = np.arange(memory.describe().next_slot)
            rows = memory.gather(slots, columns=list(memory.config.records))
            assert rows.keys_BD is not None
            assert rows.records is not None
            found[name] = rows.keys_BD.tobytes(), rows.records
    return found
