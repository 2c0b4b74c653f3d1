"""ObjectShelf: objects in an object store, through obstore, whose puts may be conditional.

What cannot be told from the answer alone is whether a put took effect that was asked for twice,
because the first answer was lost: the second finds the name taken. So each put marks its object as
its own, and looks whose it found.
"""

from __future__ import annotations

import errno
import re
import secrets
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import from_url

from memstore.errors import InvalidArgument

SCHEMES = ("s3", "gs", "az")
OPTIONS = ("endpoint_override", "region", "scheme")
"""Of an address of S3, as Arrow names them too."""

CONNECT_S, REQUEST_S, RETRY_S, PUT_S = 5.0, 30.0, 30.0, 60.0
"""For a connection, for one request, for asking again what the store did not answer, and for a put
with all its tries."""

TRIES = 5
PAUSE_S = 0.2
OWN = "putter"
"""The name of what marks an object, in its metadata."""

HOPELESS = (
    FileNotFoundError,  # no such bucket
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
"""Raised again by the same call."""


class ObjectShelf:
    """A `Shelf` in one bucket, under a prefix.

    Who may use it is found where the libraries of the store look on each machine: in the
    environment (AWS_ACCESS_KEY_ID and its like) or in the role of the machine, not in the address,
    which is shown.
    """

    def __init__(self, uri: str) -> None:
        """uri: `s3://BUCKET/PREFIX`, `gs://…` or `az://…`; behind an S3 one, as of a snapshot,
        `?endpoint_override=HOST:PORT&scheme=http&region=…`. Raises `InvalidArgument`.
        """
        parts = urlsplit(uri)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if "@" in parts.netloc or set(options) - set(OPTIONS if parts.scheme == "s3" else ()):
            raise InvalidArgument(
                "an address of shared storage says where it is, and no more",
                got=f"{shown} with {'what is secret' if '@' in parts.netloc else sorted(options)}",
                expected=f"s3://BUCKET/PREFIX, and {', '.join(OPTIONS)} behind it at most",
                hint="credentials go into the environment of each node",
            )
        try:
            # Its overloads want to know which store it is.
            open_store: Any = from_url
            self._store: Any = open_store(
                f"{parts.scheme}://{parts.netloc}",
                config=_config(options, parts.scheme),
                client_options={
                    "connect_timeout": timedelta(seconds=CONNECT_S),
                    "timeout": timedelta(seconds=REQUEST_S),
                    **({"allow_http": True} if options.get("scheme") == "http" else {}),
                },
                retry_config={
                    "max_retries": TRIES,
                    "retry_timeout": timedelta(seconds=RETRY_S),
                    "backoff": {
                        "init_backoff": timedelta(seconds=PAUSE_S / 2),
                        "max_backoff": timedelta(seconds=CONNECT_S),
                        "base": 2,
                    },
                },
            )
        except (BaseError, ValueError) as error:
            raise InvalidArgument(
                "not an address of an object store",
                got=f"{shown}: {said(error)}",
                expected="as s3://bucket/prefix",
            ) from None
        self._root, self._prefix = f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")

    def __str__(self) -> str:
        return f"{self._root}/{self._prefix}"

    def within(self, name: str) -> ObjectShelf:
        inner = object.__new__(ObjectShelf)
        inner._store, inner._root = self._store, self._root
        inner._prefix = self._path(name.strip("/"))
        return inner

    def keep_private(self) -> None:
        """Does nothing: who may read a bucket is not up to who writes into it."""

    def put(self, name: str, data: bytes) -> bool:
        own, ends = secrets.token_hex(16), time.monotonic() + PUT_S
        failure: BaseError
        while True:
            try:
                self._store.put(
                    self._path(name),
                    data,
                    mode="create",
                    use_multipart=False,  # a part is not put if absent
                    attributes={OWN: own},
                )
                return True
            except AlreadyExistsError as error:
                putter, failure = self._putter(name), error
                if putter is not None:
                    return putter == own
                # Two came at one moment and neither did it, or it was taken away since.
            except HOPELESS as error:
                self._fail("does not take", name, error)
            except BaseError as error:
                # What is asked for again is done once: it is the same object.
                failure = error
            if time.monotonic() >= ends:
                self._fail("does not take", name, failure)
            time.sleep(PAUSE_S)

    def get(self, name: str) -> bytes | None:
        try:
            return bytes(self._store.get(self._path(name)).bytes())
        except FileNotFoundError:
            return None
        except BaseError as error:
            self._fail("does not give", name, error)

    def names(self, folder: str) -> list[str]:
        start = self._path(folder)
        try:
            found = self._store.list_with_delimiter(start)["objects"]
        except BaseError as error:
            self._fail("does not list", folder, error)
        return sorted(each["path"].removeprefix(start).strip("/") for each in found)

    def remove(self, names: Iterable[str]) -> None:
        paths = [self._path(name) for name in names]
        try:
            self._store.delete(paths)
        except FileNotFoundError:
            # Some stores end with the first that is gone already.
            if len(paths) > 1:
                for path in paths:
                    self.remove([path.removeprefix(f"{self._prefix}/")])
        except BaseError as error:
            self._fail("does not take away", f"{len(paths)} objects", error)

    def _putter(self, name: str) -> str | None:
        """What marks the object of a name; empty where nothing does, None where there is none."""
        try:
            attributes = self._store.get(self._path(name), options={"head": True}).attributes
        except FileNotFoundError:
            return None
        except BaseError as error:
            self._fail("does not tell whose is", name, error)
        return str(attributes.get(OWN, ""))

    def _path(self, name: str) -> str:
        return "/".join(part for part in (self._prefix, name) if part)

    def _fail(self, what: str, name: str, error: Exception) -> NoReturn:
        hint, number = "see to the bucket and the credentials of this node", errno.EACCES
        if isinstance(error, FileNotFoundError):
            number = errno.ENOENT
        elif not isinstance(error, HOPELESS):
            hint, number = "try again", errno.EIO
        # Not from the error: that holds all that was asked and answered.
        raise OSError(number, f"{self} {what} {name}: {said(error)}; {hint}") from None


def said(error: Exception) -> str:
    """What an error says, without what may be secret: what was asked behind a ?, and of what was
    answered all but its code and its message."""
    text = str(error).partition("\n\nDebug source")[0]
    told = [
        found.group(1)
        for name in ("Code", "Message")
        if (found := re.search(f"<{name}>(.*?)</{name}>", text, re.DOTALL))
    ]
    text = re.sub(r"\?\S+", "?…", re.sub(r"\s*<.*", "", text, flags=re.DOTALL))
    return " ".join([" ".join(text.split()), *told]).strip()


def _config(options: dict[str, str], kind: str) -> dict[str, Any]:
    config: dict[str, Any] = {"conditional_put": "etag"} if kind == "s3" else {}
    if "endpoint_override" in options:
        config["endpoint"] = f"{options.get('scheme', 'https')}://{options['endpoint_override']}"
    if "region" in options:
        config["region"] = options["region"]
    return config
