"""Stage 1: reads a piece, and keeps for each block of it a run: its names, sorted, and its facts.

runs/PIECE-BLOCK.entities.arrow, .relations.arrow   the names of the block, rising
runs/PIECE-BLOCK.codes.npy    int32 [3, F]: which of them the facts are of
runs/PIECE-BLOCK.json         lines read, and broken ones; written last
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
from workers.ingest import columnar, keeping, lines, ntriples, tsv
from workers.ingest.blocks import Block, only
from workers.ingest.errors import SourceError
from workers.ingest.plan import Piece, Plan

KINDS = ("entities", "relations")

COUNTED = ("lines", "facts", "rejected", "left_out")
"""Of each block and piece: lines read, facts kept, broken lines, facts that are not wanted."""

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
        of_block = files.read_json(found) if found.exists() else _keep(run, _wanted(plan, parse()))
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
    path = Path(source.path)
    stat = path.stat() if path.is_file() else None
    if stat is None or (stat.st_size, stat.st_mtime_ns) != (source.bytes, source.modified_ns):
        raise SourceError(path, None, "another file", "what was there", "begin anew")
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


def _wanted(plan: Plan, found: Block) -> Block:
    return only(found, plan.reading.relations) if plan.reading.relations else found


def _keep(run: Path, block: Block) -> Made:
    codes = np.empty((3, len(block.objects)), np.int32)
    both = _coded(run, "entities", pa.concat_arrays([block.subjects, block.objects]))
    subjects, codes[2] = both[: len(block.subjects)], both[len(block.subjects) :]
    relations = _coded(run, "relations", block.relations)
    owner = slice(None) if block.owner is None else block.owner
    codes[0], codes[1] = subjects[owner], relations[owner]
    keeping.put_array(run.with_suffix(".codes.npy"), codes)
    made: Made = {
        "lines": block.lines,
        "facts": len(block.objects),
        "rejected": block.rejects.count,
        "left_out": block.left_out,
        "sample": [asdict(reject) for reject in block.rejects.sample],
    }
    files.replace_json(run.with_suffix(".json"), made)
    return made


def _coded(run: Path, kind: str, texts: pa.Array) -> np.ndarray:
    """Keeps the distinct texts, rising; returns the number of each text among them."""
    names, codes = ranked(texts)
    keeping.put_table(run.with_suffix(f".{kind}.arrow"), pa.table({"name": names}))
    return codes


def ranked(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The distinct texts, rising by their bytes, and the number of each text, int32."""
    coded = texts.dictionary_encode()
    order = pc.array_sort_indices(coded.dictionary)
    rank = np.empty(len(order), np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return coded.dictionary.take(order), rank[coded.indices.to_numpy()]
