"""Notes: what a registry keeps, each whole or not there, and of one registry at a time."""

from __future__ import annotations

from typing import Any, Protocol

from memstore import files
from memstore.errors import InvalidArgument, StoreLocked
from memstore.shared.shelf import check
from workers import folders
from workers.cluster.spec import ClusterSpec

Body = dict[str, Any]

FILE, NAMES = "registry.json", "notes"
TRIES = 10
"""To read the newest note, while whoever writes them takes older ones away."""


class Notes(Protocol):
    def read(self) -> Body | None:
        """The last that was written; None where none was."""

    def write(self, body: Body) -> None:
        """Durable when it returns; raises `StoreLocked` where another registry has written."""

    def close(self) -> None:
        """Lets another registry have them."""


class LocalNotes:
    """A file of this machine, which one process has at a time; raises `StoreLocked`."""

    def __init__(self, spec: ClusterSpec) -> None:
        folder = spec.home("registry")
        self._path = folder / FILE
        folders.make(folder, "the registry's folder")
        folder.chmod(0o700)  # there are keys in it
        self._owned = files.lock(folder / "LOCK")

    def read(self) -> Body | None:
        return files.read_json(self._path) if self._path.exists() else None

    def write(self, body: Body) -> None:
        with files.typed("the registry"):
            files.replace_json(self._path, body)

    def close(self) -> None:
        self._owned.close()


class SharedNotes:
    """Numbered objects of a shelf, each put if absent, of which the last counts: of two registries
    one writes the next, and the other knows by it that it is none any more. One that writes late
    may find its place free again, and a later note beyond it."""

    def __init__(self, spec: ClusterSpec) -> None:
        with files.typed("the registry"):
            self._shelf = spec.shelf("registry")
            spec.shelf("").keep_private()  # there are keys in it, and all rows
            self._shelf.names(NAMES)  # fails sooner than a put where the storage is away
            check(spec.shelf(""))
        self._number = 0

    def read(self) -> Body | None:
        for _ in range(TRIES):
            with files.typed("the registry"):
                names = self._shelf.names(NAMES)
                if not names:
                    return None
                data = self._shelf.get(f"{NAMES}/{names[-1]}")
            if data is not None:
                self._number = int(names[-1])
                return files.parse_json(data, names[-1])
        raise StoreLocked("the registry is written to by another", hint="end that one first")

    def write(self, body: Body) -> None:
        with files.typed("the registry"):
            name = f"{self._number + 1:012d}"
            put = self._shelf.put(f"{NAMES}/{name}", files.to_json(body))
            if not put or self._shelf.names(NAMES)[-1] > name:
                raise StoreLocked("another registry has written since", hint="read it again")
            self._shelf.remove([f"{NAMES}/{self._number:012d}"])
        self._number += 1

    def close(self) -> None:
        """Does nothing: the next one writes the next note."""


def name_shelf(spec: ClusterSpec, cluster: str) -> None:
    """Writes on a shelf whose it is; raises as `check_shelf`."""
    with files.typed("the registry"):
        put = spec.shelf("").put("cluster", cluster.encode())
    if not put:
        check_shelf(spec, cluster)


def check_shelf(spec: ClusterSpec, cluster: str) -> None:
    """Raises `InvalidArgument` where a node does not see the shelf that the registry sees."""
    with files.typed("a look at the shared storage"):
        found = spec.shelf("").get("cluster")
    if found is None:
        raise InvalidArgument(
            "the nodes do not share the storage of the cluster",
            got=f"nothing in {spec.shared} on this node",
            expected=f"what the registry of cluster {cluster} has written there",
            hint="mount one file system there on all nodes, or give all the same bucket",
        )
    if found.decode() != cluster:
        raise InvalidArgument(
            f"{spec.shared} belongs to another cluster",
            got=cluster,
            expected=found.decode(),
            hint="name another cluster, or other storage",
        )
