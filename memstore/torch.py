"""memstore for torch: rows as differentiable tensors, and a reader that attends to K of N slots.

A step gathers the rows it needs as leaf tensors; after `backward()` the gradient of each goes
back to its memory, which takes one optimizer step on it:

    entities, relations = RowTable(store.memory("entities")), RowTable(store.memory("relations"))
    reader = SparseReader(store.memory("facts"), k=32, parts=[entities, relations])
    optimizer = RowOptimizer([entities, relations])
    loss = model(reader(queries_QD).output_QV)
    loss.backward()
    optimizer.step()

Nothing here has the size of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from memstore.errors import InvalidArgument
from memstore.kernels.half import wide
from memstore.kernels.topk import top_k
from memstore.memory import (
    NO_SLOT,
    Array,
    Memory,
    Proposal,
    SearchOptions,
    SearchResult,
    Slots,
)


@dataclass(frozen=True)
class _Leaf:
    """Rows that take part in a step: what their gradients will be sent back with."""

    slots_B: Slots
    keys_BD: Tensor
    values_BV: Tensor | None


class RowTable:
    """The rows of a memory as a differentiable lookup: an embedding table that lives elsewhere.

    While gradients are enabled, each call keeps its rows until `RowOptimizer` has sent their
    gradients on; the memory sums those of equal slots.

    device: where the tensors of rows are; rows and gradients cross over.
    """

    def __init__(self, memory: Memory, device: torch.device | str = "cpu") -> None:
        self.memory = memory
        self.device = torch.device(device)
        self.pending: list[_Leaf] = []

    def __call__(self, slots: Tensor | Slots) -> Tensor:
        """Returns keys `[*slots.shape, D]`; `NO_SLOT` gives zeros and takes no gradient."""
        slots = slots.cpu().numpy() if isinstance(slots, Tensor) else np.asarray(slots)
        keys_BD, _ = self.pairs(slots[slots != NO_SLOT])
        return _spread(keys_BD, slots != NO_SLOT)

    def pairs(self, slots_B: Slots) -> tuple[Tensor, Tensor]:
        """Returns keys `[B, D]` and values `[B, V]`; the same tensor where the key is the value.

        Those of float16 and bfloat16 come as float32, so that their gradients are of it.
        """
        rows = self.memory.gather(slots_B)
        assert rows.keys_BD is not None
        keys_BD, values_BV = self._tensor(rows.keys_BD), None
        if rows.values_BV is not None:
            values_BV = self._tensor(rows.values_BV)
        if torch.is_grad_enabled():
            keys_BD.requires_grad_()
            if values_BV is not None:
                values_BV.requires_grad_()
            self.pending.append(_Leaf(slots_B, keys_BD, values_BV))
        return keys_BD, keys_BD if values_BV is None else values_BV

    def _tensor(self, rows_BX: Array) -> Tensor:
        return torch.from_numpy(wide(rows_BX)).to(self.device)


@dataclass(frozen=True)
class RowGradients:
    """The gradients of a step for one memory, as its `update` takes them.

    slots_B int64, may repeat. keys_BD, values_BV: float32, or float64 where the rows are;
    values_BV is None where the key is the value.
    """

    slots_B: Slots
    keys_BD: Array
    values_BV: Array | None


Exchange = Callable[[Memory, RowGradients], RowGradients]
"""Gives the gradients of one process away, and returns those that it is to send."""


class RowOptimizer:
    """Sends row gradients to their memories, as `torch.optim` would step parameters.

    The rule of the step is the memory's own (`OptimizerConfig`); lr overrides its default.
    exchange: is called in each step for each memory, in the order of the tables, with what is to be
    sent, also where that is nothing; what it returns is sent in its place. So processes that share
    the memories, and take their steps together, may sum their gradients first.
    """

    def __init__(
        self,
        tables: Iterable[RowTable],
        lr: float | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self.tables = list(dict.fromkeys(tables))
        self.lr, self.exchange = lr, exchange

    def step(self) -> int:
        """Makes one update a memory; returns how many distinct rows changed.

        The rows of this step are forgotten even if a memory refuses its update.
        """
        try:
            return sum(self._update(table) for table in self.tables)
        finally:
            self.zero_grad()

    def _update(self, table: RowTable) -> int:
        sent = _gradients_of(table)
        if self.exchange is not None:
            sent = self.exchange(table.memory, sent)
        if not len(sent.slots_B):
            return 0
        return table.memory.update(sent.slots_B, sent.keys_BD, sent.values_BV, lr=self.lr).applied

    def zero_grad(self) -> None:
        """Forgets the rows of this step without sending anything."""
        for table in self.tables:
            table.pending.clear()


@dataclass(frozen=True)
class Candidates:
    """The rows that queries may read, as they are now.

    slots_QK int64 and mask_QK bool: which places hold one. keys_QKD, values_QKV: zeros elsewhere.
    Where all queries read the same rows Q is 1 in each of them.
    """

    slots_QK: Slots
    mask_QK: Tensor
    keys_QKD: Tensor
    values_QKV: Tensor


@dataclass(frozen=True)
class Reading:
    """What queries read: output_QV = Σ_k weights_QK · values_QKV."""

    candidates: Candidates
    scores_QK: Tensor
    weights_QK: Tensor
    output_QV: Tensor


def attend(query_QD: Tensor, candidates: Candidates, prior_QK: Tensor | float = 0.0) -> Reading:
    """Reads by content: p_k = softmax_k (⟨q, key_k⟩ + prior_k) and o = Σ_k p_k · value_k.

    A query without candidates reads zeros.
    """
    scores_QK = torch.einsum("qd,qkd->qk", query_QD, candidates.keys_QKD) + prior_QK
    scores_QK = scores_QK.masked_fill(~candidates.mask_QK, torch.finfo(scores_QK.dtype).min)
    weights_QK = torch.softmax(scores_QK, dim=1) * candidates.mask_QK
    output_QV = torch.einsum("qk,qkv->qv", weights_QK, candidates.values_QKV)
    return Reading(candidates, scores_QK, weights_QK, output_QV)


class SparseReader:
    """Attends to the K slots of a memory that matter, and to no other.

    Gradients reach the query and the rows read; of an encoded memory, the current rows of its
    parts, from which keys and values are computed here: key = Σ parts, value = mean of its rows.

    memory: a plain memory, whose rows are `reader.rows`, or an encoded one.
    k: slots a search proposes for a query.
    options: of the search. With `union` all queries read the same slots, whose rows are read
        once. With a seed, call i of `search` draws by seed + i, so that a run can be repeated and
        no two steps draw alike.
    parts: for an encoded memory, a `RowTable` of each memory that it is encoded from.
    list_limit: rows that a list-valued value is the mean of: the first so many of the list.
    spare: slots that a search of an encoded memory proposes beside the k. It compares sums as they
        were when they were last encoded; the k best of k + spare by the parts as they are now are
        kept. So what was learnt since, in order of the best, is made good at once.
    device: where the tensors of a plain memory are; those of an encoded one are where the tables
        of its parts are, all at one place. Queries come from any.

    `searches` counts calls of `search`, `scored` the rows and centroids that their queries were
    compared with, as `SearchResult.scored_Q`.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        k: int,
        options: SearchOptions = SearchOptions(),
        parts: Iterable[RowTable] = (),
        list_limit: int = 16,
        spare: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.memory, self.k, self.options, self.list_limit = memory, k, options, list_limit
        encoded = memory.config.encoding is not None
        self.spare = spare
        self.searches, self.scored = 0, 0
        self.rows = None if encoded else RowTable(memory, device)
        self.parts = {table.memory.name: table for table in parts}
        needed = memory.config.encoding_config.memories if encoded else frozenset()
        if needed != set(self.parts):
            raise InvalidArgument(
                f"the tables do not fit memory {memory.name!r}",
                got=f"those of {sorted(self.parts)}",
                expected=f"those of {sorted(needed)}",
            )

    def __call__(self, query_QD: Tensor) -> Reading:
        """Searches, gathers, attends."""
        return attend(query_QD, self.gather(self.search(query_QD)))

    def search(self, query_QD: Tensor) -> Slots:
        """Proposes slots by inner product, int64 `[Q, K]`, `NO_SLOT` behind the last.

        With `union` the slots of all queries, int64 `[1, K]`, rising.
        """
        options = replace(self.options, union=False)
        if options.seed is not None:
            options = replace(options, seed=(options.seed + self.searches) % 2**63)
        self.searches += 1
        queries_QD = query_QD.detach().cpu().numpy()
        spare = 0 if self.rows else self.spare
        found = self.memory.search(queries_QD, self.k + spare, options)
        self.scored += int(found.scored_Q.sum())
        slots_QK = self._best_now(queries_QD, found) if spare else found.slots_QK
        if not self.options.union:
            return slots_QK
        # Taken together here: what each query scores among those of all others is not needed.
        union_K = np.unique(slots_QK)
        return union_K[None, union_K != NO_SLOT]

    def _best_now(self, queries_QD: Array, found: SearchResult) -> Slots:
        """The k best of each query's own by the parts as they are now, then what was added."""
        own_QC = (found.proposal_QK != Proposal.NONE) & (
            found.proposal_QK < Proposal.SAMPLED_CLUSTER
        )
        slots_U, at_B = np.unique(found.slots_QK[own_QC], return_inverse=True)
        key = self.memory.config.encoding_config.key
        records = self.memory.gather(slots_U, vectors=False, columns=[*key]).records
        assert records is not None
        keys_UD = np.zeros((len(slots_U), queries_QD.shape[1]), queries_QD.dtype)
        for column, name in key.items():
            part_BD = self.parts[name].memory.gather(records[column].to_numpy()).keys_BD
            assert part_BD is not None
            keys_UD += wide(part_BD)
        scores_QC = np.full(own_QC.shape, -np.inf, queries_QD.dtype)
        scores_QC[own_QC] = np.einsum("bd,bd->b", queries_QD[np.nonzero(own_QC)[0]], keys_UD[at_B])
        best_QK, _ = top_k(np.where(own_QC, found.slots_QK, NO_SLOT), scores_QC, self.k)
        if own_QC[found.slots_QK != NO_SLOT].all():
            return best_QK
        slots_QC = np.concatenate([best_QK, np.where(own_QC, NO_SLOT, found.slots_QK)], axis=1)
        order_QC = np.argsort(slots_QC == NO_SLOT, axis=1, kind="stable")
        width = int((slots_QC != NO_SLOT).sum(axis=1).max(initial=0))
        moved_QC: Slots = np.take_along_axis(slots_QC, order_QC, 1)[:, :width]
        return moved_QC

    def gather(self, slots_QK: Slots) -> Candidates:
        """Reads the rows of slots, `NO_SLOT` where a query has fewer than K."""
        there_QK = slots_QK != NO_SLOT
        slots_B = slots_QK[there_QK]
        keys_BD, values_BV = self.rows.pairs(slots_B) if self.rows else self._encode(slots_B)
        mask_QK = torch.from_numpy(there_QK).to(keys_BD.device)
        return Candidates(
            slots_QK, mask_QK, _spread(keys_BD, there_QK), _spread(values_BV, there_QK)
        )

    def _encode(self, slots_B: Slots) -> tuple[Tensor, Tensor]:
        encoding = self.memory.config.encoding_config
        columns = [*encoding.key, *(c for c in encoding.value if c not in encoding.key)]
        records = self.memory.gather(
            slots_B, vectors=False, columns=columns, list_limit=self.list_limit
        ).records
        assert records is not None
        # Many name the same row, which is read once.
        named = [self._named(name, records[column]) for column, name in encoding.key.items()]
        keys_BD = reduce(torch.add, (rows_UD.index_select(0, at_B) for rows_UD, at_B in named))
        for column, name in encoding.value.items():
            return keys_BD, self._mean_of(name, records[column])
        return keys_BD, keys_BD

    def _mean_of(self, name: str, named: pa.ChunkedArray) -> Tensor:
        """The row that each record names, or the mean of the rows in its list."""
        if not pa.types.is_list(named.type):
            rows_UD, at_B = self._named(name, named)
            return rows_UD.index_select(0, at_B)
        column = named.combine_chunks()
        rows_UD, at_R = self._named(name, column.flatten())
        offsets = torch.from_numpy(column.offsets.to_numpy().astype(np.int64)).to(rows_UD.device)
        starts = offsets[:-1] - offsets[0]
        return functional.embedding_bag(at_R, rows_UD, starts, mode="mean")

    def _named(self, name: str, named: pa.ChunkedArray | pa.Array) -> tuple[Tensor, Tensor]:
        """The distinct rows of a part that are named, `[U, D]`, and which of them by each."""
        slots_U, at_B = np.unique(named.to_numpy(), return_inverse=True)
        rows_UD = self.parts[name](slots_U)
        return rows_UD, torch.from_numpy(at_B).to(rows_UD.device)


