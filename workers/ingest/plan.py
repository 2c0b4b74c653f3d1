"""A plan: what is read, in which pieces, and what is made of it. It is kept until all is done.

The work folder of an ingest:

plan.json            what follows from the command, written first
mediators/           where some are named: which they are
runs/                stage 1: for each block its names, sorted, and its facts by their numbers
names/               stage 2: all names, sorted, and for each run which number is which
facts/               stage 3: the facts of each run by numbers of all, sorted
groups/              stage 4: fact rows, grouped, range by range
rejects.jsonl        broken lines, the first of each block      report.json    written last

A file is there whole or not at all, so what is there is not done again.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from memstore import IndexConfig, MemoryConfig, files
from memstore.errors import InvalidArgument
from models.tasks.knowledge import TaskDataError
from models.tasks.memories import Initial
from workers.ingest import columnar, lines
from workers.ingest.errors import SourceError

Format = Literal["auto", "parquet", "arrow", "nt", "tsv"]
FORMATS: tuple[Format, ...] = get_args(Format)

VERSION = 4

ENDS = {
    "parquet": "parquet", "pq": "parquet",
    "arrow": "arrow", "arrows": "arrow", "feather": "arrow", "ipc": "arrow",
    "nt": "nt", "tsv": "tsv", "txt": "tsv",
}  # fmt: skip
"""By the end of a name, its format."""

GATHERED = 0.8
"""`Initial.gathered` of entities that may be millions. Among 2 million directions of 48 dimensions
some are as near to any one as those that share its common direction with cosine 0.6; a search then
looks for its best by chance all over the base. With 0.8 they are around the same common direction:
100,000 facts are found to recall@32 of .98 among 1.4 % of the rows, where it took 9."""

LEAST_BYTES = 32 << 20
"""Of a budget: below it the libraries that read weigh more than what they read."""

SHARE = 20
"""The part of a worker's budget that a block is of text: its columns, their dictionary and its
sorting, and what the allocator keeps of them, take the rest."""

MOST_BLOCK_BYTES, LEAST_BLOCK_BYTES = 64 << 20, 1 << 18


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How sources are read.

    format: of all of them; `auto` tells it by the ends of their names.
    delimiter: between the fields of `tsv`, one character.
    separator: between several objects in one field; empty, the field is one object.
    columns: of Parquet and Arrow, the three to read.
    relations: what the names of relations begin with whose facts are kept; empty, all are.
    mediators: a file of names, one a line, in UTF-8, plain or compressed: of nodes that stand for a
        fact of more than two entities. Facts into one, (s, r, m), and out of it, (m, q, o), become
        (s, r.q, o), and it is no entity. Empty, none is.
    """

    format: Format = "auto"
    delimiter: str = "\t"
    separator: str = ""
    columns: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    mediators: str = ""

    def __post_init__(self) -> None:
        if self.mediators:
            object.__setattr__(self, "mediators", str(Path(self.mediators).absolute()))
        for name in ("columns", "relations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.format not in FORMATS:
            raise InvalidArgument(
                "format is unknown", got=self.format, expected=f"one of {FORMATS}"
            )
        if len(self.delimiter.encode()) != 1 or self.delimiter in "\n\r":
            raise InvalidArgument("not a delimiter", got=repr(self.delimiter), expected="one byte")
        if len(self.columns) not in (0, 3):
            raise InvalidArgument("columns are not three", got=self.columns)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the memories are: width, shards, index of the facts, and so on, as in `MemoryConfig`.

    probe, maintenance: of that index, as in `IndexConfig`.  seed: of the rows before training.
    initial: what these are; entities are `GATHERED` unless told.  spelt: those of relations are the
    words of their names together, so that words say at once which relation is meant.  stored:
    whether facts keep their keys, as in `EncodingConfig`.  resident_bytes: of the rows of entities,
    and of facts, with storage="mapped".  window: rows that are loaded as one, all or none.
    """

    dim: int = 64
    shards: int = 1
    index: str = "clustered"
    probe: int | None = None
    maintenance: str = "background"
    updates: str = "checkpointed"
    dtype: str = "float32"
    storage: str = "memory"
    resident_bytes: int | None = None
    seed: int = 0
    initial: Initial = Initial(gathered=GATHERED)
    spelt: bool = False
    stored: bool = True
    window: int = 1 << 20

    @property
    def lists(self) -> IndexConfig:
        """The index of the facts."""
        return IndexConfig(
            kind=self.index,  # type: ignore[arg-type]
            probe=self.probe,
            maintenance=self.maintenance,  # type: ignore[arg-type]
        )

    def __post_init__(self) -> None:
        MemoryConfig(
            dim=self.dim,
            shards=self.shards,
            index=self.lists,
            updates=self.updates,  # type: ignore[arg-type]
            dtype=self.dtype,  # type: ignore[arg-type]
            storage=self.storage,  # type: ignore[arg-type]
            resident_bytes=self.resident_bytes,
        )
        if self.seed < 0:
            raise InvalidArgument("seed is out of range", got=self.seed, expected="≥ 0")
        if self.window < 1:
            raise InvalidArgument("window is out of range", got=self.window, expected="≥ 1")


@dataclass(frozen=True)
class Source:
    """One file, as it was when the plan was made."""

    path: str
    form: str
    bytes: int
    modified_ns: int

    def unchanged(self) -> Path:
        """Its path; raises `SourceError` where the file is not what it was."""
        path = Path(self.path)
        stat = path.stat() if path.is_file() else None
        if stat is None or (stat.st_size, stat.st_mtime_ns) != (self.bytes, self.modified_ns):
            raise SourceError(path, None, "another file", "what was there", "begin anew")
        return path


@dataclass(frozen=True)
class Piece:
    """A part of a source that is read alone.  start, end: bytes, row groups or batches."""

    number: int
    source: int
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """Everything that an ingest follows from. name: of the client that loads."""

    name: str
    into: str
    reading: Reading
    layout: Layout
    block_bytes: int
    sources: tuple[Source, ...]
    pieces: tuple[Piece, ...]
    mediators: Source | None

    @classmethod
    def made(
        cls, sources: Sequence[str | Path], into: str, reading: Reading, layout: Layout, share: int
    ) -> Plan:
        """Looks at the sources; raises `SourceError`.  share: the bytes that a worker may hold."""
        block_bytes = min(max(share // SHARE, LEAST_BLOCK_BYTES), MOST_BLOCK_BYTES)
        found = tuple(_source(Path(path).absolute(), reading.format) for path in _files(sources))
        pieces = [
            (number, *cut)
            for number, source in enumerate(found)
            for cut in _cuts(source, block_bytes)
        ]
        return cls(
            f"ingest-{secrets.token_hex(8)}",
            into,
            reading,
            layout,
            block_bytes,
            found,
            tuple(Piece(number, *piece) for number, piece in enumerate(pieces)),
            _source(Path(reading.mediators), "tsv") if reading.mediators else None,
        )

    def save(self, work: Path) -> None:
        files.replace_json(work / "plan.json", {"version": VERSION, **asdict(self)})

    @classmethod
    def load(cls, work: Path) -> Plan:
        """Reads the plan of a work folder; raises `TaskDataError` on one of another version."""
        body: dict[str, Any] = files.read_json(work / "plan.json")
        if body.pop("version") != VERSION:
            raise TaskDataError(
                f"{work} of another version", f"version {VERSION}", "remove it and begin anew"
            )
        body["reading"] = Reading(**body["reading"])
        layout = body["layout"]
        body["layout"] = Layout(**layout | {"initial": Initial(**layout["initial"])})
        body["sources"] = tuple(Source(**each) for each in body["sources"])
        body["pieces"] = tuple(Piece(**each) for each in body["pieces"])
        body["mediators"] = Source(**body["mediators"]) if body["mediators"] else None
        return cls(**body)

    def differs(self, other: Plan) -> str | None:
        """The first thing that another plan says otherwise."""
        same = ("into", "reading", "layout", "sources", "mediators")
        return next((what for what in same if getattr(self, what) != getattr(other, what)), None)

    def check_same(self, other: Plan, work: Path) -> None:
        """Raises `TaskDataError` unless the other, made now, says the same."""
        what = self.differs(other)
        if what is not None:
            raise TaskDataError(
                f"{work}, begun with other {what}",
                f"the same: {getattr(self, what)}",
                "give the same command, or remove the folder and begin anew",
            )
        if other.block_bytes < self.block_bytes:
            raise TaskDataError(
                f"{work}, begun with a larger budget a worker",
                f"blocks of {self.block_bytes:,} bytes",
                "give as much memory, or remove the folder and begin anew",
            )


def _files(sources: Sequence[str | Path]) -> list[Path]:
    """The files named, and those of the folders named, sorted by name."""
    found = list[Path]()
    for source in map(Path, sources):
        inside = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else []
        found += inside or [source]
    if not found:
        raise InvalidArgument("there are no sources", expected="at least one file")
    return found


def _source(path: Path, form: str) -> Source:
    if not path.is_file():
        raise SourceError(path, None, "no file", "a source", "look at its name")
    if form == "auto":
        ends = [end for end in path.suffixes if end not in lines.COMPRESSED]
        form = ENDS.get(ends[-1][1:] if ends else "", "")
        if not form:
            raise SourceError(
                path, None, "an unknown format", f"a name that ends in {sorted(ENDS)}", "name it"
            )
    if form in ("parquet", "arrow") and path.suffix in lines.COMPRESSED:
        raise SourceError(path, None, f"a compressed {form} file", "a plain one", "unpack it")
    stat = path.stat()
    return Source(str(path), form, stat.st_size, stat.st_mtime_ns)


def _cuts(source: Source, block_bytes: int) -> list[tuple[int, int]]:
    path = Path(source.path)
    if source.form in ("parquet", "arrow"):
        return columnar.cuts(path, source.form, block_bytes)
    return lines.cuts(path, block_bytes)
