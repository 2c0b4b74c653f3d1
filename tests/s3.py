"""S3Server: an S3 server of this process, for tests of what lies in an object store.

moto looks whether an object is there, and then puts it: of two who put one at once, both would. So
requests are answered one at a time here, which makes a put one step, as it is of the real ones.
"""

from __future__ import annotations

import logging
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "a-secret-of-somebody"}
"""Any will do; without some a client looks for a role of the machine."""

SLOW = "503 Slow Down"
Trouble = Callable[[str, str], str | None]
"""Of the method and the path of a request: None where it is answered, "before" where it fails,
"behind" where it is done and its answer is lost, and "denied"."""


class S3Server:
    """Has one bucket. `trouble` and `delay_s` are for what tests do to it."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.trouble: Trouble = lambda method, path: None
        self.delay_s = 0.0
        self.requests = 0
        self._app: Any = DomainDispatcherApplication(create_backend_app)
        self._one = threading.Lock()
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler
        )
        # Else the end waits for connections that clients keep.
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self._server.block_on_close = False  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self._made: set[str] = set()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._server.port}"

    def uri(self, bucket: str, prefix: str = "") -> str:
        """The address of a place in a bucket, which is made if it is not there."""
        if bucket not in self._made:
            asked = urllib.request.Request(f"http://{self.endpoint}/{bucket}", method="PUT")
            with urllib.request.urlopen(asked, timeout=30):
                self._made.add(bucket)
        where = f"endpoint_override={self.endpoint}&scheme=http&region=us-east-1"
        return f"s3://{bucket}/{prefix}?{where}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if self.delay_s:
            time.sleep(self.delay_s)
        what = self.trouble(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if what in ("before", "denied"):
            return _failed(start, "403 Forbidden" if what == "denied" else SLOW)
        with self._one:
            self.requests += 1
            answer = list(self._app(environ, (lambda *_: None) if what else start))
        return _failed(start, SLOW) if what else answer


def _failed(start: Any, status: str) -> list[bytes]:
    start(status, [("Content-Length", "0")])
    return [b""]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    try:
        yield server
    finally:
        server.close()
