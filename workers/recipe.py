"""Recipe: what a run is. What all runs have is here; each network adds settings of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from memstore import checks
from memstore.errors import InvalidArgument
from workers import named


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run: what is trained, on what, for how long. Raises `InvalidArgument`.

    network: a name of `workers.networks`, or `module:attribute`, which is a
        `workers.learner.Network`; its `recipe` is the class of this one.
    task: what it learns about: a name of `workers.tasks`, or `module:function`, which returns one.
    steps: that are taken.  seed: of all that is drawn.  batch: questions, or episodes, a step.
    dense_lr: learning rate of the network's own weights.
    """

    network: str
    task: str
    steps: int
    seed: int = 0
    batch: int = 256
    dense_lr: float = 1e-3

    LEAST: ClassVar[Mapping[str, int]] = {"seed": 0, "dense_lr": 0}
    """By setting, the smallest value; 1 for all others."""

    def __post_init__(self) -> None:
        for name, kinds in kinds_of(type(self)).items():
            value = getattr(self, name)
            fits = type(value) in kinds or (type(value) is int and float in kinds)
            if fits and type(value) in (int, float):
                # NaN fails every comparison.
                fits = self.LEAST.get(name, 1) <= value <= checks.LARGEST
            if not fits:
                raise InvalidArgument(
                    f"{name} is out of range",
                    got=repr(value),
                    expected=_expected(type(self), name),
                )


R = TypeVar("R", bound=Recipe)


def kinds_of(recipe: type[Recipe]) -> dict[str, tuple[Any, ...]]:
    """By setting, the types that it may have."""
    hints = get_type_hints(recipe)
    named = {field.name: hints[field.name] for field in fields(recipe)}
    return {name: get_args(kind) or (kind,) for name, kind in named.items()}


def changed(recipe: R, settings: Iterable[str]) -> R:
    """A recipe with other settings, each as `key=value`.

    Raises `InvalidArgument`, which names settings that are near.
    """
    known = {name: kinds for name, kinds in kinds_of(type(recipe)).items() if name != "network"}
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InvalidArgument("not a setting", got=repr(setting), expected="key=value")
        if key not in known:
            raise named.unknown("setting", key, known)
        changes[key] = _value(type(recipe), key, text)
    return replace(recipe, **changes)


def _value(recipe: type[Recipe], key: str, text: str) -> Any:
    kinds = kinds_of(recipe)[key]
    if NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float, str):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    raise InvalidArgument(f"{key} cannot be that", got=repr(text), expected=_expected(recipe, key))


def _expected(recipe: type[Recipe], key: str) -> str:
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    least = {int, float} & set(kinds_of(recipe)[key])
    bound = f" ≥ {recipe.LEAST.get(key, 1)}" if least else ""
    kinds = kinds_of(recipe)[key]
    return " or ".join("none" if k is NoneType else words[k] + bound for k in kinds)
