"""Snapshots: a store as it was at one moment, in a place of its own.

    files/STORE/PATH.CCCCCCCC          a file of the store, C its CRC; it is never changed
    snapshot-NNNNNNNN-RRRRRRRR.json    what a snapshot holds, put last; R is drawn at random

A snapshot of memories that lie on several servers has the files, and the manifests, of all.
A file that is there already is not copied again, whether an earlier snapshot has it or one that
was cut off. Of several snapshots the one of the highest number is the newest.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from memstore import files
from memstore.durable import manifest
from memstore.durable.place import Place, bytes_of
from memstore.errors import NotAStore, UnsupportedVersion

FORMAT, JOINT_FORMAT = 1, 2
"""Of a snapshot of one store, and of one of several parts."""

NAME = re.compile(r"snapshot-(\d{8})-[0-9a-f]{8}\.json")

Progress = Callable[[int, int], None]
"""Is told how many bytes of how many are there."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot that was taken. bytes: of all its files; copied: of those that were not there."""

    uri: str
    number: int
    bytes: int
    copied: int


class Copied(NamedTuple):
    """Bytes of all files, and of those that were not there."""

    bytes: int
    copied: int


def take(
    body: manifest.Body,
    folder: Path,
    place: Place,
    mark: str | None = None,
    progress: Progress | None = None,
) -> Snapshot:
    """Copies what a manifest names out of the folder of its store, and then its list; raises as
    `copy`."""
    size = copy(body, folder, place, progress)
    number = put(place, {"format": FORMAT, "mark": mark, "manifest": body})
    return Snapshot(uri=place.uri, number=number, bytes=size.bytes, copied=size.copied)


def take_joint(
    bodies: Sequence[manifest.Body], sizes: Sequence[Copied], place: Place, mark: str | None
) -> Snapshot:
    """Puts the list of a snapshot of several parts, whose files were copied.

    bodies: the manifests of all parts, in their order.  sizes: of what each copied.
    """
    number = put(place, {"format": JOINT_FORMAT, "mark": mark, "parts": [*bodies]})
    whole = Copied(sum(each.bytes for each in sizes), sum(each.copied for each in sizes))
    return Snapshot(uri=place.uri, number=number, bytes=whole.bytes, copied=whole.copied)


def copy(
    body: manifest.Body, folder: Path, place: Place, progress: Progress | None = None
) -> Copied:
    """Copies the files that a manifest names out of the folder of its store.

    Raises `SnapshotFailed` where the place does not take them, and goes on there when called
    again; `CorruptFile` where a file is not what it was.
    """
    wanted = manifest.files_of(body)
    keys = {path: key_of(body["store"], path, wanted[path]) for path in wanted}
    there = place.sizes(f"files/{body['store']}")
    lacking = [path for path in wanted if there.get(keys[path]) != wanted[path]["bytes"]]
    whole = sum(each["bytes"] for each in wanted.values())
    copied = sum(wanted[path]["bytes"] for path in lacking)

    def one(path: str) -> None:
        source = folder / path
        place.put(keys[path], bytes_of(source), wanted[path], str(source))

    copy_all(one, lacking, wanted, place.copiers, progress)
    return Copied(whole, copied)


def put(place: Place, inside: dict[str, Any]) -> int:
    """Puts the list of a snapshot whose files are there, and returns the number that it gets."""
    number = 1 + max((_number(name) for name in _names(place)), default=0)
    name = f"snapshot-{number:08d}-{secrets.token_hex(4)}.json"
    data = files.to_json({"number": number} | inside)
    place.put(name, [data], files.fingerprint_of(data), name)
    return number


def prune(place: Place, kept: Collection[int]) -> None:
    """Takes away all snapshots at a place but those of some numbers, and the files that only they
    had; also what was left of one that was cut off. None is being taken there meanwhile.
    """
    names = {name: _number(name) for name in _names(place)}
    there = {*names.values()} & {*kept}
    bodies = [body for number in there for body in bodies_of(read(place, number))]
    wanted = {
        key_of(body["store"], path, fingerprint)
        for body in bodies
        for path, fingerprint in manifest.files_of(body).items()
    }
    # What a snapshot lists is there as long as the list is.
    for name, number in names.items():
        if number not in kept:
            place.remove(name)
    for name in place.sizes("files"):
        if name not in wanted:
            place.remove(name)


def copy_all(
    copy: Callable[[str], None],
    lacking: Iterable[str],
    wanted: Mapping[str, files.Fingerprint],
    copiers: int,
    progress: Progress | None,
) -> None:
    """Copies what is lacking, several at a time, and says how far it is."""
    # The largest first, so that none of them is left alone at the end.
    whole = sum(each["bytes"] for each in wanted.values())
    order = sorted(lacking, key=lambda path: -wanted[path]["bytes"])
    done = whole - sum(wanted[path]["bytes"] for path in order)
    with ThreadPoolExecutor(copiers) as pool:
        futures = [pool.submit(copy, path) for path in order]
        try:
            for path, future in zip(order, futures, strict=True):
                if progress is not None:
                    progress(done, whole)
                future.result()
                done += wanted[path]["bytes"]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    if progress is not None:
        progress(whole, whole)


def key_of(store: str, path: str, fingerprint: files.Fingerprint) -> str:
    return f"files/{store}/{path}.{fingerprint['crc32']:08x}"


def _names(place: Place) -> list[str]:
    """The names of the snapshots at a place, rising."""
    return sorted(name for name in place.sizes() if NAME.fullmatch(name))


def _number(name: str) -> int:
    found = NAME.fullmatch(name)
    assert found is not None
    return int(found[1])


def read(place: Place, number: int | None) -> dict[str, Any]:
    names = _names(place)
    known = sorted({_number(name) for name in names})
    if number is not None:
        names = [name for name in names if _number(name) == number]
    if not names:
        raise NotAStore(
            f"{place.uri} has no such snapshot",
            got="the newest" if number is None else f"number {number}",
            expected=f"one of {known}" if known else "any at all",
        )
    text, where = b"".join(place.chunks(names[-1])), f"{place.uri}/{names[-1]}"
    body = files.parse_json(text, where)
    if body.get("format") != (JOINT_FORMAT if "parts" in body else FORMAT):
        raise UnsupportedVersion(
            f"{where} has another format",
            got=body.get("format"),
            expected=f"{FORMAT}, or {JOINT_FORMAT} of several parts",
            hint="restore it with the version of memstore that took it",
        )
    for each in bodies_of(body):
        manifest.check_format(each, where)
    return body


def bodies_of(body: Mapping[str, Any]) -> list[manifest.Body]:
    """The manifests that a snapshot has: that of a store, or of each part of one."""
    return [*body["parts"]] if "parts" in body else [body["manifest"]]
