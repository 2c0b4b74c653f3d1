"""Joining: a store, or one part of one, out of the manifests and files of all parts of another.

Each part has its own shards of every memory, in files that no other part has. What is of a whole
memory, each has its share of: slots are given out by part 0, and how far part rows had gone when
they were last summed is known where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from memstore import files
from memstore.durable import manifest, snapshot
from memstore.durable.checkpoints import Entry, config_of, shards_of
from memstore.encoded import fitted
from memstore.errors import CorruptFile
from memstore.memory import NO_SLOT, Array
from memstore.placement import WHOLE, Part, holders, homes
from memstore.retries import Reply
from memstore.shard import checkpoint
from memstore.shard.requests import Request, RequestWindows
from memstore.spread.held import GIVEN_OUT

JOINED = "encoded-00000000.npz"
GIVEN = "requests-00000000.npz"
"""Files that are made here, of what parts have of a memory."""

Sources = dict[str, tuple[str, files.Fingerprint]]
"""By path in a store that is made: under which name a file lies in the place of snapshots."""

Bodies = Sequence[manifest.Body]
"""The manifests of a snapshot: of a store, or of each part of one."""


def check(bodies: Bodies, where: str) -> None:
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


def sources(bodies: Bodies, part: Part = WHOLE) -> Sources:
    """The files of a snapshot that a store, or a part, is made of."""
    found: Sources = {}
    as_is = len(bodies) == 1 and part == WHOLE
    for number, body in enumerate(bodies):
        wanted = {path: _local(path, number, as_is) for path in _wanted(body, part, len(bodies))}
        for path, fingerprint in manifest.files_of(body).items():
            if path in wanted:
                found[wanted[path]] = snapshot.key_of(body["store"], path, fingerprint), fingerprint
    return found


def joined(bodies: Bodies, draft: Path, part: Part = WHOLE) -> manifest.Body:
    """The manifest of a store, or of a part, whose files lie in a folder as `sources` has them."""
    if len(bodies) == 1 and part == WHOLE:
        return bodies[0]
    memories = {
        name: _entry(name, bodies, draft / manifest.MEMORIES / name, part)
        for name, entry in bodies[0]["memories"].items()
        if part.shards(config_of(entry).shards)
    }
    # Later checkpoints are not to have the name of a file that is here.
    number = max(body["number"] for body in bodies)
    return manifest.head(part) | {"store": "", "number": number, "memories": memories}


def _wanted(body: manifest.Body, part: Part, of: int) -> set[str]:
    """The paths of those files of a store that a part is made of."""
    found = set()
    for name, entry in body["memories"].items():
        own = part.shards(config_of(entry).shards)
        folder = PurePosixPath(manifest.MEMORIES, name)
        for shard, its in shards_of(entry, manifest.part_of(body)):
            names = set(checkpoint.files_of(its)) if shard in own else set()
            if _gives(part, of):
                names |= set(its["requests"].get("files", ()))
            found |= {str(folder / f"shard-{shard}" / name) for name in names}
        if own:
            found |= {str(folder / name) for name in entry["encoded_at"]}
    return found


def _gives(part: Part, of: int) -> bool:
    """Whether it gives out slots, which the one store that the snapshot is of did otherwise."""
    return part != WHOLE and part.number == 0 and of == 1


def _entry(name: str, bodies: Bodies, folder: Path, part: Part) -> Entry:
    first = bodies[0]["memories"][name]
    config = config_of(first)
    held = [body["memories"][name] for body in bodies[: holders(config.shards, len(bodies))]]
    shards = {
        shard: its
        for number, entry in enumerate(held)
        for shard, its in shards_of(entry, Part(number, len(bodies)))
    }
    if _gives(part, len(bodies)):
        shards[0] = shards[0] | {"requests": _given(folder, shards)}
    encoded_at: dict[str, files.Fingerprint] = {}
    if config.encoding is not None:
        arrays = travels(_told(folder, held), name, bodies, part)
        path = folder / JOINED
        path.unlink(missing_ok=True)
        encoded_at[JOINED] = files.make(path, lambda file: files.arrays_to(file, arrays))
    own = part.shards(config.shards)
    return {
        "config": first["config"],
        "next_slot": max(entry["next_slot"] for entry in held),
        "state": [sum(entry["state"][i] for entry in held) for i in range(len(first["state"]))],
        "log": {"name": "", "after": [0] * len(own)},
        "shards": [shards[shard] for shard in own],
        "encoded_at": encoded_at,
    }


def _told(folder: Path, entries: Sequence[Entry]) -> list[dict[str, Array]]:
    """What each part knows of the rows that are summed."""
    told = []
    for number, entry in enumerate(entries):
        arrays: dict[str, Array] = {}
        for name in entry["encoded_at"]:
            path = folder / _numbered(name, number)
            arrays = files.arrays_of(path)
            path.unlink()
        told.append(arrays)
    return told


def travels(
    told: Sequence[dict[str, Array]], name: str, bodies: Bodies, part: Part
) -> dict[str, Array]:
    """How far part rows had gone when they were last summed: of each, as its server has it.

    told: of each part that has something of the memory.  part: the rows of others are left out.
    """
    memories = {n: config_of(entry) for n, entry in bodies[0]["memories"].items()}
    whole = {}
    for column, of in memories[name].encoding_config.key.items():
        length = max((len(arrays.get(column, ())) for arrays in told), default=0)
        rows_P, travel_P = np.arange(length), np.zeros(length)
        home_P = homes(rows_P, memories[of].shards, len(bodies))
        for number, arrays in enumerate(told):
            if column in arrays:
                own_P = home_P == number
                travel_P[own_P] = fitted(arrays[column], length)[own_P]
        whole[column] = own_travels(travel_P, memories[of].shards, part)
    return whole


def own_travels(travel_P: Array, shards: int, part: Part) -> Array:
    """The same with zeros for the rows of other parts."""
    home_P = homes(np.arange(len(travel_P)), shards, part.of)
    return np.where(home_P == part.number, travel_P, 0.0)


def _given(folder: Path, shards: dict[int, Entry]) -> Entry:
    """What a manifest has of the windows of shard 0, where it is to give out slots."""
    windows = []
    for shard, its in sorted(shards.items()):
        windows.append(RequestWindows())
        for name in its["requests"].get("files", ()):
            windows[-1].restore(files.arrays_of(folder / f"shard-{shard}" / name))
    after, path = given_out(windows[0], windows), folder / "shard-0" / GIVEN
    path.unlink(missing_ok=True)
    arrays = after.arrays()
    made = files.make(path, lambda file: files.arrays_to(file, arrays))
    return {"noted": max(after.noted, 1), "files": {GIVEN: made}}


def given_out(own: RequestWindows, every: Sequence[RequestWindows]) -> RequestWindows:
    """The windows of shard 0, where it is to give out slots: what each append was given is told
    again to who asks for it again, as if it had been given out here.

    every: of all shards.
    """
    firsts: dict[str, dict[int, Request]] = {}
    for windows in every:
        for name, (_, requests) in windows.known().items():
            for request in requests if not name.startswith(GIVEN_OUT) else ():
                reply = Reply.unpacked(request.reply)
                if reply.first != NO_SLOT:
                    told = Reply(asked=reply.of, of=reply.of, first=reply.first).packed()
                    given = Request(GIVEN_OUT + name, request.number, request.digest, told)
                    firsts.setdefault(given.client, {})[given.number] = given
    after = RequestWindows()
    for name, (low, requests) in own.known().items():
        after.forget(name, low)
        known = {request.number: request for request in requests} | firsts.pop(name, {})
        for _, request in sorted(known.items()):
            after.note(request)
    for given_to in firsts.values():
        for _, request in sorted(given_to.items()):
            after.note(request)
    return after


def _local(path: str, number: int, as_is: bool) -> str:
    """Where a file lies: those of a whole memory beside those of other parts."""
    pure = PurePosixPath(path)
    if not as_is and pure.name.startswith("encoded-"):
        return str(pure.with_name(_numbered(pure.name, number)))
    return path


def _numbered(name: str, number: int) -> str:
    return f"part-{number}-{name}"
