"""Messages as honest callers send them, made when they are needed: what is mutated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from memstore import MemoryConfig, Store
from memstore.filters import field
from memstore.rpc import codec, columns
from memstore.rpc.v1 import memory_pb2 as pb

WIDTH = 4
RECORDS = {"year": "int64", "name": "string", "tags": "list<string>", "good": "bool"}
CONFIGS = {
    "m": MemoryConfig(dim=WIDTH, value_dim=2, index="exact"),
    "r": MemoryConfig(dim=WIDTH, index="exact", records=RECORDS, lookup=("year", "name"), shards=2),
    "h": MemoryConfig(dim=WIDTH, index="none", dtype="bfloat16", capacity=500),
}
ROWS = 64


def records(rows: int) -> pa.Table:
    made = {
        "year": [*range(rows)],
        "name": [f"name {i}" for i in range(rows)],
        "tags": [["a", "b"][: i % 3] for i in range(rows)],
        "good": [i % 2 == 0 for i in range(rows)],
    }
    return pa.table(made, schema=CONFIGS["r"].schema)


def fill(store: Store, *names: str) -> None:
    """Makes memories and gives each some rows."""
    rng = np.random.default_rng(0)
    for name in names:
        config = CONFIGS.get(name, CONFIGS["m"])
        values = None if config.value_dim is None else rng.normal(size=(ROWS, config.value_dim))
        table = records(ROWS) if config.records else None
        store.create(name, config).append(rng.normal(size=(ROWS, WIDTH)), values, table)


def calls() -> list[tuple[str, Any]]:
    """Each verb and messages of it that are right."""
    rng = np.random.default_rng(1)

    def floats(*shape: int, dtype: str = "float32") -> pb.Tensor:
        return codec.to_tensor(rng.normal(size=shape).astype(dtype))

    def slots(count: int) -> pb.Tensor:
        return codec.to_tensor(rng.choice(ROWS, count, replace=False).astype(np.int64))

    asked = pb.RequestId(client="me", number=7)
    stream = codec.to_stream(records(3))
    tree = codec.to_filter((field("year") >= 3) & ~field("name").is_in(["a", "name 4"]))
    ones = codec.to_tensor(np.ones(3, np.float32))
    return [
        ("append", pb.AppendRequest(memory="m", keys=floats(3, 4), values=floats(3, 2))),
        ("append", pb.AppendRequest(memory="r", keys=floats(3, 4), records=stream, step=3)),
        ("append", pb.AppendRequest(memory="m", keys=floats(1, 4), request_id=asked)),
        ("write", pb.WriteRequest(memory="m", slots=slots(3), keys=floats(3, 4))),
        ("write", pb.WriteRequest(memory="r", slots=slots(3), records=stream, request_id=asked)),
        (
            "blend",
            pb.BlendRequest(
                memory="m",
                slots=slots(3),
                weights=ones,
                erase=codec.to_tensor(np.ones((3, WIDTH), np.float32)),
                add=floats(3, 4),
                generations=codec.to_tensor(np.zeros(3, np.int64)),
            ),
        ),
        ("update", pb.UpdateRequest(memory="m", slots=slots(3), key_grads=floats(3, 4), lr=0.1)),
        ("update", pb.UpdateRequest(memory="h", slots=slots(3), key_grads=floats(3, 4))),
        ("touch", pb.TouchRequest(memory="m", slots=slots(3), step=5)),
        ("allocate", pb.AllocateRequest(memory="m", n=2, step=3, request_id=asked)),
        ("allocate", pb.AllocateRequest(memory="r", n=3, records=stream)),
        ("erase", pb.EraseRequest(memory="h", slots=slots(1))),
        ("search", pb.SearchRequest(memory="m", queries=floats(2, 4), k=3)),
        (
            "search",
            pb.SearchRequest(
                memory="r",
                queries=floats(2, 4),
                k=3,
                options=pb.SearchOptions(exact=True, filter=tree, sample_random=2, seed=1),
            ),
        ),
        (
            "search",
            pb.SearchRequest(
                memory="m", queries=floats(5, 4), k=2, options=pb.SearchOptions(union=True)
            ),
        ),
        ("gather", pb.GatherRequest(memory="m", slots=slots(5))),
        ("gather", pb.GatherRequest(memory="r", slots=slots(5), columns=["name"], list_limit=1)),
        (
            "lookup",
            pb.LookupRequest(
                memory="r", column="name", texts={"values": ["name 1", "name 2"]}, limit=3
            ),
        ),
        (
            "lookup",
            pb.LookupRequest(
                memory="r",
                column="year",
                integers={"values": [1, 2, 3]},
                limit=1,
                cursor=codec.to_tensor(np.zeros(3, np.int64)),
            ),
        ),
        ("describe", pb.DescribeRequest(memory="m")),
    ]


def loads() -> list[Any]:
    """First messages of loads that are right, each a load by itself."""
    rng = np.random.default_rng(2)
    keys = rng.normal(size=(3, WIDTH)).astype(np.float32)
    table = columns.table_of(keys, None, records(3))
    batch = columns.to_batch(table)
    return [pb.LoadRequest(memory="r", batch=batch, rows=3), pb.LoadRequest(memory="r", rows=0)]


def exports() -> list[Any]:
    slots = codec.to_tensor(np.arange(5))
    return [pb.ExportRequest(memory="r", slots=slots), pb.ExportRequest(memory="m")]


def administration() -> list[tuple[str, Any]]:
    """Each verb of the administration but Snapshot, which writes wherever it is told."""
    configs = [codec.to_config(config) for config in CONFIGS.values()]
    created = [
        ("create", pb.CreateRequest(memory=f"new{i}", config=c)) for i, c in enumerate(configs)
    ]
    return [
        *created,
        ("drop", pb.DropRequest(memory="new0")),
        ("list", pb.ListRequest()),
        ("reindex", pb.ReindexRequest(memory="m")),
        ("refresh", pb.RefreshRequest(memory="m", limit=3)),
        ("mark", pb.MarkRequest(name="here")),
        ("unmark", pb.UnmarkRequest(name="here")),
        ("marks", pb.MarksRequest()),
    ]


def replies() -> list[Any]:
    """Replies as a server sends them; a client decodes them of whatever server."""
    rng = np.random.default_rng(3)
    tensor = codec.to_tensor(np.arange(6).reshape(2, 3))
    floats = codec.to_tensor(rng.normal(size=(2, 3)))
    shorts = dict.fromkeys(("counts", "scored", "row_versions", "index_versions"), tensor)
    return [
        pb.SlotsReply(slots=tensor),
        pb.SearchReply(slots=tensor, scores=floats, proposal=tensor, **shorts),
        pb.GatherReply(generations=tensor, keys=floats, records=codec.to_stream(records(3))),
        pb.LookupReply(slots=tensor, offsets=tensor, truncated=tensor, cursor=tensor),
        pb.DescribeReply(config=codec.to_config(CONFIGS["m"]), shards=['{"rows": 3}', "{}"]),
        pb.Error(name="Overloaded", problem="too much", retry_after_s=0.5, got="1"),
    ]
