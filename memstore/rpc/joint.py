"""Joint: marks and snapshots of whole memories over several servers, as part 0 leads them.

    hold all → settle what was begun → take the moment of all → let go on → write → keep

From when the last part is held until each has taken its moment nothing new is done in any: so the
moments together are one of the whole. A mark is there once part 0 has it; what others have of one
that part 0 has not is nothing, and is let go of when the next cut is made.
"""

from __future__ import annotations

import builtins
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from memstore import files
from memstore.deadline import Deadline
from memstore.durable import snapshot as snapshots
from memstore.durable.checkpoints import base_of
from memstore.durable.place import Place
from memstore.errors import (
    InvalidArgument,
    Overloaded,
    SnapshotFailed,
    StoreError,
    UnknownMemory,
)
from memstore.placement import Part
from memstore.rpc.calls import LONG_DEADLINE_S
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.spread.fan import Fan, all_of
from memstore.spread.held import HeldMemory
from memstore.spread.holding import LONGEST_S, MARGIN_S, Key, State, Told
from memstore.store import Store, check_name

LEASE_S, STEP_S = 15.0, 5.0
"""How long mutations are held off where nobody says that they may go on; and for one step."""

SETTLE_S, PATIENCE_S, LOOK_S = 4.0, 0.5, 0.005
"""How long what was begun has to end; after which it waits where it is prepared in all parts and
done in none; and how often it is looked at."""

AGAIN_S, LONGEST_PAUSE_S = 2 * SETTLE_S, 4 * SETTLE_S
"""The time that a call must have left for another try at what was not settled; and to what the
pauses between double, so that mutations go on for most of the time that one which was given up is
waited for."""

FORGET_S = 2.0
"""For a part to let go of a cut that came to nothing, which it else does before the next."""

CUT_DIGITS = 16


Ask = Callable[[int, pb.CutRequest, float | None], pb.CutReply]
"""Has a part do a step, within so many seconds; raises a `MemstoreError`."""


