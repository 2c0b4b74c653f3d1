"""Finding: servers that an address names without saying where they are, as `ray:memstore/facts`.

Who can look them up says so by an entry point of the group `memstore.connect`, under the name of
what is before the colon: a function that takes the address and the seconds that it has, and returns
`Found`. Nothing of it is imported before such an address is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points

from memstore.errors import InvalidArgument

GROUP = "memstore.connect"


@dataclass(frozen=True)
class Found:
    """servers: `host:port` of one or more, any of which tells of the others.  authority: the
    certificate, as PEM, of who signs theirs; None is no TLS."""

    servers: tuple[str, ...]
    token: str | None = field(default=None, repr=False)
    authority: str | None = None


def finder(address: str) -> Callable[[float], Found] | None:
    """Who looks up an address, each time anew; None where it says itself where the servers are.

    It takes the seconds that it has, and raises `Unreachable` once they are over.

    Raises `InvalidArgument` where nobody can.
    """
    scheme, _, rest = address.partition(":")
    if "/" not in rest:
        return None
    for entry in entry_points(group=GROUP, name=scheme):
        find: Callable[[str, float], Found] = entry.load()
        return partial(find, address)
    known = sorted({entry.name for entry in entry_points(group=GROUP)})
    raise InvalidArgument(
        "nobody knows how to find such servers",
        got=repr(address),
        expected=f"host:port, or one of {[f'{name}:…' for name in known]}",
    )
