"""Reads documents as memories: keys and values of slots that are lists of symbols, after Miller et
al. 2016, arXiv 1606.03126, section 3.2. `models.tasks.documents` has what the slots hold.

    Φ_K(sentence) = Φ_V(sentence) = Σ words + Σ entities
    Φ_K(window)   = Σ words + Σ entities + kind          Φ_V(window) = centre, or title
    with a second dictionary (center encoding):
    Φ_K(window)   = Σ words + Σ entities but the centre + kind + centre'        Φ_V = centre'

where x' is the row of x in the second dictionary. The paper doubles the dictionary: the centre and
the value are of the second one, and so are the answers that are compared with what was read. Kind
is the paper's feature that says whether the value is the centre or the title.

The slots of a question are those that name its entity: `lookup` finds them, so nothing is encoded
but what is read, and always by the rows as they are now.

Letters: Q questions, K slots, D width; U distinct slots, P distinct symbols, S symbols of all.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from memstore import NO_SLOT, Memory
from memstore.errors import Unsupported
from memstore.memory import Slots
from memstore.torch import Candidates, RowTable

COLUMNS = ("relation", "objects", "words", "entities")


class DocumentReader:
    """Reads the slots of a memory of documents; a reader of `models.kv_memnn`.

    memory: whose records are `models.tasks.documents.SCHEMA`.  kinds: their `relation`.
    answers: the second dictionary, a row an entity; None has all symbols in one.
    whole: values are keys, without their kind: sentences.
    list_limit: symbols that are read of a slot, and objects.
    """

    searches = scored = 0
    """No slot is searched for."""

    def __init__(
        self,
        memory: Memory,
        words: RowTable,
        entities: RowTable,
        kinds: RowTable,
        *,
        answers: RowTable | None = None,
        whole: bool = False,
        list_limit: int = 64,
    ) -> None:
        self.memory, self.list_limit, self.whole = memory, list_limit, whole
        self.words, self.entities, self.kinds, self.answers = words, entities, kinds, answers

    def search(self, query_QD: Tensor) -> Slots:
        raise Unsupported(
            f"memory {self.memory.name!r} of documents keeps no keys to be searched",
            hint="look up the slots that name an entity, in the column entities",
        )

    def gather(self, slots_QK: Slots) -> Candidates:
        """Reads slots, `NO_SLOT` padded; one that several questions read is encoded once."""
        there_QK = slots_QK != NO_SLOT
        distinct_U, at_B = np.unique(slots_QK[there_QK], return_inverse=True)
        keys_UD, values_UD = self._encode(distinct_U)
        # Zeros behind the last, where there is no slot.
        at_QK = np.full(slots_QK.shape, len(distinct_U))
        at_QK[there_QK] = at_B
        at = torch.from_numpy(at_QK)
        keys_QKD, values_QKD = (
            functional.embedding(at, torch.cat([rows_UD, rows_UD.new_zeros(1, rows_UD.shape[1])]))
            for rows_UD in (keys_UD, values_UD)
        )
        return Candidates(slots_QK, torch.from_numpy(there_QK), keys_QKD, values_QKD)

    def _encode(self, slots_U: Slots) -> tuple[Tensor, Tensor]:
        records = self.memory.gather(
            slots_U, vectors=False, columns=COLUMNS, list_limit=self.list_limit
        ).records
        assert records is not None
        kinds_UD = self.kinds(records["relation"].to_numpy())
        words_UD = _bags(self.words, *_listed(records["words"]))
        entities, counts_U = _listed(records["entities"])
        if self.whole:
            values_UD = words_UD + _bags(self.entities, entities, counts_U)
            return values_UD + kinds_UD, values_UD
        objects, own_U = _listed(records["objects"])
        if self.answers is None:
            keys_UD = words_UD + _bags(self.entities, entities, counts_U)
            values_UD = _bags(self.entities, objects, own_U)
        else:
            first_U = np.cumsum(counts_U) - counts_U
            others = np.delete(entities, first_U)
            keys_UD = words_UD + _bags(self.entities, others, counts_U - 1)
            keys_UD = keys_UD + self.answers(entities[first_U])
            values_UD = _bags(self.answers, objects, own_U)
        return keys_UD + kinds_UD, values_UD


def _listed(column: pa.ChunkedArray) -> tuple[Slots, Slots]:
    """The items of all lists, one behind the other, and how many each has."""
    lists = column.combine_chunks()
    counts = np.diff(lists.offsets.to_numpy()).astype(np.int64)
    return np.asarray(lists.flatten().to_numpy()), counts


def _bags(table: RowTable, symbol_S: Slots, counts_U: Slots) -> Tensor:
    """The sums of the rows of symbols, so many a bag."""
    distinct_P, at_S = np.unique(symbol_S, return_inverse=True)
    rows_PD = table(distinct_P)
    if not len(rows_PD):
        return rows_PD.new_zeros(len(counts_U), rows_PD.shape[1])
    starts_U = np.cumsum(counts_U) - counts_U
    return functional.embedding_bag(
        torch.from_numpy(at_S), rows_PD, torch.from_numpy(starts_U), mode="sum"
    )
