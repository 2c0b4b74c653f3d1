"""memstore: a vector store that you can backpropagate through."""

from memstore.config import EncodingConfig, IndexConfig, MemoryConfig, OptimizerConfig, UsageConfig
from memstore.durable.restoring import restore
from memstore.durable.snapshot import Snapshot
from memstore.errors import MemstoreError
from memstore.filters import And, Compare, Filter, In, Not, Or, field
from memstore.memory import (
    NO_SLOT,
    Applied,
    Description,
    LookupResult,
    Memory,
    Proposal,
    Refreshed,
    RequestId,
    Rows,
    SearchOptions,
    SearchResult,
)
from memstore.rpc.tls import ClientTls
from memstore.service import connect, connect_async
from memstore.store import Store, open  # noqa: A004

__all__ = [
    "NO_SLOT",
    "And",
    "Applied",
    "ClientTls",
    "Compare",
    "Description",
    "EncodingConfig",
    "Filter",
    "In",
    "IndexConfig",
    "LookupResult",
    "Memory",
    "MemoryConfig",
    "MemstoreError",
    "Not",
    "OptimizerConfig",
    "Or",
    "Proposal",
    "Refreshed",
    "RequestId",
    "Rows",
    "SearchOptions",
    "SearchResult",
    "Snapshot",
    "Store",
    "UsageConfig",
    "connect",
    "connect_async",
    "field",
    "open",
    "restore",
]

__version__ = "0.1.0"
