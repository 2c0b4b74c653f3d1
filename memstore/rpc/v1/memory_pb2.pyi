from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Part(_message.Message):
    __slots__ = ("number", "of", "made")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    number: int
    of: int
    made: int
    def __init__(self, number: _Optional[int] = ..., of: _Optional[int] = ..., made: _Optional[int] = ...) -> None: ...

class Whole(_message.Message):
    __slots__ = ("memory", "part", "request_id", "digest", "rows")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    memory: str
    part: Part
    request_id: RequestId
    digest: bytes
    rows: int
    def __init__(self, memory: _Optional[str] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ..., digest: _Optional[bytes] = ..., rows: _Optional[int] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class RequestId(_message.Message):
    __slots__ = ("client", "number")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    client: str
    number: int
    def __init__(self, client: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("name", "problem", "got", "expected", "hint", "retryable", "retry_after_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    GOT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    problem: str
    got: str
    expected: str
    hint: str
    retryable: bool
    retry_after_s: float
    def __init__(self, name: _Optional[str] = ..., problem: _Optional[str] = ..., got: _Optional[str] = ..., expected: _Optional[str] = ..., hint: _Optional[str] = ..., retryable: _Optional[bool] = ..., retry_after_s: _Optional[float] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("memory", "request_id", "keys", "values", "records", "step", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    request_id: RequestId
    keys: Tensor
    values: Tensor
    records: bytes
    step: int
    made: int
    def __init__(self, memory: _Optional[str] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ..., keys: _Optional[_Union[Tensor, _Mapping]] = ..., values: _Optional[_Union[Tensor, _Mapping]] = ..., records: _Optional[bytes] = ..., step: _Optional[int] = ..., made: _Optional[int] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("memory", "request_id", "slots", "keys", "values", "records", "step", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    request_id: RequestId
    slots: Tensor
    keys: Tensor
    values: Tensor
    records: bytes
    step: int
    made: int
    def __init__(self, memory: _Optional[str] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., keys: _Optional[_Union[Tensor, _Mapping]] = ..., values: _Optional[_Union[Tensor, _Mapping]] = ..., records: _Optional[bytes] = ..., step: _Optional[int] = ..., made: _Optional[int] = ...) -> None: ...

class BlendRequest(_message.Message):
    __slots__ = ("memory", "request_id", "slots", "weights", "erase", "add", "step", "generations", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    request_id: RequestId
    slots: Tensor
    weights: Tensor
    erase: Tensor
    add: Tensor
    step: int
    generations: Tensor
    made: int
    def __init__(self, memory: _Optional[str] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., weights: _Optional[_Union[Tensor, _Mapping]] = ..., erase: _Optional[_Union[Tensor, _Mapping]] = ..., add: _Optional[_Union[Tensor, _Mapping]] = ..., step: _Optional[int] = ..., generations: _Optional[_Union[Tensor, _Mapping]] = ..., made: _Optional[int] = ...) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ("memory", "request_id", "slots", "key_grads", "value_grads", "lr", "generations", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    KEY_GRADS_FIELD_NUMBER: _ClassVar[int]
    VALUE_GRADS_FIELD_NUMBER: _ClassVar[int]
    LR_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    request_id: RequestId
    slots: Tensor
    key_grads: Tensor
    value_grads: Tensor
    lr: float
    generations: Tensor
    made: int
    def __init__(self, memory: _Optional[str] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., key_grads: _Optional[_Union[Tensor, _Mapping]] = ..., value_grads: _Optional[_Union[Tensor, _Mapping]] = ..., lr: _Optional[float] = ..., generations: _Optional[_Union[Tensor, _Mapping]] = ..., made: _Optional[int] = ...) -> None: ...

class TouchRequest(_message.Message):
    __slots__ = ("memory", "request_id", "slots", "step", "weights", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    request_id: RequestId
    slots: Tensor
    step: int
    weights: Tensor
    made: int
    def __init__(self, memory: _Optional[str] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., step: _Optional[int] = ..., weights: _Optional[_Union[Tensor, _Mapping]] = ..., made: _Optional[int] = ...) -> None: ...

class AllocateRequest(_message.Message):
    __slots__ = ("memory", "request_id", "n", "step", "records", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    request_id: RequestId
    n: int
    step: int
    records: bytes
    made: int
    def __init__(self, memory: _Optional[str] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ..., n: _Optional[int] = ..., step: _Optional[int] = ..., records: _Optional[bytes] = ..., made: _Optional[int] = ...) -> None: ...

class EraseRequest(_message.Message):
    __slots__ = ("memory", "request_id", "slots", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    request_id: RequestId
    slots: Tensor
    made: int
    def __init__(self, memory: _Optional[str] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., made: _Optional[int] = ...) -> None: ...

class SlotsReply(_message.Message):
    __slots__ = ("slots",)
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    slots: Tensor
    def __init__(self, slots: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class AppliedReply(_message.Message):
    __slots__ = ("applied", "skipped", "delay_s")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    DELAY_S_FIELD_NUMBER: _ClassVar[int]
    applied: int
    skipped: int
    delay_s: float
    def __init__(self, applied: _Optional[int] = ..., skipped: _Optional[int] = ..., delay_s: _Optional[float] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("compare", "all", "any")
    class Value(_message.Message):
        __slots__ = ("integer", "number", "text", "flag")
        INTEGER_FIELD_NUMBER: _ClassVar[int]
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        TEXT_FIELD_NUMBER: _ClassVar[int]
        FLAG_FIELD_NUMBER: _ClassVar[int]
        integer: int
        number: float
        text: str
        flag: bool
        def __init__(self, integer: _Optional[int] = ..., number: _Optional[float] = ..., text: _Optional[str] = ..., flag: _Optional[bool] = ...) -> None: ...
    class Compare(_message.Message):
        __slots__ = ("column", "op", "value")
        COLUMN_FIELD_NUMBER: _ClassVar[int]
        OP_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        column: str
        op: str
        value: Filter.Value
        def __init__(self, column: _Optional[str] = ..., op: _Optional[str] = ..., value: _Optional[_Union[Filter.Value, _Mapping]] = ...) -> None: ...
    class In(_message.Message):
        __slots__ = ("column", "values")
        COLUMN_FIELD_NUMBER: _ClassVar[int]
        VALUES_FIELD_NUMBER: _ClassVar[int]
        column: str
        values: _containers.RepeatedCompositeFieldContainer[Filter.Value]
        def __init__(self, column: _Optional[str] = ..., values: _Optional[_Iterable[_Union[Filter.Value, _Mapping]]] = ...) -> None: ...
    class Several(_message.Message):
        __slots__ = ("filters",)
        FILTERS_FIELD_NUMBER: _ClassVar[int]
        filters: _containers.RepeatedCompositeFieldContainer[Filter]
        def __init__(self, filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    IN_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    ANY_FIELD_NUMBER: _ClassVar[int]
    NOT_FIELD_NUMBER: _ClassVar[int]
    compare: Filter.Compare
    all: Filter.Several
    any: Filter.Several
    def __init__(self, compare: _Optional[_Union[Filter.Compare, _Mapping]] = ..., all: _Optional[_Union[Filter.Several, _Mapping]] = ..., any: _Optional[_Union[Filter.Several, _Mapping]] = ..., **kwargs) -> None: ...

class SearchOptions(_message.Message):
    __slots__ = ("probe", "exact", "filter", "recall_target", "union", "sample_clusters", "sample_random", "seed", "partial")
    PROBE_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    UNION_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RANDOM_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    probe: int
    exact: bool
    filter: Filter
    recall_target: float
    union: bool
    sample_clusters: int
    sample_random: int
    seed: int
    partial: bool
    def __init__(self, probe: _Optional[int] = ..., exact: _Optional[bool] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., recall_target: _Optional[float] = ..., union: _Optional[bool] = ..., sample_clusters: _Optional[int] = ..., sample_random: _Optional[int] = ..., seed: _Optional[int] = ..., partial: _Optional[bool] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("memory", "queries", "k", "options", "part")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    memory: str
    queries: Tensor
    k: int
    options: SearchOptions
    part: Part
    def __init__(self, memory: _Optional[str] = ..., queries: _Optional[_Union[Tensor, _Mapping]] = ..., k: _Optional[int] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ..., part: _Optional[_Union[Part, _Mapping]] = ...) -> None: ...

class SearchReply(_message.Message):
    __slots__ = ("slots", "scores", "proposal", "counts", "scored", "row_versions", "index_versions", "missing_shards")
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    ROW_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    INDEX_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    MISSING_SHARDS_FIELD_NUMBER: _ClassVar[int]
    slots: Tensor
    scores: Tensor
    proposal: Tensor
    counts: Tensor
    scored: Tensor
    row_versions: Tensor
    index_versions: Tensor
    missing_shards: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slots: _Optional[_Union[Tensor, _Mapping]] = ..., scores: _Optional[_Union[Tensor, _Mapping]] = ..., proposal: _Optional[_Union[Tensor, _Mapping]] = ..., counts: _Optional[_Union[Tensor, _Mapping]] = ..., scored: _Optional[_Union[Tensor, _Mapping]] = ..., row_versions: _Optional[_Union[Tensor, _Mapping]] = ..., index_versions: _Optional[_Union[Tensor, _Mapping]] = ..., missing_shards: _Optional[_Iterable[int]] = ...) -> None: ...

class GatherRequest(_message.Message):
    __slots__ = ("memory", "slots", "without_vectors", "columns", "list_limit", "part")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_VECTORS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    LIST_LIMIT_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    memory: str
    slots: Tensor
    without_vectors: bool
    columns: _containers.RepeatedScalarFieldContainer[str]
    list_limit: int
    part: Part
    def __init__(self, memory: _Optional[str] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., without_vectors: _Optional[bool] = ..., columns: _Optional[_Iterable[str]] = ..., list_limit: _Optional[int] = ..., part: _Optional[_Union[Part, _Mapping]] = ...) -> None: ...

class GatherReply(_message.Message):
    __slots__ = ("generations", "keys", "values", "records")
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    generations: Tensor
    keys: Tensor
    values: Tensor
    records: bytes
    def __init__(self, generations: _Optional[_Union[Tensor, _Mapping]] = ..., keys: _Optional[_Union[Tensor, _Mapping]] = ..., values: _Optional[_Union[Tensor, _Mapping]] = ..., records: _Optional[bytes] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("memory", "column", "integers", "texts", "limit", "cursor", "part")
    class Integers(_message.Message):
        __slots__ = ("values",)
        VALUES_FIELD_NUMBER: _ClassVar[int]
        values: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...
    class Texts(_message.Message):
        __slots__ = ("values",)
        VALUES_FIELD_NUMBER: _ClassVar[int]
        values: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    memory: str
    column: str
    integers: LookupRequest.Integers
    texts: LookupRequest.Texts
    limit: int
    cursor: Tensor
    part: Part
    def __init__(self, memory: _Optional[str] = ..., column: _Optional[str] = ..., integers: _Optional[_Union[LookupRequest.Integers, _Mapping]] = ..., texts: _Optional[_Union[LookupRequest.Texts, _Mapping]] = ..., limit: _Optional[int] = ..., cursor: _Optional[_Union[Tensor, _Mapping]] = ..., part: _Optional[_Union[Part, _Mapping]] = ...) -> None: ...

class LookupReply(_message.Message):
    __slots__ = ("slots", "offsets", "truncated", "cursor")
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    slots: Tensor
    offsets: Tensor
    truncated: Tensor
    cursor: Tensor
    def __init__(self, slots: _Optional[_Union[Tensor, _Mapping]] = ..., offsets: _Optional[_Union[Tensor, _Mapping]] = ..., truncated: _Optional[_Union[Tensor, _Mapping]] = ..., cursor: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("memory", "part", "config_only")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    CONFIG_ONLY_FIELD_NUMBER: _ClassVar[int]
    memory: str
    part: Part
    config_only: bool
    def __init__(self, memory: _Optional[str] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., config_only: _Optional[bool] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("config", "next_slot", "shards", "drift", "made")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    NEXT_SLOT_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    config: str
    next_slot: int
    shards: _containers.RepeatedScalarFieldContainer[str]
    drift: float
    made: int
    def __init__(self, config: _Optional[str] = ..., next_slot: _Optional[int] = ..., shards: _Optional[_Iterable[str]] = ..., drift: _Optional[float] = ..., made: _Optional[int] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("verb", "bytes", "data")
    VERB_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    verb: str
    bytes: int
    data: bytes
    def __init__(self, verb: _Optional[str] = ..., bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("memory", "request_id", "step", "batch", "rows", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    request_id: RequestId
    step: int
    batch: bytes
    rows: int
    made: int
    def __init__(self, memory: _Optional[str] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ..., step: _Optional[int] = ..., batch: _Optional[bytes] = ..., rows: _Optional[int] = ..., made: _Optional[int] = ...) -> None: ...

class LoadReply(_message.Message):
    __slots__ = ("rows", "first", "last")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    rows: int
    first: int
    last: int
    def __init__(self, rows: _Optional[int] = ..., first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("memory", "slots", "without_vectors", "without_records", "columns")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_VECTORS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_RECORDS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    memory: str
    slots: Tensor
    without_vectors: bool
    without_records: bool
    columns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, memory: _Optional[str] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., without_vectors: _Optional[bool] = ..., without_records: _Optional[bool] = ..., columns: _Optional[_Iterable[str]] = ...) -> None: ...

class ExportReply(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: bytes
    def __init__(self, batch: _Optional[bytes] = ...) -> None: ...

class CreateRequest(_message.Message):
    __slots__ = ("memory", "config")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    memory: str
    config: str
    def __init__(self, memory: _Optional[str] = ..., config: _Optional[str] = ...) -> None: ...

class CreateReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DropRequest(_message.Message):
    __slots__ = ("memory", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    made: int
    def __init__(self, memory: _Optional[str] = ..., made: _Optional[int] = ...) -> None: ...

class DropReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("memories",)
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, memories: _Optional[_Iterable[str]] = ...) -> None: ...

class ReindexRequest(_message.Message):
    __slots__ = ("memory", "part")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    memory: str
    part: Part
    def __init__(self, memory: _Optional[str] = ..., part: _Optional[_Union[Part, _Mapping]] = ...) -> None: ...

class ReindexReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RefreshRequest(_message.Message):
    __slots__ = ("memory", "limit", "made")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    memory: str
    limit: int
    made: int
    def __init__(self, memory: _Optional[str] = ..., limit: _Optional[int] = ..., made: _Optional[int] = ...) -> None: ...

class RefreshReply(_message.Message):
    __slots__ = ("encoded", "drift_before", "drift_after")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    DRIFT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_AFTER_FIELD_NUMBER: _ClassVar[int]
    encoded: int
    drift_before: float
    drift_after: float
    def __init__(self, encoded: _Optional[int] = ..., drift_before: _Optional[float] = ..., drift_after: _Optional[float] = ...) -> None: ...

class MarkRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class MarkReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnmarkRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class UnmarkReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MarksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MarksReply(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("uri", "at")
    URI_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    uri: str
    at: str
    def __init__(self, uri: _Optional[str] = ..., at: _Optional[str] = ...) -> None: ...

class SnapshotReply(_message.Message):
    __slots__ = ("number", "uri", "bytes", "copied")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    COPIED_FIELD_NUMBER: _ClassVar[int]
    number: int
    uri: str
    bytes: int
    copied: int
    def __init__(self, number: _Optional[int] = ..., uri: _Optional[str] = ..., bytes: _Optional[int] = ..., copied: _Optional[int] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("uri", "number")
    URI_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    uri: str
    number: int
    def __init__(self, uri: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class RestoreReply(_message.Message):
    __slots__ = ("memories",)
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, memories: _Optional[_Iterable[str]] = ...) -> None: ...

class TopologyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TopologyReply(_message.Message):
    __slots__ = ("version", "servers", "part", "cluster")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    version: int
    servers: _containers.RepeatedScalarFieldContainer[str]
    part: Part
    cluster: str
    def __init__(self, version: _Optional[int] = ..., servers: _Optional[_Iterable[str]] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., cluster: _Optional[str] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("whole", "verb", "slots", "freshens", "reach", "parts")
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    FRESHENS_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    whole: Whole
    verb: str
    slots: Tensor
    freshens: bool
    reach: float
    parts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, whole: _Optional[_Union[Whole, _Mapping]] = ..., verb: _Optional[str] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., freshens: _Optional[bool] = ..., reach: _Optional[float] = ..., parts: _Optional[_Iterable[int]] = ...) -> None: ...

class PrepareReply(_message.Message):
    __slots__ = ("delay_s",)
    DELAY_S_FIELD_NUMBER: _ClassVar[int]
    delay_s: float
    def __init__(self, delay_s: _Optional[float] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("whole", "append", "write", "blend", "update", "touch", "allocate", "erase", "slots", "first", "evicted", "places", "epoch", "generations")
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    BLEND_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    TOUCH_FIELD_NUMBER: _ClassVar[int]
    ALLOCATE_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    whole: Whole
    append: AppendRequest
    write: WriteRequest
    blend: BlendRequest
    update: UpdateRequest
    touch: TouchRequest
    allocate: AllocateRequest
    erase: EraseRequest
    slots: Tensor
    first: int
    evicted: Tensor
    places: Tensor
    epoch: int
    generations: Tensor
    def __init__(self, whole: _Optional[_Union[Whole, _Mapping]] = ..., append: _Optional[_Union[AppendRequest, _Mapping]] = ..., write: _Optional[_Union[WriteRequest, _Mapping]] = ..., blend: _Optional[_Union[BlendRequest, _Mapping]] = ..., update: _Optional[_Union[UpdateRequest, _Mapping]] = ..., touch: _Optional[_Union[TouchRequest, _Mapping]] = ..., allocate: _Optional[_Union[AllocateRequest, _Mapping]] = ..., erase: _Optional[_Union[EraseRequest, _Mapping]] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., first: _Optional[int] = ..., evicted: _Optional[_Union[Tensor, _Mapping]] = ..., places: _Optional[_Union[Tensor, _Mapping]] = ..., epoch: _Optional[int] = ..., generations: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class GiveRequest(_message.Message):
    __slots__ = ("whole",)
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    whole: Whole
    def __init__(self, whole: _Optional[_Union[Whole, _Mapping]] = ...) -> None: ...

class GiveReply(_message.Message):
    __slots__ = ("first",)
    FIRST_FIELD_NUMBER: _ClassVar[int]
    first: int
    def __init__(self, first: _Optional[int] = ...) -> None: ...

class LeastRequest(_message.Message):
    __slots__ = ("whole", "count")
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    whole: Whole
    count: int
    def __init__(self, whole: _Optional[_Union[Whole, _Mapping]] = ..., count: _Optional[int] = ...) -> None: ...

class LeastReply(_message.Message):
    __slots__ = ("live", "done", "slots", "priorities", "places", "given", "generations")
    LIVE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITIES_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    live: int
    done: int
    slots: Tensor
    priorities: Tensor
    places: Tensor
    given: Tensor
    generations: Tensor
    def __init__(self, live: _Optional[int] = ..., done: _Optional[int] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., priorities: _Optional[_Union[Tensor, _Mapping]] = ..., places: _Optional[_Union[Tensor, _Mapping]] = ..., given: _Optional[_Union[Tensor, _Mapping]] = ..., generations: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class WidenRequest(_message.Message):
    __slots__ = ("part", "memory", "question", "queries", "k", "options", "slots")
    PART_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    part: Part
    memory: str
    question: str
    queries: Tensor
    k: int
    options: SearchOptions
    slots: Tensor
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., memory: _Optional[str] = ..., question: _Optional[str] = ..., queries: _Optional[_Union[Tensor, _Mapping]] = ..., k: _Optional[int] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class WidenReply(_message.Message):
    __slots__ = ("slots", "scores", "tried", "standing", "versions")
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TRIED_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    slots: Tensor
    scores: Tensor
    tried: Tensor
    standing: Tensor
    versions: Tensor
    def __init__(self, slots: _Optional[_Union[Tensor, _Mapping]] = ..., scores: _Optional[_Union[Tensor, _Mapping]] = ..., tried: _Optional[_Union[Tensor, _Mapping]] = ..., standing: _Optional[_Union[Tensor, _Mapping]] = ..., versions: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("part", "memory", "question", "column", "slots", "after", "keys", "named", "travel", "epoch", "first", "drifts")
    PART_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NAMED_FIELD_NUMBER: _ClassVar[int]
    TRAVEL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    DRIFTS_FIELD_NUMBER: _ClassVar[int]
    part: Part
    memory: str
    question: str
    column: str
    slots: Tensor
    after: int
    keys: Tensor
    named: Tensor
    travel: Tensor
    epoch: int
    first: bool
    drifts: bool
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., memory: _Optional[str] = ..., question: _Optional[str] = ..., column: _Optional[str] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., after: _Optional[int] = ..., keys: _Optional[_Union[Tensor, _Mapping]] = ..., named: _Optional[_Union[Tensor, _Mapping]] = ..., travel: _Optional[_Union[Tensor, _Mapping]] = ..., epoch: _Optional[int] = ..., first: _Optional[bool] = ..., drifts: _Optional[bool] = ...) -> None: ...

class EncodeReply(_message.Message):
    __slots__ = ("epoch", "empty", "slots", "drift", "travel", "uses", "named", "done")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EMPTY_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    TRAVEL_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    NAMED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    empty: bool
    slots: Tensor
    drift: Tensor
    travel: Tensor
    uses: Tensor
    named: Tensor
    done: int
    def __init__(self, epoch: _Optional[int] = ..., empty: _Optional[bool] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., drift: _Optional[_Union[Tensor, _Mapping]] = ..., travel: _Optional[_Union[Tensor, _Mapping]] = ..., uses: _Optional[_Union[Tensor, _Mapping]] = ..., named: _Optional[_Union[Tensor, _Mapping]] = ..., done: _Optional[int] = ...) -> None: ...

class MakeRequest(_message.Message):
    __slots__ = ("part", "memory", "config", "turn")
    PART_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    part: Part
    memory: str
    config: str
    turn: int
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., memory: _Optional[str] = ..., config: _Optional[str] = ..., turn: _Optional[int] = ...) -> None: ...

class MakeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnmakeRequest(_message.Message):
    __slots__ = ("part", "memory", "turn")
    PART_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    part: Part
    memory: str
    turn: int
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., memory: _Optional[str] = ..., turn: _Optional[int] = ...) -> None: ...

class UnmakeReply(_message.Message):
    __slots__ = ("done",)
    DONE_FIELD_NUMBER: _ClassVar[int]
    done: bool
    def __init__(self, done: _Optional[bool] = ...) -> None: ...

class LeadRequest(_message.Message):
    __slots__ = ("part", "append", "allocate", "create", "drop", "list", "describe", "refresh", "mark", "unmark", "marks", "snapshot", "restore", "cut")
    PART_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    ALLOCATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    REFRESH_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    UNMARK_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    part: Part
    append: AppendRequest
    allocate: AllocateRequest
    create: CreateRequest
    drop: DropRequest
    list: ListRequest
    describe: DescribeRequest
    refresh: RefreshRequest
    mark: MarkRequest
    unmark: UnmarkRequest
    marks: MarksRequest
    snapshot: SnapshotRequest
    restore: RestoreRequest
    cut: CutRequest
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., append: _Optional[_Union[AppendRequest, _Mapping]] = ..., allocate: _Optional[_Union[AllocateRequest, _Mapping]] = ..., create: _Optional[_Union[CreateRequest, _Mapping]] = ..., drop: _Optional[_Union[DropRequest, _Mapping]] = ..., list: _Optional[_Union[ListRequest, _Mapping]] = ..., describe: _Optional[_Union[DescribeRequest, _Mapping]] = ..., refresh: _Optional[_Union[RefreshRequest, _Mapping]] = ..., mark: _Optional[_Union[MarkRequest, _Mapping]] = ..., unmark: _Optional[_Union[UnmarkRequest, _Mapping]] = ..., marks: _Optional[_Union[MarksRequest, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotRequest, _Mapping]] = ..., restore: _Optional[_Union[RestoreRequest, _Mapping]] = ..., cut: _Optional[_Union[CutRequest, _Mapping]] = ...) -> None: ...

class LeadReply(_message.Message):
    __slots__ = ("slots", "create", "drop", "list", "describe", "refresh", "mark", "unmark", "marks", "snapshot", "restore", "cut")
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    REFRESH_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    UNMARK_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    slots: SlotsReply
    create: CreateReply
    drop: DropReply
    list: ListReply
    describe: DescribeReply
    refresh: RefreshReply
    mark: MarkReply
    unmark: UnmarkReply
    marks: MarksReply
    snapshot: SnapshotReply
    restore: RestoreReply
    cut: CutReply
    def __init__(self, slots: _Optional[_Union[SlotsReply, _Mapping]] = ..., create: _Optional[_Union[CreateReply, _Mapping]] = ..., drop: _Optional[_Union[DropReply, _Mapping]] = ..., list: _Optional[_Union[ListReply, _Mapping]] = ..., describe: _Optional[_Union[DescribeReply, _Mapping]] = ..., refresh: _Optional[_Union[RefreshReply, _Mapping]] = ..., mark: _Optional[_Union[MarkReply, _Mapping]] = ..., unmark: _Optional[_Union[UnmarkReply, _Mapping]] = ..., marks: _Optional[_Union[MarksReply, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotReply, _Mapping]] = ..., restore: _Optional[_Union[RestoreReply, _Mapping]] = ..., cut: _Optional[_Union[CutReply, _Mapping]] = ...) -> None: ...

class Begun(_message.Message):
    __slots__ = ("memory", "client", "number", "state", "parts")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    memory: str
    client: str
    number: int
    state: str
    parts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, memory: _Optional[str] = ..., client: _Optional[str] = ..., number: _Optional[int] = ..., state: _Optional[str] = ..., parts: _Optional[_Iterable[int]] = ...) -> None: ...

class CutRequest(_message.Message):
    __slots__ = ("part", "step", "cut", "name", "lease_s", "known", "suspended", "allowed", "asked", "restarted", "ages_s", "uri", "probe", "token")
    PART_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    AGES_S_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    part: Part
    step: str
    cut: str
    name: str
    lease_s: float
    known: _containers.RepeatedScalarFieldContainer[str]
    suspended: _containers.RepeatedCompositeFieldContainer[Begun]
    allowed: _containers.RepeatedCompositeFieldContainer[Begun]
    asked: _containers.RepeatedCompositeFieldContainer[Begun]
    restarted: _containers.RepeatedScalarFieldContainer[int]
    ages_s: _containers.RepeatedScalarFieldContainer[float]
    uri: str
    probe: str
    token: str
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., step: _Optional[str] = ..., cut: _Optional[str] = ..., name: _Optional[str] = ..., lease_s: _Optional[float] = ..., known: _Optional[_Iterable[str]] = ..., suspended: _Optional[_Iterable[_Union[Begun, _Mapping]]] = ..., allowed: _Optional[_Iterable[_Union[Begun, _Mapping]]] = ..., asked: _Optional[_Iterable[_Union[Begun, _Mapping]]] = ..., restarted: _Optional[_Iterable[int]] = ..., ages_s: _Optional[_Iterable[float]] = ..., uri: _Optional[str] = ..., probe: _Optional[str] = ..., token: _Optional[str] = ...) -> None: ...

class RowsRequest(_message.Message):
    __slots__ = ("part", "memory", "cut", "slots", "without_vectors", "columns")
    PART_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_VECTORS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    part: Part
    memory: str
    cut: str
    slots: Tensor
    without_vectors: bool
    columns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., memory: _Optional[str] = ..., cut: _Optional[str] = ..., slots: _Optional[_Union[Tensor, _Mapping]] = ..., without_vectors: _Optional[bool] = ..., columns: _Optional[_Iterable[str]] = ...) -> None: ...

class RowsReply(_message.Message):
    __slots__ = ("batch", "next_slot")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    NEXT_SLOT_FIELD_NUMBER: _ClassVar[int]
    batch: bytes
    next_slot: int
    def __init__(self, batch: _Optional[bytes] = ..., next_slot: _Optional[int] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("part", "uri", "number", "turn")
    PART_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    part: Part
    uri: str
    number: int
    turn: int
    def __init__(self, part: _Optional[_Union[Part, _Mapping]] = ..., uri: _Optional[str] = ..., number: _Optional[int] = ..., turn: _Optional[int] = ...) -> None: ...

class FetchReply(_message.Message):
    __slots__ = ("memories",)
    MEMORIES_FIELD_NUMBER: _ClassVar[int]
    memories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, memories: _Optional[_Iterable[str]] = ...) -> None: ...

class CutReply(_message.Message):
    __slots__ = ("age_s", "begun", "manifest", "bytes", "copied", "cut")
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    COPIED_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    age_s: float
    begun: _containers.RepeatedCompositeFieldContainer[Begun]
    manifest: str
    bytes: int
    copied: int
    cut: str
    def __init__(self, age_s: _Optional[float] = ..., begun: _Optional[_Iterable[_Union[Begun, _Mapping]]] = ..., manifest: _Optional[str] = ..., bytes: _Optional[int] = ..., copied: _Optional[int] = ..., cut: _Optional[str] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("number", "deadline_s", "append", "write", "blend", "update", "touch", "allocate", "erase", "search", "gather", "lookup", "describe")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    BLEND_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    TOUCH_FIELD_NUMBER: _ClassVar[int]
    ALLOCATE_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    GATHER_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    number: int
    deadline_s: float
    append: AppendRequest
    write: WriteRequest
    blend: BlendRequest
    update: UpdateRequest
    touch: TouchRequest
    allocate: AllocateRequest
    erase: EraseRequest
    search: SearchRequest
    gather: GatherRequest
    lookup: LookupRequest
    describe: DescribeRequest
    def __init__(self, number: _Optional[int] = ..., deadline_s: _Optional[float] = ..., append: _Optional[_Union[AppendRequest, _Mapping]] = ..., write: _Optional[_Union[WriteRequest, _Mapping]] = ..., blend: _Optional[_Union[BlendRequest, _Mapping]] = ..., update: _Optional[_Union[UpdateRequest, _Mapping]] = ..., touch: _Optional[_Union[TouchRequest, _Mapping]] = ..., allocate: _Optional[_Union[AllocateRequest, _Mapping]] = ..., erase: _Optional[_Union[EraseRequest, _Mapping]] = ..., search: _Optional[_Union[SearchRequest, _Mapping]] = ..., gather: _Optional[_Union[GatherRequest, _Mapping]] = ..., lookup: _Optional[_Union[LookupRequest, _Mapping]] = ..., describe: _Optional[_Union[DescribeRequest, _Mapping]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("number", "error", "slots", "applied", "search", "gather", "lookup", "describe", "lead")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    GATHER_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    LEAD_FIELD_NUMBER: _ClassVar[int]
    number: int
    error: Error
    slots: SlotsReply
    applied: AppliedReply
    search: SearchReply
    gather: GatherReply
    lookup: LookupReply
    describe: DescribeReply
    lead: LeadReply
    def __init__(self, number: _Optional[int] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., slots: _Optional[_Union[SlotsReply, _Mapping]] = ..., applied: _Optional[_Union[AppliedReply, _Mapping]] = ..., search: _Optional[_Union[SearchReply, _Mapping]] = ..., gather: _Optional[_Union[GatherReply, _Mapping]] = ..., lookup: _Optional[_Union[LookupReply, _Mapping]] = ..., describe: _Optional[_Union[DescribeReply, _Mapping]] = ..., lead: _Optional[_Union[LeadReply, _Mapping]] = ...) -> None: ...
