"""Placement: which shards of a memory lie on which of several servers.

Of n servers, server i is *part* i: it holds the shards j of every memory with j % n == i. So a slot
names its server as it names its shard, and nobody needs a table for it. Part 0 has shard 0 of every
memory, and so gives out slots, and says which memories there are.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Self

from memstore.errors import InvalidArgument, UnknownMemory
from memstore.memory import Slots

MOST_PARTS = 4_096
"""Servers that a memory may lie on."""

FIRST_TURN = 1
"""The number under which the first memories of a cluster are made: see `Store.turn`."""

CLUSTER = re.compile(r"[0-9a-f]{16}")
"""The id of a cluster, which is the servers of all parts: drawn once, when part 0 is made."""


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`: 0 ≤ number < of ≤ 4,096."""

    number: int
    of: int

    def __post_init__(self) -> None:
        for value in (self.number, self.of):
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidArgument("not a part", got=repr(value), expected="two integers")
        if not 0 <= self.number < self.of <= MOST_PARTS:
            raise InvalidArgument(
                "there is no such part",
                got=f"{self.number} of {self.of}",
                expected=f"0 ≤ number < of ≤ {MOST_PARTS}",
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Reads `i/n`; raises `InvalidArgument`."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            raise InvalidArgument("not a part", got=repr(text), expected="i/n, as 0/4")
        return cls(int(number), int(of))

    def shards(self, shards: int) -> range:
        """The numbers of the shards of a memory that it holds."""
        return range(self.number, shards, self.of)


WHOLE = Part(0, 1)


def check_cluster(cluster: object) -> None:
    """Raises `InvalidArgument` on what is no id of a cluster."""
    if not (isinstance(cluster, str) and CLUSTER.fullmatch(cluster)):
        raise InvalidArgument(
            "not the id of a cluster", got=repr(cluster)[:64], expected="16 hexadecimal digits"
        )


def draw_made() -> int:
    """A number for a memory that one store has whole: drawn, since what counted could be put back
    with the store. It fits where numbers are float64, as in the JSON of other languages."""
    return 1 + secrets.randbelow((1 << 53) - 1)


def check_made(name: str, told: int, made: int) -> None:
    """Raises `UnknownMemory` where a call is for a memory that was made under another number than
    the one which has its name now; 0 is for any."""
    if told and told != made:
        raise UnknownMemory(
            f"memory {name!r} was dropped, and another was made under its name",
            got=f"a call for the one that was made as number {told}",
            expected=f"number {made}",
            hint="ask for the memory again",
        )


def holders(shards: int, parts: int) -> int:
    """How many parts hold something of a memory: the first so many."""
    return min(shards, parts)


def homes(slots_B: Slots, shards: int, parts: int) -> Slots:
    """The part that holds each slot, were it there."""
    return slots_B % shards % parts
