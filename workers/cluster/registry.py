"""Registry: which part is where, under which term, kept in a file.

    lease = registry.begin(0, "10.0.0.1")        a new term, before the store is opened
    registry.enter(0, lease.term, "10.0.0.1:41731")
    registry.topology                            None until every part has been there once

A term counts the openings of a part: the newest alone may enter, so that a process that was taken
for dead does not come back in the place of its successor. All is on the disk before it is told.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import asdict, dataclass, field
from typing import Any

import memstore
from memstore import files
from memstore.errors import InvalidArgument, ShardElsewhere, UnsupportedVersion
from memstore.rpc.security import add_token
from memstore.rpc.topology import Topology
from memstore.rpc.verbs import Role
from workers.cluster.authority import Authority
from workers.cluster.spec import ClusterSpec

FORMAT = 1
FILE, TOKENS = "registry.json", "tokens.json"
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
    """A part: its newest term, where that is served, and on whose disk it lies."""

    term: int = 0
    address: str = ""
    host: str = ""


class Registry:
    """The registry of one cluster. Any thread may ask; one process has the file."""

    def __init__(self, spec: ClusterSpec) -> None:
        """Reads its file, or begins one.

        Raises `InvalidArgument` where the file is of another configuration, `UnsupportedVersion`
        and `CorruptFile` where it is not to be read, `StoreLocked` where another process has it.
        """
        self.spec = spec
        self._folder = spec.home("registry")
        self._lock = threading.Lock()
        files.make_folder(self._folder)
        self._folder.chmod(0o700)  # there are keys in it
        self._owned = files.lock(self._folder / "LOCK")
        path = self._folder / FILE
        try:
            if path.exists():
                self._read(files.read_json(path))
            else:
                self._begin()
            self._write()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives its file free, as the end of its process does."""
        self._owned.close()

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
                tokens=(self._folder / TOKENS).read_text(),
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
            entry.address, entry.host = address, address.rpartition(":")[0]
            self._version += 1
            self._write()

    @property
    def topology(self) -> Topology | None:
        """Where all parts are; None as long as one has never been served."""
        servers = tuple(entry.address for entry in self._entries)
        return Topology(self._version, servers) if all(servers) else None

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
        tokens = self._folder / TOKENS
        self._tokens = {name: add_token(tokens, name, role) for name, role in ROLES.items()}

    def _read(self, body: dict[str, Any]) -> None:
        if body.get("format") != FORMAT:
            raise UnsupportedVersion(
                f"{self._folder} has another format", got=body.get("format"), expected=FORMAT
            )
        before = ClusterSpec.from_dict(body["spec"])
        if before.fixed != self.spec.fixed:
            raise InvalidArgument(
                f"{self._folder} is of a cluster of another configuration",
                got=str(self.spec.fixed),
                expected=str(before.fixed),
                hint="name another cluster, or another folder",
            )
        self.id, self._version = body["cluster"], body["version"]
        self._entries = [_Entry(**entry) for entry in body["parts"]]
        self._authority = Authority(**body["authority"])
        self._tokens = body["tokens"]

    def _write(self) -> None:
        body = {
            **self.describe(),
            "authority": asdict(self._authority),
            "tokens": self._tokens,
        }
        with files.typed("the registry"):
            files.replace_json(self._folder / FILE, body)
