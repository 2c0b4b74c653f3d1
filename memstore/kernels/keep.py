"""How a row is read to be changed, and kept once it was: exactly, by chance, or beside a master.

None      the table holds what is counted with: float32 or float64
`Chance`  narrower numbers, rounded to one of two neighbours by chance: a step far smaller
          than what the table can tell apart is taken as a whole one, as rarely as it is small
`Master`  narrower numbers, rounded to the nearest, beside a float32 copy that steps add up in
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.extending import overload

from memstore.kernels.compiling import compiled
from memstore.kernels.half import by_chance, nearest, widened
from memstore.memory import Array, Slots


class Chance(NamedTuple):
    """What noise is made of: it depends on (seed, slot, how often the row was drawn, element).

    drawn_N uint32: how often each row was kept so.  seed: uint64.  The slot of a row is
    row·stride + first, so that noise is the same however slots are spread over shards.
    """

    drawn_N: npt.NDArray[np.uint32]
    seed: np.uint64
    stride: int
    first: int


class ChanceOf(NamedTuple):
    """As `Chance`, for a table whose row i is that of slot `slots_N[i]`."""

    drawn_N: npt.NDArray[np.uint32]
    seed: np.uint64
    slots_N: Slots


class Master(NamedTuple):
    """rows_ND float32: an element counts while it rounds to that of the table.

    Where it does not, the row was written since, or never stepped, and the table counts. So
    whoever writes rows need not know of the master, and zeros are one for any table.
    """

    rows_ND: Array


Keeper = Chance | ChanceOf | Master | None


def read(table_ND: Any, row: Any, d: Any, keeper: Any) -> Any:
    """An element of a row as the number to go on from."""
    raise NotImplementedError("only in kernels")


def draw(keeper: Any, row: Any) -> Any:
    """Counts that a row will be kept once more; returns what `keep` makes its noise of."""
    raise NotImplementedError("only in kernels")


def keep(table_ND: Any, row: Any, d: Any, number: Any, keeper: Any, drawn: Any) -> Any:
    """Puts a number into the table; returns what it is there."""
    raise NotImplementedError("only in kernels")


@compiled()
def mixed(number: Any) -> Any:
    """A uint64 of which every bit depends on all of `number` (splitmix64, Steele et al. 2014)."""
    number = np.uint64(number + np.uint64(0x9E3779B97F4A7C15))
    number = np.uint64((number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    number = np.uint64((number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(number ^ (number >> np.uint64(31)))


@compiled()
def noise(key: Any, d: Any) -> Any:
    """32 random bits for element d. Of 32-bit numbers throughout, so that it is vectorised."""
    bits = np.uint32(np.uint32(key) ^ np.uint32(np.uint32(d) * np.uint32(0x9E3779B9)))
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
    bits = np.uint32(bits + np.uint32(key >> np.uint64(32)))
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


def _kind(keeper: Any) -> Any:
    return getattr(keeper, "instance_class", None)


def _read_master(table_ND: Any, row: Any, d: Any, keeper: Any) -> Any:
    number = keeper.rows_ND[row, d]
    kept = table_ND[row, d]
    return number if nearest(number, table_ND) == kept else widened(kept)


def _read_row(table_ND: Any, row: Any, d: Any, keeper: Any) -> Any:
    return widened(table_ND[row, d])


@overload(read)
def _read(table_ND: Any, row: Any, d: Any, keeper: Any) -> Any:
    return _read_master if _kind(keeper) is Master else _read_row


def _draw_chance(keeper: Any, row: Any) -> Any:
    keeper.drawn_N[row] += np.uint32(1)
    slot = np.uint64(row * keeper.stride + keeper.first)
    return mixed(np.uint64(mixed(np.uint64(keeper.seed ^ slot)) + np.uint64(keeper.drawn_N[row])))


def _draw_chance_of(keeper: Any, row: Any) -> Any:
    keeper.drawn_N[row] += np.uint32(1)
    slot = np.uint64(keeper.slots_N[row])
    return mixed(np.uint64(mixed(np.uint64(keeper.seed ^ slot)) + np.uint64(keeper.drawn_N[row])))


def _draw_none(keeper: Any, row: Any) -> Any:
    return np.uint64(0)


@overload(draw)
def _draw(keeper: Any, row: Any) -> Any:
    kinds = {Chance: _draw_chance, ChanceOf: _draw_chance_of}
    return kinds.get(_kind(keeper), _draw_none)


def _keep_by_chance(table_ND: Any, row: Any, d: Any, number: Any, keeper: Any, drawn: Any) -> Any:
    kept = by_chance(number, noise(drawn, d), table_ND)
    table_ND[row, d] = kept
    return widened(kept)


def _keep_beside_master(
    table_ND: Any, row: Any, d: Any, number: Any, keeper: Any, drawn: Any
) -> Any:
    kept = nearest(number, table_ND)
    table_ND[row, d] = kept
    keeper.rows_ND[row, d] = number
    return widened(kept)


def _keep_exactly(table_ND: Any, row: Any, d: Any, number: Any, keeper: Any, drawn: Any) -> Any:
    table_ND[row, d] = number
    return number


@overload(keep)
def _keep(table_ND: Any, row: Any, d: Any, number: Any, keeper: Any, drawn: Any) -> Any:
    kinds = {
        Chance: _keep_by_chance,
        ChanceOf: _keep_by_chance,
        Master: _keep_beside_master,
    }
    return kinds.get(_kind(keeper), _keep_exactly)
