"""Changes that one server asks another for, of messages, checked as those of any caller."""

from __future__ import annotations

from typing import Any

from memstore import checks
from memstore.changes import Change, Changes
from memstore.errors import InvalidArgument, WrongShape
from memstore.memory import Array, Slots
from memstore.retries import Asked
from memstore.rpc import codec
from memstore.rpc.parts import asked_of
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.shard.requests import DIGEST_BYTES


def change_of(changes: Changes, verb: str, asked: Any) -> Change:
    """The change that a message asks for, checked as that of any caller."""
    given, optional = codec.given, codec.optional
    if verb == "erase":
        return changes.erase(codec.to_array("slots", asked.slots))
    if verb == "touch":
        slots_B = codec.to_array("slots", asked.slots)
        return changes.touch(slots_B, asked.step, given(asked, "weights"))
    if verb == "update":
        slots_B = codec.to_array("slots", asked.slots)
        grads = given(asked, "key_grads"), given(asked, "value_grads")
        return changes.update(slots_B, *grads, optional(asked, "lr"), given(asked, "generations"))
    if verb == "blend":
        slots_B, weights_B, erase_BD, add_BD = (
            codec.to_array(name, getattr(asked, name))
            for name in ("slots", "weights", "erase", "add")
        )
        rest = optional(asked, "step"), given(asked, "generations")
        return changes.blend(slots_B, weights_B, erase_BD, add_BD, *rest)
    table, step = codec.to_table(optional(asked, "records")), optional(asked, "step")
    if verb == "allocate":
        return changes.allocate(asked.n, step, table)
    rows = given(asked, "keys"), given(asked, "values"), table
    if verb == "append":
        return changes.append(*rows, step)
    return changes.write(codec.to_array("slots", asked.slots), *rows, step)


def slots_of(name: str, tensor: pb.Tensor, count: int) -> Slots:
    """As many slots as there are rows."""
    slots_B = checks.slots(codec.to_array(name, tensor), unique=True)
    check_rows(name, slots_B, count)
    return slots_B


def check_rows(name: str, numbers_B: Array, count: int) -> None:
    """Raises `WrongShape` where there are not as many."""
    if len(numbers_B) != count:
        raise WrongShape(f"{name} have the wrong length", got=len(numbers_B), expected=count)


def request_of(whole: pb.Whole) -> Asked:
    """Under which number it is asked for."""
    if len(whole.digest) != DIGEST_BYTES:
        raise InvalidArgument(
            "the digest has the wrong length", got=len(whole.digest), expected=DIGEST_BYTES
        )
    return asked_of(whole)
