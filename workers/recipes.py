"""Recipes: what a run is, as a function that returns its whole configuration.

memtrain fit --recipe geography --set batch=128 --set searched_steps=900
memtrain fit --recipe my_recipes:small          # a function of your own, in my_recipes.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from memstore import MemoryConfig, checks
from memstore.errors import InvalidArgument
from workers import named


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run: the memory it builds, the network, how it is trained and tested.

    Raises `InvalidArgument` on numbers out of range.

    task: what it learns about: a name of `workers.tasks`, or `module:function`, which returns one.
    seed: of all that is drawn.  dim: numbers a row.  shards: of each memory.  hops: readings.
    places: keep the base to the most populous so many; None takes all.
    k: facts that inner product search proposes; probe: lists it visits.
    key_limit: facts that key hashing proposes at most for an entity.
    list_limit: objects of a fact that its value is the mean of, and that may be answers.
    hashed_steps: steps on facts proposed by key hashing, first. searched_steps: then so many, of
        which every third is still hashed, the rest on facts proposed by search in the whole
        memory; its index is refreshed every refresh_steps.
    row_lr, entity_lr: of the rows of words and relations, and of entities; entities learn slowly,
        so that those never asked about in training stay comparable. Both fall to 0 by the last
        step. dense_lr: of Adam, for R_j.
    """

    task: str = "geography"
    seed: int = 0
    places: int | None = None
    dim: int = 64
    shards: int = 1
    hops: int = 2
    k: int = 64
    probe: int = 16
    key_limit: int = 32
    list_limit: int = 4
    batch: int = 256
    negatives: int = 48
    hashed_steps: int = 300
    searched_steps: int = 300
    refresh_steps: int = 300
    row_lr: float = 0.1
    entity_lr: float = 0.02
    dense_lr: float = 1e-3
    questions: int = 40_000
    test_questions: int = 4_000

    def __post_init__(self) -> None:
        for name, kinds in KINDS.items():
            value = getattr(self, name)
            fits = type(value) in kinds or (type(value) is int and float in kinds)
            if fits and isinstance(value, int | float):
                # NaN fails every comparison.
                fits = LEAST.get(name, 1) <= value <= checks.LARGEST
            if not fits:
                raise InvalidArgument(
                    f"{name} is out of range", got=repr(value), expected=_expected(name)
                )

        MemoryConfig(dim=self.dim, shards=self.shards)

    @property
    def steps(self) -> int:
        return self.hashed_steps + self.searched_steps

    def searched(self, step: int) -> bool:
        """Whether a step reads what search proposes."""
        return step >= self.hashed_steps and step % 3 != 0

    def refreshed(self, step: int) -> bool:
        """Whether the facts are encoded anew before a step."""
        after = step - self.hashed_steps
        return self.searched_steps > 0 and after >= 0 and after % self.refresh_steps == 0


KINDS: dict[str, tuple[Any, ...]] = {
    name: get_args(kind) or (kind,) for name, kind in get_type_hints(Recipe).items()
}
"""By setting, the types that it may have."""


LEAST: dict[str, int] = dict.fromkeys(
    ("seed", "hashed_steps", "searched_steps", "row_lr", "entity_lr", "dense_lr"), 0
)
"""By setting, the smallest value; 1 for all others."""


def geography(*, quick: bool = False) -> Recipe:
    """GeoNames: 2.1 million facts about 235,000 places; quick: 3,000 places, under a minute."""
    if not quick:
        return Recipe()
    return Recipe(
        places=3_000,
        hashed_steps=150,
        searched_steps=150,
        refresh_steps=75,
        batch=128,
        questions=8_000,
        test_questions=1_000,
    )


NAMES: dict[str, Callable[[], Recipe]] = {
    "geography": geography,
    "geography-quick": lambda: geography(quick=True),
}


def recipe_of(name: str, settings: Iterable[str] = ()) -> Recipe:
    """The recipe of a name, or what `module:function` returns, with settings of its own.

    settings: each as `key=value`. Raises `InvalidArgument`, which names settings that are near.
    """
    make = named.find("recipe", name, NAMES)
    made = make() if callable(make) else make
    if not isinstance(made, Recipe):
        raise InvalidArgument(
            f"recipe {name!r} is none", got=type(made).__name__, expected="a workers.recipes.Recipe"
        )
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InvalidArgument("not a setting", got=repr(setting), expected="key=value")
        if key not in KINDS:
            raise named.unknown("setting", key, KINDS)
        changes[key] = _value(key, text)
    return replace(made, **changes)


def _value(key: str, text: str) -> Any:
    kinds = KINDS[key]
    if NoneType in kinds and text.lower() == "none":
        return None
    for kind in (int, float, str):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    raise InvalidArgument(f"{key} cannot be that", got=repr(text), expected=_expected(key))


def _expected(key: str) -> str:
    kinds = KINDS[key]
    words = {int: "an integer", float: "a number", str: "a text", NoneType: "none"}
    least = "" if str in kinds else f" ≥ {LEAST.get(key, 1)}"
    return " or ".join(words[k] + ("" if k is NoneType else least) for k in kinds)
