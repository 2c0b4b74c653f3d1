"""The public surface is frozen, and what is optional stays so."""

from __future__ import annotations

import subprocess
import sys

import memstore


def test_public_names() -> None:
    assert sorted(memstore.__all__) == [
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
        "NO_SLOT",
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
    assert all(hasattr(memstore, name) for name in memstore.__all__)


def test_importing_memstore_imports_neither_torch_nor_ray_nor_grpc() -> None:
    imports = "import memstore, memstore.episodic, sys"
    code = f"{imports}; print(sorted({{'torch', 'ray', 'grpc'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
