"""memtrain cluster up | status | down: a memory on Ray, from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from memstore.errors import Unauthenticated, Unreachable, Unsupported
from memstore.shard.log import Fsync

if TYPE_CHECKING:
    from workers.cluster import ClusterStatus


def add_commands(commands: Any) -> None:
    """Adds `cluster` to the commands of `memtrain`."""
    words = "start, look at or end a memory on Ray"
    verbs = commands.add_parser("cluster", help=words, description=words).add_subparsers(
        required=True, metavar="VERB"
    )
    for name, verb in (("up", up), ("status", status), ("down", down)):
        sub = verbs.add_parser(name, help=verb.__doc__, description=verb.__doc__)
        sub.set_defaults(command=verb, out=Path())
        sub.add_argument("name", nargs="?", default="memories", help="of the cluster")
        sub.add_argument("--namespace", default="memstore", help="of Ray, in which its actors are")
        sub.add_argument("--ray", default="auto", metavar="ADDRESS", help="of a running Ray")
        if verb is up:
            _add_spec(sub)


def _add_spec(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--folder", type=Path, required=True, help="on the disk of each node")
    sub.add_argument("--parts", type=int, default=1, help="servers, an actor each (1)")
    sub.add_argument("--cpus", type=float, default=1.0, help="kept for each part (1)")
    sub.add_argument("--gpus", type=float, default=0.0, help="kept for each part (0)")
    sub.add_argument("--memory-bytes", type=int, default=0, help="kept for each part")
    sub.add_argument(
        "--shared",
        metavar="WHERE",
        help="a folder that all nodes mount, or as s3://bucket/prefix: rows are there, on any node",
    )
    sub.add_argument(
        "--refresh-share",
        type=float,
        default=0.0,
        help="of its time, that an actor refreshes encoded memories (0: there is none)",
    )
    sub.add_argument("--fsync", choices=get_args(Fsync), help="on the disk of a node (interval)")
    sub.add_argument("--timeout-s", type=float, default=120.0, help="for all to be served (120)")


def up(options: argparse.Namespace) -> None:
    """start a cluster, or what is missing of it, and wait until it serves"""
    cluster = _cluster()
    own = ("name", "namespace", "parts", "cpus", "gpus", "memory_bytes", "shared", "fsync")
    given = {name: getattr(options, name) for name in (*own, "refresh_share")}
    spec = cluster.ClusterSpec(folder=options.folder.absolute(), **given)
    connect(options.ray, options.namespace)
    _show(cluster.up(spec, options.timeout_s))
    print(f'From a driver:  memstore.connect("{spec.address}")')


def status(options: argparse.Namespace) -> None:
    """tell where each part is, and how"""
    cluster = _cluster()
    connect(options.ray, options.namespace)
    _show(cluster.status(options.name, options.namespace))


def down(options: argparse.Namespace) -> None:
    """end a cluster after a checkpoint; its folders stay"""
    cluster = _cluster()
    connect(options.ray, options.namespace)
    spec = cluster.down(options.name, options.namespace)
    where = f"on their nodes, in {spec.home('part-*')}" if spec.shared is None else spec.shared
    print(f"Ended. The rows stay {where}.")


def _cluster() -> Any:
    """What needs Ray; raises `Unsupported` where that is not installed."""
    try:
        from workers import cluster
    except ImportError as error:
        raise Unsupported(str(error)) from error
    return cluster


def connect(address: str, namespace: str) -> None:
    """Makes this process one of a running Ray; raises `Unreachable` where there is none, and
    `Unauthenticated` where it asks for a token that this process has not."""
    import ray
    from ray.exceptions import AuthenticationError

    if ray.is_initialized():
        return
    try:
        ray.init(address, namespace=namespace, log_to_driver=False)
    except ConnectionError as error:
        raise Unreachable(
            "there is no Ray to ask",
            got=str(error).splitlines()[0],
            hint="ray start --head; where it asks for a token, set RAY_AUTH_MODE=token",
        ) from error
    except AuthenticationError as error:
        raise Unauthenticated(
            "Ray asks for a token",
            got="none",
            expected="that of the cluster in ~/.ray/auth_token, or as RAY_AUTH_TOKEN",
        ) from error


def _show(found: ClusterStatus) -> None:
    print(f"{found.spec.address}, topology {found.version}, memstore {found.memstore}")
    for part in found.parts:
        print(f"part {part.number}  {part.state}  {part.address}  term {part.term}")
        if part.host:
            print(f"  pinned to node {part.host}: its rows are on that disk, in {part.folder}")
        if found.spec.shared is not None:
            print(f"  on any node: its rows are on {found.spec.shared}")
        if part.memories:
            print(f"  memories: {', '.join(part.memories)}")
        if part.why:
            print(f"  {part.why}")
    if found.spec.refresh_share:
        told = "does not answer" if found.refreshing is None else str(found.refreshing)
        print(f"refresher  {told}")
