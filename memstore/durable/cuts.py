"""Cuts: moments of one part that are, with those of all others, one moment of whole memories.

A cut is made in steps, since nobody is to wait for a disk while mutations are held off: its moment
is taken, mutations go on, and a thread writes it as a checkpoint. What is written stays until it
was made a mark, or is let go of; a restart lets go of what is no mark.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from memstore.deadline import Deadline
from memstore.durable import manifest
from memstore.durable import snapshot as snapshots
from memstore.durable.manifests import Manifests
from memstore.durable.place import Place
from memstore.durable.stills import Still
from memstore.errors import InvalidArgument, Overloaded, UnknownMemory
from memstore.spread.holding import Gate

TAKE_S = 5.0
"""For a moment to be taken: mutations that are being made are waited for."""

CUT = "cut"
"""What the manifest of a mark has that is of several parts: which cut it is of."""

EVERY = "*"
"""Among the cuts that are known, where part 0 does not know them all: nothing is let go of."""

Write = Callable[[Callable[[], None]], manifest.Body]
"""Makes a checkpoint, calls what it is given once its moment is taken, and returns the manifest."""


class _Taking:
    """A cut that is being made here."""

    def __init__(self) -> None:
        self.moment, self.written = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.over = False


class Cuts:
    """The cuts of the store of one part. Any thread may use it."""

    def __init__(
        self, folder: Path, manifests: Manifests, mutex: threading.Condition, write: Write
    ) -> None:
        """mutex: of checkpoints, and of what the manifests name; told whenever a copy is over."""
        self.gate = Gate()
        self._folder, self._manifests, self._mutex, self._write = folder, manifests, mutex, write
        # Its own: the mutex is held as long as a checkpoint is written.
        self._lock = threading.Lock()
        self._taking: dict[str, _Taking] = {}
        self._stills: dict[tuple[str, str], Still] = {}
        self._reserved = 0.0

    @property
    def reserved(self) -> bool:
        """Whether no checkpoint is to be begun that can wait: mutations would wait for it."""
        return time.monotonic() < self._reserved

    def ready(self, known: Collection[str], lease_s: float) -> None:
        """Waits until no checkpoint is being made, and lets go of cuts that are not known."""
        self._reserved = time.monotonic() + lease_s
        with self._mutex:
            marked = [body[CUT] for body in self._manifests.marks.values() if CUT in body]
            there = set() if EVERY in known else {*self._taking, *self._manifests.cuts, *marked}
            for cut in there - {*known}:
                self.forget(cut)
        self._reserved = time.monotonic() + lease_s

    def take(self, cut: str) -> None:
        """Takes the moment, and has it written behind; doing so twice is doing so once.

        Raises `Overloaded` where that took too long, or mutations were not held off all the while.
        """
        with self._lock:
            taking = self._taking.get(cut)
            if taking is None or taking.error is not None:
                taking = self._taking[cut] = _Taking()
                threading.Thread(
                    target=self._run, args=(cut, taking), name="memstore-cut", daemon=True
                ).start()
        if not taking.moment.wait(TAKE_S):
            raise Overloaded("the moment of a cut was not taken in time", retry_after_s=1.0)
        if taking.error is not None:
            raise taking.error

    def written(self, cut: str, deadline: Deadline) -> None:
        """Waits until the moment is on the disk; raises what writing it raised."""
        with self._lock:
            taking = self._taking.get(cut)
        if taking is None:
            self.body(cut)
            return
        if not taking.written.wait(min(deadline.left_s, threading.TIMEOUT_MAX)):
            raise deadline.exceeded("a cut that is written")
        if taking.error is not None:
            raise taking.error

    def keep(self, cut: str, name: str) -> None:
        """Makes a cut that is written a mark, in place of one of that name that is of another."""
        with self._mutex:
            body = self.body(cut)
            if self._manifests.marks.get(name, {}).get(CUT) != cut:
                self._manifests.mark(name, body)
            self._manifests.cuts.pop(cut, None)

    def known(self) -> set[str]:
        """The cuts of all marks, with `EVERY` where one of these is not to be read."""
        return {*self.marks().values(), *([EVERY] if self._manifests.unread else [])}

    def marks(self) -> dict[str, str]:
        """The names of the marks that are of several parts, and their cuts."""
        return {n: body[CUT] for n, body in self._manifests.marks.items() if CUT in body}

    def copy(self, cut: str, place: Place) -> tuple[manifest.Body, snapshots.Copied]:
        """Copies the files of a cut; returns its manifest."""
        place.check_outside(self._folder)
        with self._mutex:
            body = self.body(cut)
            self._manifests.pins.append(body)
        try:
            return body, snapshots.copy(body, self._folder, place)
        finally:
            with self._mutex:
                self._manifests.pins.remove(body)
                self._mutex.notify_all()

    def still(self, cut: str, memory: str) -> Still:
        """What it had of a memory; raises `InvalidArgument` where it does not have the cut, and
        `UnknownMemory` where there was none."""
        known = self._stills.get((cut, memory))
        if known is not None:
            return known  # It waits for no checkpoint that is being written meanwhile.
        with self._mutex:
            body = self.body(cut)
            if memory not in body["memories"]:
                raise UnknownMemory("there was no such memory", got=repr(memory))
            known = self._stills.get((cut, memory))
            if known is None:
                folder = self._folder / manifest.MEMORIES / memory
                known = Still(folder, body["memories"][memory], self._manifests.part)
                self._stills[cut, memory] = known
            return known

    def forget(self, cut: str) -> None:
        """Lets go of a cut, and of marks that are of it."""
        self.gate.release(cut)
        with self._lock:
            taking = self._taking.pop(cut, None)
            if taking is not None:
                taking.over = True
        with self._mutex:
            # No sooner than the cut: who reads meanwhile would have it kept once more.
            self._stills = {key: still for key, still in self._stills.items() if key[0] != cut}
            known = self._manifests.cuts.pop(cut, None)
            names = [name for name, of in self.marks().items() if of == cut]
            for name in names:
                self._manifests.unmark(name)
            if known is not None or names:
                self._manifests.sweep()

    def body(self, cut: str) -> manifest.Body:
        """The manifest of a cut; raises `InvalidArgument` where it is not here."""
        bodies = (*self._manifests.cuts.values(), *self._manifests.marks.values())
        for body in bodies:
            if body.get(CUT) == cut:
                return body
        raise InvalidArgument(
            f"part {self._manifests.part} does not have its part of the mark, or snapshot",
            got=f"cut {cut!r}",
            hint="it was started anew meanwhile, or lost it: make another",
        )

    def _run(self, cut: str, taking: _Taking) -> None:
        def begun() -> None:
            self.gate.check(cut)
            taking.moment.set()

        try:
            with self._mutex:
                body = self._write(begun)
                if not taking.over:
                    self._manifests.cuts[cut] = body | {CUT: cut}
                self._manifests.sweep()
        except BaseException as error:  # noqa: BLE001 - who waits for it is told
            taking.error = error
        finally:
            taking.moment.set()
            taking.written.set()
