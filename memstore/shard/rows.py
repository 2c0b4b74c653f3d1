"""The row table: keys, values, optimizer state and liveness of one shard, the truth of it.

A row here is the shard's own number of a slot: `slot // shards`. One thread writes. Readers take
`view` (`shard.row_view`), and read each row whole by its sequence number; nobody waits for the
other.

A slot is never given twice: blocks of rows that are all gone are cleared, and take no memory.
"""

from __future__ import annotations

import functools
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memstore.config import MemoryConfig
from memstore.dtypes import LOW, kept, storage
from memstore.kernels import sequence
from memstore.kernels.blend import blend_rows
from memstore.kernels.group import distinct
from memstore.kernels.half import packed, wide
from memstore.kernels.keep import Chance, ChanceOf, Keeper, Master
from memstore.kernels.whole import put_rows
from memstore.memory import Array, Slots
from memstore.shard import optimizers
from memstore.shard.blocks import BLOCK_ROWS
from memstore.shard.region import Region
from memstore.shard.residency import Residency
from memstore.shard.row_view import RowView, Sums
from memstore.shard.usage import NEVER, Usage

STATE = "state_"
"""What the names of optimizer state begin with."""

ROOM_ROWS = 1_024
"""Room is made for so many rows at a time: each time goes through every array of the table."""

WRITTEN = ("keys", "values", "alive")
"""What every new row is written to; the others are zero and take no memory until they are used."""


