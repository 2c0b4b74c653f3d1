"""A memory on Ray: one actor a part, started where there is room and started again where it dies.

    spec = ClusterSpec(name="facts", parts=4, folder=Path("/data/memstore"))
    up(spec)                                      memtrain cluster up
    memstore.connect("ray:memstore/facts")        from any driver of the same Ray

Ray says where the parts run and starts them again; who reads and writes asks their servers over
gRPC alone. Nothing else of the project imports ray.
"""

from memstore.extras import install

try:
    import ray  # noqa: F401 - the first of those that need it
except ImportError as error:
    raise ImportError(f"a cluster needs Ray: {install('cluster,rpc')}") from error

from workers.cluster.operate import down, status, up
from workers.cluster.spec import ClusterSpec
from workers.cluster.status import ClusterStatus, PartStatus

__all__ = ["ClusterSpec", "ClusterStatus", "PartStatus", "down", "status", "up"]
