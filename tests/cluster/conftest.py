"""One Ray of two nodes on this machine, for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

NAMESPACE = "tests"


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """Starts it, and connects this process; skips where Ray is not installed."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=4, object_store_memory=80 << 20)
        ray.init(cluster.address, namespace=NAMESPACE, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
