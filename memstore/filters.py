"""Filters: which rows a search may find, said of their record columns.

    recent = memstore.field("year") >= 1990
    asian = memstore.field("continent").is_in(["AS"]) & ~(memstore.field("tags") == "closed")
    memory.search(queries, 10, SearchOptions(filter=recent & asian))

A filter is a value: frozen, hashable, equal to any other of the same canonical form, and plain
JSON through `to_dict` and `from_dict`. On a list column `==` and `In` mean "some item".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from memstore.errors import InvalidArgument, NotFinite, WrongType

Value: TypeAlias = bool | int | float | str
CompareOp = Literal["==", "!=", "<", "<=", ">", ">="]

MAX_DEPTH = 32
"""Nodes from the root to a leaf. `&` of `&` is one node, so this is alternation, not length."""

MAX_SIZE = 65_536
"""Nodes and values of one tree: half a megabyte as JSON, some milliseconds to read."""


class Filter:
    """A tree over record columns: `Compare`, `In`, `And`, `Or`, `Not`. Join them by `& | ~`."""

    depth: int
    size: int
    canonical: str
    """JSON of `to_dict`: what two filters are compared and hashed by, so that 1 is not True."""

    def __and__(self, other: Filter) -> Filter:
        return And((self, other))

    def __or__(self, other: Filter) -> Filter:
        return Or((self, other))

    def __invert__(self) -> Filter:
        return self.filter if isinstance(self, Not) else Not(self)

    def __bool__(self) -> bool:
        raise WrongType("a filter is neither true nor false", hint="join filters by & | ~")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, from which `from_dict` makes an equal filter."""
        raise NotImplementedError

    def leaves(self) -> Iterable[Compare | In]:
        """Every comparison in the tree."""
        for child in self._children():
            yield from child.leaves()

    def _children(self) -> tuple[Filter, ...]:
        return ()

    def _settle(self, values: int = 0) -> None:
        """Measures the tree once its fields stand; raises where it is too deep or too large."""
        depth = 1 + max((child.depth for child in self._children()), default=0)
        size = 1 + values + sum(child.size for child in self._children())
        if depth > MAX_DEPTH:
            raise InvalidArgument("the filter is too deep", got=depth, expected=f"≤ {MAX_DEPTH}")
        if size > MAX_SIZE:
            raise InvalidArgument("the filter is too large", got=size, expected=f"≤ {MAX_SIZE}")
        text = json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":"))
        for name, value in (("depth", depth), ("size", size), ("canonical", text)):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class Compare(Filter):
    """Passes a row whose column stands so to the value; of a list column only `==`: some item.

    Numbers compare as the column's type holds them, texts by code point, NaN as in IEEE 754.
    """

    column: str
    op: CompareOp
    value: Value

    def __post_init__(self) -> None:
        _check_column(self.column)
        if self.op not in get_args(CompareOp):
            raise InvalidArgument(
                "the comparison is unknown", got=repr(self.op), expected=get_args(CompareOp)
            )
        object.__setattr__(self, "value", _plain(self.value))
        self._settle()

    def to_dict(self) -> dict[str, Any]:
        return {"op": self.op, "column": self.column, "value": self.value}

    def leaves(self) -> Iterable[Compare | In]:
        yield self


@dataclass(frozen=True, eq=False)
class In(Filter):
    """Passes a row whose column, or of a list column some item, is one of the values.

    values: at least one, all bools, all numbers or all texts; kept sorted and distinct.
    """

    column: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        _check_column(self.column)
        values: object = self.values
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise WrongType("the values of In are not a list", got=type(values).__name__)
        plain = [_plain(value) for value in values]
        if not plain:
            raise InvalidArgument(
                f"In over column {self.column!r} has no values", hint="it would pass no row"
            )
        if len({float if type(value) is int else type(value) for value in plain}) > 1:
            names = sorted({type(value).__name__ for value in plain})
            raise WrongType("the values of In are of several types", got=names, expected="one")
        distinct: list[Any] = sorted(set(plain))
        object.__setattr__(self, "values", tuple(distinct))
        self._settle(len(self.values))

    def to_dict(self) -> dict[str, Any]:
        return {"op": "in", "column": self.column, "values": list(self.values)}

    def leaves(self) -> Iterable[Compare | In]:
        yield self


class _Several(Filter):
    """And and Or: flat, sorted and distinct, so that order and grouping make no difference."""

    op: ClassVar[str]
    filters: tuple[Filter, ...]

    def __post_init__(self) -> None:
        given: object = self.filters
        if isinstance(given, Filter | str) or not isinstance(given, Iterable):
            raise WrongType(f"{self.op!r} wants a list of filters", got=type(given).__name__)
        flat: list[Filter] = []
        for child in given:
            _check_filter(child)
            flat.extend(child.filters if type(child) is type(self) else [child])
        if not flat:
            raise InvalidArgument(f"{self.op!r} of nothing", expected="at least one filter")
        distinct = {child.canonical: child for child in flat}
        object.__setattr__(self, "filters", tuple(distinct[text] for text in sorted(distinct)))
        self._settle()

    def to_dict(self) -> dict[str, Any]:
        return {"op": self.op, "filters": [child.to_dict() for child in self.filters]}

    def _children(self) -> tuple[Filter, ...]:
        return self.filters


