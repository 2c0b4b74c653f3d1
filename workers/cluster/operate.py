"""up, status and down: what an operator does with a cluster, from a driver of its Ray."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import ray
from ray.util import get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import memstore
from memstore.errors import InvalidArgument, MemstoreError, Unreachable
from workers.cluster import control
from workers.cluster.placing import PINNED, Node, plan
from workers.cluster.refresh_actor import RefreshActor
from workers.cluster.registry_actor import RegistryActor
from workers.cluster.shard_actor import ShardActor
from workers.cluster.spec import NAMESPACE, ClusterSpec
from workers.cluster.status import ClusterStatus, look

UP_S, DOWN_S = 120.0, 600.0
"""For all parts to be served, opening what is there; and for one to make its last checkpoint."""

LOOK_S = 0.2

FOREVER: dict[str, Any] = {
    "lifetime": "detached",
    "max_restarts": -1,
    # Ray may not know whether a call took effect: who called asks again, or sees what became of it.
    "max_task_retries": 0,
    "get_if_exists": True,
}


def up(spec: ClusterSpec, timeout_s: float = UP_S) -> ClusterStatus:
    """Starts a cluster, or what is missing of it; returns when every part is served.

    Without shared storage the registry lies on the disk of the node that this runs on, and each
    part on the disk of its own. Where it fails, what it started ends again.

    Raises `InvalidArgument` for what can never be placed, or where the names belong to a cluster of
    another version or configuration; `Unreachable` where it is not served in time.
    """
    _check_namespace(spec.namespace)
    ends = time.monotonic() + timeout_s
    new = _is_free(spec)
    try:
        told = _registry(spec)
        group = _group(spec, [part["host"] for part in told["parts"]], ends)
        for number in range(spec.parts):
            _start(spec, number, group)
        if spec.refresh_share:
            _refresh(spec)
        return _served(spec, ends)
    except BaseException:
        if new:
            with contextlib.suppress(MemstoreError):
                down(spec.name, spec.namespace)
        raise


def status(name: str, namespace: str = NAMESPACE) -> ClusterStatus:
    """How a cluster is; raises `Unreachable` where there is none."""
    return look(name, namespace)


def down(name: str, namespace: str = NAMESPACE, timeout_s: float = DOWN_S) -> ClusterSpec:
    """Ends a cluster after a checkpoint of each part; its folders stay, and `up` goes on with them.

    Raises `Unreachable` where there is none, or where a part did not end in time: then it is ended
    as by a crash, and what was acknowledged is in its log.
    """
    _check_namespace(namespace)
    registry = control.registry(name, namespace)
    spec = ClusterSpec.from_dict(control.ask(registry.describe.remote())["spec"])
    found = []
    for each in (spec.refresher, *map(spec.actor, range(spec.parts))):
        with contextlib.suppress(Unreachable):
            found.append(control.actor(each, namespace))
    calls = [actor.close.remote() for actor in found]
    failed: list[MemstoreError] = []
    for call in calls:
        try:
            control.ask(call, timeout_s)
        except MemstoreError as error:
            failed.append(error)
    for actor in [*found, registry]:
        ray.kill(actor, no_restart=True)
    with contextlib.suppress(ValueError):
        remove_placement_group(get_placement_group(spec.group))
    names = [spec.registry, spec.refresher, *map(spec.actor, range(spec.parts))]
    ends = time.monotonic() + control.CALL_S
    while any(_is_there(each, namespace) for each in names) and time.monotonic() < ends:
        time.sleep(LOOK_S)
    if failed:
        raise failed[0]
    return spec


def _check_namespace(namespace: str) -> None:
    """Placement groups have their names in the namespace of the driver."""
    if not ray.is_initialized():
        raise InvalidArgument(
            "Ray was not connected to", hint=f"ray.init(address=…, namespace={namespace!r}) first"
        )
    own = ray.get_runtime_context().namespace
    if own != namespace:
        raise InvalidArgument(
            "the driver is in another namespace",
            got=own,
            expected=namespace,
            hint=f"ray.init(namespace={namespace!r})",
        )


def _is_there(name: str, namespace: str) -> bool:
    try:
        control.actor(name, namespace)
    except Unreachable:
        return False
    return True


def _is_free(spec: ClusterSpec) -> bool:
    """Whether there is no such cluster; raises `InvalidArgument` where it is another."""
    try:
        found = control.registry(spec.name, spec.namespace)
    except Unreachable:
        return True
    told = control.ask(found.describe.remote())
    if told["memstore"] != memstore.__version__:
        raise InvalidArgument(
            f"{spec.address} is in use by another version",
            got=f"memstore {memstore.__version__}",
            expected=f"memstore {told['memstore']}",
            hint="end it with that version, or name another cluster or namespace",
        )
    there = ClusterSpec.from_dict(told["spec"])
    if there != spec:
        raise InvalidArgument(
            f"{spec.address} is up with another configuration",
            got=str(spec),
            expected=str(there),
            hint="memtrain cluster down first, or name another cluster",
        )
    return False


def _registry(spec: ClusterSpec) -> dict[str, Any]:
    """Starts the registry where there is none; returns what it knows."""
    pin = {f"node:{ray.util.get_node_ip_address()}": PINNED} if spec.shared is None else {}
    actor: Any = (
        ray.remote(RegistryActor)
        .options(
            name=spec.registry,
            namespace=spec.namespace,
            num_cpus=0,
            resources=pin,
            **FOREVER,
        )
        .remote(spec.to_dict())
    )
    told: dict[str, Any] = control.ask(actor.describe.remote(), UP_S)
    return told


def _group(spec: ClusterSpec, hosts: list[str], ends: float) -> Any:
    """The placement group of the parts, made where there is none; its resources are there then."""
    with contextlib.suppress(ValueError):
        return get_placement_group(spec.group)
    nodes = [
        Node(node["NodeID"], node["NodeManagerAddress"], dict(node["Resources"]))
        for node in ray.nodes()
        if node["Alive"]
    ]
    made = plan(spec, nodes, hosts)
    group = placement_group(list(made.bundles), made.strategy, name=spec.group, lifetime="detached")
    if not group.wait(max(1.0, ends - time.monotonic())):
        remove_placement_group(group)
        free = ray.available_resources()
        raise Unreachable(
            f"the parts of {spec.address} found no room in time",
            got=", ".join(f"{name} {free.get(name, 0.0):,g} free" for name in spec.bundle()),
            expected=", ".join(f"{n} {a:,g}" for n, a in spec.bundle().items()) + " a part",
            hint="others use them: wait, or add nodes",
        )
    return group


def _start(spec: ClusterSpec, number: int, group: Any) -> None:
    """Starts the actor of a part where there is none."""
    place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
    ray.remote(ShardActor).options(
        name=spec.actor(number),
        namespace=spec.namespace,
        num_cpus=spec.cpus,
        num_gpus=spec.gpus,
        memory=spec.memory_bytes or None,
        scheduling_strategy=place,
        max_concurrency=4,
        **FOREVER,
    ).remote(spec.to_dict(), number)


def _refresh(spec: ClusterSpec) -> None:
    """Starts the actor that refreshes where there is none; the parts do what it asks for."""
    ray.remote(RefreshActor).options(
        name=spec.refresher, namespace=spec.namespace, num_cpus=0, max_concurrency=2, **FOREVER
    ).remote(spec.to_dict())


def _served(spec: ClusterSpec, ends: float) -> ClusterStatus:
    """Waits until all parts are served; raises what one was refused with."""
    while True:
        found = look(spec.name, spec.namespace)
        if found.serving:
            return found
        for part in found.parts:
            if part.state == "refused":
                raise InvalidArgument(
                    f"part {part.number} of {spec.address} is not served", got=part.why
                )
        if time.monotonic() > ends:
            waiting = [part for part in found.parts if part.state != "serving"]
            raise Unreachable(
                f"{len(waiting)} of {spec.parts} parts of {spec.address} are not served yet",
                got="; ".join(f"part {p.number} {p.state} {p.why}".strip() for p in waiting),
            )
        time.sleep(LOOK_S)
