"""Restoring: a store out of a snapshot, with the shards it had or with others; or its memories."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyarrow import fs

from memstore import checks, files
from memstore.config import MOST_SHARDS
from memstore.contents import encoded
from memstore.disk import DISK
from memstore.durable import belonging, joining, manifest, resharding, snapshot
from memstore.durable.checkpoints import MemoryCheckpoints, config_of, load, shards_of
from memstore.durable.place import Place, not_as_it_was
from memstore.embedded import EmbeddedMemory
from memstore.encoded import EncodedMemory
from memstore.errors import CorruptFile, InvalidArgument, NotAStore
from memstore.placement import FIRST_TURN, WHOLE, Part, draw_made, holders
from memstore.store import Store
from memstore.sums import keyless_spread

RESTORING = "restoring"
"""The folder of a store where files lie that are fetched into it."""

Shards = int | Mapping[str, int] | None


def restore(
    uri: str | Path,
    path: str | Path,
    *,
    shards: Shards = None,
    number: int | None = None,
    part: Part = WHOLE,
    filesystem: fs.FileSystem | None = None,
    progress: snapshot.Progress | None = None,
) -> None:
    """Makes a store at `path`, which is not there yet, of the newest snapshot at an address.

    shards: into how many the memories, or those named, are cut from now on; None leaves them.
    number: of another snapshot than the newest.  part: makes that part of several alone, whatever
    the snapshot was of; where memories are cut into other shards, each reads them whole.
    filesystem: where `uri` is a path.  progress: is called with the bytes that are there and those
    that there will be.

    What was fetched when it is cut off is not fetched again. Raises `NotAStore` where there is no
    snapshot, or something at `path`; `SnapshotFailed` where the address is not reached;
    `CorruptFile` and `UnsupportedVersion` on files that are not to be read.
    """
    target = Path(path).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise NotAStore(
            f"{target} is there already", hint="restore to a path where there is nothing"
        )
    place = Place(uri, filesystem)
    bodies = _bodies(place, number)
    counts, before = _counts(bodies[0], shards), _counts(bodies[0], None)
    _check_parts(bodies[0], counts, part)
    fetched = part if counts == before else WHOLE
    draft = target.with_name(target.name + ".restoring")
    with files.typed("a store that is restored"):
        files.make_folder(draft)
        with files.lock(draft / "RESTORING"):
            _fetch(joining.sources(bodies, fetched), place, draft, progress)
            _found(joining.joined(bodies, draft, fetched), draft)
            if counts != before:
                draft = _cut(draft, target, counts, part)
            (draft / "RESTORING").unlink(missing_ok=True)
            if target.exists():
                target.rmdir()
            draft.rename(target)
        DISK.sync_folder(target.parent)


def restore_into(
    store: Store,
    uri: str | Path,
    *,
    number: int | None = None,
    filesystem: fs.FileSystem | None = None,
    progress: snapshot.Progress | None = None,
    made: int = 0,
) -> list[str]:
    """Makes the memories of a snapshot in a store that is open, all or none; returns their names.

    As `restore` otherwise; in a part, what lies there of them, made under that number. Raises
    `MemoryExists` where a name is taken, `StoreLocked` while another is restored into this store.
    """
    place = Place(uri, filesystem)
    bodies = _bodies(place, number)
    _check_parts(bodies[0], _counts(bodies[0], None), store.part)
    store.check_free(bodies[0]["memories"])
    draft = store.path / RESTORING
    with files.typed("memories that are restored"):
        files.make_folder(draft)
        with files.lock(draft / "RESTORING"):
            _fetch(joining.sources(bodies, store.part), place, draft, progress)
            memories = _memories(joining.joined(bodies, draft, store.part), draft, store)
            store.adopt(memories, made=made)
            shutil.rmtree(draft, ignore_errors=True)
    return sorted(bodies[0]["memories"])


def _bodies(place: Place, number: int | None) -> list[manifest.Body]:
    """The manifests of a snapshot: of one store, or of all parts of one."""
    bodies = snapshot.bodies_of(snapshot.read(place, number))
    joining.check(bodies, place.uri)
    return bodies


def snapshot_names(uri: str | Path, number: int | None) -> tuple[list[str], int]:
    """The memories of a snapshot, parts before what is encoded from them, and its number."""
    inside = snapshot.read(Place(uri), number)
    memories = snapshot.bodies_of(inside)[0]["memories"]
    names = sorted(memories, key=lambda n: (config_of(memories[n]).encoding is not None, n))
    return names, inside["number"]


def _memories(
    body: manifest.Body, draft: Path, store: Store
) -> dict[str, EmbeddedMemory | EncodedMemory]:
    """The memories whose files were fetched, parts before what is encoded from them."""
    plain: dict[str, EmbeddedMemory] = {}
    made: dict[str, EmbeddedMemory | EncodedMemory] = {}
    checkpoints: list[MemoryCheckpoints] = []
    for name, entry in sorted(
        body["memories"].items(), key=lambda item: item[1]["config"]["encoding"] is not None
    ):
        config = config_of(entry)
        base = store.empty(name, config, entry["next_slot"], store.path)
        made[name] = base
        if config.encoding is None:
            plain[name] = base
        else:
            made[name] = encoded(base, plain)
        folder = draft / manifest.MEMORIES / name
        checkpoints.append(MemoryCheckpoints(made[name], folder, entry["log"]["name"], entry))
    load(checkpoints)
    return made


def _found(body: manifest.Body, draft: Path) -> None:
    """Makes a store of files that were fetched: another one, with logs of its own."""
    body["store"] = secrets.token_hex(8)
    part = manifest.part_of(body)
    # Of parts the first making: their cluster is another than that of whoever knows a number.
    made = draw_made() if part == WHOLE else FIRST_TURN
    body |= {} if part == WHOLE else {"turn": made}
    for entry in body["memories"].values():
        entry["made"] = made
        entry["log"] = {"name": secrets.token_hex(8), "after": [0] * len(entry["shards"])}
        for shard, _ in shards_of(entry, part):
            files.make_folder(draft / manifest.LOGS / entry["log"]["name"] / f"shard-{shard}")
    manifest.write(draft / manifest.NAME, body)
    if part != WHOLE:
        closed = draft / belonging.CLOSED
        closed.unlink(missing_ok=True)
        files.make(closed, lambda file: None)


def _cut(draft: Path, target: Path, counts: Mapping[str, int], part: Part) -> Path:
    """A store like the draft, or a part of it, whose memories have other numbers of shards, in its
    place."""
    again = target.with_name(target.name + ".resharding")
    shutil.rmtree(again, ignore_errors=True)
    resharding.reshard(draft, again, counts, part)
    shutil.rmtree(draft)
    return again


def _fetch(
    keys: joining.Sources, place: Place, draft: Path, progress: snapshot.Progress | None
) -> None:
    wanted = {path: fingerprint for path, (_, fingerprint) in keys.items()}

    def lacks(path: str) -> bool:
        try:
            files.check(draft / path, wanted[path])
        except CorruptFile:
            return True
        return False

    def copy(path: str) -> None:
        key, local = keys[path][0], draft / path
        # Under its name only once it is durable: what is there is not fetched again.
        part = local.with_name(local.name + ".part")
        part.unlink(missing_ok=True)
        found = files.make(part, lambda file: [file.write(c) for c in place.chunks(key)])
        if found != wanted[path]:
            part.unlink()
            raise not_as_it_was(f"{place.uri}/{key}", found, wanted[path])
        part.replace(local)

    with ThreadPoolExecutor(place.copiers) as pool:
        kept = dict(zip(wanted, pool.map(lacks, wanted), strict=True))
    for folder in {(draft / path).parent for path in wanted}:
        files.make_folder(folder)
    snapshot.copy_all(
        copy, [path for path in wanted if kept[path]], wanted, place.copiers, progress
    )
    for folder in {(draft / path).parent for path in wanted}:
        DISK.sync_folder(folder)


def _check_parts(body: manifest.Body, counts: Mapping[str, int], part: Part) -> None:
    """Raises `InvalidArgument` where an encoded memory would lie on fewer servers than parts, and
    `Unsupported` where it keeps no keys and would lie on several."""
    for name, entry in body["memories"].items():
        config = config_of(entry)
        if part != WHOLE and not config.keeps_keys:
            raise keyless_spread(name)
        for of in () if config.encoding is None else sorted(config.encoding_config.memories):
            if holders(counts[of], part.of) > holders(counts[name], part.of):
                raise InvalidArgument(
                    f"memory {name!r} would not lie on all servers that memory {of!r} lies on",
                    got=f"{counts[name]} shards",
                    expected=f"≥ {holders(counts[of], part.of)}",
                )


def _counts(body: manifest.Body, shards: Shards) -> dict[str, int]:
    """Into how many shards each memory is to be cut."""
    memories = body["memories"]
    counts = {name: config_of(entry).shards for name, entry in memories.items()}
    if shards is None:
        return counts
    asked = shards if isinstance(shards, Mapping) else dict.fromkeys(counts, shards)
    unknown = sorted(asked.keys() - counts.keys())
    if unknown:
        raise InvalidArgument(
            "the snapshot has no such memory", got=unknown, expected=f"among {sorted(counts)}"
        )
    for name, count in asked.items():
        if checks.positive(f"shards of {name!r}", count) > MOST_SHARDS:
            raise InvalidArgument(
                f"shards of {name!r} are too many", got=count, expected=f"≤ {MOST_SHARDS}"
            )
    return counts | dict(asked)
