"""Stream: what the owners of a store put on a shelf, one after another, by term and sequence.

    ops/TTTTTTTTTT-SSSSSSSSSSSS     the object S of the owner of term T, or the seal of its term
    base/TTTTTTTTTT-SSSSSSSSSSSS.*  objects that say the same as all up to that one; `whole` last

An owner puts its objects at 1, 2, 3 …, each if absent. Who opens the store under a higher term
reads up to the end, and puts a seal there, if absent, that names its own term: what follows is its
own 1, 2, 3 … From then on the owner before finds the seal where it would put its next object, and
puts nothing more, whenever it wakes up: a seal is never taken away. Term 0 is nobody's, and empty.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterable

from memstore.disk import Superseded
from memstore.errors import CorruptFile, StoreLocked
from memstore.shared.ahead import Ahead
from memstore.shared.shelf import Shelf

OPS, BASES, WHOLE = "ops", "base", ".whole"
SEAL = b"seal "
TRIES = 10
"""To open while the owner before still puts objects and takes old ones away."""

Position = tuple[int, int]
"""A term, and a sequence number in it: rises with time."""


class Stream:
    """The stream of one store as the owner of a term has it. One thread puts at a time."""

    def __init__(self, shelf: Shelf, term: int) -> None:
        self._shelf, self.term = shelf, term
        self.sequence = 0

    @classmethod
    def open(
        cls, shelf: Shelf, term: int, begin: Callable[[], Callable[[bytes, str], None]]
    ) -> Stream:
        """Reads all that is there, seals it, and goes on as a new term, higher than all before.

        begin: starts anew with nothing, and gives what takes each object in, with its name.
        Raises `StoreLocked` where a term as high has begun, `CorruptFile` where objects lack.
        """
        for _ in range(TRIES):
            base = _newest_base(shelf)
            take, at = begin(), base or (0, 0)
            if base is not None and not _read_base(shelf, base, take):
                continue  # It was taken away while it was read: there is a newer one.
            end = _sealed_by(shelf, at, term, take)
            if _is_end(shelf, end):
                return cls(shelf, term)
        raise CorruptFile(
            "the objects of the store are not to be read one after another",
            got=f"the newest base {base}",
            hint="restore them from a copy",
        )

    @property
    def position(self) -> Position:
        return self.term, self.sequence

    def put(self, data: bytes) -> None:
        """Puts the next object; raises `Superseded` where a newer term has begun, and another
        `OSError` where nobody knows whether it is there."""
        if not self._shelf.put(_op(self.term, self.sequence + 1), data):
            raise Superseded(f"a newer term than {self.term} has begun")
        self.sequence += 1

    @property
    def sealed(self) -> bool:
        """Whether a newer term has begun, as far as is known now."""
        data = self._shelf.get(_op(self.term, self.sequence + 1))
        return data is not None and data.startswith(SEAL)

    def rebase(self, at: Position, objects: Iterable[bytes]) -> None:
        """Puts objects that say what all up to a position do, and takes those away.

        Beside others that put. Stops, with what was there, where a newer term has begun.
        """
        name, count = f"{BASES}/{_place(at)}", 0
        for count, data in enumerate(objects, 1):
            self._shelf.put(f"{name}.{count:08d}", data)
        if self.sealed or not self._shelf.put(name + WHOLE, str(count).encode()):
            return
        old = _behind(self._shelf.names(OPS), at)
        self._shelf.remove(f"{OPS}/{name}" for name in old)
        # `whole` is the last of the names: without it the others are not a base.
        old = [name for name in self._shelf.names(BASES) if _position(name) < at]
        self._shelf.remove(f"{BASES}/{name}" for name in reversed(old))


def _sealed_by(
    shelf: Shelf, at: Position, term: int, take: Callable[[bytes, str], None]
) -> Position:
    """Reads all behind a position and puts the seal of a term at the end; returns where."""
    own, (now, sequence) = SEAL + json.dumps([term, secrets.token_hex(8)]).encode(), at
    with Ahead(shelf) as ahead:
        while True:
            name = _op(now, sequence + 1)
            data = ahead.get(name, lambda more: _op(now, sequence + 1 + more))  # noqa: B023
            if data is None:
                if now >= term:
                    raise _locked(term, now)
                if shelf.put(name, own):
                    return now, sequence + 1
            elif data.startswith(SEAL):
                following = json.loads(data[len(SEAL) :])[0]
                if following >= term:
                    raise _locked(term, following)
                now, sequence = following, 0
            else:
                take(data, name)
                sequence += 1


def _behind(names: list[str], at: Position) -> list[str]:
    """Of rising names, those that a base at a position stands for: all up to it but the seals, each
    the last of a term before."""
    following = [_position(name) for name in names[1:]] + [at]
    return [
        name
        for name, (term, _) in zip(names, following, strict=True)
        if _position(name) <= at and _position(name)[0] in (term, at[0])
    ]


def _is_end(shelf: Shelf, end: Position) -> bool:
    """Whether a seal is behind all else: else what lacked there had been taken away for a base,
    and who reads from that one does not come by."""
    newest = _newest_base(shelf)
    later = [name for name in shelf.names(OPS) if _position(name) > end]
    return (newest is None or newest < end) and not later


def _newest_base(shelf: Shelf) -> Position | None:
    for name in reversed(shelf.names(BASES)):
        if name.endswith(WHOLE):
            return _position(name)
    return None


def _read_base(shelf: Shelf, at: Position, take: Callable[[bytes, str], None]) -> bool:
    whole = f"{BASES}/{_place(at)}"
    count = shelf.get(whole + WHOLE)
    with Ahead(shelf) as ahead:
        for number in range(1, 1 + int(count or 0)):
            name = f"{whole}.{number:08d}"
            data = ahead.get(name, lambda more: f"{whole}.{number + more:08d}")  # noqa: B023
            if data is None:
                return False
            take(data, name)
    return count is not None


def _op(term: int, sequence: int) -> str:
    return f"{OPS}/{_place((term, sequence))}"


def _place(at: Position) -> str:
    return f"{at[0]:010d}-{at[1]:012d}"


def _position(name: str) -> Position:
    term, _, sequence = name.partition(".")[0].partition("-")
    with contextlib.suppress(ValueError):
        return int(term), int(sequence)
    raise CorruptFile("the shelf of a store holds something else", got=name)


def _locked(term: int, newer: int) -> StoreLocked:
    return StoreLocked(
        "the store has been opened under a newer term", got=f"term {term}", expected=f"> {newer}"
    )