class Joint:
    """Cuts through all parts, of the server of part 0. Any thread may use it."""

    def __init__(self, store: Store, ask: Ask, fan: Fan, making: threading.RLock) -> None:
        """making: held while memories are made and dropped, and while a moment is taken."""
        self._store, self._ask, self._fan, self._making = store, ask, fan, making
        self.check: Callable[[], None] = lambda: None
        """Raises where no cut is to be made, but for one of who says so."""
        self._wanted: dict[str, float] = {}
        """Cuts that are being made, copied and read, and until when: who reads may be lost."""

    def mark(self, name: str, deadline: Deadline) -> None:
        """Keeps all memories as they are now under a name."""
        check_name(name)

        def check() -> None:
            self.check()
            if name in self._store.marks():
                raise InvalidArgument(
                    "the mark is there already", got=repr(name), hint="take it away by unmark first"
                )

        with self._made(deadline, check) as cut:
            # Part 0 last: then it is there.
            self._all("keep", cut, name=name, but_first=True)
            self._one(0, "keep", cut, name=name)
            del self._wanted[cut]  # being a mark, it is known

    def unmark(self, name: str, deadline: Deadline) -> None:
        """Takes a mark away: from part 0 last, so that it can be asked for again."""
        with deadline.held(self._making, "other cuts and memories"):
            if self._store.is_unread(name):
                self._store.unmark(name)  # What others have of it they let go of before the next.
                return
            cut = self._cut_of(name)
            self._all("forget", cut, but_first=True)
            self._one(0, "forget", cut)

    def marks(self) -> builtins.list[str]:
        """The names of the marks, sorted."""
        return sorted(self._store.cuts.marks())

    def snapshot(self, uri: str, at: str | None, deadline: Deadline) -> snapshots.Snapshot:
        """Has each part copy its files to a place that all of them reach, then puts the list."""
        place = Place(uri)
        place.check_outside(self._store.path)
        if at is not None:
            return self._copied(self._cut_of(at), place, at)
        cut = self.make(deadline, until=inf)
        try:
            return self._copied(cut, place, None)
        finally:
            self.drop(cut)

    def _copied(self, cut: str, place: Place, at: str | None) -> snapshots.Snapshot:
        probe, token = f"probe-{cut}-{secrets.token_hex(4)}", secrets.token_hex(16)
        place.put(probe, [token.encode()], files.fingerprint_of(token.encode()), probe)
        try:
            replies = self._all("copy", cut, uri=place.uri, probe=probe, token=token)
        finally:
            with contextlib.suppress(SnapshotFailed):
                place.remove(probe)
        bodies = [files.parse_json(reply.manifest.encode(), "a manifest") for reply in replies]
        sizes = [snapshots.Copied(reply.bytes, reply.copied) for reply in replies]
        return snapshots.take_joint(bodies, sizes, place, at)

    def make(self, deadline: Deadline, *, checked: bool = True, until: float | None = None) -> str:
        """Makes a cut that is no mark, and stays until it is dropped, or an hour is over.

        checked: False lets it be made while a memory is loaded.  until: in place of the hour.
        """
        with self._made(deadline, self.check if checked else lambda: None) as cut:
            self._wanted[cut] = time.monotonic() + LONG_DEADLINE_S if until is None else until
        return cut

    def drop(self, cut: str) -> None:
        """Lets go of a cut that is no mark."""
        self._wanted.pop(cut, None)
        self._forget(cut)

    @contextlib.contextmanager
    def _made(self, deadline: Deadline, check: Callable[[], None]) -> Iterator[str]:
        """Makes a cut, which is written in all parts; where what is done with it fails, none has
        it any more. Other cuts, and what makes and drops memories, wait meanwhile.

        check: raises where it is not to be made; nothing of what it looks at changes after it.
        """
        with contextlib.ExitStack() as held:
            cut = self._taken(deadline, check, held)
            try:
                self._all("written", cut)
                yield cut
            except BaseException:
                self.drop(cut)
                raise

    def _taken(
        self, deadline: Deadline, check: Callable[[], None], held: contextlib.ExitStack
    ) -> str:
        """Takes one moment of all parts, again and again while what is half done keeps it from
        that and there is time; returns the cut, and leaves `making` held."""
        pause_s = SETTLE_S
        while True:
            with contextlib.ExitStack() as trying:
                trying.enter_context(deadline.held(self._making, "other cuts and memories"))
                check()
                # Another each time: some parts may have taken the moment that came to nothing.
                cut = secrets.token_hex(CUT_DIGITS // 2)
                self._wanted[cut] = inf
                try:
                    self._take(cut)
                except BaseException as error:
                    self.drop(cut)
                    spare_s = deadline.left_s - AGAIN_S
                    if not isinstance(error, Overloaded) or spare_s <= 0:
                        raise
                else:
                    held.enter_context(trying.pop_all())
                    return cut
            time.sleep(min(pause_s, spare_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _take(self, cut: str) -> None:
        """Takes one moment of all parts."""
        now = time.monotonic()
        wanted = {each for each, until in self._wanted.copy().items() if until > now}
        known = wanted | self._store.cuts.known()
        # To get ready may take as long as a checkpoint; this tells at once which part is stopped.
        self._all("release", cut, deadline_s=2 * STEP_S)
        self._all("ready", cut, known=known, lease_s=LEASE_S)
        try:
            held = self._all("hold", cut, lease_s=LEASE_S, deadline_s=STEP_S)
            ages = {i: reply.age_s for i, reply in enumerate(held)}
            newest = LONGEST_S + MARGIN_S
            self._settle(cut, {i: age_s for i, age_s in ages.items() if age_s < newest})
            self._all("take", cut, deadline_s=2 * STEP_S)
        finally:
            self._fan(self._asks("release", cut, deadline_s=STEP_S))

    def _settle(self, cut: str, restarted: dict[int, float]) -> None:
        """Waits until no mutation is half done; raises `Overloaded` where that takes too long."""
        settling = Settling(time.monotonic() + PATIENCE_S)
        ends = time.monotonic() + SETTLE_S
        while True:
            replies = self._all(
                "settle",
                cut,
                suspended=map(to_begun, settling.suspended),
                allowed=map(to_begun, settling.allowed),
                asked=map(to_begun, settling.asked),
                restarted=[*restarted],
                ages_s=[*restarted.values()],
                deadline_s=STEP_S,
            )
            if settling.told([[told_of(each) for each in reply.begun] for reply in replies]):
                return
            if time.monotonic() > ends:
                raise Overloaded(
                    "mutations that are half done in some servers were not gone on with in time; "
                    "no cut was made",
                    retry_after_s=SETTLE_S,
                    got=f"request {settling.open[0].number} of {settling.open[0].client!r}, "
                    f"and {len(settling.open) - 1} more",
                )
            time.sleep(LOOK_S)

    def _cut_of(self, name: str) -> str:
        known = self._store.cuts.marks()
        if name not in known:
            raise InvalidArgument(
                "no such mark", got=repr(name), expected=f"one of {sorted(known)}"
            )
        return known[name]

    def _forget(self, cut: str) -> None:
        """Has all parts that can let go of a cut."""
        self._fan(self._asks("forget", cut, deadline_s=FORGET_S))

    def _all(
        self, step: str, cut: str, *, but_first: bool = False, **facts: Any
    ) -> builtins.list[pb.CutReply]:
        """Has all parts do a step, or all but part 0; raises what the first of them raised."""
        asks = self._asks(step, cut, **facts)[but_first:]
        return all_of(self._fan(asks)) if asks else []

    def _one(self, number: int, step: str, cut: str, **facts: Any) -> pb.CutReply:
        reply: pb.CutReply = self._asks(step, cut, **facts)[number]()
        return reply

    def _asks(
        self, step: str, cut: str, *, deadline_s: float | None = None, **facts: Any
    ) -> Sequence[Callable[[], Any]]:
        of = self._store.part.of
        message = pb.CutRequest(step=step, cut=cut, **facts)
        messages = []
        for number in range(of):
            each = pb.CutRequest(part=pb.Part(number=number, of=of))
            each.MergeFrom(message)
            messages.append(each)
        return [partial(self._ask, i, each, deadline_s) for i, each in enumerate(messages)]


@dataclass
class Settling:
    """What becomes of mutations that were begun when all parts were held; one thread calls.

    patient_until: then what is prepared everywhere and done nowhere is suspended too.
    """

    patient_until: float
    suspended: set[Key] = field(default_factory=set)
    allowed: set[Key] = field(default_factory=set)
    asked: set[Key] = field(default_factory=set)
    open: builtins.list[Key] = field(default_factory=builtins.list)
    _parts: dict[Key, tuple[int, ...]] = field(default_factory=dict)

    def told(self, replies: Sequence[Sequence[Told]]) -> bool:
        """Goes by what all parts said; returns whether nothing is half done."""
        states = [{each.key: each.state for each in reply} for reply in replies]
        news: set[Key] = set()
        for number, reply in enumerate(replies):
            for each in reply:
                if each.state != "unknown" and each.key not in self.asked:
                    news.add(each.key)
                known = self._parts.get(each.key, ())
                also = (number,) if each.state != "unknown" else ()
                self._parts[each.key] = tuple({*known, *each.parts, *also})
        self.open = [*news]
        for key in self.asked:
            of: set[State] = {states[i].get(key, "unknown") for i in self._parts[key]}
            if not self._is_over(key, of):
                self.open.append(key)
        self.asked |= news
        return not self.open

    def _is_over(self, key: Key, states: set[State]) -> bool:
        """Whether a mutation is done in all its parts, or will be in none of them.

        states: in its parts, all asked after this one was last suspended, or allowed, there.
        """
        if states == {"done"}:
            return True
        if states & {"doing", "done"}:
            # What is left of it is done, whether a part remembers that it was prepared or not.
            self.suspended.discard(key)
            self.allowed.add(key)
            return False
        if key in self.suspended:
            return True
        if "unknown" in states or time.monotonic() > self.patient_until:
            self.suspended.add(key)
        return False


def step(store: Store, asked: pb.CutRequest, deadline: Deadline) -> pb.CutReply:
    """Does a step of a cut in one part."""
    cuts, cut = store.cuts, checked(asked.cut)
    if asked.step == "ready":
        cuts.ready([*asked.known], min(asked.lease_s, LEASE_S))
    elif asked.step == "hold":
        return pb.CutReply(age_s=cuts.gate.hold(cut, min(asked.lease_s, LEASE_S)))
    elif asked.step == "settle":
        suspended, allowed, keys = (
            [key_of(each) for each in begun]
            for begun in (asked.suspended, asked.allowed, asked.asked)
        )
        ages = dict(zip(asked.restarted, asked.ages_s, strict=True))
        known = partial(_knows, store)
        told = cuts.gate.settle(cut, suspended, allowed, ages, keys, known)
        return pb.CutReply(begun=[to_begun(*each) for each in told])
    elif asked.step == "take":
        cuts.take(cut)
    elif asked.step == "release":
        cuts.gate.release(cut)
    elif asked.step == "written":
        cuts.written(cut, deadline)
    elif asked.step == "keep":
        check_name(asked.name)
        cuts.keep(cut, asked.name)
    elif asked.step == "forget":
        cuts.forget(cut)
    elif asked.step == "copy":
        place = Place(asked.uri)
        _check_shared(place, asked, store.part)
        body, size = cuts.copy(cut, place)
        text = files.to_json(body).decode()
        return pb.CutReply(manifest=text, bytes=size.bytes, copied=size.copied)
    else:
        raise InvalidArgument("no such step", got=repr(asked.step[:64]))
    return pb.CutReply()


def _check_shared(place: Place, asked: pb.CutRequest, part: Part) -> None:
    """Raises `InvalidArgument` unless the place is the one that part 0 sees."""
    try:
        found = b"".join(place.chunks(asked.probe))
    except StoreError as error:
        if isinstance(error, SnapshotFailed):
            raise
        found = b""
    if not found or found != asked.token.encode():
        raise InvalidArgument(
            "the address is not one place for all servers",
            got=f"{place.uri}: part {part} does not find there what part 0 has put",
            expected="an object store, or a folder that all of them mount",
        )


def _knows(store: Store, key: Key) -> bool:
    try:
        held = base_of(store.memory(key.memory))  # type: ignore[arg-type]
        return isinstance(held, HeldMemory) and held.knows(key)
    except UnknownMemory:
        return False


def to_begun(key: Key, state: str = "", parts: Sequence[int] = ()) -> pb.Begun:
    return pb.Begun(
        memory=key.memory, client=key.client, number=key.number, state=state, parts=parts
    )


def key_of(begun: pb.Begun) -> Key:
    return Key(begun.memory, begun.client, begun.number)


def told_of(begun: pb.Begun) -> Told:
    states: dict[str, State] = {"begun": "begun", "doing": "doing", "done": "done"}
    return Told(key_of(begun), states.get(begun.state, "unknown"), tuple(begun.parts))


def checked(cut: str) -> str:
    """Raises `InvalidArgument` on what is no cut."""
    if len(cut) != CUT_DIGITS or not set(cut) <= set("0123456789abcdef"):
        raise InvalidArgument(
            "not a cut", got=repr(cut[:64]), expected=f"{CUT_DIGITS} hexadecimal digits"
        )
    return cut
