"""The row table: keys, values, optimizer state and liveness of one shard, the truth of it.

A row here is the shard's own number of a slot: `slot // shards`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.config import MemoryConfig
from memstore.dtypes import LOW, storage
from memstore.kernels.blend import blend_rows
from memstore.kernels.half import packed, wide
from memstore.kernels.keep import Chance, Keeper, Master
from memstore.memory import Array, Slots
from memstore.shard import optimizers
from memstore.shard.usage import Usage

FIRST_CAPACITY = 1_024


class RowTable:
    """Arrays that grow by doubling; `size` rows of them are in use, dead ones included.

    travel_N float64: the way a row's key has gone since it was appended, the sum of the lengths
    of its changes. The difference of two readings bounds how far the key moved between them.
    """

    def __init__(self, config: MemoryConfig, number: int = 0) -> None:
        self.config = config
        self.number = number
        self.size = 0
        self.version = 0
        dtype, width = storage(config.dtype), config.value_dim
        self.keys_ND = np.empty((0, config.dim), dtype)
        self.values_NV = None if width is None else np.empty((0, width), dtype)
        self.alive_N = np.zeros(0, bool)
        self.travel_N = np.zeros(0, np.float64)
        self.state: dict[str, Array] = {}
        self.usage = Usage(config.usage_config)

    @property
    def live(self) -> int:
        return int(self.alive_N[: self.size].sum())

    @property
    def bytes(self) -> int:
        used = self.keys_ND[: self.size].nbytes + 25 * self.size
        used += 0 if self.values_NV is None else self.values_NV[: self.size].nbytes
        return used + sum(state[: self.size].nbytes for state in self.state.values())

    def is_alive(self, rows_B: Slots) -> npt.NDArray[np.bool_]:
        """Tells which rows are there; a number out of range is not."""
        inside_B = (rows_B >= 0) & (rows_B < self.size)
        alive_B = np.zeros(len(rows_B), bool)
        alive_B[inside_B] = self.alive_N[rows_B[inside_B]]
        return alive_B

    def live_rows(self) -> Slots:
        return np.flatnonzero(self.alive_N[: self.size])

    def put(self, rows_B: Slots, keys_BD: Array | None, values_BV: Array | None) -> None:
        """Writes whole rows; a row that was not there comes alive with no optimizer state."""
        if len(rows_B):
            self._grow(int(rows_B.max()) + 1)
        if keys_BD is not None:
            old_B = self.alive_N[rows_B]
            change_BD = wide(keys_BD[old_B]).astype(np.float64)
            change_BD -= wide(self.keys_ND[rows_B[old_B]])
            self.travel_N[rows_B[old_B]] += np.linalg.norm(change_BD, axis=1)
            self.keys_ND[rows_B] = keys_BD
        if values_BV is not None and self.values_NV is not None:
            self.values_NV[rows_B] = values_BV
        self.alive_N[rows_B] = True
        self.version += 1

    def blend(self, rows_B: Slots, weights_B: Array, erase_BD: Array, add_BD: Array) -> None:
        """M ← M∘(1 − w·e) + w·a, one after the other."""
        keeper = self._keeper("key", self.keys_ND)
        table_ND = packed(self.keys_ND)
        moved_B = blend_rows(table_ND, keeper, rows_B, weights_B, erase_BD, add_BD)
        np.add.at(self.travel_N, rows_B, moved_B)
        self.version += 1

    def touch(self, rows_B: Slots, step: int, weights_B: Array | None) -> None:
        self.usage.touch(rows_B, step, weights_B)
        self.version += 1

    def renew(self, rows_B: Slots) -> None:
        """Hands rows to new tenants: zero, without optimizer state, never used."""
        self.put(
            rows_B,
            np.zeros((len(rows_B), self.keys_ND.shape[1]), self.keys_ND.dtype),
            None
            if self.values_NV is None
            else np.zeros((len(rows_B), self.values_NV.shape[1]), self.values_NV.dtype),
        )
        for state in self.state.values():
            state[rows_B] = 0
        self.usage.renew(rows_B)

    def kill(self, rows_B: Slots) -> None:
        self.alive_N[rows_B] = False
        self.version += 1

    def step(
        self, rows_B: Slots, key_grads_BD: Array | None, value_grads_BV: Array | None, lr: float
    ) -> int:
        """Takes one optimizer step; returns the number of distinct rows changed."""
        changed = 0
        config = self.config.optimizer_config
        if key_grads_BD is not None:
            state = self._state("key", self.keys_ND)
            keeper = self._keeper("key", self.keys_ND)
            rows_U, moved_U = optimizers.step(
                config, self.keys_ND, state, rows_B, key_grads_BD, lr, keeper
            )
            self.travel_N[rows_U] += moved_U
            changed = len(rows_U)
        if value_grads_BV is not None and self.values_NV is not None:
            state = self._state("value", self.values_NV)
            keeper = self._keeper("value", self.values_NV)
            rows_U, _ = optimizers.step(
                config, self.values_NV, state, rows_B, value_grads_BV, lr, keeper
            )
            changed = len(rows_U)
        self.version += 1
        return changed

    def arrays(self) -> dict[str, Array]:
        """The parts in use, by name: what a checkpoint holds."""
        parts = {"keys": self.keys_ND, "alive": self.alive_N, "travel": self.travel_N}
        parts |= {"priority": self.usage.priority_N, "generation": self.usage.generation_N}
        if self.values_NV is not None:
            parts["values"] = self.values_NV
        parts |= {f"state_{name}": state for name, state in self.state.items()}
        return {name: part[: self.size] for name, part in parts.items()}

    def restore(self, arrays: dict[str, Array], version: int) -> None:
        """Takes over what `arrays` gave."""
        self.keys_ND, self.alive_N = arrays["keys"], arrays["alive"]
        self.travel_N = arrays["travel"]
        self.usage.priority_N, self.usage.generation_N = arrays["priority"], arrays["generation"]
        self.values_NV = arrays.get("values")
        prefix = "state_"
        self.state = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        self.size, self.version = len(self.keys_ND), version

    def _state(self, part: str, table_ND: Array) -> dict[str, Array]:
        """The optimizer state of the keys or the values, made on first use."""
        names = optimizers.LAYOUT[self.config.optimizer_config.kind]
        if any(f"{part}_{name}" not in self.state for name in names):
            new = optimizers.new_state(self.config.optimizer_config, table_ND)
            self.state |= {f"{part}_{name}": array for name, array in new.items()}
        return {name: self.state[f"{part}_{name}"] for name in names}

    def _keeper(self, part: str, table_ND: Array) -> Keeper:
        """How the keys or the values are kept; what that takes is made on first use."""
        if table_ND.dtype not in LOW:
            return None
        config = self.config.optimizer_config
        name = f"{part}_{'master' if config.master else 'drawn'}"
        if name not in self.state:
            self.state[name] = optimizers.new_keeping(config, table_ND)
        if config.master:
            return Master(self.state[name])
        seed = np.uint64(2 * config.seed + (part == "value"))
        return Chance(self.state[name], seed, self.config.shards, self.number)

    def _grow(self, size: int) -> None:
        if size > len(self.keys_ND):
            capacity = max(FIRST_CAPACITY, size, 2 * len(self.keys_ND))
            self.keys_ND = _grown(self.keys_ND, capacity, self.size)
            self.alive_N = _grown(self.alive_N, capacity, self.size)
            self.travel_N = _grown(self.travel_N, capacity, self.size)
            if self.values_NV is not None:
                self.values_NV = _grown(self.values_NV, capacity, self.size)
            self.usage.grow(capacity)
            self.state = {n: _grown(s, capacity, self.size) for n, s in self.state.items()}
        self.size = max(self.size, size)


def _grown(array: Array, capacity: int, used: int) -> Array:
    new = np.zeros((capacity, *array.shape[1:]), array.dtype)
    new[:used] = array[:used]
    return new
