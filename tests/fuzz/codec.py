"""The decoder: whatever bytes come, they are decoded or refused by a `MemstoreError`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from memstore.errors import MemstoreError
from memstore.rpc import codec, columns, failures, splice
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.wire import parsed
from tests.fuzz import corpus
from tests.fuzz.findings import Findings, forget_most, rss_bytes, seeded
from tests.fuzz.mutate import mutated

MOST_BYTES = 256 << 20
"""What decoding inputs of some KB each may take beyond what there was."""

SPLICED = 0.25
"""Of the inputs: those that are read as long messages are, though they are short."""

LOOK = 2_000
"""Inputs between two looks at the memory."""

SCHEMA = columns.schema_of(corpus.CONFIGS["r"])
REPLIES = (pb.SlotsReply, pb.SearchReply, pb.GatherReply, pb.LookupReply, pb.DescribeReply)


def decode(kind: type[Any], data: bytes) -> None:
    """All that a server does to a request before a memory sees it, or a client to a reply."""
    message = parsed(kind, data)
    if kind is pb.Call:
        verb = message.WhichOneof("verb")
        message = message if verb is None else getattr(message, verb)
    bare = splice.bare(message)
    if isinstance(bare, pb.Error):
        raise failures.from_message(message)
    if isinstance(bare, pb.CreateRequest):
        codec.config_of(message.config)
    if isinstance(bare, pb.LoadRequest) and message.HasField("batch"):
        columns.parts_of(columns.from_batch(message.batch, SCHEMA), corpus.CONFIGS["r"])
    if isinstance(bare, pb.SearchRequest):
        codec.options_of(message)
    if isinstance(bare, pb.LookupRequest):
        codec.lookup_values(message)
    fields = message.DESCRIPTOR.fields_by_name
    if "request_id" in fields:
        codec.request_id_of(message)
    if "records" in fields:
        codec.to_table(codec.optional(message, "records"))
    for name, field in fields.items():
        if field.message_type is pb.Tensor.DESCRIPTOR and message.HasField(name):
            codec.received(name, getattr(message, name))


def told(kind: type[Any], data: bytes) -> None:
    """What a client makes of a reply; all that it may raise is caught by who reads replies."""
    reply = splice.opened(kind, data)
    if kind is pb.SearchReply:
        codec.search_result_of(reply)
    elif kind is pb.GatherReply:
        codec.rows_of(codec.received("generations", reply.generations), None, reply)
    elif kind is pb.LookupReply:
        codec.lookup_result_of(reply)
    elif kind is pb.DescribeReply:
        codec.description_of("m", reply)


def spliced(kind: type[Any], data: bytes) -> None:
    """The same where all tensors lie beside their messages: what is read is what protobuf reads."""
    try:
        expected = kind.FromString(data)
    except DecodeError:
        expected = None
    try:
        came = splice.opened(kind, data)
    except DecodeError:
        came = None
    if (came is None) != (expected is None):
        raise AssertionError(f"protobuf reads {expected!r:.300}, splicing {came!r:.300}")
    if came is not None and kind.FromString(came.SerializeToString()) != expected:
        # A number that is none differs from itself.
        texts = [str(kind.FromString(one.SerializeToString())) for one in (came, expected)]
        if texts[0] != texts[1]:
            raise AssertionError(f"protobuf reads {texts[1]:.300}, splicing {texts[0]:.300}")
    (told if kind in REPLIES else decode)(kind, data)


@contextlib.contextmanager
def everything_is_large() -> Iterator[None]:
    before, splice.LARGE_BYTES = splice.LARGE_BYTES, 1
    try:
        yield
    finally:
        splice.LARGE_BYTES = before


def messages() -> list[Any]:
    """Those that are mutated."""
    requests = [message for _, message in corpus.calls()]
    framed = [pb.Call(number=3, deadline_s=2.0, **{verb: m}) for verb, m in corpus.calls()]
    others = [message for _, message in corpus.administration()]
    transfers = [*corpus.loads(), *corpus.exports()]
    return [*requests, *framed, *others, *transfers, *corpus.replies()]


def run(inputs: int, seed: int) -> Findings:
    found, rng, made = Findings("codec"), seeded(seed, "codec"), messages()
    others = [message.SerializeToString() for message in made]
    before = rss_bytes()
    for number in range(inputs):
        message = rng.choice(made)
        kind, data = type(message), mutated(message, others, rng)
        try:
            if rng.random() < SPLICED:
                with everything_is_large():
                    spliced(kind, data)
            else:
                (told if kind in REPLIES else decode)(kind, data)
        except MemstoreError:
            pass
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            if kind not in REPLIES or isinstance(error, AssertionError):
                found.add(f"{kind.__name__} raised {type(error).__name__}", data, error)
        found.inputs += 1
        if number % LOOK == 0:
            if number and rss_bytes("VmHWM") - before > MOST_BYTES:
                found.add("memory", data, f"{rss_bytes('VmHWM') >> 20} MiB, were {before >> 20}")
            forget_most()
    return found
