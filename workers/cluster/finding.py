"""Finding the servers of a cluster: what `memstore.connect` does with an address of Ray.

ray:NAMESPACE/NAME                     in the Ray that this process is part of, or of this machine
ray://HOST:PORT/NAMESPACE/NAME         through the client server of another
"""

from __future__ import annotations

import re
import time

import ray
from ray.exceptions import RayError

from memstore.deadline import Deadline
from memstore.errors import InvalidArgument, Unreachable
from memstore.finding import Found
from workers.cluster import control
from workers.cluster.registry import Access
from workers.cluster.spec import NAME

FORM = re.compile(
    rf"ray:(?P<client>//[^/\s]+:\d+/)?(?P<namespace>{NAME.pattern})/(?P<name>{NAME.pattern})"
)
PAUSE_S = 0.2
"""How often a registry that is being started again is asked."""


def find(address: str, deadline_s: float) -> Found:
    """Asks the registry of a cluster, and connects to Ray where this process has not yet.

    deadline_s: how long a registry that is being started again, or hangs, is asked at most. To
    connect, and to be told where the registry is, takes what Ray takes for it.

    Raises `InvalidArgument` where it is no such address, `Unreachable` where there is no Ray, or no
    such cluster, or none of its parts was ever served.
    """
    form = FORM.fullmatch(address)
    if form is None:
        raise InvalidArgument(
            "not the address of a cluster",
            got=repr(address),
            expected="ray:NAMESPACE/NAME, or ray://HOST:PORT/NAMESPACE/NAME",
        )
    _connect_ray(form["client"])
    until = Deadline(deadline_s)
    registry = control.registry(form["name"], form["namespace"])
    while True:
        try:
            access: Access = control.ask(
                registry.access.remote(), min(until.left_s, control.CALL_S)
            )
            break
        except Unreachable:
            if until.left_s <= PAUSE_S:
                raise
            time.sleep(PAUSE_S)
    if not access.servers:
        raise Unreachable(f"no part of {address} is served yet", hint="memtrain cluster status")
    return Found(access.servers, access.token, access.authority)


def _connect_ray(client: str | None) -> None:
    if ray.is_initialized():
        return
    where = "auto" if client is None else f"ray:{client.rstrip('/')}"
    try:
        ray.init(where, log_to_driver=False)
    except (ConnectionError, RayError, RuntimeError) as error:
        raise Unreachable(
            "there is no Ray to ask", got=str(error).splitlines()[0], hint="ray start, or ray.init"
        ) from error
