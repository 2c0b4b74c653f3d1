"""Recipes by name: a recipe is a function that returns the whole configuration of a run.

memtrain fit --network kv --recipe geography --set batch=128 --set steps=1200
memtrain fit --recipe my_recipes:small          # a function of your own, in my_recipes.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from memstore.errors import InvalidArgument
from workers import named, networks
from workers.recipe import Recipe, changed


def known(network: str | None = None) -> dict[str, Callable[[], Recipe]]:
    """The recipes of a network by name; of all of them, where two have a name the first one's."""
    found: dict[str, Callable[[], Recipe]] = {}
    for name in networks.NAMES if network is None else (network,):
        found = {**networks.network_of(name).recipes, **found}
    return found


def name_of(name: str | None, network: str | None) -> str:
    """The name of a recipe, or that of the first of a network, or of all."""
    if name is not None:
        return name
    return next(iter(networks.network_of(network or next(iter(networks.NAMES))).recipes))


def recipe_of(name: str, settings: Iterable[str] = (), network: str | None = None) -> Recipe:
    """The recipe of a name, or what `module:function` returns, with settings of its own.

    settings: each as `key=value`.  network: whose it is to be. Raises `InvalidArgument`, which
    names settings that are near.
    """
    make = named.find("recipe", name, known(network))
    made = make() if callable(make) else make
    if not isinstance(made, Recipe):
        raise InvalidArgument(
            f"recipe {name!r} is none", got=type(made).__name__, expected="a workers.recipe.Recipe"
        )
    if network not in (None, made.network):
        raise InvalidArgument(
            f"recipe {name!r} is of another network", got=repr(made.network), expected=repr(network)
        )
    networks.of(made)
    return changed(made, settings)


def from_dict(told: Mapping[str, Any]) -> Recipe:
    """The recipe that `dataclasses.asdict` gave."""
    return networks.network_of(told["network"]).recipe(**told)