@dataclass(frozen=True, eq=False)
class And(_Several):
    """Passes a row that every filter passes."""

    op: ClassVar[str] = "and"
    filters: tuple[Filter, ...]


@dataclass(frozen=True, eq=False)
class Or(_Several):
    """Passes a row that some filter passes."""

    op: ClassVar[str] = "or"
    filters: tuple[Filter, ...]


@dataclass(frozen=True, eq=False)
class Not(Filter):
    """Passes a row that the filter does not pass."""

    filter: Filter

    def __post_init__(self) -> None:
        _check_filter(self.filter)
        self._settle()

    def to_dict(self) -> dict[str, Any]:
        return {"op": "not", "filter": self.filter.to_dict()}

    def _children(self) -> tuple[Filter, ...]:
        return (self.filter,)


@dataclass(frozen=True, eq=False)
class Field:
    """A column's name that compares into filters: `field("year") >= 1990`."""

    column: str

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, value: Value) -> Compare:  # type: ignore[override]
        return Compare(self.column, "==", value)

    def __ne__(self, value: Value) -> Compare:  # type: ignore[override]
        return Compare(self.column, "!=", value)

    def __lt__(self, value: Value) -> Compare:
        return Compare(self.column, "<", value)

    def __le__(self, value: Value) -> Compare:
        return Compare(self.column, "<=", value)

    def __gt__(self, value: Value) -> Compare:
        return Compare(self.column, ">", value)

    def __ge__(self, value: Value) -> Compare:
        return Compare(self.column, ">=", value)

    def is_in(self, values: Iterable[Value]) -> In:
        return In(self.column, tuple(values) if not isinstance(values, str) else values)  # type: ignore[arg-type]


def field(column: str) -> Field:
    """Names a record column, to be compared: `field("year") >= 1990`."""
    return Field(column)


def from_dict(values: Mapping[str, Any]) -> Filter:
    """Builds the filter that `to_dict` told of; raises `InvalidArgument` on whatever else."""
    return _from_dict(values, 1)


_KEYS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(get_args(CompareOp), ("column", "value")),
    "in": ("column", "values"),
    "and": ("filters",),
    "or": ("filters",),
    "not": ("filter",),
}


def _from_dict(values: Mapping[str, Any], depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidArgument("the filter is too deep", got=depth, expected=f"≤ {MAX_DEPTH}")
    if not isinstance(values, Mapping):
        raise WrongType("not a filter", got=type(values).__name__, expected="a mapping")
    op = values.get("op")
    if not isinstance(op, str) or op not in _KEYS:
        raise InvalidArgument("the filter's op is unknown", got=repr(op), expected=list(_KEYS))
    if set(values) != {"op", *_KEYS[op]}:
        got = sorted(map(str, values))
        raise InvalidArgument(f"{op!r} has the wrong keys", got=got, expected=["op", *_KEYS[op]])
    if op == "in":
        return In(values["column"], values["values"])
    if op == "not":
        return Not(_from_dict(values["filter"], depth + 1))
    if op in ("and", "or"):
        parts = values["filters"]
        if not isinstance(parts, list | tuple):
            raise WrongType(f"{op!r} wants a list", got=type(parts).__name__)
        if len(parts) > MAX_SIZE:
            raise InvalidArgument("the filter is too large", got=len(parts), expected=MAX_SIZE)
        filters = tuple(_from_dict(part, depth + 1) for part in parts)
        return And(filters) if op == "and" else Or(filters)
    return Compare(values["column"], op, values["value"])  # type: ignore[arg-type]


def _plain(value: object) -> Value:
    """The value as plain Python; raises `WrongType` where it is no single bool, number or text."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, bool | int | float | str):
        raise WrongType(
            "the value of a comparison has the wrong type",
            got=type(value).__name__,
            expected="a bool, an integer, a number or a text",
        )
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotFinite("the value of a comparison is not finite", got=value)
        return value + 0.0  # −0.0 is 0.0
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise WrongType("the value of a comparison is no int64", got=f"{value.bit_length()} bits")
    return value


def _check_column(column: object) -> None:
    if not isinstance(column, str):
        raise WrongType("a column's name is not a text", got=repr(column))


def _check_filter(value: object) -> None:
    if not isinstance(value, Filter):
        raise WrongType(
            "not a filter", got=type(value).__name__, hint="build it by memstore.field(…)"
        )
