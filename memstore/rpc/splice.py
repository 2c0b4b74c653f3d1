"""Messages whose large tensors are neither copied into them nor out of them.

protobuf copies the bytes of a field when it is set, when its message goes into another, when that
is serialized, and on the way back; of 4 MB of gradients a copy takes as long as the optimizer step.
So large tensors stay beside the message that they belong to:

    message(pb.UpdateRequest, memory="m", key_grads=tensor(grads_BD)).SerializeToString()
    opened(pb.UpdateRequest, data).key_grads.data          a view of data

Nothing on the wire is new: fields may stand in any order, so large tensors follow, whole, behind
the rest of their message. Among that rest each stands empty, which tells that it is there: protobuf
joins the two, and readers that take the last of a field instead have the whole one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from memstore.memory import Array
from memstore.rpc.v1 import memory_pb2 as pb

LARGE_BYTES = 1 << 15
"""From so many on a tensor lies beside its message, and a message is looked through for them."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    **{
        name: np.dtype(name) for name in ("float32", "float16", "float64", "int64", "uint8", "bool")
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_TENSOR = pb.Tensor.DESCRIPTOR
_DATA = _TENSOR.fields_by_name["data"].number
_AROUND = (pb.Call.DESCRIPTOR, pb.Reply.DESCRIPTOR)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Tensor:
    """What `pb.Tensor` is, with its bytes elsewhere."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class Message:
    """A message of protobuf, and what is large of it."""

    __slots__ = ("_bare", "_parts")

    def __init__(self, bare: Any, parts: Mapping[str, Tensor | Message]) -> None:
        """bare: all but what is in `parts`, by field, which are there and empty."""
        object.__setattr__(self, "_bare", bare)
        object.__setattr__(self, "_parts", parts)

    def __getattr__(self, name: str) -> Any:
        part = self._parts.get(name)
        return getattr(self._bare, name) if part is None else part

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._bare, name, value)

    def ByteSize(self) -> int:
        return int(self._bare.ByteSize()) + sum(map(len, self._tail()))

    def SerializeToString(self) -> bytes:
        return b"".join([self._bare.SerializeToString(), *self._tail()])

    def _tail(self) -> Iterator[bytes | memoryview]:
        """What follows the bare message."""
        for name, part in self._parts.items():
            inner: list[bytes | memoryview]
            if isinstance(part, Tensor):
                rest = pb.Tensor(dtype=part.dtype, shape=part.shape).SerializeToString()
                inner = [rest, _head(_DATA, len(part.data)), part.data]
            else:
                inner = [part._bare.SerializeToString(), *part._tail()]
            yield _head(_fields(self._bare)[name].number, sum(map(len, inner)))
            yield from inner

    def apart(self) -> Message:
        """The same with bytes of its own: who sends it later may change the arrays meanwhile."""
        return Message(self._bare, {name: _copied(part) for name, part in self._parts.items()})


def tensor(array: Array) -> pb.Tensor | Tensor:
    """A tensor for `message`; it may hold on to the array."""
    array = np.ascontiguousarray(array)
    if array.nbytes < LARGE_BYTES:
        return pb.Tensor(dtype=NAMES[array.dtype], shape=array.shape, data=array.tobytes())
    bytes_N: Any = array.reshape(-1).view(np.uint8)
    return Tensor(NAMES[array.dtype], array.shape, memoryview(bytes_N).toreadonly())


def message(kind: Callable[..., Any], **fields: Any) -> Any:
    """A message of these fields; tensors and messages among them may be large."""
    parts = {n: field for n, field in fields.items() if isinstance(field, Tensor | Message)}
    if not parts:
        return kind(**fields)
    return Message(kind(**fields | {name: _empty(part) for name, part in parts.items()}), parts)


def bare(message: Any) -> Any:
    """A message of protobuf, without the bytes of what is large of it."""
    return message._bare if isinstance(message, Message) else message


def copied(message: Any) -> Any:
    """Another message of the same fields, to be changed on its own; what is large is shared."""
    own = type(bare(message))()
    own.CopyFrom(bare(message))
    return Message(own, message._parts) if isinstance(message, Message) else own


def opened(kind: Any, data: bytes) -> Any:
    """The message of its bytes, whose large tensors are views of these.

    Raises `google.protobuf.message.DecodeError` where they are none.
    """
    if len(data) >= LARGE_BYTES:
        try:
            rest, found = _parted(kind.DESCRIPTOR, memoryview(data))
        except (ValueError, IndexError):
            return kind.FromString(data)  # protobuf knows better, or says what is wrong
        if found:
            return _joined(kind.FromString(rest), found)
    return kind.FromString(data)


def _joined(bare: Any, found: Mapping[str, Any]) -> Message:
    parts: dict[str, Tensor | Message] = {}
    for name, part in found.items():
        if not bare.HasField(name):
            continue  # another came behind it that excludes it
        inner = getattr(bare, name)
        if isinstance(part, memoryview):
            parts[name] = Tensor(inner.dtype, tuple(inner.shape), part)
        else:
            own = type(inner)()
            own.CopyFrom(inner)
            parts[name] = _joined(own, part)
        inner.Clear()
    return Message(bare, parts)


def _parted(kind: Any, data: memoryview) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a message without those of its tensors, and these: by field, views or more.

    Raises `ValueError` or `IndexError` on what is malformed, or stranger than need be.
    """
    kept, found, at, since = list[bytes | memoryview](), dict[str, Any](), 0, 0
    inner_fields = _inner(kind)
    while at < len(data):
        begun = at
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        at, begins = _end(data, at, wire)
        if wire != _BYTES or number not in inner_fields:
            continue
        name, inner = inner_fields[number]
        content: Any
        if inner is _TENSOR:
            rest, content = _without_data(data[begins:at])
        else:
            if found and name not in found:
                raise ValueError("one of several that exclude each other")
            rest, content = _parted(inner, data[begins:at])
            content = found.get(name, {}) | content
        kept += [data[since:begun], _head(number, len(rest)), rest]
        since = at
        if content is not None:
            found[name] = content
    return b"".join([*kept, data[since:]]), {n: part for n, part in found.items() if len(part)}


