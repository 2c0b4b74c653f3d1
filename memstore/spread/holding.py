"""Holding: a part of several keeps new mutations off while a cut through all parts is made.

A mutation of several parts is *begun* in each when it is prepared there, and *done* when it was
applied. A part that is held lets what was begun before go on, and whatever it knows to have been
done in part; all else is told to come again (`Held`), and no thread waits for it. Who makes the cut
asks all parts what is begun, and settles it: what is prepared everywhere, or done anywhere, is
waited for; what is lacking in some part, and so done in none, is suspended until the hold is over.

    hold          gate.hold(cut, lease_s)       ends by itself when its time is over
    settle        gate.settle(cut, …)           until nothing is half done
    a moment      gate.check(cut)               after it: was it held all the while?
    go on         gate.release(cut)
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple

from memstore.deadline import Deadline
from memstore.errors import Held, Overloaded

LONGEST_S = 60.0
"""For how long a mutation is remembered that was begun, if its call has so long."""

MARGIN_S = 5.0
"""Beyond the time of a call: what it asked for may still be on its way."""

SLACK_S = 10.0
"""By how much earlier than another part's start a mutation may have been begun there."""

PAUSE_S = 0.01
"""After which who was held may come again."""

PRUNE = 1_024
"""Mutations remembered before those are looked for whose time is over."""

State = Literal["unknown", "begun", "doing", "done"]


class Key(NamedTuple):
    """A mutation of one memory, whichever parts it is about."""

    memory: str
    client: str
    number: int


class Told(NamedTuple):
    """What a part says of a mutation.  parts: all that it is about; none where nobody said."""

    key: Key
    state: State
    parts: tuple[int, ...] = ()


@dataclass
class _Begun:
    parts: tuple[int, ...]
    at: float
    ends: float
    doing: int = 0
    done: bool = False

    @property
    def state(self) -> State:
        if self.done:
            return "done"
        return "doing" if self.doing else "begun"


@dataclass
class _Hold:
    cut: str
    ends: float
    suspended: set[Key] = field(default_factory=set)
    allowed: set[Key] = field(default_factory=set)


class Gate:
    """What mutations pass through on their way into one part. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._begun: dict[Key, _Begun] = {}
        self._hold: _Hold | None = None
        self._prune_at = PRUNE

    def begin(
        self, key: Key, parts: tuple[int, ...], deadline: Deadline, known: Callable[[], bool]
    ) -> bool:
        """Lets a mutation be prepared, and remembers it; returns whether it is new here. Raises
        `Held`.

        known: whether something of it was done here before.
        """
        with self._lock:
            self._check(key, known)
            now = time.monotonic()
            ends = now + min(deadline.left_s, LONGEST_S) + MARGIN_S
            other = self._begun.get(key)
            if other is None:
                self._prune(now)
                self._begun[key] = _Begun(parts, now, ends)
            else:
                other.ends = max(other.ends, ends)
            return other is None

    def refuse(self, key: Key) -> None:
        """Forgets a mutation that could not be prepared after all."""
        with self._lock:
            begun = self._begun.get(key)
            if begun is not None and begun.state == "begun":
                del self._begun[key]

    @contextlib.contextmanager
    def doing(self, key: Key | None, known: Callable[[], bool]) -> Iterator[None]:
        """Lets a mutation, or what has no number, be done meanwhile; raises `Held`."""
        with self._lock:
            self._check(key, known)
            begun = None if key is None else self._begun.get(key)
            if begun is not None:
                begun.doing += 1
        done = False
        try:
            yield
            done = True
        finally:
            with self._lock:
                if begun is not None:
                    begun.doing -= 1
                    begun.done |= done

    def hold(self, cut: str, lease_s: float) -> float:
        """Holds off what is new for so long; returns for how many seconds it has remembered.

        Raises `Overloaded` while another cut is made.
        """
        with self._lock:
            now, held = time.monotonic(), self._held()
            if held is not None and held.cut != cut:
                raise Overloaded("another cut is being made", retry_after_s=held.ends - now)
            if held is None:
                self._hold = _Hold(cut, now + lease_s)
            return now - self._since

    def settle(
        self,
        cut: str,
        suspended: Collection[Key],
        allowed: Collection[Key],
        restarted: Mapping[int, float],
        asked: Collection[Key],
        known: Callable[[Key], bool],
    ) -> list[Told]:
        """Suspends and allows these mutations from now on; tells what is begun and not done, and
        the state of those asked for.

        restarted: parts that do not remember all, and since how many seconds they do: what was
        done here that is about them, and was begun before, is told as well.  known: whether
        something of a mutation was done here.  Raises as `check`.
        """
        with self._lock:
            hold, now = self._checked(cut), time.monotonic()
            hold.suspended = set(suspended)
            hold.allowed |= set(allowed)
            told = {}
            for key, begun in self._begun.items():
                if begun.ends < now:
                    continue
                ages = [restarted[part] for part in begun.parts if part in restarted]
                if begun.state != "done" or now - begun.at > min(ages, default=inf) - SLACK_S:
                    told[key] = Told(key, begun.state, begun.parts)
            for key in asked:
                if key not in told:
                    begun_or_not = self._begun.get(key)
                    state: State = "done" if known(key) else "unknown"
                    if begun_or_not is not None:
                        state = begun_or_not.state
                    told[key] = Told(key, state)
            return [*told.values()]

    def check(self, cut: str) -> None:
        """Raises `Overloaded` where it was not held all the while for a cut."""
        with self._lock:
            self._checked(cut)

    def release(self, cut: str) -> None:
        """Lets all go on; does nothing where it is not held for that cut."""
        with self._lock:
            if self._hold is not None and self._hold.cut == cut:
                self._hold = None

    def _check(self, key: Key | None, known: Callable[[], bool]) -> None:
        hold = self._held()
        if hold is None:
            return
        begun = key is not None and (key in self._begun or key in hold.allowed or known())
        if begun and key not in hold.suspended:
            return
        raise Held("a cut is being made; nothing was changed", retry_after_s=PAUSE_S)

    def _held(self) -> _Hold | None:
        if self._hold is not None and self._hold.ends < time.monotonic():
            self._hold = None
        return self._hold

    def _checked(self, cut: str) -> _Hold:
        hold = self._held()
        if hold is None or hold.cut != cut:
            raise Overloaded(
                "mutations were held off for too long, and went on; no cut was made",
                retry_after_s=PAUSE_S,
            )
        return hold

    def _prune(self, now: float) -> None:
        if len(self._begun) >= self._prune_at:
            self._begun = {key: each for key, each in self._begun.items() if each.ends >= now}
            self._prune_at = max(PRUNE, 2 * len(self._begun))
