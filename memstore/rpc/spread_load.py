"""SpreadLoad: a load of a memory over several servers: all of it is there when it ends, or none.

Part 0 notes in its manifest from which slot on a memory is loaded; until that is over, nobody else
is given slots of it. Its batches are appended as any others. When all parts have them on their
disks, the manifest without the note, and with the reply, is what makes them stay. Where the load
comes to nothing, or part 0 does, whatever has a slot from there on is erased again, before anybody
else is given one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from memstore.changing import LOADER
from memstore.deadline import Deadline
from memstore.durable.checkpoints import base_of
from memstore.errors import (
    InvalidArgument,
    MemoryInUse,
    MemstoreError,
    RequestConflict,
    ShardElsewhere,
    UnknownMemory,
    Unsupported,
)
from memstore.memory import NO_SLOT, RequestId
from memstore.placement import check_made
from memstore.rpc import codec, columns
from memstore.rpc.calls import LONG_DEADLINE_S
from memstore.rpc.joint import Joint
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.shard.requests import digesting
from memstore.spread.held import HeldMemory
from memstore.store import Store

CHUNK = 1 << 16
"""Slots taken back at a time."""

AGAIN_S = 1.0
"""Between two times that it is tried to take back what a part that is not there has."""

REPLIES = 64
"""Replies to loads that are kept."""

logger = logging.getLogger(__name__)


@dataclass
class Loads:
    """The loads of all memories, where part 0 is. Any thread may use it.

    memory: finds a whole memory.  next_request: numbers what changes it.  within: does some work in
    so many seconds.  making: held while cuts are made, and memories.
    """

    store: Store
    joint: Joint
    memory: Callable[[str], Any]
    next_request: Callable[[], RequestId]
    within: Callable[[float, Callable[[], Any]], Any]
    making: threading.RLock

    def __post_init__(self) -> None:
        self._closed = threading.Event()
        if self.store.part.number == 0 and self.noted:
            # Those of a life before.
            for name in self.noted:
                with contextlib.suppress(UnknownMemory):
                    self.held(name).loader = self
            self.take_back_later([*self.noted])

    @property
    def noted(self) -> dict[str, list[int]]:
        """By name of a memory that is loaded: as what it was made, and the first slot."""
        return dict(self.store.fact("loads", {}))

    def held(self, name: str) -> HeldMemory:
        base = base_of(self.store.memory(name))  # type: ignore[arg-type]
        assert isinstance(base, HeldMemory)
        return base

    def check(self) -> None:
        """Raises `MemoryInUse` while a memory is loaded: no cut is made through a load."""
        if self.noted:
            raise MemoryInUse(
                f"{sorted(self.noted)} are being loaded", hint="wait until that is done"
            )

    def forget(self, name: str, **facts: Any) -> None:
        """Ends a load, in one moment."""
        self.store.note(loads={n: of for n, of in self.noted.items() if n != name}, **facts)

    def take_back(self, name: str) -> None:
        """Erases what was loaded; raises what doing so raises, and may be called again."""
        made, first = self.noted[name]
        with contextlib.suppress(UnknownMemory):
            held = self.held(name)
            if held.made == made:
                memory = self.memory(name)
                parts = getattr(memory, "base", memory)
                for start in range(first, held.next_slot, CHUNK):
                    slots_B = np.arange(start, min(start + CHUNK, held.next_slot))
                    left_B = slots_B[parts.alive(slots_B)]
                    if len(left_B):
                        memory.erase(left_B, request_id=self.next_request())
            self.forget(name)
            held.loader = None
            return
        self.forget(name)  # It was dropped.

    def take_back_later(self, names: list[str]) -> None:
        """Tries again and again, behind."""

        def run() -> None:
            left = names
            while left and not self._closed.wait(AGAIN_S):
                for name in [*left]:
                    try:
                        self.within(AGAIN_S * 30, lambda name=name: self.take_back(name))  # type: ignore[misc]
                        left.remove(name)
                    except MemstoreError as error:
                        logger.warning("what was loaded into %s is not taken back: %s", name, error)

        threading.Thread(target=run, name="memstore-take-back", daemon=True).start()

    def close(self) -> None:
        self._closed.set()


class SpreadLoad:
    """Appends the batches of one call, which nobody else may do meanwhile."""

    def __init__(self, loads: Loads, start: pb.LoadRequest, deadline: Deadline) -> None:
        """deadline: of the whole load.  Raises `ShardElsewhere` where part 0 is elsewhere."""
        store = loads.store
        if store.part.number:
            raise ShardElsewhere(
                "memories on several servers are loaded by the server of part 0",
                got=f"part {store.part}",
                hint="ask for the topology, and load there",
            )
        self._loads, self._name, self._deadline = loads, start.memory, deadline
        self._memory = loads.memory(start.memory)
        check_made(start.memory, start.made, self._memory.made)
        config = self._memory.config
        if config.capacity is not None:
            raise Unsupported(
                f"memory {self._name!r} has a capacity",
                hint="append to it: what it evicts cannot be taken back",
            )
        self._schema = columns.schema_of(config)
        self._step, self._id = codec.optional(start, "step"), codec.request_id_of(start)
        self._digest = digesting(repr(self._step))
        self._rows, self._first = 0, NO_SLOT
        self._again: Mapping[str, Any] | None = None
        self._begun = False

    def begin(self) -> None:
        """Holds off what would be given slots; raises `MemoryInUse` while another is loaded."""
        loads, held = self._loads, self._loads.held(self._name)
        with self._deadline.held(loads.making, "cuts and other memories"), held.frozen():
            if held.loader is not None or self._name in loads.noted:
                raise MemoryInUse(
                    f"memory {self._name!r} is being loaded", hint="wait until that is done"
                )
            self._again = self._known(held.made)
            held.loader = self
            try:
                loads.store.note(loads=loads.noted | {self._name: [held.made, held.next_slot]})
            except BaseException:
                held.loader = None
                raise
            self._begun = True

    def put(self, data: bytes, deadline: Deadline) -> int:
        """Appends a batch and returns how many rows it had; raises as `append`."""
        if self._id is not None:
            self._digest.update(len(data).to_bytes(8))
            self._digest.update(data)
        table = columns.from_batch(data, self._schema)
        if len(table) and self._again is None:
            parts = columns.parts_of(table, self._memory.config)
            left_s = min(max(deadline.left_s, 1e-3), LONG_DEADLINE_S)
            first = self._loads.within(left_s, lambda: self._append(parts, deadline))
            self._first = first if self._first == NO_SLOT else self._first
        self._rows += len(table)
        return len(table)

    def _append(self, parts: columns.Parts, deadline: Deadline) -> int:
        request = self._loads.next_request()
        LOADER.set(self)
        try:
            for tried in itertools.count(1):
                try:
                    slots_B = self._memory.append(*parts, step=self._step, request_id=request)
                    return int(slots_B[0])
                except MemstoreError as error:
                    # What was loaded so far is worth waiting for.
                    pause_s = max(getattr(error, "retry_after_s", 0.0), 0.05 * tried)
                    if not error.retryable or tried == 10 or pause_s >= deadline.left_s:
                        raise
                    time.sleep(pause_s)
        finally:
            LOADER.set(None)
        raise AssertionError("it either returns or raises")

    def end(self, rows: int) -> pb.LoadReply:
        """Makes what was appended stay, and lets others go on; raises `InvalidArgument` where not
        all of it came, and what a cut raises where a part does not have it on its disk."""
        if rows != self._rows:
            raise InvalidArgument(
                "not all of the load is there; nothing was loaded",
                got=f"{self._rows} rows",
                expected=f"{rows}, as its last message says",
            )
        loads, held = self._loads, self._loads.held(self._name)
        told = {"memory": self._name, "made": held.made, "rows": self._rows, "first": self._first}
        if self._again is not None:
            if self._again["digest"] != self._digest.hexdigest():
                raise RequestConflict(
                    "the request's number was used for another load; nothing was loaded",
                    got=f"request {self._again['number']} of {self._again['client']!r}",
                )
            self._first = self._again["first"]
        elif self._rows:
            left_s = min(max(self._deadline.left_s, 1e-3), LONG_DEADLINE_S)
            loads.within(left_s, lambda: self._durable(Deadline(left_s)))
        facts = {}
        if self._id is not None and self._again is None:
            whose = {"client": self._id.client, "number": self._id.number}
            told |= whose | {"digest": self._digest.hexdigest()}
            facts["loaded"] = [*loads.store.fact("loaded", []), told][-REPLIES:]
        loads.forget(self._name, **facts)
        self._begun, held.loader = False, None
        last = self._first + self._rows - 1 if self._rows else NO_SLOT
        return pb.LoadReply(rows=self._rows, first=self._first, last=last)

    def _durable(self, deadline: Deadline) -> None:
        joint = self._loads.joint
        joint.drop(joint.make(deadline, checked=False))

    def give_up(self, error: BaseException) -> None:
        """Takes back what was appended, and lets others go on; after `end` it does nothing."""
        if not self._begun:
            return
        self._begun = False
        try:
            self._loads.within(30.0, lambda: self._loads.take_back(self._name))
        except MemstoreError:
            self._loads.take_back_later([self._name])

    def _known(self, made: int) -> Mapping[str, Any] | None:
        """What the request was told before."""
        if self._id is None:
            return None
        of = (self._name, made, self._id.client, self._id.number)
        for told in self._loads.store.fact("loaded", []):
            if (told["memory"], told["made"], told["client"], told["number"]) == of:
                return dict(told)
        return None