def _has_gradient(leaf: _Leaf) -> bool:
    tensors = (leaf.keys_BD, leaf.values_BV)
    return any(tensor is not None and tensor.grad is not None for tensor in tensors)


def _gradients_of(table: RowTable) -> RowGradients:
    """Those of all leaves that have some, one leaf behind the other."""
    config = table.memory.config
    leaves = [leaf for leaf in table.pending if _has_gradient(leaf)]
    values = [leaf.values_BV for leaf in leaves if leaf.values_BV is not None]
    return RowGradients(
        np.concatenate([np.empty(0, np.int64), *(leaf.slots_B for leaf in leaves)]),
        _gradients([leaf.keys_BD for leaf in leaves], config.dim, config.dtype),
        None if config.value_dim is None else _gradients(values, config.value_dim, config.dtype),
    )


def _gradients(leaves: list[Tensor], width: int, dtype: str) -> Array:
    """The gradients of leaves, one behind the other; zeros where a leaf took no part."""
    if not leaves:
        return np.empty((0, width), np.float64 if dtype == "float64" else np.float32)
    grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    gathered: Array = torch.cat(grads).cpu().numpy()
    return gathered


def _spread(rows_BD: Tensor, there: Slots) -> Tensor:
    """Lays rows out over the places that are true in `there`; zeros elsewhere."""
    shape = (*there.shape, rows_BD.shape[1])
    if there.all():
        return rows_BD.reshape(shape)
    places = torch.from_numpy(np.flatnonzero(there)).to(rows_BD.device)
    spread = rows_BD.new_zeros(there.size, rows_BD.shape[1])
    return spread.index_copy(0, places, rows_BD).view(shape)
