"""A Ray of one or several nodes on this machine, for a while; no benchmark itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

NAMESPACE = "benchmarks"
NICE = {"RAY_worker_niceness": "0"}
"""Else Ray has its workers wait for whatever else runs on their node, so also for a load here."""
PATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_grpc_keepalive_timeout_ms": "600000",
    "RAY_grpc_client_keepalive_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
}
"""Ray finds a node dead after five looks in a row that fail. Those at one that was killed fail at
once: it is missed after 4 s, by looking each second, and else after 14. One that is only slow has
a minute for each look; with Ray's own settings one that SIGSTOP had stopped was dead after 67 s."""


@contextlib.contextmanager
def nodes(*, count: int = 1, cpus: int) -> Iterator[Any]:
    """Starts it, and connects this process.  cpus: that each node says it has."""
    import ray
    from ray.cluster_utils import Cluster

    # Short: there are sockets in it.
    folder = tempfile.mkdtemp(prefix="ray-")
    head: dict[str, Any] = {
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": 80 << 20,
    }
    # With its note of the newest cluster, which others of this machine would write too.
    os.environ |= NICE | PATIENT | {"RAY_TMPDIR": folder}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=cpus, object_store_memory=80 << 20)
        ray.init(cluster.address, namespace=NAMESPACE, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        del os.environ["RAY_TMPDIR"]
        shutil.rmtree(folder, ignore_errors=True)
