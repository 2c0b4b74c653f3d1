"""Large tensors on the wire: the same message as protobuf's, without copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from memstore.memory import Rows
from memstore.rpc import codec, splice
from memstore.rpc.v1 import memory_pb2 as pb

LARGE = np.arange(splice.LARGE_BYTES, dtype=np.float32).reshape(-1, 64)
SMALL = np.arange(6, dtype=np.int64)


def update() -> Any:
    return splice.message(
        pb.UpdateRequest,
        memory="m",
        request_id=pb.RequestId(client="a", number=7),
        slots=splice.tensor(SMALL),
        key_grads=splice.tensor(LARGE),
        lr=0.5,
    )


def plain() -> pb.UpdateRequest:
    return pb.UpdateRequest(
        memory="m",
        request_id=pb.RequestId(client="a", number=7),
        slots=codec.to_tensor(SMALL),
        key_grads=codec.to_tensor(LARGE),
        lr=0.5,
    )


def test_protobuf_reads_what_is_laid_beside() -> None:
    asked = update()
    data = asked.SerializeToString()
    assert isinstance(asked, splice.Message)
    assert len(data) == asked.ByteSize()
    assert pb.UpdateRequest.FromString(data) == plain()


def test_who_takes_the_last_of_a_field_has_it_whole() -> None:
    """Not all readers of other languages join messages that stand there twice."""
    call = splice.message(pb.Call, number=3, update=update())
    kept = last_of_each(call.SerializeToString())
    assert [number for number, _ in kept] == [1, 6]
    update_data = kept[1][1]
    kept = last_of_each(update_data)
    grads = dict(kept)[pb.UpdateRequest.DESCRIPTOR.fields_by_name["key_grads"].number]
    assert pb.Tensor.FromString(grads) == codec.to_tensor(LARGE)
    assert pb.UpdateRequest.FromString(update_data) == plain()


def last_of_each(data: bytes) -> list[tuple[int, bytes]]:
    """Of each field of a message, its number and the content that stands there last."""
    found, at = {}, 0
    while at < len(data):
        key, at = splice._varint(memoryview(data), at)
        at, begins = splice._end(memoryview(data), at, key & 7)
        found[key >> 3] = data[begins:at]
    return sorted(found.items())


@pytest.mark.parametrize("data", [plain().SerializeToString(), update().SerializeToString()])
def test_what_protobuf_wrote_is_viewed(data: bytes) -> None:
    asked = splice.opened(pb.UpdateRequest, data)
    assert (asked.memory, asked.lr, asked.request_id.number) == ("m", 0.5, 7)
    assert asked.HasField("key_grads")
    assert not asked.HasField("value_grads")
    grads = codec.to_array("key_grads", asked.key_grads)
    np.testing.assert_array_equal(grads, LARGE)
    np.testing.assert_array_equal(codec.to_array("slots", asked.slots), SMALL)
    place = np.frombuffer(data, np.uint8)
    assert np.shares_memory(grads, place)
    assert pb.UpdateRequest.FromString(asked.SerializeToString()) == plain()


def test_calls_and_replies_of_a_session() -> None:
    call = splice.message(pb.Call, number=3, deadline_s=1.0, update=update())
    call.number = 4
    expected = pb.Call(number=4, deadline_s=1.0, update=plain())
    data = call.SerializeToString()
    assert pb.Call.FromString(data) == expected
    for each in (data, expected.SerializeToString()):
        came = splice.opened(pb.Call, each)
        assert came.WhichOneof("verb") == "update"
        grads = codec.to_array("key_grads", came.update.key_grads)
        np.testing.assert_array_equal(grads, LARGE)
        assert np.shares_memory(grads, np.frombuffer(each, np.uint8))
    slots_B = np.arange(len(LARGE))
    rows = Rows(slots_B=slots_B, generations_B=slots_B, keys_BD=LARGE, values_BV=None, records=None)
    reply = splice.message(pb.Reply, number=4, gather=codec.to_gather_reply(rows))
    came = splice.opened(pb.Reply, reply.SerializeToString())
    read = codec.rows_of(slots_B, None, getattr(came, came.WhichOneof("outcome")))
    assert read.keys_BD is not None
    np.testing.assert_array_equal(read.keys_BD, LARGE)
    assert read.keys_BD.flags.writeable
    assert read.values_BV is None


def test_one_that_is_sent_later_has_bytes_of_its_own() -> None:
    grads = LARGE.copy()
    asked = splice.message(pb.UpdateRequest, key_grads=splice.tensor(grads))
    apart = asked.apart()
    grads[:] = 0
    np.testing.assert_array_equal(codec.to_array("g", apart.key_grads), LARGE)
    assert not codec.to_array("g", asked.key_grads).any()


def test_small_ones_are_plain() -> None:
    assert isinstance(splice.message(pb.EraseRequest, slots=splice.tensor(SMALL)), pb.EraseRequest)
    assert isinstance(splice.opened(pb.EraseRequest, b""), pb.EraseRequest)


def test_two_verbs_in_one_call_are_protobufs_affair() -> None:
    """The last counts; what large tensors the first had is nobody's."""
    both = b"".join(
        pb.Call(**{name: message}).SerializeToString()
        for name, message in (
            ("update", plain()),
            ("search", pb.SearchRequest(memory="s")),
            ("update", pb.UpdateRequest(memory="n")),
        )
    )
    came = splice.opened(pb.Call, both)
    assert came == pb.Call.FromString(both)
    assert not came.update.HasField("key_grads")


def test_parts_are_joined_as_protobuf_joins_them() -> None:
    twice = (
        plain().SerializeToString()
        + pb.UpdateRequest(key_grads=pb.Tensor(data=b"xyz"), memory="n").SerializeToString()
    )
    came, expected = splice.opened(pb.UpdateRequest, twice), pb.UpdateRequest.FromString(twice)
    assert came.memory == expected.memory == "n"
    assert bytes(came.key_grads.data) == expected.key_grads.data == b"xyz"
    assert list(came.key_grads.shape) == list(expected.key_grads.shape)


WHOLE = [
    pb.Call(number=1, update=plain()).SerializeToString(),
    splice.message(pb.Call, number=1, update=update()).SerializeToString(),
]


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=4)), max_size=4),
    st.integers(0, 64),
)
def test_damaged_messages_are_read_as_protobuf_reads_them(
    data: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    damaged = bytearray(data)
    ends = (*range(40), *range(len(data) - 40, len(data)))
    for place, change in changes:
        at = ends[place % len(ends)]
        damaged[at : at + len(change)] = change
    sent = bytes(damaged[: len(damaged) - cut])
    try:
        expected = pb.Call.FromString(sent)
    except DecodeError:
        with pytest.raises(DecodeError):
            splice.opened(pb.Call, sent)
        return
    came = splice.opened(pb.Call, sent)
    assert pb.Call.FromString(came.SerializeToString()) == expected
