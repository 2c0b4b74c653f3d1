"""ShardActor: the actor of one part, which opens its store and serves it over gRPC.

It asks the registry for a term, opens the store, which does the log again, starts the server and
enters it with the registry. All that is done in a thread: an actor whose making fails is gone for
good, and could not say why.
"""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError

from memstore import ClientTls, Store, files
from memstore.disk import DISK
from memstore.errors import DiskFailed, InvalidArgument, MemstoreError
from memstore.placement import WHOLE, Part
from memstore.rpc.security import Tokens
from memstore.rpc.server import Server
from memstore.rpc.tls import ServerTls
from memstore.rpc.topology import Topology
from memstore.shared.disk import SharedDisk
from memstore.trim import keep_little
from workers import folders
from workers.cluster import control
from workers.cluster.notes import check_shelf
from workers.cluster.registry import Lease
from workers.cluster.spec import ClusterSpec

PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Between tries to be served, the last again and again."""

GRACE_S = 10.0
"""For calls that are under way when a part is closed."""

WATCH_S = 0.5
"""Between looks whether another has opened the part, while storage is shared."""

State = Literal["opening", "serving", "refused", "closed"]

logger = logging.getLogger(__name__)


class ShardActor:
    """One part of a cluster, from its making to `close`. Ray calls it from several threads."""

    def __init__(self, spec: dict[str, Any], number: int) -> None:
        keep_little()
        self._spec, self._number = ClusterSpec.from_dict(spec), number
        self._part = Part(number, self._spec.parts)
        self._host = ray.util.get_node_ip_address()
        self._home = self._spec.home(f"part-{number}")
        self._state: State = "opening"
        self._why, self._term = "", 0
        self._store: Store | None = None
        self._server: Server | None = None
        self._topology: Topology | None = None
        self._mutex = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._begin, name="memstore-part", daemon=True)
        self._thread.start()

    def describe(self) -> dict[str, Any]:
        """What became of it, and where."""
        with self._mutex:
            store, server = self._store, self._server
            return {
                "state": self._state,
                "why": self._why,
                "term": self._term,
                "host": self._host,
                "node": ray.get_runtime_context().get_node_id(),
                "address": server.address if server is not None else "",
                "memories": store.list() if self._state == "serving" and store is not None else [],
            }

    def route(self, topology: Topology) -> None:
        """Takes in where all parts are."""
        with self._mutex:
            known = self._topology
            if known is None or topology.version > known.version:
                self._topology = topology
            if self._server is not None and self._part != WHOLE:
                self._server.route(self._topology or topology)

    def close(self) -> None:
        """Answers what is under way, makes a checkpoint and gives the folder free."""
        self._ended.set()
        self._thread.join()
        self._end("closed")

    def _begin(self) -> None:
        tries = 0
        while not self._ended.is_set():
            failure: Exception
            try:
                self._serve()
                return
            except (MemstoreError, RayError, OSError, RuntimeError, ValueError) as error:
                failure, again = error, isinstance(error, MemstoreError) and error.retryable
            self._end("opening" if again else "refused", f"{type(failure).__name__}: {failure}")
            logger.warning("part %s is not served: %s", self._part, failure)
            if not again:
                return
            self._ended.wait(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            tries += 1

    def _serve(self) -> None:
        """Opens the store under a new term, and serves it."""
        registry = control.registry(self._spec.name, self._spec.namespace)
        lease: Lease = control.ask(registry.begin.remote(self._number, self._host))
        if self._spec.shared is None:
            self._check_folder(lease)
            folder, disk = self._home / "store", DISK
        else:
            folder, disk = self._shared(lease)
        cluster = None if self._part == WHOLE else lease.cluster
        how: dict[str, Any] = {"fsync": self._spec.fsync or "always", "disk": disk}
        store = Store(folder, part=self._part, cluster=cluster, **how)
        with self._mutex:
            self._store = store
        server = Server(store, f"{self._host}:0", **self._secured(lease)).start()
        with self._mutex:
            self._server, self._term = server, lease.term
            if self._topology is not None:
                self.route(self._topology)
        control.ask(registry.enter.remote(self._number, lease.term, server.address))
        with self._mutex:
            self._state, self._why = "serving", ""
        if isinstance(disk, SharedDisk):
            self._watch(disk)

    def _shared(self, lease: Lease) -> tuple[Path, SharedDisk]:
        """Makes the folder anew from what was shipped, whose owner before ships nothing more.

        Raises `InvalidArgument` where this node does not see the shared storage.
        """
        check_shelf(self._spec, lease.cluster)
        for old in self._home.glob("disk-*"):
            shutil.rmtree(old, ignore_errors=True)
        folder = self._home / f"disk-{lease.term:010d}"
        folders.make(self._home, "the folder of the part")
        self._home.chmod(0o700)  # there is a key in it
        disk = SharedDisk.open(folder, self._spec.shelf(f"part-{self._number}"), lease.term)
        if lease.known and disk.is_new:
            raise InvalidArgument(
                f"what was shipped of part {self._part} is gone",
                got=f"nothing in {self._spec.shared}",
                expected="the rows that were served",
                hint="bring them back from a copy: an empty store would pass for the part",
            )
        return folder, disk

    def _watch(self, disk: SharedDisk) -> None:
        """Ends serving when another has opened the part: what is read here may be old.

        Raises `DiskFailed` where the storage failed what was shipped, and is back.
        """
        while not self._ended.wait(WATCH_S):
            try:
                sealed = disk.sealed
            except OSError:
                continue  # The storage is away: what ships will say so.
            if disk.failure is not None and not sealed:
                raise DiskFailed(
                    "the shared storage failed what was shipped",
                    got=str(disk.failure),
                    hint="the part is opened anew, with what is there",
                )
            if sealed:
                self._end("refused", "the part was opened anew, under a newer term")
                return

    def _check_folder(self, lease: Lease) -> None:
        """Raises `InvalidArgument` where the folder is not that of the part; notes whose it is."""
        note, own = self._home / "part.json", [self._part.number, self._part.of]
        if note.exists():
            told = files.read_json(note)
            if (told.get("cluster"), told.get("part")) != (lease.cluster, own):
                raise InvalidArgument(
                    f"{self._home} belongs to another cluster",
                    got=f"part {self._part} of cluster {lease.cluster}",
                    expected=f"part {Part(*told['part'])} of cluster {told['cluster']}",
                    hint="bring back the registry's folder, or name another",
                )
        elif lease.known:
            raise InvalidArgument(
                f"the folder of part {self._part} is gone",
                got=str(self._home),
                expected=f"the rows that were served from {self._host}",
                hint="bring it back from a copy: an empty one would pass for the part",
            )
        folders.make(self._home, "the folder of the part")
        self._home.chmod(0o700)  # there is a key in it
        files.replace_json(note, {"cluster": lease.cluster, "part": own, "term": lease.term})

    def _secured(self, lease: Lease) -> dict[str, Any]:
        """How the server proves who it is, and knows who calls."""
        texts = {
            "certificate.pem": lease.certificate,
            "key.pem": lease.key,
            "authority.pem": lease.authority,
            "tokens.json": lease.tokens,
        }
        paths: dict[str, Path] = {}
        for name, text in texts.items():
            paths[name] = self._home / name
            paths[name].write_text(text)
            paths[name].chmod(0o600)
        secured: dict[str, Any] = {
            "tls": ServerTls(paths["certificate.pem"], paths["key.pem"]),
            "tokens": Tokens(paths["tokens.json"]),
        }
        if self._part != WHOLE:
            secured["peer_token"] = lease.peer_token
            secured["peer_tls"] = ClientTls(paths["authority.pem"])
        return secured

    def _end(self, state: State, why: str = "") -> None:
        """Serves no more, and gives the folder free."""
        with self._mutex:
            server, store = self._server, self._store
            self._server = self._store = None
            self._state, self._why = state, why
        if server is not None:
            server.close(GRACE_S if state == "closed" else 0.0)
        if store is not None:
            try:
                store.close()
            except MemstoreError as error:
                if state == "closed":
                    raise
                # Its log has what was acknowledged, for who opens it next.
                logger.warning("the store of part %s was left as it was: %s", self._part, error)
