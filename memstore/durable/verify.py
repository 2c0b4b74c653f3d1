"""Whether a store is whole: every checksum, then what must hold of what the files say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from memstore import files
from memstore.durable import manifest
from memstore.durable.checkpoints import base_of, shards_of
from memstore.errors import CorruptFile
from memstore.index.segment import Segment
from memstore.kernels.half import wide
from memstore.memory import Array
from memstore.placement import WHOLE
from memstore.shard import blocks
from memstore.shard.rows import RowTable
from memstore.shard.shard import Shard
from memstore.store import Store

AT_A_TIME = 65_536
"""Rows looked at together."""


def verify(path: str | Path) -> Iterator[str]:
    """What is wrong with the store at `path`, a sentence each; nothing where it is whole.

    Writes nothing. Raises `NotAStore`, `StoreLocked` and `UnsupportedVersion` as `memstore.open`.
    """
    folder, damaged = Path(path), False
    if (folder / manifest.NAME).exists():
        with files.lock(folder / "LOCK", shared=True):
            for problem in _damage(folder):
                damaged = True
                yield problem
    if damaged:
        return
    # Nothing more is asked of files that are not what they were.
    try:
        with Store(folder, read_only=True) as store:
            for name in store.list():
                memory: Any = store.memory(name)
                for shard in base_of(memory).shards:
                    for problem in _broken(shard):
                        yield f"{name}, shard {shard.number}: {problem}"
    except CorruptFile as error:
        yield str(error)


def _damage(folder: Path) -> Iterator[str]:
    """The files that are not what the manifest says."""
    try:
        body = manifest.read(folder / manifest.NAME)
    except CorruptFile as error:
        yield str(error)
        return
    bad = set()
    named = manifest.files_of(body)
    for mark in sorted((folder / manifest.MARKS).glob("*.json")):
        try:
            named |= manifest.files_of(manifest.read(mark))
        except CorruptFile as error:
            yield str(error)
    for path, fingerprint in named.items():
        try:
            files.check(folder / path, fingerprint)
        except CorruptFile as error:
            bad.add(folder / path)
            yield str(error)
    for name, entry in body["memories"].items():
        for number, shard in shards_of(entry, manifest.part_of(body)):
            own = folder / manifest.MEMORIES / name / f"shard-{number}"
            [directory] = shard["rows"]
            if own / directory not in bad:
                yield from _bad_blocks(own, own / directory)


def _bad_blocks(folder: Path, directory: Path) -> Iterator[str]:
    """The first bad block of each array."""
    for name, stored in blocks.from_bytes(directory.read_bytes()).items():
        try:
            blocks.read(folder, stored, name, np.zeros(stored.shape, stored.dtype))
        except CorruptFile as error:
            yield str(error)


def _broken(shard: Shard) -> Iterator[str]:
    """What does not hold of a shard that was read."""
    rows = shard.rows
    live_R = rows.live_rows()
    for name, array in rows.arrays().items():
        if len(array) != rows.size:
            yield f"{name} has {len(array)} rows of {rows.size}"
        if name in ("keys", "values"):
            yield from _not_finite(name, array, rows, live_R)
    if (rows.travel_N < 0).any() or not np.isfinite(rows.travel_N).all():
        yield "a row went a way that is negative or endless"
    if shard.config.records:
        known_N = shard.records.where_N[: rows.size]
        there_R = live_R < len(known_N)
        if (known_N >= shard.records.lines).any() or (known_N[live_R[there_R]] < 0).any():
            yield "a row names a record that there is not"
        elif not there_R.all():
            yield f"row {live_R[-1]} has no record"
        elif not shard.config.keeps_keys:
            yield from _misnamed(shard, live_R)
    if shard.config.index_config.sealed:
        yield from _misplaced(shard, live_R)


def _misnamed(shard: Shard, live_R: Array) -> Iterator[str]:
    """The first row that is to be a sum of other part rows than its record names."""
    columns = sorted(shard.config.encoding_config.key)
    for start in range(0, len(live_R), AT_A_TIME):
        some = live_R[start : start + AT_A_TIME]
        records = shard.read_records(some, columns, None)
        named_BP = np.stack([records[column].to_numpy() for column in columns], axis=1)
        shard.rows.want(some, "keys")
        bad = (named_BP != shard.rows.keys_ND[some]).any(axis=1)
        if bad.any():
            yield f"row {some[bad.argmax()]} is a sum of other rows than its record names"
            return


def _not_finite(name: str, array: Array, rows: RowTable, live_R: Array) -> Iterator[str]:
    for start in range(0, len(live_R), AT_A_TIME):
        some = live_R[start : start + AT_A_TIME]
        rows.want(some, name)
        bad = ~np.isfinite(wide(array[some])).all(axis=1)
        if bad.any():
            yield f"{name} of row {some[bad.argmax()]} hold NaN or infinity"
            return


def _misplaced(shard: Shard, live_R: Array) -> Iterator[str]:
    """Rows that are in no tier, in several, or in one though they are gone."""
    version = shard.index.version
    count_N = np.zeros(max(shard.rows.size, 1), np.int64)
    parts: Iterable[Array] = (version.fresh_F, *map(_standing, version.segments))
    for rows_R in parts:
        if len(rows_R) and rows_R.max() >= shard.rows.size:
            yield f"the index has row {rows_R.max()}, and there are {shard.rows.size}"
            rows_R = rows_R[rows_R < shard.rows.size]
        count_N[rows_R] += 1
    wanted_N = np.zeros_like(count_N)
    wanted_N[live_R] = 1
    wrong = np.flatnonzero(count_N != wanted_N)
    if len(wrong):
        what = "alive" if wanted_N[wrong[0]] else "gone"
        yield f"row {wrong[0]} is {what} and {count_N[wrong[0]]} times in the index"
    for i, segment in enumerate(version.segments):
        lacking = np.setdiff1d(_standing(segment), _listed(segment))
        if len(lacking):
            yield f"segment {i} stands for row {lacking[0]}, and its lists lack it"


def _standing(segment: Segment) -> Array:
    """The rows that a segment stands for."""
    return np.flatnonzero(np.unpackbits(segment.valid, bitorder="little"))


def _listed(segment: Segment) -> Array:
    """The rows in its lists."""
    lists = segment.lists.invlists
    parts = [
        faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number)).copy()
        for number in range(lists.nlist)
        if lists.list_size(number)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def describe(path: str | Path) -> Iterator[str]:
    """What the store at `path` holds, a line each, out of its manifest and the sizes of its files.

    Raises as `memstore.open`.
    """
    folder = Path(path)
    with Store(folder, read_only=True) as store:
        body = manifest.read(folder / manifest.NAME)
        part = "" if store.part == WHOLE else f", part {store.part} of its memories"
        yield f"{folder}: format {body['format']}, checkpoint {body['number']}{part}"
        for name in store.list():
            state = store.memory(name).describe()
            config, entry = state.config, body["memories"][name]
            values = f" with values of {config.value_dim}" if config.value_dim else ""
            encoded = ", encoded" if config.encoding else ""
            yield (
                f"  {name}: {state.rows:,} rows of {config.dim} {config.dtype}{values}{encoded}, "
                f"{len(state.shards)} shard{'s' * (len(state.shards) > 1)}"
            )
            saved = _size(folder / manifest.MEMORIES / name)
            logged = _size(folder / manifest.LOGS / entry["log"]["name"])
            yield f"    on disk {saved / 1e6:,.1f} MB, log {logged / 1e6:,.1f} MB"
            index = config.index_config
            sealed = sum(shard.sealed for shard in state.shards)
            fresh = sum(shard.fresh for shard in state.shards)
            yield f"    index {index.kind}, codec {index.codec}: {sealed:,} sealed, {fresh:,} fresh"
            if config.records:
                fields = ", ".join(f"{field.name} {field.type}" for field in config.schema)
                yield f"    records {fields}"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
