"""Ingests: from files of facts to the memories `words`, `entities`, `relations` and `facts`.

    ingest(["facts.tsv.gz"], "knowledge")         # a store
    ingest(["facts/"], "ray:memstore/facts")      # servers

Five stages, each of tasks that leave a file when they are done: reading, merging the names,
numbering the facts, grouping them, loading, behind which the facts are indexed. Where mediators are
named, these are listed before, and facts are joined past them once all are read. Whoever is killed
goes on behind the last whole file, or the last whole window of rows.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from memstore import EncodingConfig, MemoryConfig, files
from memstore.errors import InvalidArgument, MemoryExists
from memstore.sums import keyless_spread
from models.tasks.knowledge import TaskDataError
from workers import folders
from workers.checkpoints import Holder
from workers.ingest import dictionary, grouping, joining, keeping, mediators, runs, scheduling
from workers.ingest.errors import SourceError
from workers.ingest.plan import LEAST_BYTES, SHARE, Layout, Plan, Reading
from workers.ingest.rows import DRAWN, Rows
from workers.ingest.targets import Target, is_served, target
from workers.stopping import whole

MEMORIES = ("words", "entities", "relations", "facts")

STAGES = ("mediators", "runs", "names", "facts", "groups")
"""Folders of what is in between."""

FAILED = "failed"
"""A file of the work folder: a source or the command was wrong, and nothing had been loaded."""

MEMORY_BYTES = 1 << 30
"""Default of a budget: blocks of 64 MiB of text for one worker."""

REJECT_SHARE = 0.01
"""Default of the share of lines that may be broken."""

MOST_FILLS = 5
"""How often a memory is filled anew where a load broke off and was taken back."""

ENOUGH_LINES = 100_000
"""Lines from which on the share of broken ones is judged before all are read."""

Progress = Callable[[str, int, int], None]
"""Told of (what, done, of how many)."""


@dataclass(frozen=True)
class Report:
    """What an ingest did.

    lines: read.  rejected: of them, broken.  given: facts in the others.  facts: rows made of
    them, one for each subject and relation.  seconds: of the last run.  left_out: facts, not among
    those given, of relations that are not wanted.

    mediators: named.  joined: facts, of those given, at a mediator, that became part of one past
    it.  made: these, a pair each.  The other facts at mediators are left out.  alone: no fact of
    the mediator goes on to another entity.  crowded: it has more than `joining.MOST_PAIRS` pairs.
    between: from one mediator to another, or itself.
    """

    lines: int
    rejected: int
    given: int
    entities: int
    relations: int
    facts: int
    seconds: float
    left_out: int = 0
    mediators: int = 0
    joined: int = 0
    made: int = 0
    alone: int = 0
    crowded: int = 0
    between: int = 0


def ingest(
    sources: Sequence[str | Path],
    into: str | Path,
    *,
    reading: Reading = Reading(),
    layout: Layout = Layout(),
    memory_bytes: int = MEMORY_BYTES,
    workers: int = 1,
    reject_share: float = REJECT_SHARE,
    work: Path | None = None,
    holder: Holder | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Ingests files, or all files of folders, into a store or servers; goes on where it stopped.

    into: a directory, `ray:NAMESPACE/NAME`, or `HOST:PORT` of servers that ask for no token.
    memory_bytes: what all workers hold at a time of what they read and merge, at least 32 MiB
        each; beside it stand the libraries, 24 bytes an entity, and the rows of a store.
    workers: processes that read and merge; more than one are Ray's.
    reject_share: of lines that may be broken, 0 to 1; with more it is `SourceError`. They are
        counted, and the first of each block are in `rejects.jsonl`.
    work: a folder for what is in between, about three times as large as plain sources; on disks
        that all workers see. DIR.ingest unless told. Of a whole ingest the report stays there,
        and the same call then does nothing.
    holder: what is open already of `into`; the caller closes it.

    Raises `SourceError` for what is wrong with a source, `TaskDataError` where the work folder is
    of another call, `MemoryExists` where a memory is there that it did not make.
    """
    if workers < 1 or memory_bytes < LEAST_BYTES * workers:
        raise InvalidArgument(
            "the budget is too small",
            got=f"memory_bytes={memory_bytes}, workers={workers}",
            expected=f"workers ≥ 1, ≥ {LEAST_BYTES} bytes each",
        )
    if not 0 <= reject_share <= 1:
        raise InvalidArgument("not a share", got=reject_share, expected="0 to 1")
    into = str(into) if is_served(str(into)) else _directory(str(into))
    work = Path(work).absolute() if work is not None else _beside(into)
    folders.make(work, "the work folder")
    with files.lock(work / "LOCK"):
        begun = time.perf_counter()
        found = Plan.made(sources, into, reading, layout, memory_bytes // workers)
        plan = _planned(work, found, holder)
        if (work / "report.json").exists():
            if not (is_served(into) or Path(into).exists()):
                raise TaskDataError(
                    f"no store {into}, into which all was ingested",
                    "the store",
                    f"remove {work} too to begin anew",
                )
            return Report(**files.read_json(work / "report.json"))
        scheduler = scheduling.scheduler(workers, memory_bytes)
        try:
            report = _Ingest(work, plan, scheduler, reject_share, progress, holder).run(begun)
        finally:
            scheduler.close()
        files.replace_json(work / "report.json", asdict(report))
        _clear(work)
        return report


def _directory(into: str) -> str:
    """The directory of a store, absolute; raises `InvalidArgument` where it names storage."""
    if "://" in into:
        raise InvalidArgument(
            "rows are not ingested into that", got=repr(into), expected="DIR, ray:… or HOST:PORT"
        )
    return str(Path(into).absolute())


def _planned(work: Path, found: Plan, holder: Holder | None) -> Plan:
    """The plan of the work folder; a new one where there is none, or that of another command which
    failed before it loaded anything."""
    failed = work / FAILED
    plan = Plan.load(work) if (work / "plan.json").exists() else None
    if plan is not None and not (failed.exists() and plan.differs(found)):
        plan.check_same(found, work)
        failed.unlink(missing_ok=True)
        if is_served(plan.into):
            # Also: of `ray:…`, the Ray is known by then whose workers read.
            target(plan.into, plan.name, holder).close()
        return plan
    where = target(found.into, found.name, holder)
    try:
        taken = sorted(set(where.names()) & set(MEMORIES))
        if not found.layout.stored and where.parts() > 1:
            raise keyless_spread("facts")
    finally:
        where.close()
    if taken:
        raise MemoryExists(
            f"memories {taken} are there already", hint="drop them, or ingest into another store"
        )
    _clear(work)
    found.save(work)
    failed.unlink(missing_ok=True)
    return found


def _clear(work: Path) -> None:
    for folder in STAGES:
        keeping.remove(work / folder)


class _Ingest:
    """One run of a plan, from whatever is there of it."""

    def __init__(
        self,
        work: Path,
        plan: Plan,
        scheduler: scheduling.Scheduler,
        reject_share: float,
        progress: Progress,
        holder: Holder | None,
    ) -> None:
        self._holder = holder
        self._work, self._plan, self._scheduler = work, plan, scheduler
        self._reject_share, self._progress = reject_share, progress
        self._mediators = 0
        for name in STAGES:
            files.make_folder(work / name)
            keeping.sweep(work / name)

    def run(self, begun: float) -> Report:
        try:
            made, joined, rows = self._made()
        except (SourceError, TaskDataError):
            (self._work / FAILED).touch()
            raise
        self._load(rows)
        total = {name: sum(each[name] for each in made) for name in runs.COUNTED}
        past = {name: sum(each[name] for each in joined) for name in joining.COUNTED}
        return Report(
            lines=total["lines"],
            rejected=total["rejected"],
            given=total["facts"] + total["sides"] + total["between"],
            entities=rows.count["entities"],
            relations=rows.count["relations"],
            facts=rows.count["facts"],
            seconds=time.perf_counter() - begun,
            left_out=total["left_out"],
            mediators=self._mediators,
            between=total["between"],
            **past,
        )

    def _made(self) -> tuple[list[runs.Made], list[runs.Made], Rows]:
        """All stages but the last; what was read and joined, and the rows to be loaded."""
        self._mediators = self._list()
        made = self._read()
        names = runs.names(self._plan, made)
        joined = self._join(names) if self._mediators else []
        names += joining.names(joined)
        firsts = self._merge(names)
        entities, relations = int(firsts["entities"][-1]), int(firsts["relations"][-1])
        grouping.check_counts(entities, relations)
        self._number(names, firsts)
        groups = self._group(names, entities, relations)
        rows = Rows(
            self._work,
            firsts,
            groups,
            dim=self._plan.layout.dim,
            seed=self._plan.layout.seed,
            batch=self._batch(),
            initial=self._plan.layout.initial,
            spelt=self._plan.layout.spelt,
        )
        return made, joined, rows

    def _list(self) -> int:
        """Lists the mediators; returns how many there are."""
        source = self._plan.mediators
        if source is None:
            return 0
        self._progress("Listing mediators", 0, 1)
        count = mediators.listed(self._work, source, self._plan.block_bytes)
        self._progress("Listing mediators", 1, 1)
        return count

    def _join(self, names: list[str]) -> list[runs.Made]:
        ranges = joining.cut(self._work, names, self._plan.block_bytes // 2)
        task = partial(_join, self._work, names, self._plan.block_bytes // 16)
        return self._stage("Joining facts", task, ranges)

    def _read(self) -> list[runs.Made]:
        pieces = self._plan.pieces
        total, done = sum(source.bytes for source in self._plan.sources), 0
        made: list[Any] = [None] * len(pieces)
        lines = rejected = 0
        self._progress("Reading", 0, total)
        task = partial(_read, self._work, self._plan)
        for number, of_piece in self._scheduler.each(task, range(len(pieces))):
            made[number] = of_piece
            done += of_piece["bytes"]
            lines, rejected = lines + of_piece["lines"], rejected + of_piece["rejected"]
            if lines >= ENOUGH_LINES:
                self._check_share(lines, rejected, made)
            self._progress("Reading", done, total)
        self._check_share(lines, rejected, made)
        self._keep_rejects(made)
        return made

    def _check_share(self, lines: int, rejected: int, made: list[Any]) -> None:
        if rejected <= self._reject_share * lines:
            return
        first = self._keep_rejects(made)
        raise SourceError(
            first["file"],
            first["line"],
            f"{rejected:,} broken lines of {lines:,}, the first",
            f"at most {self._reject_share:.2%}",
            f"look at {self._work / 'rejects.jsonl'}, or allow more by reject_share",
        )

    def _keep_rejects(self, made: list[Any]) -> dict[str, Any]:
        """Keeps the first broken lines of each block, with their places; returns the first one."""
        lines: dict[int, int | None] = {}
        found = list[dict[str, Any]]()
        for piece, of_piece in zip(self._plan.pieces, made, strict=True):
            before = lines.get(piece.source, 0)
            if of_piece is None:  # others were faster: what follows has no number
                lines[piece.source] = None
                continue
            for number in range(of_piece["blocks"]):
                run = self._work / "runs" / f"{piece.number:06}-{number:06}.json"
                block = files.read_json(run)
                for reject in block["sample"]:
                    line = None if before is None else before + reject.pop("line")
                    path = self._plan.sources[piece.source].path
                    found.append({"file": path, "line": line, **reject})
                before = None if before is None else before + block["lines"]
            lines[piece.source] = before
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found)
        keeping.put(self._work / "rejects.jsonl", lambda file: file.write(text.encode()))
        return found[0] if found else {"file": self._work, "line": None}

    def _merge(self, names: list[str]) -> dict[str, np.ndarray]:
        """Merges the dictionaries; returns by kind where its ranges begin, and the count of all."""
        firsts = {}
        for kind in runs.KINDS:
            ranges = dictionary.cut(self._work, kind, names, self._plan.block_bytes)
            task = partial(_merge, self._work, kind, names)
            counts = self._stage(f"Merging {kind}", task, ranges)
            firsts[kind] = np.cumsum([0, *counts])
        return firsts

    def _number(self, names: list[str], firsts: dict[str, np.ndarray]) -> None:
        task = partial(_number, self._work, names, firsts)
        self._stage("Numbering facts", task, len(names))

    def _group(self, names: list[str], entities: int, relations: int) -> list[int]:
        facts = self._plan.block_bytes // 8
        ranges = grouping.cut(self._work, names, max(entities, 1), facts)
        task = partial(_group, self._work, names, entities, relations)
        return self._stage("Grouping facts", task, ranges)

    def _stage(self, what: str, task: scheduling.Task, count: int) -> list[Any]:
        results: list[Any] = [None] * count
        self._progress(what, 0, count)
        for done, (number, result) in enumerate(self._scheduler.each(task, range(count)), 1):
            results[number] = result
            self._progress(what, done, count)
        return results

    def _batch(self) -> int:
        """Rows of a batch: whole draws, of whose keys several copies are made on the way."""
        share = self._plan.block_bytes * SHARE // (self._plan.layout.dim * 4 * 8)
        return min(max(share // DRAWN, 1), 8) * DRAWN

    def _load(self, rows: Rows) -> None:
        where = target(self._plan.into, self._plan.name, self._holder)
        try:
            for name in MEMORIES:
                self._fill(where, name, rows)
            if self._plan.layout.lists.sealed:
                self._progress("Indexing facts", 0, 1)
                where.index("facts")
                self._progress("Indexing facts", 1, 1)
        finally:
            where.close()

    def _fill(self, where: Target, name: str, rows: Rows) -> None:
        for _ in range(MOST_FILLS):
            if self._filled(where, name, rows):
                return
            # Number i would not be slot i any more, which the facts rely on.
            where.drop(name)
        raise TaskDataError(
            f"{MOST_FILLS} loads of {name!r} that broke off", "one that does not", "look at servers"
        )

    def _filled(self, where: Target, name: str, rows: Rows) -> bool:
        """Loads the windows that are not there; whether the slots have no holes then."""
        config, total, step = (
            config_of(name, self._plan.layout),
            rows.count[name],
            self._plan.layout.window,
        )
        if name not in where.names():
            where.create(name, config)
        elif where.config(name) != config:
            raise MemoryExists(f"memory {name!r} is there with another configuration")
        there = where.rows(name)
        if there is None:
            return False
        if there > total:
            raise TaskDataError(
                f"{there:,} rows in {name!r}", f"at most {total:,}", "others wrote there: drop it"
            )
        self._progress(f"Loading {name}", there, total)
        # An interrupt in the middle of a window would have the memory filled anew.
        for first in whole(range(there // step * step, total, step)):
            last = min(first + step, total)
            if there < last:
                batches = partial(rows.between, name, first, last)
                where.load(name, first // step, last - first, batches)
                keeping.give_back()
                if where.rows(name) != last:
                    return False
            self._progress(f"Loading {name}", last, total)
        return True


def config_of(name: str, layout: Layout) -> MemoryConfig:
    """The configuration of one of the memories."""
    same: dict[str, Any] = {
        "dim": layout.dim,
        "shards": layout.shards,
        "dtype": layout.dtype,
        "storage": layout.storage,
        "resident_bytes": layout.resident_bytes if name in ("entities", "facts") else None,
        "updates": layout.updates,
    }
    if name == "facts":
        return MemoryConfig(
            index=layout.lists,
            records={"subject": "int64", "relation": "int64", "objects": "list<int64>"},
            lookup=("subject",),
            encoding=EncodingConfig(
                key={"subject": "entities", "relation": "relations"},
                value={"objects": "entities"},
                stored=layout.stored,
            ),
            **same,
        )
    named = "word" if name == "words" else "name"
    records = {named: "string"} | ({"weight": "int64"} if name == "entities" else {})
    return MemoryConfig(index="none", records=records, lookup=(named,), **same)


# Tasks: a number alone is told to a worker, beside what all have in common.
def _read(work: Path, plan: Plan, number: int) -> runs.Made:
    return runs.read_piece(work, plan, plan.pieces[number])


def _join(work: Path, names: list[str], most_facts: int, number: int) -> runs.Made:
    return joining.join(work, names, number, most_facts)


def _merge(work: Path, kind: str, names: list[str], number: int) -> int:
    return dictionary.merge(work, kind, names, number)


def _number(work: Path, names: list[str], firsts: dict[str, np.ndarray], number: int) -> int:
    return grouping.number(work, names, number, firsts)


def _group(work: Path, names: list[str], entities: int, relations: int, number: int) -> int:
    return grouping.group(work, names, number, entities, relations)


def _beside(into: str) -> Path:
    """The work folder of a target."""
    if is_served(into):
        return Path("runs", "ingest-" + re.sub(r"[^\w.-]+", "-", into)).absolute()
    return Path(f"{into}.ingest")
