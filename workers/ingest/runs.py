"""Stage 1: reads a piece, and keeps for each block of it a run: its names, sorted, and its facts.

runs/PIECE-BLOCK.entities.arrow, .relations.arrow   the names of the block, rising
runs/PIECE-BLOCK.codes.npy    int32 [3, F]: which of them the facts are of
runs/PIECE-BLOCK.json         lines read, and broken ones; written last
runs/PIECE-BLOCK.sides.arrow  facts at mediators, which are none of its own: see `mediators`
runs/PIECE.json               that all blocks of the piece are there
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memstore import files
from workers.ingest import columnar, keeping, lines, mediators, ntriples, tsv
from workers.ingest.blocks import Block, only
from workers.ingest.plan import Piece, Plan

KINDS = ("entities", "relations")

COUNTED = ("lines", "facts", "rejected", "left_out", "sides", "between")
"""Of each block and piece: lines read, facts kept, broken lines, facts that are not wanted, facts
at one mediator, and at two."""

Made = dict[str, Any]
"""What is kept of a block or piece beside its facts: `lines`, `facts`, `rejected`, …"""


def read_piece(work: Path, plan: Plan, piece: Piece) -> Made:
    """Makes the runs of a piece that are not there; returns what was read.

    Raises `SourceError` where the source is not what it was, or not to be read at all.
    """
    done = work / "runs" / f"{piece.number:06}.json"
    if done.exists():
        return files.read_json(done)
    made: Made = {"blocks": 0, **dict.fromkeys(COUNTED, 0)}
    for number, parse in enumerate(_blocks(plan, piece)):
        run = work / "runs" / f"{piece.number:06}-{number:06}"
        found = run.with_suffix(".json")
        of_block = files.read_json(found) if found.exists() else _made(work, plan, run, parse())
        made["blocks"] += 1
        for name in COUNTED:
            made[name] += of_block[name]
        keeping.give_back()
    made["bytes"] = _bytes(plan, piece)
    files.replace_json(done, made)
    return made


def names(plan: Plan, made: list[Made]) -> list[str]:
    """The names of all runs, in the order of the sources."""
    return [
        f"{piece.number:06}-{number:06}"
        for piece, of_piece in zip(plan.pieces, made, strict=True)
        for number in range(of_piece["blocks"])
    ]


def _bytes(plan: Plan, piece: Piece) -> int:
    """About the part of its source that a piece is, in bytes."""
    source = plan.sources[piece.source]
    whole = sum(p.end - p.start for p in plan.pieces if p.source == piece.source)
    return source.bytes * (piece.end - piece.start) // whole if whole else source.bytes


def _blocks(plan: Plan, piece: Piece) -> Iterator[Callable[[], Block]]:
    """What makes a block of each chunk of a piece."""
    source, reading = plan.sources[piece.source], plan.reading
    path = source.unchanged()
    cut = (piece.start, piece.end, plan.block_bytes)
    if source.form in ("parquet", "arrow"):
        for table in columnar.chunks(path, source.form, reading.columns, *cut):
            yield partial(columnar.parse, table, reading.separator)
        return
    for data in lines.chunks(path, *cut):
        if source.form == "nt":
            yield partial(ntriples.parse, data, str(piece.source), reading.relations)
        else:
            yield partial(tsv.parse, data, reading.delimiter, reading.separator)


def _made(work: Path, plan: Plan, run: Path, found: Block) -> Made:
    """Makes the run of a block, of the facts that are wanted and at no mediator."""
    if plan.reading.relations:
        found = only(found, plan.reading.relations)
    parted = {"sides": 0, "between": 0}
    if plan.mediators is not None:
        found, parted = mediators.part(work, run, found)
    return _keep(run, found, parted)


def _keep(run: Path, block: Block, parted: dict[str, int]) -> Made:
    codes = np.empty((3, len(block.objects)), np.int32)
    entities, both = ranked(pa.concat_arrays([block.subjects, block.objects]))
    subjects, codes[2] = both[: len(block.subjects)], both[len(block.subjects) :]
    relations, of_row = ranked(block.relations)
    owner = slice(None) if block.owner is None else block.owner
    codes[0], codes[1] = subjects[owner], of_row[owner]
    made: Made = {
        "lines": block.lines,
        "facts": len(block.objects),
        "rejected": block.rejects.count,
        "left_out": block.left_out,
        "sample": [asdict(reject) for reject in block.rejects.sample],
        **parted,
    }
    put(run, entities, relations, codes, made)
    return made


def put(run: Path, entities: pa.Array, relations: pa.Array, codes: np.ndarray, made: Made) -> None:
    """Keeps a run.  entities, relations: names, rising, each once.  codes: int32 [3, F]: which of
    them the subjects, relations and objects of the facts are."""
    for kind, names in zip(KINDS, (entities, relations), strict=True):
        keeping.put_table(run.with_suffix(f".{kind}.arrow"), pa.table({"name": names}))
    keeping.put_array(run.with_suffix(".codes.npy"), codes)
    files.replace_json(run.with_suffix(".json"), made)


def ranked(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The distinct texts, rising by their bytes, and the number of each text, int32."""
    coded = texts.dictionary_encode()
    order = pc.array_sort_indices(coded.dictionary)
    rank = np.empty(len(order), np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return coded.dictionary.take(order), rank[coded.indices.to_numpy()]
