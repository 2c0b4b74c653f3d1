"""The oracle: a memory as a dict of rows, with no index, no shards and no files."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from memstore import (
    NO_SLOT,
    And,
    Compare,
    Filter,
    In,
    Memory,
    MemoryConfig,
    Not,
    OptimizerConfig,
    Or,
    SearchOptions,
)
from memstore.dtypes import LOW, counting, storage
from memstore.memory import Array, Slots

LANES = 16


def inner_products(queries_QD: Array, keys_ND: Array) -> Array:
    """The scoring kernel in numpy: sixteen lanes summed side by side, then folded in halves."""
    products_QND = queries_QD[:, None, :] * keys_ND[None, :, :]
    padding = -products_QND.shape[2] % LANES
    products_QND = np.pad(products_QND, [(0, 0), (0, 0), (0, padding)])
    lanes_QNL = np.zeros((*products_QND.shape[:2], LANES), products_QND.dtype)
    for start in range(0, products_QND.shape[2], LANES):
        lanes_QNL = lanes_QNL + products_QND[:, :, start : start + LANES]
    for half in (8, 4, 2, 1):
        lanes_QNL = lanes_QNL[:, :, :half] + lanes_QNL[:, :, half:]
    return lanes_QNL[:, :, 0]


def best(slots_N: Slots, scores_N: Array, k: int) -> tuple[list[int], list[float]]:
    """The k slots of highest score, equal scores in order of slot, padded to k."""
    pairs = sorted((-score, slot) for score, slot in zip(scores_N, slots_N, strict=True))[:k]
    pairs += [(np.inf, NO_SLOT)] * (k - len(pairs))
    return [int(slot) for _, slot in pairs], [float(-score) for score, _ in pairs]


def stepped(
    config: OptimizerConfig, row_D: Array, state: dict[str, Any], grad_D: Array, lr: float
) -> Array:
    """The row after one step of the optimizer; `state`, empty at first, is brought up to date."""
    kind, number = config.kind, row_D.dtype.type
    norm = float(np.linalg.norm(grad_D))
    if config.clip_norm and norm > config.clip_norm:
        grad_D = grad_D * number(config.clip_norm / norm)
    if config.weight_decay and kind == "adamw":
        row_D = row_D * number(1 - lr * config.weight_decay)
    elif config.weight_decay:
        grad_D = grad_D + number(config.weight_decay) * row_D
    square = grad_D * grad_D
    if kind.startswith("rowwise"):
        square = np.mean(square, keepdims=True)
    if kind == "sgd":
        row_D = row_D - number(lr) * grad_D
    elif kind.endswith("adagrad"):
        state["sum"] = state.get("sum", 0) + square
        row_D = row_D - number(lr) * grad_D / (np.sqrt(state["sum"]) + number(config.eps))
    else:
        beta1, beta2 = config.betas
        steps = state["steps"] = state.get("steps", 0) + 1
        state["mean"] = number(beta1) * state.get("mean", number(0)) + number(1 - beta1) * grad_D
        state["square"] = (
            number(beta2) * state.get("square", number(0)) + number(1 - beta2) * square
        )
        mean = state["mean"] / number(1 - beta1**steps)
        root = np.sqrt(state["square"] / number(1 - beta2**steps))
        row_D = row_D - number(lr) * mean / (root + number(config.eps))
    norm = float(np.linalg.norm(row_D))
    if config.max_norm and norm > config.max_norm:
        row_D = row_D * number(config.max_norm / norm)
    return row_D


@dataclass
class Row:
    key: Array
    value: Array | None
    record: dict[str, Any]
    state: dict[str, dict[str, Any]] = field(default_factory=dict)


class Oracle:
    """What a memory should do, slot by slot."""

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self.rows: dict[int, Row] = {}
        self.next_slot = 0

    @property
    def slots(self) -> list[int]:
        return sorted(self.rows)

    def append(self, keys: Array, values: Array | None, records: Mapping[str, list]) -> list[int]:
        slots = list(range(self.next_slot, self.next_slot + len(keys)))
        self.next_slot += len(keys)
        for i, slot in enumerate(slots):
            value = None if values is None else values[i].copy()
            record = {name: column[i] for name, column in records.items()}
            self.rows[slot] = Row(keys[i].copy(), value, record)
        return slots

    def write(
        self,
        slots: Sequence[int],
        keys: Array | None = None,
        values: Array | None = None,
        records: Mapping[str, list] | None = None,
    ) -> None:
        for i, slot in enumerate(slots):
            row = self.rows[slot]
            row.key = row.key if keys is None else keys[i].copy()
            row.value = row.value if values is None else values[i].copy()
            if records is not None:
                row.record = {name: column[i] for name, column in records.items()}

    def update(
        self, slots: Sequence[int], key_grads: Array | None, value_grads: Array | None, lr: float
    ) -> int:
        for part, grads in (("key", key_grads), ("value", value_grads)):
            if grads is None:
                continue
            sums: dict[int, Array] = {}
            for slot, grad in zip(slots, grads, strict=True):
                sums[slot] = sums[slot] + grad if slot in sums else grad
            for slot, grad in sums.items():
                self._step(self.rows[slot], part, grad, lr)
        return len(set(slots))

    def _step(self, row: Row, part: str, grad: Array, lr: float) -> None:
        """Narrow rows come out as float32: `settle` says to what they were rounded."""
        state = row.state.setdefault(part, {})
        config, kept = self.config.optimizer_config, getattr(row, part)
        before = kept.astype(counting(kept.dtype))
        if config.master and "master" in state:
            counts = state["master"].astype(kept.dtype) == kept
            before = np.where(counts, state["master"], before)
        after = state["master"] = stepped(config, before, state, grad, lr)
        setattr(row, part, after)

    def settle(self, slots: Sequence[int], memory: Memory) -> None:
        """Takes over how a memory rounded what was stepped: to one of the two neighbours."""
        dtype = storage(self.config.dtype)
        if dtype not in LOW:
            return
        rows = memory.gather(np.array(slots, int))
        gap = 1.01 * float(ml_dtypes.finfo(dtype).eps)
        for part, rows_BX in (("key", rows.keys_BD), ("value", rows.values_BV)):
            for slot, row in zip(slots, rows_BX if rows_BX is not None else [], strict=False):
                twin = getattr(self.rows[slot], part).astype(np.float32)
                np.testing.assert_allclose(row.astype(np.float32), twin, rtol=gap, atol=1e-5)
                setattr(self.rows[slot], part, row.copy())

    def erase(self, slots: Sequence[int]) -> None:
        for slot in slots:
            del self.rows[slot]

    def lookup(
        self, column: str, value: object, limit: int, first: int = 0
    ) -> tuple[list[int], bool]:
        """The slots whose record holds the value, from `first` on, at most `limit`, and whether
        there are more."""
        found = [slot for slot in self.slots if _holds(self.rows[slot].record[column], value)]
        found = [slot for slot in found if slot >= first]
        return found[:limit], len(found) > limit

    def passing(self, tree: Filter) -> list[int]:
        """The slots whose record passes."""
        return [slot for slot in self.slots if passes(tree, self.rows[slot].record)]

    def keys(self, slots: Sequence[int]) -> Array:
        found = [self.rows[slot].key for slot in slots]
        return np.array(found, storage(self.config.dtype)).reshape(-1, self.config.dim)

    def values(self, slots: Sequence[int]) -> Array:
        found = [self.rows[slot].value for slot in slots]
        return np.array(found, storage(self.config.dtype)).reshape(-1, self.config.value_dim or 1)

    def search(self, queries_QD: Array, k: int) -> tuple[list[list[int]], list[list[float]]]:
        """The k best slots of each query and their scores, in the dtype of the queries."""
        scores_QN = inner_products(queries_QD, self.keys(self.slots).astype(queries_QD.dtype))
        found = [best(np.array(self.slots), scores_N, k) for scores_N in scores_QN]
        return [slots for slots, _ in found], [scores for _, scores in found]


class EncodedOracle(Oracle):
    """Keys as last encoded: the sum of the parts that the record names, at that time."""

    def __init__(self, config: MemoryConfig, parts: Mapping[str, Oracle]) -> None:
        super().__init__(config)
        self.parts = parts

    def encode(self, records: Mapping[str, list]) -> Array:
        dtype = storage(self.config.dtype)
        columns = [
            self.parts[memory].keys(records[column]).astype(counting(dtype))
            for column, memory in self.config.encoding_config.key.items()
        ]
        return np.sum(columns, axis=0).astype(dtype)

    def encode_again(self, slots: Sequence[int]) -> None:
        for slot in slots:
            record = {name: [value] for name, value in self.rows[slot].record.items()}
            self.rows[slot].key = self.encode(record)[0]


class SummedOracle(EncodedOracle):
    """Keys as they would be encoded now."""

    def keys(self, slots: Sequence[int]) -> Array:
        columns = self.config.encoding_config.key
        records = {c: [self.rows[slot].record[c] for slot in slots] for c in columns}
        return self.encode(records)


def _holds(held: object, value: object) -> bool:
    return value in held if isinstance(held, list) else held == value


COMPARE = {
    "==": _holds,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def passes(tree: Filter, record: Mapping[str, Any]) -> bool:
    """Whether a record passes a filter."""
    match tree:
        case Compare(column, op, value):
            return bool(COMPARE[op](record[column], value))
        case In(column, values):
            return any(_holds(record[column], value) for value in values)
        case And(filters):
            return all(passes(child, record) for child in filters)
        case Or(filters):
            return any(passes(child, record) for child in filters)
        case Not(child):
            return not passes(child, record)
    raise TypeError(tree)


def live_slots(memory: Memory) -> Slots:
    """Every slot that is there, rising: all score zero against a query of zeros."""
    zeros = np.zeros((1, memory.config.dim))
    k = max(memory.describe().next_slot, 1)
    found = memory.search(zeros, k, SearchOptions(exact=True))
    return found.slots_QK[0, : found.counts_Q[0]]


def settle(memory: Memory) -> None:
    """Waits until the index of a memory has nothing to do in the background."""
    base: Any = getattr(memory, "base", memory)
    base.settle()


def fingerprint(memory: Memory) -> dict[str, Any]:
    """Whatever a caller could see of a memory, bit for bit."""
    slots = live_slots(memory)
    rows = memory.gather(slots, columns=list(memory.config.records))
    state = memory.describe()
    return {
        "config": memory.config,
        "next_slot": state.next_slot,
        "rows": state.rows,
        "drift": state.drift,
        "row_versions": [shard.row_version for shard in state.shards],
        "index": [(s.index_version, s.sealed, s.fresh, s.segments) for s in state.shards],
        "slots": slots.tolist(),
        "keys": None if rows.keys_BD is None else rows.keys_BD.tobytes(),
        "values": None if rows.values_BV is None else rows.values_BV.tobytes(),
        "records": None if rows.records is None else rows.records.to_pydict(),
    }
