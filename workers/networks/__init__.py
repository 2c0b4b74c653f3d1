"""The networks, as a recipe names them; a file each says what is its own: see `workers.learner`."""

from __future__ import annotations

from collections.abc import Callable

from memstore.errors import InvalidArgument
from workers import named
from workers.learner import Network
from workers.recipe import Recipe


def _kv() -> Network:
    from workers.networks import kv

    return kv.NETWORK


def _hmn() -> Network:
    from workers.networks import hmn

    return hmn.NETWORK


def _factual() -> Network:
    from workers.networks import factual

    return factual.NETWORK


def _sam() -> Network:
    from workers.networks import sam

    return sam.NETWORK


def _simple() -> Network:
    from workers.networks import simple

    return simple.NETWORK


NAMES: dict[str, Callable[[], Network]] = {
    "kv": _kv,
    "simple": _simple,
    "hmn": _hmn,
    "factual": _factual,
    "sam": _sam,
}
"""By name, what returns the network."""


def network_of(name: str) -> Network:
    """The network of a name, or what `module:attribute` is or returns; raises `InvalidArgument`."""
    found = named.find("network", name, NAMES)
    found = found if isinstance(found, Network) or not callable(found) else found()
    if not isinstance(found, Network):
        raise InvalidArgument(
            f"network {name!r} is none",
            got=type(found).__name__,
            expected="a workers.learner.Network",
        )
    return found


def of(recipe: Recipe) -> Network:
    """The network of a recipe; raises `InvalidArgument` where the settings are another's."""
    network = network_of(recipe.network)
    if type(recipe) is not network.recipe:
        raise InvalidArgument(
            f"the settings are not those of network {recipe.network!r}",
            got=type(recipe).__name__,
            expected=network.recipe.__name__,
        )
    return network
