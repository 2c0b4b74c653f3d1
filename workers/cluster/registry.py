"""Registry: which part is where, under which term, kept where it is not lost with a process.

    lease = registry.begin(0, "10.0.0.1")        a new term, before the store is opened
    registry.enter(0, lease.term, "10.0.0.1:41731")
    registry.topology                            None until every part has been there once

A term counts the openings of a part: the newest alone may enter, so that a process that was taken
for dead does not come back in the place of its successor. All is durable before it is told.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import memstore
from memstore.errors import InvalidArgument, ShardElsewhere, UnsupportedVersion
from memstore.rpc.security import add_token
from memstore.rpc.topology import Topology
from memstore.rpc.verbs import Role
from workers.authority import Authority
from workers.cluster.notes import LocalNotes, Notes, SharedNotes, name_shelf
from workers.cluster.spec import ClusterSpec

FORMAT = 1
PEER, CLIENT = "peer", "driver"
ROLES: dict[str, Role] = {PEER: "peer", CLIENT: "admin"}
"""Of the tokens: of servers for each other, and of who connects through Ray."""


@dataclass(frozen=True)
class Lease:
    """What the actor of a part needs to serve it.

    known: whether the part has been served before, and has a folder.  tokens: the file of hashes.
    """

    cluster: str
    term: int
    known: bool
    certificate: str
    key: str = field(repr=False)
    authority: str
    tokens: str
    peer_token: str = field(repr=False)


@dataclass(frozen=True)
class Access:
    """What a client needs."""

    servers: tuple[str, ...]
    authority: str
    token: str = field(repr=False)


@dataclass
class _Entry:
    """A part: its newest term, where that is served, and on whose disk it lies, if on one."""

    term: int = 0
    address: str = ""
    host: str = ""


class Registry:
    """The registry of one cluster. Any thread may ask; one process has it."""

    def __init__(self, spec: ClusterSpec) -> None:
        """Reads what it kept, or begins.

        Raises `InvalidArgument` where that is of another configuration, `UnsupportedVersion` and
        `CorruptFile` where it is not to be read, `StoreLocked` where another process has it.
        """
        self.spec = spec
        self._local = spec.durability == "local"
        self._lock = threading.Lock()
        self._notes: Notes = LocalNotes(spec) if self._local else SharedNotes(spec)
        try:
            body = self._notes.read()
            if body is None:
                self._begin()
            else:
                self._read(body)
            if not self._local:
                name_shelf(spec, self.id)
            self._write()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives what it keeps free, as the end of its process does."""
        self._notes.close()

    def begin(self, part: int, host: str) -> Lease:
        """Raises the term of a part, which is about to be opened on the node of that address.

        Raises `InvalidArgument` where the part lies on the disk of another node.
        """
        with self._lock:
            entry = self._entries[part]
            if entry.host and entry.host != host:
                raise InvalidArgument(
                    f"part {part} of {self.spec.address} lies on the disk of another node",
                    got=host,
                    expected=entry.host,
                    hint="bring that node back, or move its folder and the registry's note of it",
                )
            entry.term += 1
            certificate, key = self._authority.issue(host)
            self._write()
            return Lease(
                cluster=self.id,
                term=entry.term,
                known=bool(entry.address),
                certificate=certificate,
                key=key,
                authority=self._authority.certificate,
                tokens=self._hashes,
                peer_token=self._tokens[PEER],
            )

    def enter(self, part: int, term: int, address: str) -> None:
        """Notes where a part is served; raises `ShardElsewhere` where a newer term has begun."""
        with self._lock:
            entry = self._entries[part]
            if term != entry.term:
                raise ShardElsewhere(
                    f"part {part} of {self.spec.address} was opened anew since",
                    got=f"term {term}",
                    expected=f"term {entry.term}",
                )
            entry.address = address
            if self._local:
                entry.host = address.rpartition(":")[0]
            self._version += 1
            self._write()

    @property
    def topology(self) -> Topology | None:
        """Where all parts are; None as long as one has never been served."""
        servers = tuple(entry.address for entry in self._entries)
        return Topology(self._version, servers, self.id) if all(servers) else None

    @property
    def access(self) -> Access:
        """Where the parts are that have been served, and how clients reach them."""
        servers = tuple(entry.address for entry in self._entries if entry.address)
        return Access(servers, self._authority.certificate, self._tokens[CLIENT])

    def describe(self) -> dict[str, Any]:
        """What it knows, without secrets."""
        return {
            "memstore": memstore.__version__,
            "format": FORMAT,
            "spec": self.spec.to_dict(),
            "cluster": self.id,
            "version": self._version,
            "parts": [asdict(entry) for entry in self._entries],
        }

    def _begin(self) -> None:
        self.id, self._version = secrets.token_hex(8), 0
        self._entries = [_Entry() for _ in range(self.spec.parts)]
        self._authority = Authority.make(f"memstore {self.spec.name} {self.id}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokens.json"
            self._tokens = {name: add_token(path, name, role) for name, role in ROLES.items()}
            self._hashes = path.read_text()

    def _read(self, body: dict[str, Any]) -> None:
        if body.get("format") != FORMAT:
            raise UnsupportedVersion(
                f"the registry of {self.spec.address} has another format",
                got=body.get("format"),
                expected=FORMAT,
            )
        before = ClusterSpec.from_dict(body["spec"])
        if before.fixed != self.spec.fixed:
            raise InvalidArgument(
                f"{self.spec.address} was made with another configuration",
                got=str(self.spec.fixed),
                expected=str(before.fixed),
                hint="name another cluster, or another folder",
            )
        self.id, self._version = body["cluster"], body["version"]
        self._entries = [_Entry(**entry) for entry in body["parts"]]
        self._authority = Authority(**body["authority"])
        self._tokens, self._hashes = body["tokens"], body["hashes"]

    def _write(self) -> None:
        body = {
            **self.describe(),
            "authority": asdict(self._authority),
            "tokens": self._tokens,
            "hashes": self._hashes,
        }
        self._notes.write(body)
