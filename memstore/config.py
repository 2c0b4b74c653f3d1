"""Configurations: frozen, keyword-only, validated; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar, get_args

import pyarrow as pa

from memstore.errors import InvalidArgument

DType = Literal["float32", "float64", "float16", "bfloat16"]
IndexKind = Literal["none", "exact", "clustered", "graph", "auto"]
Codec = Literal["flat", "fp16", "sq8", "pq4"]
Storage = Literal["memory", "mapped"]
Updates = Literal["logged", "checkpointed"]
Maintenance = Literal["background", "inline"]
UsageKind = Literal["last_step", "discounted"]
OptimizerKind = Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "rowwise_adam", "adamw"]

LEAST, MOST = 1e-20, 1e15
"""Range of eps and of norms: their squares and quotients stay finite in float32, and where the
square of a gradient vanishes there, a step is still no longer than lr."""

MOST_WIDTH = 65_536
"""Of a key, and of a value: five times the widest embeddings in use. A row is laid out whole, and
is 512 KiB then."""

MOST_SHARDS = 1_024
"""Of a memory. Each has files of its own and is visited by every search; to make so many took a
slow disk 40 s, and cores are far fewer."""

MOST_ROWS = 1 << 48
"""Of a capacity and of all else that counts rows, lists or bytes: a thousand times the addresses
that a machine has for rows of one byte."""

LEAST_RESIDENT = 1 << 20
"""Of `resident_bytes`, for each shard."""

LONGEST_PATIENCE_S = 86_400
"""A day, of `IndexConfig.patience_s`."""

MOST_COLUMNS = 1_024
"""Of the records; a name has 255 characters at most."""

DEFAULT_TARGET = 0.95
"""Default of `IndexConfig.recall_target`."""

DRIFT_LIMIT = 0.3
"""Default of `IndexConfig.drift_limit`. 30,000 rows that moved half their norm in 41 steps were
found as in an index built then with limits of 0.2, 0.3 and 0.5, and 4 % less with none; 0.5 sealed
half as many rows as 0.3, but leaves no room where rows move further at once."""

COLUMN_TYPES: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "list<int64>": pa.list_(pa.int64()),
    "list<string>": pa.list_(pa.string()),
}
LOOKUP_TYPES = ("int32", "int64", "string", "list<int64>", "list<string>")

C = TypeVar("C", bound="_Config")


def _one_of(name: str, value: object, choices: object) -> None:
    allowed = get_args(choices) or tuple(choices)  # type: ignore[arg-type]
    if value not in allowed:
        raise InvalidArgument(f"{name} is unknown", got=repr(value), expected=f"one of {allowed}")


def _whole(name: str, value: object, least: int, most: int = MOST_ROWS) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and least <= value <= most):  # type: ignore[operator]
        raise InvalidArgument(
            f"{name} is out of range",
            got=_short(value),
            expected=f"an integer from {least} to {most}",
        )


def _at_least(name: str, value: object, least: float) -> None:
    if not (_is_number(value) and least <= value < math.inf):  # type: ignore[operator]
        raise InvalidArgument(
            f"{name} is out of range", got=_short(value), expected=f"a number ≥ {least}"
        )


def _short(value: object) -> str:
    """A value as an error quotes it, whatever it is."""
    try:
        return repr(value)[:64]
    except ValueError:  # an integer of too many digits
        return "a very long integer"


def _within(name: str, value: object, least: float, most: float) -> None:
    if not _is_number(value) or not least <= value <= most:  # type: ignore[operator]
        raise InvalidArgument(
            f"{name} is out of range", got=_short(value), expected=f"{least:g} to {most:g}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_recall_target(value: object, probe: int | None) -> None:
    """Raises `InvalidArgument` unless 0 < value ≤ 1 and there is no probe beside it."""
    if not (_is_number(value) and 0 < value <= 1):  # type: ignore[operator]
        raise InvalidArgument(
            "recall_target is out of range", got=_short(value), expected="above 0, at most 1"
        )
    if probe is not None:
        raise InvalidArgument(
            "recall_target and probe contradict each other",
            got=f"recall_target={value}, probe={probe}",
            hint="recall_target finds the probe; leave one of them out",
        )


class _Config:
    """Turns a frozen dataclass into plain JSON values and back."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the configuration; raises `InvalidArgument` on a key it does not know."""
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidArgument(
                f"{cls.__name__} does not know a key", got=unknown, expected=sorted(known)
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise InvalidArgument(f"{cls.__name__} lacks a key", got=str(error)) from error


@dataclass(frozen=True, kw_only=True)
class IndexConfig(_Config):
    """Says how candidate slots are proposed.

    kind: `none` (an embedding table: only `SearchOptions(exact=True)` searches it),
        `exact` (every row is scored), `clustered` (inverted lists over k-means clusters), `graph`
        (a clustered index with a graph laid over the rows when they are clustered, walked by
        searches without a filter: it is for where high recall is wanted, and takes many
        times as long to build), `auto` (clustered, with a graph where that is reckoned to answer
        faster at the recall wanted and few rows were rewritten since the last clustering; it is
        laid once it is known what is asked, by `reindex()` or a later job).
    clusters: lists of a clustered index; None chooses about 2·√rows, a power of two.
    recall_target: recall@10 that a search reaches on average, above 0, at most 1; the index tunes
        itself on a sample of rows and of recent queries to reach it. None takes 0.95, unless
        `probe` is given.
    probe: lists visited for a query instead, and nothing is tuned: rows are clustered plainly.
        Where a graph is walked, the rows that the walk keeps in view.
    codec: what a list holds of a row. Scores never come from it: candidates are scored again
        from the rows, so `sq8` (a byte a dimension) costs little recall. `pq4` holds 4 bits for
        two dimensions, or for each where `dim` is odd: a quarter of the codes' bytes; row numbers
        and blocks that are not full come on top. It needs more candidates, the more the higher
        the target; how many is measured with the recall. It saves memory, not time, keeps short
        of the highest recalls, and is for the host alone. `python -m tests.benchmarks
        engine_codecs` compares them. A graph has a byte a dimension of its own beside the lists,
        and 256 bytes of links a row.
    fresh_limit: rows written since the last sealing that are searched exactly; beyond it they
        are sealed into a segment.
    device: `cpu`, or `cuda:N` for a GPU that searches copies of the sealed rows; filtered
        searches, and those for more than 2,048 candidates or lists, stay on the host. Exact
        searches take place there too, if torch is there and the keys themselves fit.
    device_bytes: what the copies of one shard may take there, those that are being replaced
        included; about 64 MiB each are scratch memory, 256 MiB beside the keys. Sealed rows go
        before keys. None: what there is.
    maintenance: who seals, merges and clusters anew. `background`: threads of the memory, while
        reads and mutations go on; where a shard, once clustered, has more than four times
        `fresh_limit` fresh rows, mutations that may add some wait. `inline`: the mutation that
        passes the limit, before it returns: repeatable, the same calls give the same index.
    patience_s: seconds that a mutation waits for a sealing to end before it raises `Overloaded`;
        0 raises at once.
    drift_limit: ‖now − as sealed‖ / ‖as sealed‖ of a row, bounded by the way that it went, beyond
        which an update makes it fresh; 0.01 to 100, None is never.
    """

    kind: IndexKind = "clustered"
    clusters: int | None = None
    recall_target: float | None = None
    probe: int | None = None
    codec: Codec = "sq8"
    fresh_limit: int = 8_192
    device: str = "cpu"
    device_bytes: int | None = None
    maintenance: Maintenance = "background"
    patience_s: float = 30.0
    drift_limit: float | None = DRIFT_LIMIT

    def __post_init__(self) -> None:
        _one_of("index kind", self.kind, IndexKind)
        _one_of("index codec", self.codec, Codec)
        if self.clusters is not None:
            _whole("clusters", self.clusters, 1)
        if self.probe is not None:
            _whole("probe", self.probe, 1)
        elif self.recall_target is None:
            object.__setattr__(self, "recall_target", DEFAULT_TARGET)
        if self.recall_target is not None:
            check_recall_target(self.recall_target, self.probe)
        _whole("fresh_limit", self.fresh_limit, 1)
        _one_of("maintenance", self.maintenance, Maintenance)
        _within("patience_s", self.patience_s, 0, LONGEST_PATIENCE_S)
        if self.drift_limit is not None:
            _within("drift_limit", self.drift_limit, 0.01, 100)
        self._check_device()

    @property
    def sealed(self) -> bool:
        """Whether rows are sealed: whether there are two tiers."""
        return self.kind in ("clustered", "graph", "auto")

    def _check_device(self) -> None:
        device: object = self.device
        if not (isinstance(device, str) and re.fullmatch(r"cpu|cuda:(0|[1-9]\d*)", device)):
            raise InvalidArgument("device is unknown", got=repr(device), expected="cpu or cuda:N")
        if self.device_bytes is not None:
            _whole("device_bytes", self.device_bytes, 1)
        if self.device == "cpu" and self.device_bytes is not None:
            raise InvalidArgument(
                "device_bytes bounds nothing", got='device="cpu"', expected='device="cuda:N"'
            )
        if self.device != "cpu" and self.kind == "clustered" and self.codec == "pq4":
            raise InvalidArgument(
                "a GPU does not search codes of pq4",
                got=f"codec='pq4', device={self.device!r}",
                expected='codec="flat", "fp16" or "sq8", or device="cpu"',
            )
        if self.device != "cpu" and self.kind not in ("clustered", "exact"):
            raise InvalidArgument(
                f"a {self.kind} index has nothing to put on a device",
                got=f"device={self.device!r}",
                expected='kind="clustered" or "exact"',
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(_Config):
    """Says how `update` turns a row's gradient g into a step, with learning rate lr.

    sgd:              x ← x − lr·g
    adagrad:          s ← s + g²;         x ← x − lr·g / (√s + eps)   (Duchi et al. 2011)
    rowwise_adagrad:  s ← s + mean(g²);   x ← x − lr·g / (√s + eps)   one number a row
    adam:             m ← β₁m + (1 − β₁)g;   v ← β₂v + (1 − β₂)g²     (Kingma & Ba 2015)
                      x ← x − lr · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + eps)
    rowwise_adam:     as adam, with v ← β₂v + (1 − β₂)·mean(g²)       one number v a row
    adamw:            x ← (1 − lr·weight_decay)·x, then as adam       (Loshchilov & Hutter 2019)

    Only the rows that a call names are changed, decay included. A row that every call names goes
    the way of `torch.optim` on the dense table. Where calls leave a row out, Adam here differs:
    t counts the updates of that row, so that its first step has length lr in each element,
    whenever it comes; `torch.optim.SparseAdam` counts the steps of the whole table instead, and
    `torch.optim.Adam` also moves the rows whose gradient is zero, by what is left of their m.

    lr: the default of an `update` that names none.
    eps: 1e-20 to 1e15.  betas: β₁ and β₂ in [0, 1) with β₁² ≤ β₂, which bounds m/√v.
    weight_decay: 0 to 1; g ← g + weight_decay·x after clipping, but for adamw; 0 is off.
        No lr may exceed 1 / weight_decay.
    clip_norm: largest norm of the gradient of a row, its equal slots summed; None or 0 is off.
    max_norm: largest norm of a row after its step, to which it is scaled down; None or 0 is off.
        Neither may lie outside 1e-20 to 1e15.

    Rows of float16 and bfloat16 are stepped, and blended, in float32 and then rounded, beyond the
    largest number to that number, so that changes far smaller than what they can tell apart still
    add up:
    master: False rounds to one of the two neighbours by chance, the nearer the likelier (Gupta et
        al. 2015), which costs 4 bytes a row. True adds up in a float32 copy, 4 bytes an element,
        and rounds that to the nearest; no other dtype has it.
    seed: of that chance, ≥ 0: it depends on (seed, slot, how often the row was rounded).
    """

    kind: OptimizerKind = "rowwise_adagrad"
    lr: float = 0.05
    eps: float = 1e-10
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float | None = None
    max_norm: float | None = None
    master: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("optimizer kind", self.kind, OptimizerKind)
        _at_least("lr", self.lr, 0.0)
        _within("eps", self.eps, LEAST, MOST)
        object.__setattr__(self, "betas", _betas(self.betas))
        _within("weight_decay", self.weight_decay, 0, 1)
        for name in ("clip_norm", "max_norm"):
            norm = getattr(self, name)
            if norm is not None and not (_is_number(norm) and norm == 0):
                _within(name, norm, LEAST, MOST)
        _one_of("master", self.master, (True, False))
        _whole("seed", self.seed, 0, 2**63 - 1)


def _betas(value: object) -> tuple[float, float]:
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    fits = len(pair) == 2 and all(_is_number(beta) and 0 <= beta < 1 for beta in pair)
    if not fits or pair[0] ** 2 > pair[1]:
        raise InvalidArgument(
            "betas are out of range",
            got=repr(value),
            expected="β₁ and β₂ in [0, 1) with β₁² ≤ β₂",
        )
    return float(pair[0]), float(pair[1])


@dataclass(frozen=True, kw_only=True)
class UsageConfig(_Config):
    """Says which rows `allocate` takes first, and eviction with them.

    last_step: those used longest ago.  discounted: those of least usage u_t = Σ_s γ^(t−s) w_s,
    with weights w of their uses and γ = discount, 0 < γ < 1.
    """

    kind: UsageKind = "last_step"
    discount: float = 0.99

    def __post_init__(self) -> None:
        _one_of("usage kind", self.kind, UsageKind)
        _at_least("discount", self.discount, 0.0)
        if not 0.0 < self.discount < 1.0:
            raise InvalidArgument(
                "discount is out of range", got=self.discount, expected="between 0 and 1"
            )


@dataclass(frozen=True, kw_only=True)
class EncodingConfig(_Config):
    """Declares an encoded memory: its keys are sums of rows of other, index-free memories.

    key: record column → memory; the key of a slot is the sum, over these columns, of the row
        that the column names.
    value: one record column → memory; the value is the mean of the rows that the column names
        (a `list<int64>` column), or the one row (an `int64` column).
    stored: whether the keys are kept, as they were last encoded. If not, a row keeps in their place
        which part rows they are sums of, 8 bytes each, and a key is summed, and rounded to the
        dtype, whenever it is read: it is never stale, though the index is; searching sums every
        candidate. A part row that was erased counts as zeros. Not with a device, nor over several
        servers.
    """

    key: Mapping[str, str]
    value: Mapping[str, str] = field(default_factory=dict)
    stored: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", dict(self.key))
        object.__setattr__(self, "value", dict(self.value))
        if not self.key:
            raise InvalidArgument("an encoding has no key columns", expected="at least one")
        if len(self.value) > 1:
            raise InvalidArgument(
                "an encoding has several value columns", got=list(self.value), expected="at most 1"
            )
        _one_of("stored", self.stored, (True, False))

    @property
    def memories(self) -> frozenset[str]:
        """The names of the memories that the parts are rows of."""
        return frozenset((*self.key.values(), *self.value.values()))


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(_Config):
    """The one configuration of a memory; it does not change while the memory lives.

    dim: width D of a key, at most `MOST_WIDTH`.  value_dim: width V of a value, likewise; None
        means that the key is the value.
    dtype: of keys and values. Rows of float16 or bfloat16 take half the bytes of float32; what is
        given as float32 is rounded to the nearest, and scores, queries, gradients and optimizer
        state are float32.  shards: a slot lives in shard `slot % shards`; `MOST_SHARDS` at most.
    records: record column → type, one of `COLUMN_TYPES`.
    lookup: the columns that `lookup` may ask for.
    index, optimizer: as above; `index="none"` is short for `IndexConfig(kind="none")`.
    encoding: makes it an encoded memory.
    capacity: rows it holds at most; an `append` beyond it erases the least used. None: no bound.
    usage: what least used means.
    storage: `memory` keeps rows in main memory; `mapped` keeps keys, values and optimizer state
        in files of the store's folder, which the system reads and writes by page, for tables
        larger than memory: rows are written at random several times slower.
    resident_bytes: of main memory that all rows of a `mapped` memory may take together, a shard as
        much as another. Those looked at longest ago lie in their files alone, and are read when
        somebody looks at them. Some dozens of bytes a row (usage, generations) lie in no file, and
        count. What one `update` or `blend` names, or one search proposes, comes in together. It
        stays what it was when the memory was made. None: as the system likes.
    updates: `logged`, gradient steps are as durable as all else; `checkpointed`, after a crash
        trained rows are as at the last checkpoint. `append`, `write`, `blend`, `allocate`, `touch`
        and `erase` are always logged.
    """

    dim: int
    value_dim: int | None = None
    dtype: DType = "float32"
    shards: int = 1
    records: Mapping[str, str] = field(default_factory=dict)
    lookup: tuple[str, ...] = ()
    index: IndexConfig | IndexKind | Mapping[str, Any] = field(default_factory=IndexConfig)
    optimizer: OptimizerConfig | OptimizerKind | Mapping[str, Any] = field(
        default_factory=OptimizerConfig
    )
    encoding: EncodingConfig | Mapping[str, Any] | None = None
    capacity: int | None = None
    usage: UsageConfig | UsageKind | Mapping[str, Any] = field(default_factory=UsageConfig)
    storage: Storage = "memory"
    resident_bytes: int | None = None
    updates: Updates = "checkpointed"

    def __post_init__(self) -> None:
        _whole("dim", self.dim, 1, MOST_WIDTH)
        if self.value_dim is not None:
            _whole("value_dim", self.value_dim, 1, MOST_WIDTH)
        _whole("shards", self.shards, 1, MOST_SHARDS)
        _one_of("dtype", self.dtype, DType)
        _one_of("storage", self.storage, Storage)
        _one_of("updates", self.updates, Updates)
        object.__setattr__(self, "records", dict(self.records))
        object.__setattr__(self, "lookup", tuple(self.lookup))
        object.__setattr__(self, "index", _coerce(IndexConfig, self.index))
        object.__setattr__(self, "optimizer", _coerce(OptimizerConfig, self.optimizer))
        object.__setattr__(self, "usage", _coerce(UsageConfig, self.usage))
        if self.optimizer_config.master and self.dtype not in ("float16", "bfloat16"):
            raise InvalidArgument(
                "a master is for float16 and bfloat16",
                got=f"master=True, dtype={self.dtype!r}",
                hint=f"leave it out: {self.dtype} rows are stepped as they are",
            )
        if self.capacity is not None:
            _whole("capacity", self.capacity, 1)
        if self.resident_bytes is not None:
            _whole("resident_bytes", self.resident_bytes, LEAST_RESIDENT * self.shards)
            if self.storage != "mapped":
                raise InvalidArgument(
                    "rows in memory have no files to lie in instead",
                    got=f"resident_bytes={self.resident_bytes:,}, storage={self.storage!r}",
                    expected='storage="mapped"',
                )
        if self.encoding is not None:
            object.__setattr__(self, "encoding", _coerce(EncodingConfig, self.encoding))
        if len(self.records) > MOST_COLUMNS or any(len(name) > 255 for name in self.records):
            raise InvalidArgument(
                "records have too many columns, or too long names",
                got=len(self.records),
                expected=f"≤ {MOST_COLUMNS} columns, names of ≤ 255 characters",
            )
        for column, kind in self.records.items():
            _one_of(f"the type of record column {column!r}", kind, tuple(COLUMN_TYPES))
        for column in self.lookup:
            _one_of(f"lookup column {column!r}", column, tuple(self.records))
            _one_of(f"the type of lookup column {column!r}", self.records[column], LOOKUP_TYPES)
        if self.encoding is not None:
            self._check_encoding(self.encoding_config)

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if self.keeps_keys and self.encoding is not None:
            # As it was before there were others: who knows of none reads it.
            del values["encoding"]["stored"]
        if self.resident_bytes is None:
            del values["resident_bytes"]
        return values

    def _check_encoding(self, encoding: EncodingConfig) -> None:
        if self.value_dim is not None:
            raise InvalidArgument(
                "an encoded memory keeps no values of its own",
                got=f"value_dim={self.value_dim}",
                hint="leave value_dim out; the value is read from its parts",
            )
        if not encoding.stored and self.index_config.device != "cpu":
            raise InvalidArgument(
                "keys that are not stored are not copied to a device",
                got=f"device={self.index_config.device!r}",
                expected='device="cpu", or stored=True',
            )
        for column in encoding.key:
            _one_of(f"key column {column!r}", column, tuple(self.records))
            _one_of(f"the type of key column {column!r}", self.records[column], ("int64",))
        for column in encoding.value:
            _one_of(f"value column {column!r}", column, tuple(self.records))
            kinds = ("int64", "list<int64>")
            _one_of(f"the type of value column {column!r}", self.records[column], kinds)

    # The fields accept shorthand; these give what __post_init__ made of it, with its type.
    @property
    def index_config(self) -> IndexConfig:
        assert isinstance(self.index, IndexConfig)
        return self.index

    @property
    def optimizer_config(self) -> OptimizerConfig:
        assert isinstance(self.optimizer, OptimizerConfig)
        return self.optimizer

    @property
    def usage_config(self) -> UsageConfig:
        assert isinstance(self.usage, UsageConfig)
        return self.usage

    @property
    def encoding_config(self) -> EncodingConfig:
        assert isinstance(self.encoding, EncodingConfig)
        return self.encoding

    @property
    def keeps_keys(self) -> bool:
        """Whether rows have keys, and not only what these are sums of."""
        return self.encoding is None or self.encoding_config.stored

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the records."""
        return pa.schema([(name, COLUMN_TYPES[kind]) for name, kind in self.records.items()])


def _coerce(cls: type[C], value: C | str | Mapping[str, Any]) -> C:
    if isinstance(value, cls):
        return value
    if isinstance(value, str):
        return cls.from_dict({"kind": value})
    if isinstance(value, Mapping):
        return cls.from_dict(value)
    raise InvalidArgument(f"not a {cls.__name__}", got=type(value).__name__)
