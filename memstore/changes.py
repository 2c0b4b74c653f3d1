"""Changes: what mutations ask for, checked at the boundary, before anybody does it.

    change = Changes("facts", config).update(slots, key_grads)
    memory.do(change, Asked.of(request_id, *change.content), deadline)

A change knows of no shards. Whoever spreads it over several cuts it by the rows that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from memstore import checks
from memstore.config import MemoryConfig
from memstore.dtypes import counting, storage
from memstore.errors import InvalidArgument, WrongShape
from memstore.memory import Array, Numbers, Records, Slots, SlotsLike

Verb = Literal["append", "write", "blend", "update", "touch", "allocate", "erase"]

NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class Outline:
    """What must be known of a change to say whether it could be done.

    freshens: it has to wait for the index.  reach: how much a `blend` may add to a number.
    parts: all that the call is about, where it is about several.
    """

    verb: Verb
    slots_B: Slots
    freshens: bool = False
    reach: float = 0.0
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Change:
    """What one call of a mutation asks for.

    slots_B: the rows that it names; of `append` and `allocate` none, until they are given out.
    rows: by name, what has a row for each: arrays, a table, None where it is left out.
    facts: by name, what is the same for all.  content: verb and arguments, as they are digested.
    """

    verb: Verb
    slots_B: Slots
    rows: Mapping[str, Array | pa.Table | None] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    content: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.slots_B)

    def arrays(self, *names: str) -> tuple[Any, ...]:
        """Those of its rows."""
        return tuple(self.rows[name] for name in names)

    def of(self, slots_B: Slots) -> Change:
        """The same with the slots that were given out for it."""
        return replace(self, slots_B=slots_B)

    def taken(self, at: Slots) -> Change:
        """The part of it that is about some of its rows."""
        if len(at) == len(self.slots_B):
            return self
        rows = {name: _taken(part, at) for name, part in self.rows.items()}
        return replace(self, slots_B=self.slots_B[at], rows=rows)

    @property
    def outline(self) -> Outline:
        return Outline(self.verb, self.slots_B, self.freshens, self.facts.get("reach", 0.0))

    @property
    def freshens(self) -> bool:
        """Whether rows may become fresh by it, so that it has to wait for the index."""
        if self.verb == "update":
            return bool(self.facts["drifts"])
        if self.verb == "write":
            return self.rows["keys"] is not None
        return self.verb in ("append", "blend", "allocate")


def _taken(part: Array | pa.Table | None, at: Slots) -> Array | pa.Table | None:
    if part is None:
        return None
    return part.take(at) if isinstance(part, pa.Table) else part[at]


class Changes:
    """Checks the arguments of each mutation of one memory, as far as that needs no row of it."""

    def __init__(self, name: str, config: MemoryConfig) -> None:
        self._name, self._config = name, config
        self._dtype = storage(config.dtype)

    def append(
        self,
        keys: Array | None,
        values: Array | None,
        records: Records | None,
        step: int | None,
    ) -> Change:
        if keys is None:
            raise InvalidArgument("keys are missing", expected=f"(rows, {self._config.dim})")
        keys_BD = self._keys(keys)
        values_BV = self._values(values, len(keys_BD), required=True)
        table = checks.records(records, self._config.schema, len(keys_BD))
        step = checks.step_number(step)
        return Change(
            "append",
            NOTHING,
            {"keys": keys_BD, "values": values_BV, "records": table},
            {"step": step, "count": len(keys_BD)},
            ("append", keys_BD, values_BV, table, step),
        )

    def write(
        self,
        slots: SlotsLike,
        keys: Array | None,
        values: Array | None,
        records: Records | None,
        step: int | None,
    ) -> Change:
        slots_B = checks.slots(slots, unique=True)
        step = checks.step_number(step)
        keys_BD = None if keys is None else self._keys(keys, len(slots_B))
        values_BV = self._values(values, len(slots_B), required=False)
        table = None
        if records is not None:
            table = checks.records(records, self._config.schema, len(slots_B))
        if keys_BD is None and values_BV is None and table is None:
            raise InvalidArgument("nothing to write", expected="keys, values or records")
        return Change(
            "write",
            slots_B,
            {"keys": keys_BD, "values": values_BV, "records": table},
            {"step": step},
            ("write", slots_B, keys_BD, values_BV, table, step),
        )

    def blend(
        self,
        slots: SlotsLike,
        weights: Numbers,
        erase: Array,
        add: Array,
        step: int | None,
        generations: SlotsLike | None,
    ) -> Change:
        slots_B = checks.slots(slots)
        count, width = len(slots_B), self._config.dim
        weights_B = checks.share(
            "weights", checks.vector("weights", weights, dtype=counting(self._dtype), rows=count)
        )
        erase_BD = checks.share("erase", self._numbers("erase", erase, width, count))
        add_BD = self._numbers("add", add, width, count)
        step = checks.step_number(step)
        meant_B = meant(generations, count)
        return Change(
            "blend",
            slots_B,
            {"weights": weights_B, "erase": erase_BD, "add": add_BD, "generations": meant_B},
            {"step": step, "reach": float(weights_B @ np.abs(add_BD).max(axis=1))},
            ("blend", slots_B, weights_B, erase_BD, add_BD, step, meant_B),
        )

    def update(
        self,
        slots: SlotsLike,
        key_grads: Array | None,
        value_grads: Array | None,
        lr: float | None,
        generations: SlotsLike | None,
    ) -> Change:
        slots_B, config = checks.slots(slots), self._config
        if key_grads is None and value_grads is None:
            raise InvalidArgument("nothing to update", expected="key_grads or value_grads")
        key_grads_BD = None
        if key_grads is not None:
            key_grads_BD = self._numbers("key_grads", key_grads, config.dim, len(slots_B))
        value_grads_BV = self._values(value_grads, len(slots_B), name="value_grads")
        rate = checks.rate(config.optimizer_config.lr if lr is None else lr)
        checks.decay(rate, config.optimizer_config.weight_decay)
        for grads_BX in (key_grads_BD, value_grads_BV):
            checks.step(grads_BX, rate)
        meant_B = meant(generations, len(slots_B))
        drifts = key_grads is not None and config.index_config.drift_limit is not None
        return Change(
            "update",
            slots_B,
            {
                "key_grads": key_grads_BD,
                "value_grads": value_grads_BV,
                "generations": meant_B,
            },
            {"lr": rate, "drifts": drifts},
            ("update", slots_B, key_grads_BD, value_grads_BV, rate, meant_B),
        )

    def touch(self, slots: SlotsLike, step: int, weights: Numbers | None) -> Change:
        slots_B, used_at = checks.slots(slots), checks.step_number(step)
        if used_at is None:
            raise InvalidArgument("step is missing", expected="the caller's step, ≥ 0")
        weights_B = None
        if weights is not None:
            if self._config.usage_config.kind != "discounted":
                raise InvalidArgument(
                    "weights mean nothing to last-step usage",
                    hint='leave them out, or make the memory with usage="discounted"',
                )
            weights_B = checks.vector("weights", weights, dtype="float64", rows=len(slots_B))
            if len(weights_B) and weights_B.min() < 0:
                raise InvalidArgument("weights are negative", got=weights_B.min(), expected="≥ 0")
        content = ("touch", slots_B, used_at, weights_B)
        return Change("touch", slots_B, {"weights": weights_B}, {"step": used_at}, content)

    def allocate(self, n: int, step: int | None, records: Records | None) -> Change:
        n = checks.positive("n", n)
        step = checks.step_number(step)
        table = checks.records(records, self._config.schema, n)
        content = ("allocate", n, step, table)
        return Change("allocate", NOTHING, {"records": table}, {"step": step, "count": n}, content)

    def erase(self, slots: SlotsLike) -> Change:
        slots_B = checks.slots(slots, unique=True)
        return Change("erase", slots_B, content=("erase", slots_B))

    def _keys(self, keys: Array, rows: int | None = None) -> Array:
        return checks.matrix("keys", keys, width=self._config.dim, dtype=self._dtype, rows=rows)

    def _numbers(self, name: str, value: Any, width: int, rows: int) -> Array:
        """Numbers to count with, not to keep."""
        return checks.matrix(name, value, width=width, dtype=counting(self._dtype), rows=rows)

    def _values(
        self, values: Array | None, rows: int, *, required: bool = False, name: str = "values"
    ) -> Array | None:
        width = self._config.value_dim
        if values is None and not (required and width is not None):
            return None
        if width is None:
            raise InvalidArgument(
                f"memory {self._name!r} has no values", got=name, hint="its key is its value"
            )
        if values is None:
            raise InvalidArgument(f"{name} are missing", expected=f"({rows}, {width})")
        dtype = self._dtype if name == "values" else counting(self._dtype)
        return checks.matrix(name, values, width=width, dtype=dtype, rows=rows)


def meant(generations: SlotsLike | None, count: int) -> Slots | None:
    """The generations that a caller means, checked."""
    if generations is None:
        return None
    meant_B = checks.slots(generations)
    if len(meant_B) != count:
        raise WrongShape("generations have the wrong length", got=len(meant_B), expected=count)
    return meant_B