class RowTable:
    """Arrays that grow in place; `size` rows of them are in use, dead ones included.

    travel_N float64: the way a row's key has gone since it was appended, the sum of the lengths
    of its changes. The difference of two readings bounds how far the key moved between them.
    version: counts the mutations; raised by the shard once readers can see all of one.
    number: which shard's these are.
    folder: where the files of a memory with `storage="mapped"` lie; None is the system's own.
    """

    def __init__(self, config: MemoryConfig, number: int = 0, folder: Path | None = None) -> None:
        self.config = config
        self.number = number
        self.version = 0
        self.live = 0
        self.usage = Usage(config.usage_config)
        self._sums: Sums | None = None
        self._of: Slots | None = None
        """Which rows of another table these are copies of; None where they are none."""
        self._folder = None
        if config.storage == "mapped":
            self._folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._residency: Residency | None = None
        if config.resident_bytes is not None:
            self._residency = Residency(config.resident_bytes // config.shards, self._beside)
        width, dtype = kept(config)
        self._regions = {
            "keys": self._wide(width, dtype=dtype),
            "values": self._wide(config.value_dim or 0),
            "alive": Region((), np.bool_),
            "travel": Region((), np.float64),
        }
        self._marks = Region((), np.uint32)
        self._room = 0
        self._views: list[weakref.ref[RowView]] = []
        """Those that somebody may hold."""
        self._gone: list[tuple[Slots, list[weakref.ref[RowView]]]] = []
        """Blocks of which no row is there any more, and the views that they may be read by."""
        self._show(0)

    @property
    def bytes(self) -> int:
        """Main memory that the rows take now."""
        return sum(region.resident_bytes for region in self._all)

    @property
    def _all(self) -> tuple[Region, ...]:
        return (*self._regions.values(), self._marks, *self.usage.regions, *self.usage.heaps)

    def _beside(self) -> int:
        """What of it lies in no file."""
        return sum(region.resident_bytes for region in self._all if not region.in_file)

    def sum_keys(self, sums: Sums) -> None:
        """Says what makes the keys, where they are not stored; before there are rows."""
        self._sums = sums
        self._show(self.size)

    def is_alive(self, rows_B: Slots) -> npt.NDArray[np.bool_]:
        """Tells which rows are there; a number out of range is not."""
        return self.view.is_alive(rows_B)

    def live_rows(self) -> Slots:
        return self.view.live_rows()

    def put(
        self,
        rows_B: Slots,
        keys_BD: Array | None,
        values_BV: Array | None,
        *,
        tenants: int = 0,
    ) -> None:
        """Writes whole rows; a row that was not there comes alive with no optimizer state.

        tenants: so much the generation of each rises. Raises `StorageFull`, with nothing changed.
        """
        if len(rows_B):
            self._grow(int(rows_B.max()) + 1)
            # Rows of a block that was cleared may come late.
            self.usage.priority_N[rows_B[~self.alive_N[rows_B]]] = NEVER
        rows_B = np.ascontiguousarray(rows_B)
        given_BD, given_BV = (self._part(part_BX, len(rows_B)) for part_BX in (keys_BD, values_BV))
        given = {"key": keys_BD, "value": values_BV}
        parts = [part for part, part_BX in given.items() if part_BX is not None]
        masters = [part for part in parts if f"{part}_master" in self.state]
        names = [*(f"{part}s" for part in parts), *(f"{STATE}{part}_master" for part in masters)]
        for piece in self.pieces(rows_B, *names, waits=True):
            self.live += put_rows(
                packed(self.keys_ND),
                packed(self.view.values_NV),
                self.usage.generation_N,
                self.alive_N,
                self.travel_N,
                self.view.marks,
                rows_B[piece],
                given_BD[piece],
                given_BV[piece],
                tenants,
            )
            for part in masters:
                # What a master has beyond the row is of the row before.
                part_BX = given[part]
                assert part_BX is not None
                self.state[f"{part}_master"][rows_B[piece]] = wide(part_BX[piece])

    def blend(self, rows_B: Slots, weights_B: Array, erase_BD: Array, add_BD: Array) -> None:
        """M ← M∘(1 − w·e) + w·a, one after the other."""
        self.ready_to_blend()
        self.want(rows_B, *self._named("key"), waits=True)
        table_ND, keeper = packed(self.keys_ND), self._keeper("key")
        moved_B = blend_rows(table_ND, self.view.marks, keeper, rows_B, weights_B, erase_BD, add_BD)
        np.add.at(self.travel_N, rows_B, moved_B)

    def touch(self, rows_B: Slots, step: int, weights_B: Array | None) -> None:
        self.usage.touch(rows_B, step, weights_B)

    def renew(self, rows_B: Slots) -> None:
        """Hands rows to new tenants: zero, without optimizer state, never used."""
        keys_BD, values_BV = (
            np.zeros((len(rows_B), part.shape[1]), part.dtype)
            for part in (self.keys_ND, self.view.values_NV)
        )
        self.put(rows_B, keys_BD, values_BV, tenants=1)
        self._fill(rows_B, dict.fromkeys(self.state, 0))
        self.usage.renew(rows_B)

    def kill(self, rows_B: Slots) -> None:
        self.live -= int(np.count_nonzero(self.alive_N[rows_B]))
        self.alive_N[rows_B] = False
        gone_K = self._empty(distinct(rows_B // BLOCK_ROWS))
        if len(gone_K):
            self._show(self.size)
            self._gone.append((gone_K, self._views[:-1]))

    def are_gone(self, begin: int, end: int) -> bool:
        """Whether none of the rows from `begin` to before `end` is there."""
        return not self.alive_N[begin:end].any()

    def unread(self) -> Slots:
        """The blocks of rows that went, of which none came since and which nobody reads any more;
        each is told once, for `clear`."""
        ready = [not any(view() is not None for view in views) for _, views in self._gone]
        told = [blocks_K for (blocks_K, _), now in zip(self._gone, ready, strict=True) if now]
        self._gone = [gone for gone, now in zip(self._gone, ready, strict=True) if not now]
        return self._empty(distinct(np.concatenate([np.empty(0, np.int64), *told])))

    def clear(self, blocks_K: Slots) -> None:
        """Makes all of some blocks zero, as if their rows had never been, and gives their memory
        back. blocks_K: rising; no row of them is there, and nobody reads them."""
        for run_K in np.split(blocks_K, np.flatnonzero(np.diff(blocks_K) > 1) + 1):
            if len(run_K):
                rows = int(run_K[0]) * BLOCK_ROWS, (int(run_K[-1]) + 1) * BLOCK_ROWS
                for region in (*self._regions.values(), *self.usage.regions):
                    region.release(*rows)

    def step(
        self, rows_B: Slots, key_grads_BD: Array | None, value_grads_BV: Array | None, lr: float
    ) -> int:
        """Takes one optimizer step; returns the number of distinct rows changed.

        Raises `StorageFull`, with nothing changed, where its state finds no room.
        """
        changed = 0
        self.ready_to_step(keys=key_grads_BD is not None, values=value_grads_BV is not None)
        for part, grads in (("key", key_grads_BD), ("value", value_grads_BV)):
            if grads is not None:
                self.want(rows_B, *self._named(part), waits=True)
        config, marks = self.config.optimizer_config, self.view.marks
        if key_grads_BD is not None:
            rows_U, moved_U = optimizers.step(
                config,
                self.keys_ND,
                self._state("key"),
                rows_B,
                key_grads_BD,
                lr,
                self._keeper("key"),
                marks,
            )
            self.travel_N[rows_U] += moved_U
            changed = len(rows_U)
        if value_grads_BV is not None and self.values_NV is not None:
            rows_U, _ = optimizers.step(
                config,
                self.values_NV,
                self._state("value"),
                rows_B,
                value_grads_BV,
                lr,
                self._keeper("value"),
                marks,
            )
            changed = len(rows_U)
        return changed

    def ready_to_step(self, *, keys: bool, values: bool) -> None:
        """Makes the state that a step needs; raises `StorageFull`, with nothing changed."""
        for part, stepped in (("key", keys), ("value", values)):
            if stepped:
                self._make(part, self._new_state(part))

    def ready_to_blend(self) -> None:
        """Makes the state that blending needs; raises `StorageFull`, with nothing changed."""
        self._make("key", self._keeping("key"))

    def image(self, rows: Slots | slice, parts: Sequence[str]) -> dict[str, Array]:
        """What rows are of "keys", "values" or both, with the state of it; views for a slice."""
        view = self.view
        tables = {"keys": view.keys_ND, "values": view.values_NV}
        if not isinstance(rows, slice):
            for part in parts:
                self.want(rows, *self._named(part.removesuffix("s")), waits=True)
        image = {part: tables[part][rows] for part in parts}
        for name, state in self.state.items():
            if name.split("_")[0] + "s" in parts:
                image[STATE + name] = state[rows]
        return image

    def adopt(self, rows_B: Slots, image: Mapping[str, Array]) -> None:
        """Makes rows what `image` gave; state that an image has and the table lacks is made."""
        self.put(rows_B, image.get("keys"), image.get("values"))
        states = {n.removeprefix(STATE): a for n, a in image.items() if n.startswith(STATE)}
        for name, array in states.items():
            part, state = name.split("_", 1)
            self._make(part, {state: np.zeros((1, *array.shape[1:]), array.dtype)})
        self._fill(rows_B, states)

    def copy(self, table: RowTable, rows_U: Slots) -> None:
        """Holds rows of another table, as rows 0, 1, … here, and nothing else."""
        self._of = rows_U
        local_U = np.arange(len(rows_U))
        parts = ("keys",) if self.values_NV is None else ("keys", "values")
        for state in self.state.values():
            state[: len(rows_U)] = 0
        self.adopt(local_U, table.image(rows_U, parts))

    def release(self) -> None:
        """Lets readers go on where a writer failed in the middle of a row."""
        sequence.release(self.view.marks)

    def arrays(self) -> dict[str, Array]:
        """The parts in use, by name: what a checkpoint holds."""
        parts = {name: region.view(self.size) for name, region in self._regions.items()}
        if self.values_NV is None:
            del parts["values"]
        usage = {"priority": self.usage.priority_N, "generation": self.usage.generation_N}
        return parts | {name: part[: self.size] for name, part in usage.items()}

    def restore(
        self,
        shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
        read: Callable[[str, Array, Callable[[int, int], None]], None],
        version: int,
        *,
        filled: bool = True,
    ) -> None:
        """Takes over what `arrays` gave, into a table that is empty.

        shapes: the dtype and shape of each.  read: fills one, all zeros, from the first row on, and
        says from which row to before which it has.
        filled: by this thread; several make memory ready themselves, each what it fills.
        """
        size = shapes["keys"][1][0]
        for name, (dtype, shape) in shapes.items():
            if name.startswith(STATE):
                self._regions[name] = self._wide(*shape[1:], dtype=dtype)
        self.reserve(size, filled=filled)
        self._show(size)
        # Of a use that was long ago and of none the numbers are not zero.
        self.usage.priority_N[:size] = 0.0
        for name, array in self.arrays().items():
            if name in shapes:
                read(name, array, functools.partial(self._wrote, name))
        self.live, self.version = int(np.count_nonzero(self.alive_N)), version
        self.clear(self._empty(np.arange(size // BLOCK_ROWS)))

    def _empty(self, blocks_K: Slots) -> Slots:
        """Those of some blocks that are whole and of which no row is there."""
        whole = self.size // BLOCK_ROWS
        alive_KB = self.alive_N[: whole * BLOCK_ROWS].reshape(whole, BLOCK_ROWS)
        blocks_K = blocks_K[blocks_K < whole]
        return blocks_K[~alive_KB[blocks_K].any(axis=1)]

    def want(self, rows_B: Slots, *names: str, waits: bool = False) -> None:
        """Has the pages of rows come in that are about to be looked at, of these parts.

        waits: as long as the disk does, where they are changed.
        """
        if self._residency is not None:
            self._residency.want(rows_B, *names, waits=waits)

    def pieces(self, rows_B: Slots, *names: str, waits: bool = False) -> Iterable[slice]:
        """Cuts rows that are about to be looked at so that few of them come in together, those of
        each piece before it is told; by itself of all that there is of them."""
        if self._residency is None:
            return (slice(None),)
        return self._residency.pieces(rows_B, *(names or self._regions), waits=waits)

    def _named(self, part: str) -> list[str]:
        """The regions of the keys, or of the values, and of their state."""
        return [f"{part}s", *(name for name in self._regions if name.startswith(STATE + part))]

    def _fill(self, rows_B: Slots, states: Mapping[str, Array | int]) -> None:
        """Writes optimizer state of rows, by its name."""
        for name, given in states.items():
            for piece in self.pieces(rows_B, STATE + name, waits=True):
                some = given[piece] if isinstance(given, np.ndarray) else given
                self.state[name][rows_B[piece]] = some

    def _wrote(self, name: str, begin: int, end: int) -> None:
        if self._residency is not None:
            self._residency.wrote(name, begin, end)

    def _wide(self, *shape: int, dtype: npt.DTypeLike | None = None) -> Region:
        """A region whose rows may be too many for main memory."""
        singly = self._residency is not None
        return Region(shape, dtype or storage(self.config.dtype), self._folder, singly=singly)

    def _part(self, part_BX: Array | None, rows: int) -> Array:
        if part_BX is None:
            return packed(np.empty((rows, 0), storage(self.config.dtype)))
        return packed(np.ascontiguousarray(part_BX))

    def _state(self, part: str) -> dict[str, Array]:
        names = optimizers.LAYOUT[self.config.optimizer_config.kind]
        return {name: self.state[f"{part}_{name}"] for name in names}

    def _new_state(self, part: str) -> dict[str, Array]:
        """What an optimizer step needs besides the rows, for one row."""
        table_ND = self.keys_ND if part == "key" else self.view.values_NV
        state = optimizers.new_state(self.config.optimizer_config, table_ND[:1])
        return state | self._keeping(part)

    def _keeping(self, part: str) -> dict[str, Array]:
        """What keeps narrow keys or values besides themselves, for one row; nothing for others."""
        table_ND = self.keys_ND if part == "key" else self.view.values_NV
        if table_ND.dtype not in LOW:
            return {}
        config = self.config.optimizer_config
        name = "master" if config.master else "drawn"
        return {name: optimizers.new_keeping(config, table_ND[:1])}

    def _keeper(self, part: str) -> Keeper:
        config = self.config.optimizer_config
        if f"{part}_master" in self.state:
            return Master(self.state[f"{part}_master"])
        if f"{part}_drawn" in self.state:
            seed = np.uint64(2 * config.seed + (part == "value"))
            drawn_N, shards = self.state[f"{part}_drawn"], self.config.shards
            if self._of is not None:
                return ChanceOf(drawn_N, seed, self._of * shards + self.number)
            return Chance(drawn_N, seed, shards, self.number)
        return None

    def _make(self, part: str, one: Mapping[str, Array]) -> None:
        """Makes state of the keys or the values on its first use: no page of it.

        one: by name, what one row has of it.
        """
        lacking = {n: array for n, array in one.items() if f"{part}_{n}" not in self.state}
        if lacking:
            new = {n: self._wide(*a.shape[1:], dtype=a.dtype) for n, a in lacking.items()}
            for region in new.values():
                region.grow(self._room)
            named = {f"{STATE}{part}_{name}": region for name, region in new.items()}
            if self._residency is not None:
                self._residency.watch(named, self._room)
            self._regions |= named
            self._show(self.size)

    def reserve(self, size: int, *, filled: bool = True) -> None:
        """Makes room for so many rows; raises `StorageFull`, with all as it was, without it.

        filled: the new rows are about to be written, by this thread.
        """
        if size > self._room:
            room = -(-size // ROOM_ROWS) * ROOM_ROWS
            try:
                for name, region in self._regions.items():
                    region.grow(room, filled=filled and name in WRITTEN)
                self._marks.grow(sequence.blocks(room))
                self.usage.grow(room)
                if self._residency is not None:
                    self._residency.watch(self._regions, room)
            finally:
                self._show(self.size)  # some may have moved
            self._room = room

    def _grow(self, size: int) -> None:
        if size > self.size:
            self.reserve(size)
            self._show(size)

    def _show(self, size: int) -> None:
        """Lets readers see so many rows."""
        parts = {name: region.view(size) for name, region in self._regions.items()}
        self.size = size
        self.keys_ND, self.alive_N, self.travel_N = parts["keys"], parts["alive"], parts["travel"]
        self.values_NV = None if self.config.value_dim is None else parts["values"]
        self.state = {n.removeprefix(STATE): a for n, a in parts.items() if n.startswith(STATE)}
        self.view = RowView(
            parts["keys"],
            parts["values"],
            parts["alive"],
            self.usage.generation_N[:size],
            self._marks.view(sequence.blocks(size)),
            self._sums,
            self._residency,
        )
        held = [view for view in self._views if view() is not None]
        self._views = [*held, weakref.ref(self.view)]
