"""Mediators: nodes that stand for a fact of more than two, as who played whom in which film.

A file names them, one a line. They are kept by their hashes, since there may be any number of
them; a name is one of them where its bytes are the same, not where its hash is.

mediators/read-CHUNK.arrow    hash, name: of a chunk of the file, by rising hash
mediators/RANGE.arrow         the same of all chunks, range by range, each name once
mediators/list.json           how many each range has; written last
runs/PIECE-BLOCK.sides.arrow  facts of a block that begin or end at a mediator: its number,
                              rising, `into` where the fact ends there, relation, the other entity
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from memstore import files
from workers.ingest import cutting, keeping, lines
from workers.ingest.blocks import Block, chosen
from workers.ingest.errors import SourceError
from workers.ingest.plan import Source

BATCH = 65_536
"""Names held as Python's bytes, which take several times those of Arrow."""


def listed(work: Path, source: Source, block_bytes: int) -> int:
    """Makes the list of a file of names; returns how many there are; raises `SourceError`."""
    folder = work / "mediators"
    done = folder / "list.json"
    if not done.exists():
        chunks = _read(folder, source, block_bytes)
        bounds = cutting.bounds(
            chunks,
            lambda number: _chunk(folder, number),
            block_bytes,
            lambda table, place: table["hash"][place].as_py(),
        )
        counts = [_merge(folder, number, bounds) for number in range(len(bounds) - 1)]
        files.replace_json(done, {"counts": counts})
    total: int = sum(files.read_json(done)["counts"])
    if not total:
        raise SourceError(source.path, None, "no names", "mediators, one a line", "look at it")
    return total


def numbers(work: Path, names: pa.Array) -> np.ndarray:
    """The number among all mediators of each name, int64; -1 where it is none."""
    found = np.full(len(names), -1)
    hashes = _hashes(names)
    order = np.argsort(hashes)
    hashes = hashes[order]
    first = 0
    for number, count in enumerate(files.read_json(work / "mediators" / "list.json")["counts"]):
        if count:
            table = keeping.table(work / "mediators" / f"{number:06}.arrow")
            of_range, those = (table[name].chunk(0) for name in ("hash", "name"))
            of_range = of_range.to_numpy()
            begin = np.searchsorted(hashes, of_range[0])
            end = np.searchsorted(hashes, of_range[-1], side="right")
            at = np.searchsorted(of_range, hashes[begin:end])
            asked = np.flatnonzero(of_range[at] == hashes[begin:end])
            while len(asked):  # once, but where several names have one hash
                own = order[begin + asked]
                same = pc.equal(names.take(pa.array(own)), those.take(pa.array(at[asked])))
                is_it = same.to_numpy(zero_copy_only=False)
                found[own[is_it]] = first + at[asked[is_it]]
                asked = asked[~is_it]
                at[asked] += 1
                asked = asked[at[asked] < count]
                asked = asked[of_range[at[asked]] == hashes[begin + asked]]
        first += count
    return found


def part(work: Path, run: Path, found: Block) -> tuple[Block, dict[str, int]]:
    """Keeps the facts at mediators beside a run; returns the others, and how many were parted.

    `sides`: those kept.  `between`: those from mediator to mediator, which are left out.
    """
    names = pa.concat_arrays([found.subjects, found.objects]).dictionary_encode()
    relations = found.relations.dictionary_encode()
    codes, of_name = names.indices.to_numpy(), numbers(work, names.dictionary)
    rows = len(found.subjects)
    owner = np.arange(rows) if found.owner is None else found.owner
    subjects, objects = codes[:rows][owner], codes[rows:]
    begin, end = of_name[subjects], of_name[objects]
    is_side = (begin < 0) != (end < 0)
    side = np.flatnonzero(is_side)
    side = side[np.argsort(np.maximum(begin, end)[side], kind="stable")]
    into = end[side] >= 0
    others = np.where(into, subjects[side], objects[side])
    table = {
        "mediator": np.maximum(begin, end)[side],
        "into": into,
        "relation": coded(relations.indices.to_numpy()[owner[side]], relations.dictionary),
        "entity": coded(others, names.dictionary),
    }
    keeping.put_table(run.with_suffix(".sides.arrow"), pa.table(table))
    between = int(np.count_nonzero((begin >= 0) & (end >= 0)))
    return chosen(found, (begin < 0) & (end < 0)), {"sides": len(side), "between": between}


def sides(work: Path, run: str) -> pa.Table:
    """The facts at mediators of a run."""
    return keeping.table((work / "runs" / run).with_suffix(".sides.arrow"))


def coded(codes: np.ndarray, names: pa.Array) -> pa.DictionaryArray:
    """Texts by their numbers, beside those names alone that they are, by first use.

    So a range of mediators finds its names beside each other, however many a file has.
    """
    used, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    return pa.DictionaryArray.from_arrays(rank[codes], names.take(pa.array(used[order])))


def _read(folder: Path, source: Source, block_bytes: int) -> int:
    """Keeps the names of each chunk of the file; returns how many chunks there are."""
    number = before = 0
    for data in _chunks(source.unchanged(), block_bytes):
        path = folder / f"read-{number:06}.arrow"
        if not path.exists():
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                line = before + data.count(b"\n", 0, error.start) + 1
                raise SourceError(
                    source.path, line, "no UTF-8", "a name in UTF-8", "correct it"
                ) from error
            names = {name.removesuffix("\r") for name in text.split("\n")} - {""}
            keeping.put_table(path, _sorted(pa.array(names, pa.string())))
            del text, names
            keeping.give_back()
        number, before = number + 1, before + data.count(b"\n")
    return number


def _chunks(path: Path, block_bytes: int) -> Iterator[bytes]:
    for start, end in lines.cuts(path, block_bytes):
        yield from lines.chunks(path, start, end, block_bytes)


def _merge(folder: Path, number: int, bounds: np.ndarray) -> int:
    path = folder / f"{number:06}.arrow"
    if not path.exists():
        parts = [pa.array([], pa.string())]
        for chunk, (first, last) in enumerate(bounds[number : number + 2].T.tolist()):
            if first < last:
                parts.append(_chunk(folder, chunk)["name"].chunk(0)[first:last])
        keeping.put_table(path, _sorted(pa.concat_arrays(parts)))
        del parts
        keeping.give_back()
    return len(keeping.table(path))


def _chunk(folder: Path, number: int) -> pa.Table:
    return keeping.table(folder / f"read-{number:06}.arrow")


def _sorted(names: pa.Array) -> pa.Table:
    """The names, each once, by rising hash."""
    names = names.unique()
    hashes = _hashes(names)
    order = np.argsort(hashes)
    return pa.table({"hash": hashes[order], "name": names.take(pa.array(order))})


def _hashes(names: pa.Array) -> np.ndarray:
    names = names.cast(pa.binary())
    batches = (names[first : first + BATCH].to_pylist() for first in range(0, len(names), BATCH))
    hashes = map(xxh3_64_intdigest, chain.from_iterable(batches))
    return np.fromiter(hashes, np.uint64, len(names))
