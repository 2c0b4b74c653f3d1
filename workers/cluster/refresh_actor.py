"""RefreshActor: the worker that refreshes the encoded memories of a cluster.

It keeps nothing: what drifted is known by the parts, and who is started again, on any node, goes on
from there.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from typing import Any

import memstore
from memstore.errors import MemstoreError
from workers.cluster.spec import ClusterSpec
from workers.refresh import PAUSES_S, Progress, Refresher

DEADLINE_S = 600.0
"""Of a batch, in which an index may be built anew."""

logger = logging.getLogger(__name__)


class RefreshActor:
    """Works in a thread, from its making to `close`. Where that fails the process ends, for Ray to
    start another."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = ClusterSpec.from_dict(spec)
        self._ended = threading.Event()
        self._progress = Progress()
        self._thread = threading.Thread(target=self._run, name="memstore-refresh", daemon=True)
        self._thread.start()

    def describe(self) -> Progress:
        return self._progress

    def close(self) -> None:
        """Begins no further batch. One that is under way ends with the part that leads it."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with memstore.connect(self._spec.address, deadline_s=DEADLINE_S) as client:
                    Refresher(client, share=self._spec.refresh_share).run(
                        self._ended, tell=self._tell
                    )
            except MemstoreError as error:
                # No part is served yet, or one was refused: whatever it is, it may be seen to.
                logger.warning("no refresh: %s", error)
                failed = self._progress.failed + 1
                self._progress = replace(self._progress, failed=failed, why=str(error))
                self._ended.wait(PAUSES_S[-1])
            except Exception:
                logger.exception("refreshing ended")
                os._exit(1)

    def _tell(self, progress: Progress) -> None:
        self._progress = progress
