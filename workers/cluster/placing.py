"""Placing: on which node each part is to run, found out before Ray is asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from memstore.errors import InvalidArgument
from workers.cluster.spec import ClusterSpec

PINNED = 0.001
"""Of the one `node:ADDRESS` that Ray gives each node: enough to be placed there."""

Bundle = dict[str, float]


@dataclass(frozen=True)
class Node:
    """A node of the Ray cluster: its address, and all that it has, used or not."""

    id: str
    host: str
    resources: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What to ask a placement group for."""

    strategy: Literal["STRICT_SPREAD", "SPREAD"]
    bundles: tuple[Bundle, ...]


def plan(spec: ClusterSpec, nodes: Sequence[Node], hosts: Sequence[str]) -> Plan:
    """Gives each part a node that can ever have room for it, those with fewest parts first.

    hosts: on whose disk each part lies already, "" where on none. On local disks a part is pinned
    to its node by the address of that: a node that is started anew has the disk that it had.

    Raises `InvalidArgument`, which says what is lacking, where there is no such node.
    """
    wanted, held = spec.bundle(), {node.id: 0 for node in nodes}
    left = {node.id: dict(node.resources) for node in nodes}
    chosen: list[Node] = []
    for number, host in enumerate(hosts):
        there = [node for node in nodes if host in ("", node.host)]
        if not there:
            raise InvalidArgument(
                f"part {number} of {spec.address} lies on the disk of a node that is not there",
                got=f"nodes {sorted({node.host for node in nodes})}",
                expected=host,
                hint="bring that node back",
            )
        fit = [node for node in there if _fits(wanted, left[node.id])]
        if not fit:
            raise _lacking(spec, number, wanted, there, left)
        node = min(fit, key=lambda node: (held[node.id], -left[node.id].get("CPU", 0.0)))
        held[node.id] += 1
        for name, amount in wanted.items():
            left[node.id][name] -= amount
        chosen.append(node)
    apart = len({node.id for node in chosen}) == len(chosen)
    pins = [{f"node:{node.host}": PINNED} if spec.shared is None else {} for node in chosen]
    return Plan("STRICT_SPREAD" if apart else "SPREAD", tuple(wanted | pin for pin in pins))


def _fits(wanted: Bundle, left: Bundle) -> bool:
    return all(left.get(name, 0.0) >= amount for name, amount in wanted.items())


def _lacking(
    spec: ClusterSpec,
    number: int,
    wanted: Bundle,
    nodes: Sequence[Node],
    left: dict[str, Bundle],
) -> InvalidArgument:
    """Names the resources that no node has, or all that a part asks for where some have each."""
    most = {name: max(left[node.id].get(name, 0.0) for node in nodes) for name in wanted}
    short = {name for name, amount in wanted.items() if amount > most[name]} or set(wanted)
    return InvalidArgument(
        f"part {number} of {spec.address} can never be placed",
        got=", ".join(f"{name} {wanted[name]:,g}" for name in sorted(short)),
        expected=f"{', '.join(f'{name} ≤ {most[name]:,g}' for name in sorted(short))} on a node "
        f"beside the {number} parts before it",
        hint="ask for less, for fewer parts, or add nodes",
    )
