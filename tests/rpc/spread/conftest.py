"""Three servers of parts, and a client that asks each of them, or one for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memstore
from memstore.rpc.client import Client
from tests.congruence.spread import Servers
from tests.rpc.spread.moving import COUNT


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path, COUNT)
    yield made
    made.close()


@pytest.fixture(params=[True, False], ids=["fan out", "forward"])
def client(servers: Servers, request: Any) -> Iterator[Client]:
    address, fan_out = servers.servers[1].address, request.param
    with memstore.connect(address, fan_out=fan_out, deadline_s=120.0) as client:
        yield client
