"""Episodic memory: `[B, N, D]` float32, private to a trainer, changed in place and rolled back.

    memory = EpisodicMemory(8, 1_000_000, 32)
    memory.fill(rows_BND)                        # or begin empty
    memory.advance()
    slots_B1 = memory.allocate(1)                # the longest unused
    memory.blend(slots_B1, ones, ones, add)      # M ← M∘(1 − w·e) + w·a
    memory.touch(slots_B1)
    found = memory.search(queries_BQD, k=4)
    memory.rollback(0)                           # as it was, bit for bit

A step takes time and space for the rows that it touches, never for all N: there is one copy of the
memory, and a journal of the rows that a step changed. The index made by `fill` holds between
episodes, as rows come back to what they were. It is neither served nor logged.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from memstore import checks
from memstore.episodic.room import (
    Filled,
    no_fresh,
    no_journal,
    roomy_fresh,
    roomy_journal,
    roomy_leaves,
    unused,
)
from memstore.episodic.tree import no_tree, sealed_tree
from memstore.errors import InvalidArgument, NotFinite, UnknownSlot, WrongShape, WrongType
from memstore.kernels import episode_access, episode_back
from memstore.kernels.episode import Words
from memstore.kernels.episode_access import Asked, Read
from memstore.kernels.episode_fresh import file_all
from memstore.kernels.episode_tree import Probe, find_all
from memstore.kernels.episode_usage import Rule, least_rows_of_all, touch_rows
from memstore.kernels.magnitude import magnitude
from memstore.memory import Array, Slots

__all__ = ["Asked", "EpisodicMemory", "Found", "Read"]

Metric = Literal["cosine", "inner_product"]
UsageKind = Literal["longest_unused", "discounted"]

MOST_LOOSE = 1_024
"""Fresh rows scanned before they are filed."""


@dataclass(frozen=True)
class Found:
    """slots_BQK: int64, best first, −1 where fewer than K words are not empty; scores_BQK."""

    slots_BQK: Slots
    scores_BQK: Array


class EpisodicMemory:
    """B private memories of N words, D numbers wide, float32; empty words are zeros.

    metric: `cosine`, with √(‖x‖² + 10⁻⁶) for each length, or `inner_product`.
    usage: what `allocate` gives first, `longest_unused` or `discounted` (see
    `kernels.episode_usage`).  threshold: δ, above which a weight is an access for the former.
    discount: λ of the latter.
    probe: groups and leaves that a search enters, of sealed rows and again of filed fresh ones.
    threads: how many share the memories of a step of `access`; more than one pays from some tenths
    of a millisecond on, and waits without spinning.
    seed: of the samples that the index is made by.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        batch: int,
        words: int,
        width: int,
        *,
        metric: Metric = "cosine",
        usage: UsageKind = "longest_unused",
        threshold: float = 0.005,
        discount: float = 0.99,
        probe: tuple[int, int] = (8, 16),
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        self.batch, self.words, self.width = (
            checks.positive(name, value)
            for name, value in (("batch", batch), ("words", words), ("width", width))
        )
        if self.words >= 2**31:
            raise InvalidArgument("too many words", got=words, expected="fewer than 2³¹")
        for name, value, known in (("metric", metric, Metric), ("usage", usage, UsageKind)):
            if value not in get_args(known):
                raise InvalidArgument(f"{name} is unknown", got=value, expected=get_args(known))
        for name, number, low in (("threshold", threshold, 0.0), ("discount", discount, 1e-6)):
            if not low <= number <= 1:
                raise InvalidArgument(f"{name} is out of range", got=number, expected=f"{low} to 1")
        self._probe = Probe(metric == "cosine", *(checks.positive("probe", p) for p in probe))
        self._rule = Rule(float(threshold), float(-np.log(discount)))
        self.metric, self._seed = metric, seed
        self._threads = min(checks.positive("threads", threads), self.batch)
        self._pool = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None
        self._words = Words(
            np.zeros((batch, words, width), self.dtype), np.full((batch, words), -1, np.int32)
        )
        self._sealed = no_tree(batch, width, self.dtype)
        self._listed = usage == "longest_unused"
        self._usage = unused(batch, words, 0, self._listed)
        self._fresh = no_fresh(batch, width, self.dtype)
        self._journal, self._filled = no_journal(batch, width, self.dtype), Filled()
        self._step = 0
        self._grads_BFD, self._grads_step = np.zeros((batch, 0, width), self.dtype), -1

    @property
    def step(self) -> int:
        """How many steps were begun, and not rolled back."""
        return self._step

    @property
    def rows_BND(self) -> Array:
        """The words as they are now; not to be written to."""
        view_BND = self._words.rows_BND.view()
        view_BND.flags.writeable = False
        return view_BND

    @property
    def journal_bytes(self) -> int:
        """What the steps so far, and the rows they made fresh, take beside the memory."""
        parts = (*self._journal, *self._fresh, self._grads_BFD)
        return sum(array.nbytes for array in parts)

    def fill(self, rows_BRD: Array, *, copy: bool = True) -> Slots:
        """Puts R rows into each memory, and makes their index; before any step.

        Returns where each went, `[B, R]`, among the first R slots: rows near one another stand
        side by side, so that a search reads them at one go. What was there is gone. The words
        filled count as used, those of smaller slots longer ago.
        copy: False takes over a whole `[B, N, D]` array of the memory's dtype, whose rows change
        their places; it must not be changed from outside from then on.
        """
        if self._step:
            raise InvalidArgument(
                "fill comes before any step",
                got=f"step {self._step}",
                hint="call rollback(0) first",
            )
        rows_BRD = np.asarray(rows_BRD)
        shape = (self.batch, rows_BRD.shape[1] if rows_BRD.ndim == 3 else self.words, self.width)
        if rows_BRD.shape != shape or not 0 < shape[1] <= self.words:
            expected = f"({self.batch}, 1 to {self.words}, {self.width})"
            raise WrongShape("rows have the wrong shape", got=rows_BRD.shape, expected=expected)
        _finite("rows", rows_BRD)
        whole = shape[1] == self.words and rows_BRD.dtype == self.dtype
        if not copy and not (whole and rows_BRD.flags.c_contiguous and rows_BRD.flags.writeable):
            raise InvalidArgument(
                "rows cannot be taken over",
                got=f"{rows_BRD.dtype} {rows_BRD.shape}",
                expected=f"a writeable, contiguous {self.dtype} array of all words",
            )
        if copy:
            self._words.rows_BND[:, : shape[1]] = rows_BRD
            self._words.rows_BND[:, shape[1] :] = 0
        else:
            self._words = Words(rows_BRD, self._words.fresh_BN)
        self._sealed, slots_BR = sealed_tree(
            self._words.rows_BND, shape[1], self._probe.cosine, self._seed
        )
        self._usage = unused(self.batch, self.words, shape[1], self._listed)
        return slots_BR

    def search(self, queries_BQD: Any, k: int, *, exact: bool = False) -> Found:
        """Finds the K words of highest score for each query; words never written are not found.

        exact: looks at every word. Equal scores go to the smaller slot.
        """
        queries_BQD = self._array("queries", queries_BQD, (self.batch, None, self.width))
        shape = (*queries_BQD.shape[:2], checks.positive("k", k))
        rows_BQK, scores_BQK = np.empty(shape, np.int32), np.empty(shape, self.dtype)
        self._file()
        find_all(
            self._words,
            self._sealed,
            self._fresh,
            queries_BQD,
            self._probe,
            exact,
            rows_BQK,
            scores_BQK,
        )
        return Found(rows_BQK.astype(np.int64), scores_BQK)

    def gather(self, slots_BR: Any) -> Array:
        """Returns the words as they are now, `[B, R, D]`; zeros for a slot of −1."""
        rows_BR = self._slots(slots_BR)
        gathered_BRD: Array = self._words.rows_BND[np.arange(self.batch)[:, None], rows_BR]
        gathered_BRD[rows_BR < 0] = 0
        return gathered_BRD

    def allocate(self, count: int) -> Slots:
        """Returns the `count` words used least, `[B, count]`, the least first.

        Nothing is changed: until they are touched, they are given again.
        """
        if checks.positive("count", count) > self.words:
            raise InvalidArgument("too many are asked for", got=count, expected=f"≤ {self.words}")
        least_BR = np.empty((self.batch, count), np.int32)
        least_rows_of_all(self._usage, least_BR)
        return least_BR.astype(np.int64)

    def advance(self) -> int:
        """Begins a step, which what is changed from now on belongs to, and returns its number."""
        self._begin()
        episode_access.mark(self._journal, self._step)
        return self._step

    def blend(self, slots_BR: Any, weights_BR: Any, erase_BRD: Any, add_BRD: Any) -> None:
        """Writes M ← M∘(1 − w·e) + w·a, in the order given; a slot of −1 is none.

        Equal slots follow one another. Writing is no touch.
        """
        rows_BR = self._changing("blend", slots_BR)
        shape = rows_BR.shape
        weights_BR = self._array("weights", weights_BR, shape)
        erase_BRD = self._array("erase", erase_BRD, (*shape, self.width))
        add_BRD = self._array("add", add_BRD, (*shape, self.width))
        self._room(rows_BR.shape[1], 0)
        episode_access.blend(
            self._words,
            self._fresh,
            self._journal,
            rows_BR,
            weights_BR,
            erase_BRD,
            add_BRD,
            self._step,
        )
        self._measure()

    def touch(self, slots_BR: Any, weights_BR: Any = None) -> None:
        """Counts accesses of weight w, or 1, in the order given; a slot of −1 is none."""
        rows_BR = self._changing("touch", slots_BR)
        weights_BR = np.ones(rows_BR.shape) if weights_BR is None else weights_BR
        weights_BR = self._array("weights", weights_BR, rows_BR.shape)
        self._room(0, rows_BR.shape[1])
        touch_rows(self._usage, self._journal, rows_BR, weights_BR, self._step, self._rule)
        self._measure()

    def rollback(self, step: int) -> None:
        """Takes back all that came after step `step` ended; 0: all steps."""
        if isinstance(step, bool) or not isinstance(step, int | np.integer):
            raise InvalidArgument("step is no number", got=repr(step), expected="an integer")
        if not 0 <= step <= self._step:
            raise InvalidArgument("no such step", got=step, expected=f"0 to {self._step}")
        if step < self._step:
            self._undo(int(step) + 1)
            self._measure()
            self._step, self._grads_step = int(step), -1

    def access(
        self, asked: Asked, before: Read, k: int
    ) -> tuple[Read, npt.NDArray[np.int32], Array]:
        """Takes a step of sparse access memory: see `kernels.episode_access` for what it does.

        Returns what was read and with what weights, the words that were erased `[B, H]`, and what
        the heads read, `[B, H, D]`.
        """
        found, least_BH, read_BHD = self._ready(asked, before, k)

        def access(first: int, last: int) -> None:
            episode_access.access(
                self._words,
                self._sealed,
                self._fresh,
                self._usage,
                self._journal,
                asked,
                before,
                self._probe,
                self._rule,
                self._step,
                first,
                last,
                least_BH,
                found,
                read_BHD,
            )

        self._in_parts(access)
        return found, least_BH, read_BHD

    def unread(self, heads: int, k: int) -> Read:
        """What heads have read that have read nothing."""
        shape = (self.batch, heads, k)
        return Read(np.full(shape, -1, np.int32), *np.zeros((2, *shape), self.dtype))

    def retreat(
        self,
        step: int,
        asked: Asked,
        before: Read,
        found: Read,
        least_BH: npt.NDArray[np.int32],
        read_grad_BHD: Array,
        weight_grad_BHK: Array,
    ) -> tuple[Asked, Array]:
        """Takes back step `step`, an `access`, and all behind it, and returns its gradients.

        asked, before, found, least_BH: what the access was given and returned. read_grad_BHD,
        weight_grad_BHK: gradients of what was read and of its weights. Those of the words go from
        one call to the next: steps must come in reverse order.
        """
        self._asked(asked, before, least_BH.shape[1])
        read_grad_BHD = self._array("gradients", read_grad_BHD, asked.query_BHD.shape)
        weight_grad_BHK = self._array("gradients", weight_grad_BHK, found.rows_BHK.shape)
        asked_grad, before_grad_BHK = self._go_back(step, asked, before)
        episode_back.retreat(
            self._words,
            self._fresh,
            self._usage,
            self._journal,
            asked,
            before,
            found,
            least_BH,
            self._probe.cosine,
            step,
            read_grad_BHD,
            weight_grad_BHK,
            self._grads_BFD,
            asked_grad,
            before_grad_BHK,
        )
        self._went_back(step)
        return asked_grad, before_grad_BHK

    def _ready(
        self, asked: Asked, before: Read, k: int
    ) -> tuple[Read, npt.NDArray[np.int32], Array]:
        """Begins the step of an access that reads k words a head; returns what it fills in."""
        heads = asked.query_BHD.shape[1]
        self._asked(asked, before, heads)
        rows = heads * (1 + before.rows_BHK.shape[2])
        self._file()
        self._begin()
        self._room(rows, rows + heads * k)
        episode_access.mark(self._journal, self._step)
        least_BH = np.empty((self.batch, heads), np.int32)
        read_BHD = np.empty((self.batch, heads, self.width), self.dtype)
        return self.unread(heads, k), least_BH, read_BHD

    def _in_parts(self, access: Callable[[int, int], None]) -> None:
        """Has the threads share the memories, each those from a first one to a last one."""
        ends = [self.batch * part // self._threads for part in range(self._threads + 1)]
        own, *parts = pairwise(ends)
        others = [] if self._pool is None else [self._pool.submit(access, *part) for part in parts]
        access(*own)
        for other in others:
            other.result()
        self._measure()

    def _go_back(self, step: int, asked: Asked, before: Read) -> tuple[Asked, Array]:
        """Takes back what came after step `step`; returns gradients of nothing yet."""
        if step > self._step:
            raise InvalidArgument(
                "the step was taken back already",
                got=f"step {step} of a memory at step {self._step}",
                hint="backward runs once for each forward, before the memory goes on",
            )
        self.rollback(step)
        if self._grads_step != step:
            if self._grads_BFD.shape[1] < self._filled.fresh:
                shape = (self.batch, self._filled.fresh, self.width)
                self._grads_BFD = np.zeros(shape, self.dtype)
            self._grads_BFD[:, : self._filled.fresh] = 0
        return Asked(*map(np.zeros_like, asked)), np.zeros_like(before.weights_BHK)

    def _went_back(self, step: int) -> None:
        self._measure()
        self._step, self._grads_step = step - 1, step - 1

    def _undo(self, step: int) -> None:
        """Takes back step `step` and all behind it."""
        episode_access.undo(self._words, self._fresh, self._usage, self._journal, step)

    def _begin(self) -> None:
        steps = self._step + 2
        self._journal = roomy_journal(self._journal, 0, 0, steps, self._listed)
        self._step, self._grads_step = self._step + 1, -1

    def _room(self, rows: int, touches: int) -> None:
        """Makes room for so many more rows changed and touched in each memory."""
        filled = self._filled
        self._journal = roomy_journal(
            self._journal, filled.rows + rows, filled.touches + touches, 0, self._listed
        )
        self._fresh = roomy_fresh(self._fresh, filled.fresh + rows)

    def _measure(self) -> None:
        self._filled = Filled(*episode_access.filled(self._fresh, self._journal))

    def _file(self) -> None:
        if self._filled.loose > MOST_LOOSE:
            self._fresh = roomy_leaves(self._fresh, self._filled)
            file_all(self._words, self._fresh, self._probe.cosine, MOST_LOOSE)
            self._measure()

    def _changing(self, verb: str, slots_BR: Any) -> npt.NDArray[np.int32]:
        if not self._step:
            raise InvalidArgument(f"{verb} belongs to a step", got="none", hint="call advance()")
        return self._slots(slots_BR)

    def _slots(self, slots_BR: Any) -> npt.NDArray[np.int32]:
        array = np.asarray(slots_BR)
        if array.dtype.kind not in "iu":
            raise WrongType("slots have the wrong dtype", got=array.dtype, expected="int64")
        if array.ndim != 2 or len(array) != self.batch:
            expected = f"({self.batch}, slots)"
            raise WrongShape("slots have the wrong shape", got=array.shape, expected=expected)
        if array.size and not -1 <= array.min() <= array.max() < self.words:
            got = array.min() if array.min() < -1 else array.max()
            raise UnknownSlot("no such word", got=got, expected=f"−1 to {self.words - 1}")
        return np.ascontiguousarray(array, np.int32)

    def _array(self, name: str, value: Any, shape: tuple[int | None, ...]) -> Array:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise WrongType(f"{name} have the wrong dtype", got=array.dtype, expected=self.dtype)
        fits = array.ndim == len(shape) and all(
            want in (None, have) for have, want in zip(array.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise WrongShape(
                f"{name} have the wrong shape", got=array.shape, expected=f"({wanted})"
            )
        array = np.ascontiguousarray(array, self.dtype)
        _finite(name, array)
        return array

    def _asked(self, asked: Asked, before: Read, heads: int) -> None:
        """Refuses what the kernels cannot take as it is; nothing is converted or copied."""
        gates, vectors = (self.batch, heads), (self.batch, heads, self.width)
        for name, array, shape in zip(
            Asked._fields, asked, (vectors, gates, vectors, gates, gates), strict=True
        ):
            self._as_is(name, array, shape, self.dtype)
            _finite(name, array)
        shape = (self.batch, heads, before.rows_BHK.shape[-1])
        for name, array, dtype in zip(
            Read._fields, before, (np.int32, self.dtype, self.dtype), strict=True
        ):
            self._as_is(name, array, shape, dtype)
        if heads > self.words:
            raise InvalidArgument("too many heads", got=heads, expected=f"≤ {self.words} words")

    def _as_is(self, name: str, array: Array, shape: tuple[int, ...], dtype: Any) -> None:
        if array.dtype != dtype:
            raise WrongType(f"{name} has the wrong dtype", got=array.dtype, expected=dtype)
        if array.shape != shape:
            raise WrongShape(f"{name} has the wrong shape", got=array.shape, expected=shape)
        if not array.flags.c_contiguous:
            raise InvalidArgument(f"{name} is not contiguous", hint="use numpy.ascontiguousarray")


def _finite(name: str, array: Array) -> None:
    if array.size and not magnitude(array) <= checks.LARGEST:
        raise NotFinite(
            f"{name} hold NaN, infinity or a number too large to score",
            expected=f"numbers of magnitude ≤ {checks.LARGEST:g}",
        )
