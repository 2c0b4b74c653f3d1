"""A server in this process, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import memstore
from memstore import MemoryConfig, Store
from memstore.rpc.client import Client
from memstore.rpc.server import Server

WIDTH = 4
CONFIG = MemoryConfig(dim=WIDTH, index="exact", optimizer="sgd")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as store:
        store.create("m", CONFIG)
        yield store


@pytest.fixture
def server(store: Store) -> Iterator[Server]:
    with Server(store) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with memstore.connect(server.address) as client:
        yield client
