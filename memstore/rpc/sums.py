"""RemoteSums: what another server has of an encoded memory, as a `HeldEncodedMemory` is here."""

from __future__ import annotations

from typing import Any

import numpy as np

from memstore import checks
from memstore.dtypes import storage
from memstore.errors import InvalidArgument, WrongShape
from memstore.memory import Array, Slots
from memstore.rpc import codec, splice
from memstore.rpc.parts import RemotePart
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.spread.held_encoded import Begun, Drifted, HeldEncodedMemory


class RemoteSums:
    """One part of an encoded memory."""

    def __init__(self, part: RemotePart) -> None:
        self._ask = part.ask_of_sums

    def begin(self, first: bool) -> Begun:
        reply = self._ask("begin", first=first)
        return Begun(reply.epoch, reply.empty)

    def drifted(self, column: str, after: int) -> Drifted:
        reply = self._ask("drifted", column=column, after=after)
        return Drifted(
            *(codec.received(n, getattr(reply, n)) for n in ("slots", "drift", "travel"))
        )

    def renew(self) -> int:
        epoch: int = self._ask("renew").epoch
        return epoch

    def used(self, column: str, rows_P: Slots) -> Slots:
        reply = self._ask("used", column=column, slots=splice.tensor(rows_P))
        return codec.received("uses", reply.uses)

    def naming(self, column: str, rows_P: Slots, after: int) -> tuple[Slots, Slots]:
        reply = self._ask("naming", column=column, slots=splice.tensor(rows_P), after=after)
        return codec.received("slots", reply.slots), codec.received("named", reply.named)

    def put_again(
        self, slots_B: Slots, keys_BD: Array, named_BC: Slots, epoch: int, drifts: bool
    ) -> int:
        arrays = {"slots": slots_B, "keys": keys_BD, "named": named_BC}
        tensors = {name: splice.tensor(array) for name, array in arrays.items()}
        done: int = self._ask("put", epoch=epoch, drifts=drifts, **tensors).done
        return done

    def note(self, column: str, rows_P: Slots, travel_P: Array, epoch: int) -> None:
        tensors = {"slots": splice.tensor(rows_P), "travel": splice.tensor(travel_P)}
        self._ask("note", column=column, epoch=epoch, **tensors)


def summed(held: HeldEncodedMemory, asked: Any) -> Any:
    """Answers a question about sums.  held: of the part that is asked."""
    question = asked.question
    if question == "begin":
        begun = held.begin(asked.first)
        return pb.EncodeReply(epoch=begun.epoch, empty=begun.empty)
    if question == "renew":
        return pb.EncodeReply(epoch=held.renew())
    if question == "put":
        return pb.EncodeReply(done=_put(held, asked))
    if asked.column not in held.config.encoding_config.key:
        raise InvalidArgument(
            "no such question of a key column", got=f"{question[:64]!r} of {asked.column[:64]!r}"
        )
    if question == "drifted":
        found = held.drifted(asked.column, asked.after)
        arrays = {"slots": found.slots_P, "drift": found.drift_P, "travel": found.travel_P}
        return _reply(**arrays)
    rows_P = checks.slots(codec.to_array("slots", asked.slots), unique=True)
    if len(rows_P) and (np.diff(rows_P, prepend=-1) <= 0).any():
        raise InvalidArgument("part rows are to rise, from 0 on")
    if question == "used":
        return _reply(uses=held.used(asked.column, rows_P))
    if question == "naming":
        slots_B, named_BC = held.naming(asked.column, rows_P, asked.after)
        return _reply(slots=slots_B, named=named_BC)
    travel = codec.to_array("travel", asked.travel)
    if question != "note":
        raise InvalidArgument("no such question", got=repr(question[:64]))
    travel_P = checks.vector("travel", travel, dtype="float64", rows=len(rows_P))
    held.note(asked.column, rows_P, travel_P, asked.epoch)
    return pb.EncodeReply()


def _put(held: HeldEncodedMemory, asked: Any) -> int:
    slots_B = checks.slots(codec.to_array("slots", asked.slots), unique=True)
    keys, named_BC = (codec.to_array(name, getattr(asked, name)) for name in ("keys", "named"))
    config, shape = held.config, (len(slots_B), len(held.config.encoding_config.key))
    keys_BD = checks.matrix(
        "keys", keys, width=config.dim, dtype=storage(config.dtype), rows=len(slots_B)
    )
    if named_BC.shape != shape:
        raise WrongShape("named slots have the wrong shape", got=named_BC.shape, expected=shape)
    return held.put_again(slots_B, keys_BD, named_BC, asked.epoch, asked.drifts)


def _reply(**arrays: Array) -> Any:
    tensors = {name: splice.tensor(array) for name, array in arrays.items()}
    return splice.message(pb.EncodeReply, **tensors)
