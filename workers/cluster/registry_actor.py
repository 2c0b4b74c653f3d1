"""RegistryActor: the registry where all can ask it, and who tells them what has changed."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import ray

from memstore.errors import MemstoreError, StoreLocked, Unreachable
from workers.cluster import control
from workers.cluster.registry import Access, Lease, Registry
from workers.cluster.spec import ClusterSpec

BEGIN_S = 60.0
"""For the process before to be gone, which Ray ends first, and for storage to answer."""

logger = logging.getLogger(__name__)


class RegistryActor:
    """Has the `Registry` of a cluster, and pushes each new topology to all its parts."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = ClusterSpec.from_dict(spec)
        ends = time.monotonic() + BEGIN_S
        while True:
            try:
                self._registry = Registry(self._spec)
                break
            except MemstoreError as error:
                # Who starts a cluster is told at once that its storage fails; one that was up waits
                # for it, unless it is not there, or does not know this node.
                before = ray.get_runtime_context().was_current_actor_reconstructed
                never = isinstance(error.__cause__, FileNotFoundError | PermissionError)
                away = before and error.retryable and not never
                again = isinstance(error, StoreLocked) or away
                if again and time.monotonic() < ends:
                    time.sleep(0.2)
                    continue
                if (again or never) and before:
                    # A process that ends is started again; an actor that cannot be made is not.
                    logger.error("%s", error)
                    os._exit(1)
                raise
        self._tell()

    def begin(self, part: int, host: str) -> Lease:
        with _alone():
            return self._registry.begin(part, host)

    def enter(self, part: int, term: int, address: str) -> None:
        with _alone():
            self._registry.enter(part, term, address)
        self._tell()

    def access(self) -> Access:
        return self._registry.access

    def describe(self) -> dict[str, Any]:
        return self._registry.describe()

    def _tell(self) -> None:
        """Tells all parts; one that is not there is told when it enters."""
        topology = self._registry.topology
        if topology is None:
            return
        for number in range(self._spec.parts):
            with contextlib.suppress(Unreachable):
                found = control.actor(self._spec.actor(number), self._spec.namespace)
                found.route.remote(topology)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Ends the process where another registry has written: Ray starts one that reads what."""
    try:
        yield
    except StoreLocked as error:
        logger.error("%s", error)
        os._exit(1)
