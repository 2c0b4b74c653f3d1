"""Servers of the parts of memories, in processes of their own, and what they use; no benchmark.

A server has one thread to search with, as a part of a cluster has a core, unless told otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memstore import ClientTls
from memstore.rpc.security import add_token
from tests.benchmarks.alone import ONE_THREAD
from tests.benchmarks.link import linked
from tests.benchmarks.served import begun

if TYPE_CHECKING:
    from workers.authority import Authority

CORES = sorted(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")
TCP_BYTES = 120
"""Where `tcp_info` of Linux has the bytes that the other side acknowledged, then those received."""


@dataclass(frozen=True)
class Parts:
    """addresses, pids: of the server of each part, in their order.

    late: where they are beyond a `link`, and that has ended: answers too late for it, and all.
    secrets: what `memstore.connect` is to be told besides, where they have TLS and tokens.
    """

    addresses: tuple[str, ...]
    pids: tuple[int, ...]
    late: Sequence[int] = ()
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def connected(self) -> str:
        """What `memstore.connect` takes."""
        return ",".join(self.addresses)

    def used_s(self) -> float:
        """Seconds of processor that the servers have taken, all together."""
        return sum(map(used_s, self.pids))


@contextlib.contextmanager
def parted(
    folder: str | Path,
    parts: int,
    *options: str,
    link_s: float | None = None,
    apart: bool = False,
    authority: Authority | None = None,
) -> Iterator[Parts]:
    """Serves parts on loopback, each from a folder of its own in `folder`.

    options: of `memstore serve`.  link_s: there and back, where they are to be beyond a `link`.
    apart: each on a core of its own, as far as there are cores.  authority: they have TLS by it,
    and tokens, as the parts of a cluster on Ray do.
    One part is a store of whole memories, as without a cluster.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    topology = folder / "topology.json"
    flags, secrets = ([], {}) if authority is None else _secured(folder, authority, parts > 1)
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(parts):
            own = ["--part", f"{number}/{parts}", "--topology", str(topology)] if parts > 1 else []
            home, core = folder / f"part-{number}", CORES[number % len(CORES)] if apart else None
            served = begun(home, *own, *flags, *options, variables=ONE_THREAD, core=core)
            processes.append(stack.enter_context(served))
        # They start side by side: each says where it listens when it does.
        addresses = [server.stdout.readline().strip() for server in processes if server.stdout]
        late: list[int] = []
        if link_s is not None:
            addresses, late = stack.enter_context(linked(addresses, link_s))
        draft = topology.with_suffix(".new")
        draft.write_text(json.dumps({"version": 1, "servers": addresses}), encoding="utf-8")
        draft.rename(topology)
        pids = tuple(server.pid for server in processes)
        yield Parts(tuple(addresses), pids, late, secrets)


def _secured(folder: Path, authority: Authority, several: bool) -> tuple[list[str], dict[str, Any]]:
    """What `memstore serve` is told for it, and what `memstore.connect` is."""
    certificate, key = authority.issue("127.0.0.1")
    tokens = folder / "tokens.json"
    texts = {
        "tls-certificate": certificate,
        "tls-key": key,
        "peer-authority": authority.certificate,
        "peer-token-file": add_token(tokens, "peers", "peer"),
    }
    flags = ["--tokens", str(tokens)]
    for name, text in texts.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        if several or not name.startswith("peer"):
            flags += [f"--{name}", str(path)]
    token = add_token(tokens, "loads", "admin")
    return flags, {"token": token, "tls": ClientTls(authority.certificate.encode())}


def used_s(pid: int) -> float:
    """Seconds of processor that a process has taken, in its own code and the kernel's."""
    # The fields behind the name, which may hold spaces; user and system are 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def crossed(addresses: Sequence[str]) -> tuple[int, int]:
    """Bytes that this process has sent to servers and got from them, as the kernel counts them.

    Of the connections that are open now, to be compared with a count before; what TCP itself adds,
    40 bytes a packet, is left out.
    """
    ports = {int(address.rpartition(":")[2]) for address in addresses}
    sent = got = 0
    for each in Path("/proc/self/fd").iterdir():
        try:
            if not each.is_socket():
                continue
            with socket.socket(fileno=os.dup(int(each.name))) as peer:
                if peer.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                if peer.getpeername()[1] not in ports:
                    continue
                told = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_BYTES + 16)
        except OSError:
            continue  # closed meanwhile, or not connected
        more_sent, more_got = struct.unpack_from("=QQ", told, TCP_BYTES)
        sent, got = sent + more_sent, got + more_got
    return sent, got
