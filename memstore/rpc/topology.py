"""Topology: which server holds which part of the memories, and where that is told.

    {"version": 3, "servers": ["10.0.0.1:7437", "10.0.0.2:7437"], "cluster": "0123456789abcdef"}

The server at place i has part i; `cluster`, the id of all of them, may be left out of a file, and
is that of part 0 then. Whoever moves servers writes the file anew with a higher version;
servers read it again when it changes, and clients ask the servers.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from memstore.errors import InvalidArgument, Unreachable
from memstore.placement import Part, check_cluster
from memstore.rpc.v1 import memory_pb2 as pb

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Topology:
    """version: ≥ 1, rises with every change.  servers: `host:port` of each part, in their order.
    cluster: the id of all of them, 16 hexadecimal digits; empty where it is not told."""

    version: int
    servers: tuple[str, ...]
    cluster: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "servers", tuple(self.servers))
        version: object = self.version
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise InvalidArgument(
                "the version of a topology is out of range", got=repr(version), expected="≥ 1"
            )
        for address in self.servers:
            host, _, port = str(address).rpartition(":")
            if not (host and port.isdecimal() and 0 < int(port) < 65_536):
                raise InvalidArgument(
                    "not the address of a server", got=repr(address), expected="host:port"
                )
        Part(0, len(self.servers))
        if self.cluster != "":
            check_cluster(self.cluster)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file; raises `InvalidArgument` where it holds something else."""
        try:
            told = json.loads(path.read_bytes())
            return cls(told["version"], tuple(told["servers"]), told.get("cluster", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument(f"{path} holds no topology", got=str(error)) from error

    @classmethod
    def of(cls, reply: pb.TopologyReply) -> Self | None:
        """What a server told; None where it holds whole memories."""
        if not reply.version:
            return None
        return cls(reply.version, tuple(reply.servers), reply.cluster)


class Route:
    """The topology as one server knows it, for its own part. Any thread may ask."""

    def __init__(
        self, part: Part, path: Path | None = None, cluster: Callable[[], str] = str
    ) -> None:
        """path: of a file, read again whenever it changes, which need not be there yet.  cluster:
        that which the part is of, empty as long as it is of none. Raises `InvalidArgument` where
        the file holds something else."""
        self.part, self._path, self._cluster = part, path, cluster
        self._lock = threading.Lock()
        self._known: Topology | None = None
        self._stamp: tuple[int, ...] = ()
        if path is not None and path.exists():
            self.take(Topology.read(path))

    def take(self, topology: Topology) -> None:
        """Goes by another topology from now on, if it is not older; raises `InvalidArgument` where
        it is one of another cluster, or of another number of parts."""
        own = self._cluster()
        if own and topology.cluster not in ("", own):
            raise InvalidArgument(
                "the topology is of another cluster",
                got=f"cluster {topology.cluster}",
                expected=f"cluster {own}, of which part {self.part} is",
                hint="each cluster has a file, and each part a directory, of its own",
            )
        if len(topology.servers) != self.part.of:
            raise InvalidArgument(
                "the topology is of another number of parts",
                got=f"{len(topology.servers)} servers",
                expected=f"{self.part.of}",
            )
        with self._lock:
            if self._known is None or topology.version >= self._known.version:
                self._known = topology

    @property
    def now(self) -> Topology:
        """The topology; raises `Unreachable` before there is any."""
        if self._path is not None:
            self._look()
        if self._known is None:
            raise Unreachable(
                "the server was not told yet where the other parts are",
                hint="give it a topology: --topology or --servers",
            )
        return self._known

    def _look(self) -> None:
        """Reads the file if it has changed; one that cannot be read leaves all as it was."""
        assert self._path is not None
        try:
            state = self._path.stat()
            stamp = (state.st_ino, state.st_size, state.st_mtime_ns)
            if stamp != self._stamp:
                self._stamp = stamp
                self.take(Topology.read(self._path))
        except FileNotFoundError:
            return
        except (OSError, InvalidArgument) as error:
            logger.warning("the topology stays as it was: %s", error)
