"""Calls between actors and from drivers, all of them of the control plane: with an end and typed.

What an actor raised comes out as it was raised there; an actor that is not there, or does not
answer in time, is `Unreachable`.
"""

from __future__ import annotations

import re
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
)

from memstore import errors
from memstore.errors import InvalidArgument, MemstoreError, StoreError, Unreachable
from workers.cluster.spec import registry_of

RAISED = re.compile(r"memstore\.errors\.(?P<name>\w+): (?P<told>.*)")

CALL_S = 30.0
"""Of a call that does no more than look something up or note it."""


def actor(name: str, namespace: str) -> Any:
    """The actor of that name; raises `Unreachable` where there is none."""
    try:
        return ray.get_actor(name, namespace)
    except RayError as error:
        raise Unreachable("Ray does not say where its actors are", got=_last_line(error)) from error
    except ValueError as error:
        raise Unreachable(
            "Ray has no such actor",
            got=f"{name} in namespace {namespace}",
            hint="memtrain cluster up starts a cluster, memtrain cluster status tells of it",
        ) from error


def registry(name: str, namespace: str) -> Any:
    """The registry of a cluster; raises `Unreachable` where there is none."""
    return actor(registry_of(name), namespace)


def ask(call: Any, timeout_s: float = CALL_S) -> Any:
    """What a call of an actor returns."""
    try:
        return ray.get(call, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, MemstoreError):
            raise error.cause from None
        raise
    except ActorDiedError as error:
        raise _unmade(error) or Unreachable("an actor died", got=_last_line(error)) from error
    except (RayActorError, RaySystemError) as error:
        raise Unreachable("an actor is not there", got=_last_line(error)) from error
    except GetTimeoutError as error:
        raise Unreachable(
            "an actor did not answer", expected=f"within {timeout_s:.3g} s"
        ) from error


def _unmade(error: ActorDiedError) -> MemstoreError | None:
    """What the making of the actor raised, where that was typed: Ray tells it as text alone."""
    found = RAISED.fullmatch(_last_line(error))
    kind = getattr(errors, found["name"], None) if found else None
    if found is None or kind is None or not issubclass(kind, InvalidArgument | StoreError):
        return None
    made: MemstoreError = kind(found["told"])
    return made


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
