"""Fetching: the memories of a snapshot, made in all of several servers at once.

Each reads the files of its own shards, from a place that all of them reach. Part 0 is last, so that
memories are there when all have them; where one fails, none keeps anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from memstore.durable.restoring import restore_into, snapshot_names
from memstore.errors import MemstoreError
from memstore.placement import Part
from memstore.rpc.parts import to_part
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.spread.fan import Fan, all_of
from memstore.store import Store

UNMAKE_S = 2.0
"""For a part to take away what came to nothing, which it else does before the next."""

Ask = Callable[[int, str, Any, float | None], Any]
"""Has a part do that, within so many seconds; returns the reply, or raises a `MemstoreError`."""


def restore(
    store: Store, ask: Ask, fan: Fan, uri: str, number: int | None, next_turn: Callable[[], int]
) -> list[str]:
    """Makes the memories of a snapshot, as the server of part 0; returns their names.

    next_turn: numbers their making.

    Raises as `restore_into`, of any part.
    """
    names, number = snapshot_names(uri, number)
    store.check_free(names)
    parts = [Part(i, store.part.of) for i in range(1, store.part.of)]
    facts: dict[str, Any] = {"uri": uri, "number": number, "turn": next_turn()}
    messages = [pb.FetchRequest(part=to_part(part), **facts) for part in parts]
    calls = [
        partial(ask, part.number, "fetch", message, None)
        for part, message in zip(parts, messages, strict=True)
    ]
    try:
        all_of(fan(calls))
        return restore_into(store, uri, number=number, made=facts["turn"])
    except BaseException:
        for name in reversed(names):
            for part in parts:
                gone = pb.UnmakeRequest(part=to_part(part), memory=name, turn=facts["turn"])
                with contextlib.suppress(MemstoreError):
                    ask(part.number, "unmake", gone, UNMAKE_S)
        raise


def fetch(store: Store, drop: Callable[[str], bool], asked: pb.FetchRequest) -> pb.FetchReply:
    """Makes the part of one server.  drop: takes away what it has of a memory."""
    names, _ = snapshot_names(asked.uri, asked.number)
    # What part 0 no longer knows goes first, and what is encoded from it.
    for name in names:
        for other in (*store.users(name), name):
            drop(other)
    made = restore_into(store, asked.uri, number=asked.number, made=asked.turn)
    return pb.FetchReply(memories=made)
