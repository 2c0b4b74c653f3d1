"""Places: where snapshots lie, a folder of this machine or what else Arrow has a file system for.

What is put there is whole or not there, under names that are used once. On this machine it is
durable as well when `put` returns; an object store makes that its own business.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs
from zlib_ng.zlib_ng import crc32

from memstore import files
from memstore.disk import DISK
from memstore.errors import CorruptFile, InvalidArgument, SnapshotFailed

CHUNK_BYTES, REMOTE_COPIERS = 1 << 22, 4


class Place:
    """Files by name under one address; a name may have folders in it."""

    def __init__(self, uri: str | Path, filesystem: fs.FileSystem | None = None) -> None:
        """uri: a path, or as `pyarrow.fs.FileSystem.from_uri` reads it; with a file system, a path
        there. Raises `InvalidArgument` where it is none, `SnapshotFailed` where it is not reached.
        """
        self.uri = str(uri)
        if filesystem is None:
            try:
                filesystem, base = fs.FileSystem.from_uri(self._absolute(uri))
            except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowNotImplementedError) as error:
                raise InvalidArgument(
                    "not an address",
                    got=repr(self.uri),
                    expected="a path, or as s3://bucket/folder",
                    hint=str(error),
                ) from error
            except OSError as error:
                raise self._failed("is not reached", error) from error
        else:
            base = str(uri)
        self._fs, self._base = filesystem, base.rstrip("/")
        self._local = isinstance(filesystem, fs.LocalFileSystem)
        self.copiers = 1 if self._local else REMOTE_COPIERS
        """Threads that are worth having: where none waits, more would hold up searches."""

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The names under a folder, or without one at the top, and the bytes of each; none where
        it is not there."""
        deep = bool(folder)
        selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=deep)
        with self._typed("is not read"):
            found = self._fs.get_file_info(selector)
        start = len(self._base) + 1
        return {info.path[start:]: info.size for info in found if info.type == fs.FileType.File}

    def put(
        self, name: str, chunks: Iterable[bytes], expected: files.Fingerprint, source: str
    ) -> None:
        """Makes a file of these bytes; where it fails, none is there.

        Raises `CorruptFile` where they are not as expected. source: what they are.
        """
        if self._local:
            path = Path(self._path(name))
            with self._typed("does not take it"):
                files.make_folder(path.parent)
                # Others may be putting the same there.
                draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
                found = files.make(draft, lambda file: [file.write(chunk) for chunk in chunks])
                if found != expected:
                    draft.unlink()
                    raise not_as_it_was(source, found, expected)
                draft.replace(path)
                DISK.sync_folder(path.parent)
            return
        with self._typed("does not take it"):
            try:
                with self._fs.open_output_stream(self._path(name)) as stream:
                    for chunk in _checked(chunks, expected, source):
                        stream.write(chunk)
            except BaseException:
                # Closing a stream may have put a part of it there.
                with contextlib.suppress(OSError):
                    self._fs.delete_file(self._path(name))
                raise

    def remove(self, name: str) -> None:
        """Takes a file away; one that is not there is no error."""
        with self._typed("does not let go of it"), contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file; raises `CorruptFile` where it is missing."""
        with self._typed("is not read"):
            try:
                stream = self._fs.open_input_stream(self._path(name))
            except FileNotFoundError as error:
                raise CorruptFile(
                    f"{self.uri}/{name} is missing", hint="take another snapshot"
                ) from error
            with stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk

    def check_outside(self, folder: Path) -> None:
        """Raises `InvalidArgument` where it lies in a folder of this machine."""
        if self._local and Path(self._base).resolve().is_relative_to(folder.resolve()):
            raise InvalidArgument(
                "a snapshot does not lie in its own store", got=self.uri, expected="another folder"
            )

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base

    @staticmethod
    def _absolute(uri: str | Path) -> str:
        text = str(uri)
        return text if "://" in text else str(Path(text).absolute())

    @contextlib.contextmanager
    def _typed(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: Exception) -> SnapshotFailed:
        return SnapshotFailed(
            f"{self.uri} {what}",
            got=f"{type(error).__name__}: {error}",
            hint="nothing is lost: call again, and it goes on where it was",
        )


def _checked(chunks: Iterable[bytes], expected: files.Fingerprint, name: str) -> Iterator[Any]:
    """The same bytes; raises `CorruptFile` behind the last of them if they are not as expected."""
    size = crc = 0
    for chunk in chunks:
        size, crc = size + len(chunk), crc32(chunk, crc)
        yield chunk
    found = {"bytes": size, "crc32": crc}
    if found != expected:
        raise not_as_it_was(name, found, expected)


def not_as_it_was(name: str, found: files.Fingerprint, expected: files.Fingerprint) -> CorruptFile:
    return CorruptFile(
        f"{name} is not what it was",
        got=f"{found['bytes']} bytes, checksum {found['crc32']:08x}",
        expected=f"{expected['bytes']} bytes, {expected['crc32']:08x}",
    )


def bytes_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file of this machine; raises `CorruptFile` where it is not to be read."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise CorruptFile(f"{path} is not to be read", got=str(error)) from error
