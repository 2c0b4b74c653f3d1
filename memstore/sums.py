"""Sums: memories whose keys are sums of rows of others, wherever these and their own rows lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from memstore import checks
from memstore.config import MemoryConfig
from memstore.errors import InvalidArgument, UnknownSlot, Unsupported
from memstore.kernels.half import wide
from memstore.memory import (
    Applied,
    Array,
    LookupResult,
    Memory,
    Numbers,
    Records,
    RequestId,
    Rows,
    SearchOptions,
    SearchResult,
    Slots,
    SlotsLike,
)


class PartRows(Protocol):
    """A memory whose rows are summed."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> MemoryConfig: ...

    def gather(self, slots: SlotsLike) -> Rows: ...

    def check_known(self, slots_B: Slots) -> None: ...


def keyless_spread(name: str) -> Unsupported:
    """What is raised of a memory that would lie on several servers, and keep no keys."""
    return Unsupported(
        f"memory {name!r} would lie on several servers, and keep no keys",
        got="EncodingConfig(stored=False)",
        hint="store the keys, or have one server hold all",
    )


class SummedMemory:
    """A `Memory` over record columns that name rows; it has no row of its own to train."""

    def __init__(self, base: Memory, memories: Mapping[str, PartRows]) -> None:
        """base: keeps the sums and the records.  memories: by name, those of the parts, or of
        them what is here."""
        self.base = base
        self._encoding = base.config.encoding_config
        key, value = self._encoding.key.items(), self._encoding.value.items()
        self._parts: Mapping[str, PartRows] = {c: memories[n] for c, n in key if n in memories}
        self._values: Mapping[str, PartRows] = {c: memories[n] for c, n in value if n in memories}
        for column, part in self._parts.items():
            if (part.config.dim, part.config.dtype) != (base.config.dim, base.config.dtype):
                raise InvalidArgument(
                    f"the rows of memory {part.name!r}, for key column {column!r}, do not fit",
                    got=f"{part.config.dtype} of width {part.config.dim}",
                    expected=f"{base.config.dtype} of width {base.config.dim}",
                )

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def config(self) -> MemoryConfig:
        return self.base.config

    @property
    def made(self) -> int:
        """The number under which it was made."""
        made: int = self.base.made  # type: ignore[attr-defined]
        return made

    def append(
        self,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        self._refuse_vectors(keys, values)
        if records is None:
            raise InvalidArgument("records are missing", expected=self.config.schema.names)
        table = checks.records(records, self.config.schema, None)
        assert table is not None
        step = checks.step_number(step)
        return self._put_new(table, step, request_id, deadline_s)

    def write(
        self,
        slots: SlotsLike,
        keys: Array | None = None,
        values: Array | None = None,
        records: Records | None = None,
        *,
        step: int | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        self._refuse_vectors(keys, values)
        slots_B = checks.slots(slots, unique=True)
        table = checks.records(records, self.config.schema, len(slots_B))
        assert table is not None
        step = checks.step_number(step)
        return self._put_over(slots_B, table, step, request_id, deadline_s)

    def update(
        self,
        slots: SlotsLike,
        key_grads: Array | None = None,
        value_grads: Array | None = None,
        lr: float | None = None,
        *,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        raise self._no_rows()

    def blend(
        self,
        slots: SlotsLike,
        weights: Numbers,
        erase: Array,
        add: Array,
        *,
        step: int | None = None,
        generations: SlotsLike | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        raise self._no_rows()

    def touch(
        self,
        slots: SlotsLike,
        step: int,
        weights: Numbers | None = None,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        return self.base.touch(slots, step, weights, request_id=request_id, deadline_s=deadline_s)

    def allocate(
        self,
        n: int,
        *,
        step: int | None = None,
        records: Records | None = None,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Slots:
        raise self._no_rows()

    def erase(
        self,
        slots: SlotsLike,
        *,
        request_id: RequestId | None = None,
        deadline_s: float | None = None,
    ) -> Applied:
        return self.base.erase(slots, request_id=request_id, deadline_s=deadline_s)

    def search(
        self, queries: Array, k: int, options: SearchOptions = SearchOptions()
    ) -> SearchResult:
        return self.base.search(queries, k, options)

    def gather(
        self,
        slots: SlotsLike,
        *,
        vectors: bool = True,
        columns: Sequence[str] = (),
        list_limit: int | None = None,
    ) -> Rows:
        return self.base.gather(slots, vectors=vectors, columns=columns, list_limit=list_limit)

    def lookup(
        self,
        column: str,
        values: Sequence[Any] | Array,
        limit: int,
        cursor: SlotsLike | None = None,
    ) -> LookupResult:
        return self.base.lookup(column, values, limit, cursor)

    def reindex(self) -> None:
        self.base.reindex()

    def _put_new(
        self,
        records: pa.Table,
        step: int | None,
        request_id: RequestId | None,
        deadline_s: float | None,
    ) -> Slots:
        """Appends records that are checked, under the sums of their parts."""
        raise NotImplementedError

    def _put_over(
        self,
        slots_B: Slots,
        records: pa.Table,
        step: int | None,
        request_id: RequestId | None,
        deadline_s: float | None,
    ) -> Applied:
        """Overwrites what is there by records that are checked."""
        raise NotImplementedError

    def _checked_encoding(self, records: pa.Table) -> Array:
        self._check_values(records)
        return self._encode(records)

    def _encode(self, records: pa.Table) -> Array:
        """The keys of records: the sum of the rows that their key columns name, not yet rounded."""
        keys_BD: Array | None = None
        for column, part in self._parts.items():
            rows_BD = wide(self._part_rows(column, part, records[column].to_numpy()))
            keys_BD = rows_BD if keys_BD is None else keys_BD + rows_BD
        assert keys_BD is not None
        return keys_BD

    def _check_values(self, records: pa.Table) -> None:
        for column, part in self._values.items():
            named = records[column].combine_chunks()
            named = named.flatten() if pa.types.is_list(named.type) else named
            self._check_named(column, part, named.to_numpy())

    def _part_rows(self, column: str, part: PartRows, slots_B: Slots) -> Array:
        self._check_named(column, part, slots_B)
        keys_BD = part.gather(slots_B).keys_BD
        assert keys_BD is not None
        return keys_BD

    def _check_named(self, column: str, part: PartRows, slots_B: Slots) -> None:
        try:
            part.check_known(slots_B)
        except UnknownSlot as error:
            raise UnknownSlot(
                f"record column {column!r} names a slot that memory {part.name!r} has not",
                got=error.got,
                hint="append the parts first; nothing was changed",
            ) from error

    def _no_rows(self) -> Unsupported:
        return Unsupported(
            f"memory {self.name!r} is encoded and has no rows of its own",
            hint=f"change the memories of its parts: {sorted(self._encoding.memories)}",
        )

    def _refuse_vectors(self, keys: Array | None, values: Array | None) -> None:
        if keys is not None or values is not None:
            raise InvalidArgument(
                f"memory {self.name!r} is encoded: its keys are sums of parts",
                got="keys" if keys is not None else "values",
                hint=f"give records with {sorted(self._encoding.key)} instead",
            )
