"""Mutations: a message that was right, changed where it hurts, or its bytes changed anywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field

WHOLE = (0, 1, -1, 2, 7, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63))
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    *(
        "",
        "m",
        "r",
        "h",
        "none",
        "\0",
        "../m",
        "x" * 300,
        "é\u202e",
        "name",
        "year",
        "tags",
        "==",
        "<",
    ),
    *("float32", "float16", "int64", "bool", "bfloat16", "uint8", "{}", "[]", "null", "[" * 2_000),
    *('{"dim": -1}', '{"dim": 4, "shards": 9e9}', '{"dim": 4, "records": 7}'),
)
MOST = 4_096
"""Bytes that a mutation makes of a part, about."""


def mutated(message: Any, others: Sequence[bytes], rng: random.Random) -> bytes:
    """The bytes of a message after some mutations; the message stays as it is."""
    copy = type(message)()
    copy.CopyFrom(message)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
        change(copy, rng)
    data: bytes = copy.SerializeToString()
    for _ in range(rng.choice((0, 0, 0, 1, 2, 4))):
        data = broken(data, others, rng)
    return data


def change(message: Any, rng: random.Random) -> None:
    """Changes one field of a message, or of one of its messages."""
    field = rng.choice(message.DESCRIPTOR.fields) if message.DESCRIPTOR.fields else None
    if field is None:
        return
    present = [there for there, _ in message.ListFields()]
    if present and rng.random() < 0.8:
        field = rng.choice(present)  # what is there is likelier to matter
    if rng.random() < 0.1:
        message.ClearField(field.name)
    elif field.is_repeated:
        _change_several(getattr(message, field.name), field, rng)
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        change(inner, rng)
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), rng))


def _change_several(values: Any, field: Any, rng: random.Random) -> None:
    kind = rng.randrange(4)
    if kind == 0 and len(values):
        del values[rng.randrange(len(values))]
    elif field.message_type is not None:
        if len(values) and kind == 1:
            change(rng.choice(values), rng)
        elif len(values) < 100:
            change(values.add(), rng)
    elif kind == 1 and len(values):
        i = rng.randrange(len(values))
        values[i] = _value(field, values[i], rng)
    else:
        values.extend([_value(field, None, rng)] * rng.choice((1, 1, 1, 2, 50)))


def _value(field: Any, now: Any, rng: random.Random) -> Any:
    if field.type == Field.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == Field.TYPE_BYTES:
        return broken(now or bytes(rng.choice((0, 1, 8, 16))), (), rng)
    if field.type == Field.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == Field.TYPE_DOUBLE:
        return rng.choice(NUMBERS)
    whole = rng.choice((*WHOLE, rng.randrange(-10, 100), (now or 0) + rng.choice((-1, 1))))
    if field.type == Field.TYPE_UINT64:
        return whole % 2**64
    return max(-(2**63), min(whole, 2**63 - 1))


def broken(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Bytes after one mutation of them."""
    changed = bytearray(data)
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(8)
    if kind == 0:
        return bytes(rng.randbytes(rng.choice((0, 1, 3, 10, 100))))
    if kind == 1:
        return data[:at]
    if kind == 2 and others:
        other = rng.choice(others)
        return data[:at] + other[rng.randrange(len(other) + 1) :]
    if kind == 3:
        changed[at:at] = rng.choice((b"\xff" * 9 + b"\x01", b"\0" * 8, b"\x80" * 11, b"\x7f"))
    elif kind == 4 and len(data) < MOST:
        changed[at:at] = changed[at : at + rng.randrange(64)] * rng.choice((1, 2, 20))
    elif kind == 5:
        del changed[at : at + rng.randrange(1, 16)]
    elif kind == 6 and at + 8 <= len(data):
        whole = rng.choice(WHOLE) & (2**64 - 1)
        changed[at : at + 8] = whole.to_bytes(8, "little")
    elif data:
        changed[at % len(data)] ^= 1 << rng.randrange(8)
    return bytes(changed)
