"""Joining: one store out of the manifests and files of all its parts.

Each part has its own shards of every memory, in files that no other part has. What is of a whole
memory, each has its share of: slots are given out by part 0, and how far part rows had gone when
they were last summed is known where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from memstore import files, manifest, snapshot
from memstore.checkpoints import Entry, config_of, shards_of
from memstore.encoded import fitted
from memstore.errors import CorruptFile
from memstore.memory import Array
from memstore.placement import WHOLE, Part, holders, homes

JOINED = "encoded-00000000.npz"

Sources = dict[str, tuple[str, files.Fingerprint]]
"""By path in a store that is made: under which name a file lies in the place of snapshots."""


def sources(bodies: Sequence[manifest.Body]) -> Sources:
    """All files of a snapshot, whether of one store or of several parts."""
    found: Sources = {}
    for number, body in enumerate(bodies):
        for path, fingerprint in manifest.files_of(body).items():
            key = snapshot.key_of(body["store"], path, fingerprint)
            found[_local(path, number) if len(bodies) > 1 else path] = key, fingerprint
    return found


def check(bodies: Sequence[manifest.Body], where: str) -> None:
    """Raises `CorruptFile` unless these are the parts of one whole, in their order."""
    for number, body in enumerate(bodies if len(bodies) > 1 else ()):
        if manifest.part_of(body) != Part(number, len(bodies)):
            raise CorruptFile(
                f"{where} is not of all parts",
                got=f"part {manifest.part_of(body)} in place {number}",
                expected=f"part {number}/{len(bodies)}",
            )
    for name, entry in bodies[0]["memories"].items():
        for body in bodies[1 : holders(config_of(entry).shards, len(bodies))]:
            other = body["memories"].get(name)
            if other is None or other["config"] != entry["config"]:
                raise CorruptFile(
                    f"{where} does not have all parts of memory {name!r}",
                    got=f"part {manifest.part_of(body)} "
                    + ("without it" if other is None else "with another configuration"),
                    hint="drop the memory, or make it anew",
                )


def joined(bodies: Sequence[manifest.Body], draft: Path) -> manifest.Body:
    """The manifest of a whole store, of files that lie in a folder as `sources` has them."""
    if len(bodies) == 1:
        return bodies[0]
    memories = {
        name: _entry(name, [body["memories"].get(name) for body in bodies], bodies, draft)
        for name in bodies[0]["memories"]
    }
    return manifest.head(WHOLE) | {"store": "", "number": 1, "memories": memories}


def _entry(
    name: str, entries: Sequence[Entry | None], bodies: Sequence[manifest.Body], draft: Path
) -> Entry:
    first = entries[0]
    assert first is not None
    count = config_of(first).shards
    held = [entry for entry in entries[: holders(count, len(bodies))] if entry is not None]
    shards: list[Any] = [None] * count
    for number, entry in enumerate(held):
        for shard, its in shards_of(entry, Part(number, len(bodies))):
            shards[shard] = its
    encoded_at: dict[str, files.Fingerprint] = {}
    if config_of(first).encoding is not None:
        parts = {n: bodies[0]["memories"][n] for n in config_of(first).encoding_config.memories}
        arrays = _travels(draft / manifest.MEMORIES / name, held, parts, len(bodies))
        path = draft / manifest.MEMORIES / name / JOINED
        path.unlink(missing_ok=True)
        encoded_at[JOINED] = files.make(path, lambda file: files.arrays_to(file, arrays))
    state = [sum(entry["state"][i] for entry in held) for i in range(len(first["state"]))]
    return {
        "config": first["config"],
        "next_slot": max(entry["next_slot"] for entry in held),
        "state": state,
        "log": {"name": "", "after": [0] * count},
        "shards": shards,
        "encoded_at": encoded_at,
    }


def _travels(
    folder: Path, entries: Sequence[Entry], parts: Mapping[str, Entry], of: int
) -> dict[str, Array]:
    """How far part rows had gone when they were last summed: of each, as its server has it.

    parts: the memories whose rows are parts.  of: how many servers there are.
    """
    columns = config_of(entries[0]).encoding_config.key
    told = []
    for number, entry in enumerate(entries):
        arrays: dict[str, Array] = {}
        for name in entry["encoded_at"]:
            path = folder / _numbered(name, number)
            with np.load(path, allow_pickle=False) as kept:
                arrays = dict(kept)
            path.unlink()
        told.append(arrays)
    whole = {}
    for column, part in columns.items():
        length = max((len(arrays.get(column, ())) for arrays in told), default=0)
        rows_P = np.arange(length)
        home_P = homes(rows_P, config_of(parts[part]).shards, of)
        travel_P = np.zeros(length)
        for number, arrays in enumerate(told):
            if column in arrays:
                own_P = home_P == number
                travel_P[own_P] = fitted(arrays[column], length)[own_P]
        whole[column] = travel_P
    return whole


def _local(path: str, number: int) -> str:
    """Where a file of a part lies: those of a whole memory beside those of other parts."""
    pure = PurePosixPath(path)
    if pure.name.startswith("encoded-"):
        return str(pure.with_name(_numbered(pure.name, number)))
    return path


def _numbered(name: str, number: int) -> str:
    return f"part-{number}-{name}"
