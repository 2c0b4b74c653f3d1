"""One Ray of two nodes on this machine, and one S3 server, for all tests here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.s3 import CREDENTIALS, S3Server, s3_server

NAMESPACE = "tests"

QUICK = {
    # Else they wait for whatever other tests do.
    "RAY_worker_niceness": "0",
    # A process is started for who needs it, and not eight ahead of them.
    "RAY_prestart_worker_first_driver": "0",
    # A node that is gone is missed after five looks; of one that is slow each takes 10 s.
    "RAY_health_check_period_ms": "500",
}
"""How Ray is told to lose no time."""


@pytest.fixture(scope="package")
def objects() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="package")
def nodes() -> Iterator[Any]:
    """Starts it, and connects this process; skips where Ray is not installed."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")
    from ray.cluster_utils import Cluster

    # Short: there are sockets in it.
    folder = tempfile.mkdtemp(prefix="ray-")
    head: dict[str, Any] = {
        "num_cpus": 4,
        "include_dashboard": False,
        "object_store_memory": 80 << 20,
    }
    environment = pytest.MonkeyPatch()
    # Its nodes have it from here.
    for name, value in (CREDENTIALS | QUICK | {"RAY_TMPDIR": folder}).items():
        environment.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=4, object_store_memory=80 << 20)
        ray.init(cluster.address, namespace=NAMESPACE, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        environment.undo()
        shutil.rmtree(folder, ignore_errors=True)
