"""ClusterStatus: what a cluster is and does, as told by its registry and its actors."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memstore.errors import MemstoreError
from workers.cluster import control
from workers.cluster.spec import ClusterSpec
from workers.refresh import Progress

LOOK_S = 10.0
"""For an actor to say how it is; one that is being started again does not answer before."""


@dataclass(frozen=True)
class PartStatus:
    """How a part is.

    state: `serving`, `opening`, `refused`, which `why` explains, or `absent`.  host: the node that
    it is pinned to, since its rows are on the disk of that; "" before it was ever served, and where
    they are on shared storage.  folder: on the disk of its node.
    """

    number: int
    state: str
    why: str
    term: int
    address: str
    host: str
    node: str
    folder: Path
    memories: tuple[str, ...]


@dataclass(frozen=True)
class ClusterStatus:
    """version: of the topology.  memstore: the version that the registry runs.

    refreshing: what the actor that refreshes has done since it was started last; None where there
    is none, or it does not answer.
    """

    spec: ClusterSpec
    memstore: str
    version: int
    parts: tuple[PartStatus, ...]
    refreshing: Progress | None = None

    @property
    def serving(self) -> bool:
        return all(part.state == "serving" for part in self.parts)


def look(name: str, namespace: str) -> ClusterStatus:
    """Asks all; raises `Unreachable` where there is no registry, or it does not answer."""
    told = control.ask(control.registry(name, namespace).describe.remote())
    spec = ClusterSpec.from_dict(told["spec"])
    calls = [_asked(spec, number) for number in range(spec.parts)]
    parts = []
    for number, (call, entry) in enumerate(zip(calls, told["parts"], strict=True)):
        found: dict[str, Any] = {"state": "absent", "why": "", "node": "", "memories": []}
        try:
            if call is None:
                found["why"] = "there is no actor"
            else:
                found |= control.ask(call, LOOK_S)
        except MemstoreError as error:
            found["why"] = str(error)
        parts.append(
            PartStatus(
                number=number,
                state=found["state"],
                why=found["why"],
                term=entry["term"],
                address=entry["address"],
                host=entry["host"],
                node=found["node"],
                folder=spec.home(f"part-{number}"),
                memories=tuple(found["memories"]),
            )
        )
    return ClusterStatus(spec, told["memstore"], told["version"], tuple(parts), _refreshing(spec))


def _refreshing(spec: ClusterSpec) -> Progress | None:
    if spec.refresh_share:
        with contextlib.suppress(MemstoreError):
            found = control.actor(spec.refresher, spec.namespace)
            progress: Progress = control.ask(found.describe.remote(), LOOK_S)
            return progress
    return None


def _asked(spec: ClusterSpec, number: int) -> object:
    try:
        return control.actor(spec.actor(number), spec.namespace).describe.remote()
    except MemstoreError:
        return None
