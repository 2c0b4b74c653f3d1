"""Staleness: how far keys that a search of an encoded memory went by are from what they are now.

    found = facts.search(queries, k=10)
    stale_QK = staleness(facts, {"entities": entities, "relations": relations}, found.slots_QK)

`describe().drift` bounds it for all slots, from what is known of the part rows alone; this is what
it is, of some.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from memstore.dtypes import storage
from memstore.errors import InvalidArgument, Unsupported
from memstore.kernels.half import narrow, wide
from memstore.memory import NO_SLOT, Array, Memory, SlotsLike


def staleness(
    memory: Memory, parts: Mapping[str, Memory], slots: SlotsLike
) -> npt.NDArray[np.float64]:
    """‖now − as encoded‖ / ‖as encoded‖ of the key of each slot, in the shape of `slots`; NaN at
    `NO_SLOT`.

    parts: the memories that its keys are sums of, by name. Of what is read, each row is read once,
    by `gather`, wherever it lies. 0 is that a search scored what it would score now.

    Raises `Unsupported` where the memory is not encoded, `InvalidArgument` where a part is missing,
    and `UnknownSlot` where a slot, or a part of one, was erased.
    """
    encoding = memory.config.encoding_config if memory.config.encoding is not None else None
    if encoding is None:
        raise Unsupported(f"memory {memory.name!r} is not encoded: its keys are as they are")
    missing = {name for name in encoding.key.values() if name not in parts}
    if missing:
        raise InvalidArgument(
            "parts are missing", got=sorted(parts), expected=sorted({*parts, *missing})
        )
    shaped = np.asarray(slots, np.int64)
    slots_U, back = np.unique(shaped[shaped != NO_SLOT], return_inverse=True)
    rows = memory.gather(slots_U, columns=list(encoding.key))
    assert rows.keys_BD is not None
    assert rows.records is not None
    now_UD: Array | None = None
    for column, name in encoding.key.items():
        named_P, at_U = np.unique(rows.records[column].to_numpy(), return_inverse=True)
        keys_PD = parts[name].gather(named_P).keys_BD
        assert keys_PD is not None
        keys_UD = wide(keys_PD)[at_U]
        now_UD = keys_UD if now_UD is None else now_UD + keys_UD
    assert now_UD is not None
    kept_UD, now_UD = wide(rows.keys_BD), wide(narrow(now_UD, storage(memory.config.dtype)))
    off_U = np.linalg.norm(now_UD - kept_UD, axis=1).astype(np.float64)
    norm_U = np.linalg.norm(kept_UD, axis=1)
    stale_U = off_U / np.maximum(norm_U, np.finfo(np.float32).tiny)
    found = np.full(shaped.shape, np.nan)
    found[shaped != NO_SLOT] = stale_U[back]
    return found