def _without_data(data: memoryview) -> tuple[bytes, memoryview | None]:
    """The bytes of a tensor but for its data, and these."""
    kept, content, at, since = list[memoryview](), None, 0, 0
    while at < len(data):
        begun = at
        key, at = _varint(data, at)
        at, begins = _end(data, at, key & 7)
        if key == _DATA << 3 | _BYTES:
            kept.append(data[since:begun])
            content, since = data[begins:at], at
    return b"".join([*kept, data[since:]]), content


def _end(data: memoryview, at: int, wire: int) -> tuple[int, int]:
    """Where a field ends, and where its content begins."""
    if wire == _VARINT:
        return _varint(data, at)[1], at
    if wire == _BYTES:
        length, at = _varint(data, at)
    elif wire in (_FIXED64, _FIXED32):
        length = 8 if wire == _FIXED64 else 4
    else:
        raise ValueError("a wire type of no field here")
    if at + length > len(data):
        raise ValueError("the message ends before its field")
    return at + length, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a varint of more than ten bytes")


def _head(number: int, length: int) -> bytes:
    """What stands before so many bytes of a field."""
    return _varint_bytes(number << 3 | _BYTES) + _varint_bytes(length)


def _varint_bytes(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _empty(part: Tensor | Message) -> Any:
    return type(part._bare)() if isinstance(part, Message) else pb.Tensor()


def _copied(part: Tensor | Message) -> Tensor | Message:
    if isinstance(part, Message):
        return part.apart()
    return replace(part, data=memoryview(bytes(part.data)))


def _fields(bare: Any) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = bare.DESCRIPTOR.fields_by_name
    return fields


@functools.cache
def _inner(kind: Any) -> Mapping[int, tuple[str, Any]]:
    """The fields of a message that are tensors, or of a call or reply that have some: by number."""
    among = [(f.number, f.name, f.message_type) for f in kind.fields if f.message_type is not None]
    return {
        number: (name, inner)
        for number, name, inner in among
        if inner is _TENSOR or (kind in _AROUND and _inner(inner))
    }
