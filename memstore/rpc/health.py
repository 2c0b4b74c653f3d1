"""Health: asks a server whether it serves, as orchestrators do; `memstore health` is this."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from memstore.rpc import failures
from memstore.rpc.target import Target
from memstore.rpc.verbs import MEMORY_SERVICE


def serves(target: Target) -> bool:
    """Whether a server says that it serves memories; False where it is being shut down.

    Nobody needs a token for it. Raises `Unreachable`, or `DeadlineExceeded` after the target's
    `deadline_s`, where nothing is said.
    """
    with target.channel(grpc) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        asked = health_pb2.HealthCheckRequest(service=MEMORY_SERVICE)
        try:
            told = check(asked, timeout=target.deadline_s)
        except grpc.RpcError as error:
            raise failures.from_call(error, target.address) from error
    return bool(told.status == health_pb2.HealthCheckResponse.SERVING)
