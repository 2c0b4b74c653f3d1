"""memstore: a vector store that you can backpropagate through."""

from memstore.config import EncodingConfig, IndexConfig, MemoryConfig, OptimizerConfig, UsageConfig
from memstore.errors import MemstoreError
from memstore.memory import (
    NO_SLOT,
    Applied,
    Description,
    LookupResult,
    Memory,
    Proposal,
    Refreshed,
    Rows,
    SearchOptions,
    SearchResult,
)
from memstore.store import Store, open  # noqa: A004

__all__ = [
    "NO_SLOT",
    "Applied",
    "Description",
    "EncodingConfig",
    "IndexConfig",
    "LookupResult",
    "Memory",
    "MemoryConfig",
    "MemstoreError",
    "OptimizerConfig",
    "Proposal",
    "Refreshed",
    "Rows",
    "SearchOptions",
    "SearchResult",
    "Store",
    "UsageConfig",
    "open",
]

__version__ = "0.1.0"
