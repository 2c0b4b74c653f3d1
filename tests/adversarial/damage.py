"""The files of a store, and what a disk may do to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.adversarial.stores import MANIFEST

DATA = [
    "blocks.bin",
    "rows.arrow",
    "records.arrow",
    "lines.npy",
    "encoded.npz",
    "requests.npz",
    MANIFEST,
]
INDEX = ["codebook.faiss", "segment-0.faiss", "segment-1.faiss", "tiers.npz"]


def contents(folder: Path) -> dict[str, bytes]:
    every = (path for path in folder.rglob("*") if path.is_file() and path.name != "LOCK")
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


def found(store: Path, name: str) -> list[Path]:
    return sorted(path for path in store.rglob("*") if plain(path.name) == name)


def plain(name: str) -> str:
    """The name of a file without the number of the checkpoint that wrote it."""
    return re.sub(r"-\d{8}", "", name)


def cut_to(share: float) -> Callable[[bytes], bytes | None]:
    return lambda data: data[: int(share * len(data))]


def flip(share: float, bit: int) -> Callable[[bytes], bytes | None]:
    def damage(data: bytes) -> bytes:
        at = min(int(share * len(data)), len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "emptied": cut_to(0.0),
    "cut at a quarter": cut_to(0.25),
    "cut by half": cut_to(0.5),
    "last byte lost": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\0",
    "first bit flipped": flip(0.0, 0),
    "a bit flipped within": flip(0.5, 3),
    "last bit flipped": flip(1.0, 7),
    "zeroed": lambda data: bytes(len(data)),
    "missing": lambda data: None,
}


def apply(damage: Callable[[bytes], bytes | None], path: Path) -> None:
    data = damage(path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
