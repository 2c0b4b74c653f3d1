"""ClusterSpec: what a cluster is to be, and the names that its actors have."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from memstore.errors import InvalidArgument
from memstore.placement import Part
from memstore.shard.log import Fsync
from memstore.shared.shelf import Shelf, open_shelf

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
NAMESPACE = "memstore"


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """What a cluster is to be; raises `InvalidArgument`.

    folder: on the disk of each node, absolute; every part has one of its own in it.
    shared: of storage that all nodes share, a folder that all of them mount or `s3://BUCKET/PREFIX`
    (gs://, az://): logs and checkpoints are there, and a part starts again on any node. None is
    that they are on the disk of the node that a part was first placed on, to which it is pinned.
    parts: servers, one actor each: a memory of n shards lies on the first n of them.
    cpus, gpus, memory_bytes: of each part, kept for it by Ray.
    refresh_share: of its time, that an actor works on encoding anew what drifted of encoded
    memories; 0 is no such actor.
    fsync: as of a `Store`; None is "always" where storage is shared, which takes no other, and
    "interval" on the disk of a node.
    """

    folder: Path
    name: str = "memories"
    namespace: str = NAMESPACE
    parts: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    shared: str | None = None
    fsync: Fsync | None = None
    refresh_share: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if not self.folder.is_absolute():
            raise InvalidArgument(
                "each node is to have the folder at one place",
                got=str(self.folder),
                expected="an absolute path",
            )
        for what, text in (("cluster", self.name), ("namespace", self.namespace)):
            if not NAME.fullmatch(text):
                raise InvalidArgument(
                    f"not a name of a {what}", got=repr(text), expected=NAME.pattern
                )
        Part(0, self.parts)
        if not (self.cpus > 0 and self.gpus >= 0 and self.memory_bytes >= 0):
            raise InvalidArgument(
                "resources of a part are out of range",
                got=f"cpus {self.cpus}, gpus {self.gpus}, memory_bytes {self.memory_bytes}",
                expected="cpus > 0, gpus ≥ 0, memory_bytes ≥ 0",
            )
        if not 0.0 <= self.refresh_share <= 1.0:
            raise InvalidArgument(
                "a share is out of range", got=self.refresh_share, expected="0 ≤ refresh_share ≤ 1"
            )
        if self.fsync is None:
            object.__setattr__(self, "fsync", "interval" if self.shared is None else "always")
        if self.shared is not None:
            open_shelf(self.shared)
            if self.fsync != "always":
                raise InvalidArgument(
                    "another node would lack what was acknowledged",
                    got=f"fsync {self.fsync!r} on shared storage",
                    expected="'always'",
                )
        if self.fsync not in get_args(Fsync):
            raise InvalidArgument(
                "fsync is unknown", got=repr(self.fsync), expected=f"one of {get_args(Fsync)}"
            )

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Self:
        return cls(**{**told, "folder": Path(told["folder"])})

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}

    @property
    def fixed(self) -> dict[str, Any]:
        """What stays as it was once there are rows."""
        return {
            "name": self.name,
            "namespace": self.namespace,
            "parts": self.parts,
            "durability": self.durability,
        }

    @property
    def durability(self) -> Literal["local", "shared"]:
        """Where the rows are: on the disk of one node, or where any node finds them."""
        return "local" if self.shared is None else "shared"

    @property
    def address(self) -> str:
        """What `memstore.connect` takes."""
        return f"ray:{self.namespace}/{self.name}"

    @property
    def registry(self) -> str:
        """The name of the actor that knows where the parts are."""
        return registry_of(self.name)

    @property
    def refresher(self) -> str:
        """The name of the actor that refreshes."""
        return f"{self.name}/refresh"

    @property
    def group(self) -> str:
        """The name of the placement group."""
        return group_of(self.name)

    def actor(self, number: int) -> str:
        """The name of the actor of a part."""
        return f"{self.name}/part-{number}"

    def home(self, what: str) -> Path:
        """A folder of the cluster on the disk of a node."""
        return self.folder / self.namespace / self.name / what

    def shelf(self, what: str) -> Shelf:
        """What the nodes share of the cluster."""
        assert self.shared is not None
        return open_shelf(self.shared).within(f"{self.namespace}/{self.name}/{what}")

    def bundle(self) -> dict[str, float]:
        """What Ray keeps for a part."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory_bytes)}
        return {name: amount for name, amount in wanted.items() if amount}


def registry_of(name: str) -> str:
    return f"{name}/registry"


def group_of(name: str) -> str:
    return f"{name}/parts"
