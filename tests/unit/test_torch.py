"""The reader's gradients are those of dense attention, and its steps those of torch.optim."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import memstore
from memstore import (
    NO_SLOT,
    EncodingConfig,
    IndexConfig,
    Memory,
    MemoryConfig,
    OptimizerConfig,
    Proposal,
    SearchOptions,
    Store,
)
from memstore.errors import InvalidArgument
from memstore.memory import Array
from memstore.torch import RowOptimizer, RowTable, SparseReader, attend

D, V, N = 5, 3, 17
EXACT = SearchOptions(exact=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path) as opened:
        yield opened


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def plain(store: Store, value_dim: int | None, shards: int = 1, **config: Any) -> Memory:
    settings: dict[str, Any] = {"dim": D, "dtype": "float64", "index": "exact"} | config
    memory = store.create("m", MemoryConfig(value_dim=value_dim, shards=shards, **settings))
    dtype = memory.config.dtype
    values = None if value_dim is None else normal(2, N, value_dim).astype(dtype)
    memory.append(normal(1, N, D).astype(dtype), values)
    return memory


def tables(memory: Memory) -> tuple[Tensor, Tensor]:
    """The rows of a memory as dense leaves; twice the same where the key is the value."""
    rows = memory.gather(np.arange(memory.describe().next_slot))
    keys = torch.from_numpy(rows.keys_BD).requires_grad_()
    return keys, keys if rows.values_BV is None else torch.from_numpy(
        rows.values_BV
    ).requires_grad_()


def dense_read(query_QD: Tensor, keys_ND: Tensor, values_NV: Tensor, k: int) -> Tensor:
    """Softmax over the k slots of highest score among all N."""
    scores_QN = query_QD @ keys_ND.T
    floor_Q1 = torch.topk(scores_QN, k).values[:, -1:]
    return torch.softmax(scores_QN.masked_fill(scores_QN < floor_Q1, -torch.inf), 1) @ values_NV


def dense_gradients(table: RowTable) -> tuple[Array, Array]:
    """The gradients that wait in a table, added up by slot."""
    state = table.memory.describe()
    key_grads = np.zeros((state.next_slot, table.memory.config.dim))
    value_grads = np.zeros((state.next_slot, table.memory.config.value_dim or 0))
    for leaf in table.pending:
        for grads, tensor in ((key_grads, leaf.keys_BD), (value_grads, leaf.values_BV)):
            if tensor is not None and tensor.grad is not None:
                np.add.at(grads, leaf.slots_B, tensor.grad.numpy())
    return key_grads, value_grads


def row(memory: Memory, slot: int) -> Array:
    """The key of one slot, `[1, D]`."""
    keys_BD = memory.gather(np.array([slot])).keys_BD
    assert keys_BD is not None
    return keys_BD


def close(found: Any, expected: Any, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("k", [1, 4, N])
@pytest.mark.parametrize("value_dim", [None, V])
def test_the_reader_is_dense_attention(
    store: Store, value_dim: int | None, k: int, shards: int
) -> None:
    memory = plain(store, value_dim, shards)
    reader = SparseReader(memory, k=k)
    keys_ND, values_NV = tables(memory)
    query, dense_query = (torch.from_numpy(normal(3, 4, D)).requires_grad_() for _ in range(2))
    reading = reader(query)
    expected = dense_read(dense_query, keys_ND, values_NV, k)
    close(reading.output_QV.detach(), expected.detach())
    close(reading.weights_QK.sum(1).detach(), np.ones(4))

    weights = torch.from_numpy(normal(4, *expected.shape))
    (reading.output_QV * weights).sum().backward()
    (expected * weights).sum().backward()
    assert query.grad is not None
    assert dense_query.grad is not None
    close(query.grad, dense_query.grad)
    assert reader.rows is not None
    key_grads, value_grads = dense_gradients(reader.rows)
    assert keys_ND.grad is not None
    close(key_grads, keys_ND.grad)
    if value_dim is not None:
        assert values_NV.grad is not None
        close(value_grads, values_NV.grad)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("union", [False, True])
@pytest.mark.parametrize("value_dim", [None, V])
def test_the_reader_is_dense_attention_over_what_training_adds(
    store: Store, value_dim: int | None, union: bool, shards: int
) -> None:
    memory = plain(store, value_dim, shards)
    options = SearchOptions(union=union, sample_random=4, seed=0)
    reader = SparseReader(memory, k=2, options=options)
    keys_ND, values_NV = tables(memory)
    query, dense_query = (torch.from_numpy(normal(3, 4, D)).requires_grad_() for _ in range(2))
    there_QN = np.zeros((4, N), bool)
    slots_QK = memory.search(query.detach().numpy(), 2, options).slots_QK
    for there_N, slots_K in zip(there_QN, slots_QK, strict=True):
        there_N[slots_K[slots_K != NO_SLOT]] = True
    assert (there_QN.sum(1) >= 4).all()
    assert not there_QN.all()

    reading = reader(query)
    assert reading.candidates.slots_QK.shape == (
        (1, there_QN[0].sum()) if union else slots_QK.shape
    )
    scores_QN = (dense_query @ keys_ND.T).masked_fill(~torch.from_numpy(there_QN), -torch.inf)
    expected = torch.softmax(scores_QN, 1) @ values_NV
    close(reading.output_QV.detach(), expected.detach())
    weights = torch.from_numpy(normal(4, *expected.shape))
    (reading.output_QV * weights).sum().backward()
    (expected * weights).sum().backward()
    assert query.grad is not None
    assert dense_query.grad is not None
    close(query.grad, dense_query.grad)
    assert reader.rows is not None
    key_grads, value_grads = dense_gradients(reader.rows)
    assert keys_ND.grad is not None
    close(key_grads, keys_ND.grad)
    if value_dim is not None:
        assert values_NV.grad is not None
        close(value_grads, values_NV.grad)


def test_a_reader_with_a_seed_repeats_its_run_but_no_step(store: Store) -> None:
    memory = plain(store, None)
    options = SearchOptions(sample_random=5, union=True, seed=3)
    query = torch.from_numpy(normal(3, 2, D))
    first, again = (
        [reader.search(query).tolist() for _ in range(4)]
        for reader in (SparseReader(memory, k=1, options=options) for _ in range(2))
    )
    assert first == again
    assert any(slots != first[0] for slots in first[1:])


@pytest.mark.parametrize(
    ("options", "learns"),
    [
        (SearchOptions(), False),
        (SearchOptions(sample_random=8, seed=0), True),
        (SearchOptions(union=True, sample_random=8, seed=0), True),
        (SearchOptions(union=True, sample_clusters=2, sample_random=8, seed=0), True),
    ],
)
def test_rows_that_no_query_finds_are_trained_by_what_is_sampled(
    store: Store, options: SearchOptions, learns: bool
) -> None:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(200, D)).astype(np.float32)
    index = IndexConfig(clusters=8, probe=1)
    memory = store.create(
        "m", MemoryConfig(dim=D, index=index, optimizer=OptimizerConfig(kind="sgd"))
    )
    memory.append(keys)
    memory.reindex()
    queries = torch.from_numpy(rng.normal(size=(6, D)).astype(np.float32))
    # Each query shall find the row that is now the farthest from it.
    wanted_Q = (queries.numpy() @ keys.T).argmin(1)
    reader = SparseReader(memory, k=4, options=options)
    assert reader.rows is not None
    rows = RowOptimizer([reader.rows], lr=0.5)
    for _ in range(400):
        reading = reader(queries)
        is_wanted_QK = torch.from_numpy(reading.candidates.slots_QK == wanted_Q[:, None])
        chance_Q = (reading.weights_QK * is_wanted_QK).sum(1)
        (-torch.log(chance_Q[chance_Q > 0])).sum().backward()
        rows.step()
    found = memory.search(queries.numpy(), 1, EXACT).slots_QK[:, 0]
    assert (found == wanted_Q).all() == learns


@pytest.mark.parametrize("k", [3, N])
@pytest.mark.parametrize("value_dim", [None, V])
def test_gradcheck_of_the_query(store: Store, value_dim: int | None, k: int) -> None:
    reader = SparseReader(plain(store, value_dim), k=k)
    query = torch.from_numpy(normal(3, 2, D)).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: reader(q).output_QV, (query,))


OBJECTS: list[list[int]] = [[0], [1, 2], [3, 3, 4], [], [5, 0, 1, 2, 3], [2], [], [4, 1]]
SUBJECTS = [0, 1, 2, 3, 4, 5, 0, 0]
RELATIONS = [0, 1, 2, 0, 1, 2, 1, 0]


def encoded(
    store: Store, objects: list, kind: str, shards: int = 1, **config: Any
) -> tuple[Memory, RowTable, RowTable]:
    settings: dict[str, Any] = {"dim": D, "dtype": "float64"} | config
    part = MemoryConfig(index="none", shards=shards, **settings)
    entities, relations = store.create("entities", part), store.create("relations", part)
    entities.append(normal(1, 6, D).astype(part.dtype))
    relations.append(normal(2, 3, D).astype(part.dtype))
    facts = store.create(
        "facts",
        MemoryConfig(
            index="exact",
            shards=shards,
            records={"subject": "int64", "relation": "int64", "object": kind},
            encoding=EncodingConfig(
                key={"subject": "entities", "relation": "relations"}, value={"object": "entities"}
            ),
            **settings,
        ),
    )
    facts.append(records={"subject": SUBJECTS, "relation": RELATIONS, "object": objects})
    return facts, RowTable(entities), RowTable(relations)


def dense_facts(entities_ND: Tensor, relations_ND: Tensor, objects: list) -> tuple[Tensor, Tensor]:
    keys = entities_ND[SUBJECTS] + relations_ND[RELATIONS]
    lists = [held if isinstance(held, list) else [held] for held in objects]
    zeros = torch.zeros(D, dtype=keys.dtype)
    values = [entities_ND[held].mean(0) if held else zeros for held in lists]
    return keys, torch.stack(values)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("k", [3, 8])
@pytest.mark.parametrize(
    ("objects", "kind", "list_limit"),
    [
        (OBJECTS, "list<int64>", 16),
        (OBJECTS, "list<int64>", 2),
        ([3, 1, 4, 1, 5, 0, 2, 2], "int64", 16),
    ],
)
def test_an_encoded_memory_is_read_from_its_parts(
    store: Store, objects: list, kind: str, list_limit: int, k: int, shards: int
) -> None:
    facts, entities, relations = encoded(store, objects, kind, shards)
    reader = SparseReader(facts, k=k, parts=[entities, relations], list_limit=list_limit)
    (entities_ND, _), (relations_ND, _) = tables(entities.memory), tables(relations.memory)
    cut = [held[:list_limit] if isinstance(held, list) else held for held in objects]
    query, dense_query = (torch.from_numpy(normal(3, 4, D)).requires_grad_() for _ in range(2))
    reading = reader(query)
    expected = dense_read(dense_query, *dense_facts(entities_ND, relations_ND, cut), k)
    close(reading.output_QV.detach(), expected.detach())

    weights = torch.from_numpy(normal(4, *expected.shape))
    (reading.output_QV * weights).sum().backward()
    (expected * weights).sum().backward()
    assert query.grad is not None
    assert dense_query.grad is not None
    close(query.grad, dense_query.grad)
    for table, dense in ((entities, entities_ND), (relations, relations_ND)):
        assert dense.grad is not None
        close(dense_gradients(table)[0], dense.grad)


def test_the_reader_scores_parts_as_they_are_now(store: Store) -> None:
    facts, entities, relations = encoded(store, OBJECTS, "list<int64>")
    reader = SparseReader(facts, k=8, parts=[entities, relations])
    entities.memory.write(np.arange(6), normal(9, 6, D))
    (entities_ND, _), (relations_ND, _) = tables(entities.memory), tables(relations.memory)
    query = torch.from_numpy(normal(3, 2, D))
    expected = dense_read(query, *dense_facts(entities_ND, relations_ND, OBJECTS), 8)
    close(reader(query).output_QV.detach(), expected.detach())


@pytest.mark.parametrize("random", [0, 3])
def test_spare_slots_make_good_what_parts_learnt_since(store: Store, random: int) -> None:
    facts, entities, relations = encoded(store, OBJECTS, "list<int64>")
    options = SearchOptions(exact=True, sample_random=random, seed=0)
    relations.memory.write(np.arange(3), 3 * normal(9, 3, D))
    (entities_ND, _), (relations_ND, _) = tables(entities.memory), tables(relations.memory)
    keys_ND = dense_facts(entities_ND, relations_ND, OBJECTS)[0].detach().numpy()
    scores_QN = normal(3, 20, D) @ keys_ND.T
    query = torch.from_numpy(normal(3, 20, D))
    reader = SparseReader(facts, k=2, options=options, parts=[entities, relations], spare=3)
    found = reader.search(query)
    # By sums that are old five are found; the best two of them as they are now come first.
    proposed = facts.search(query.numpy(), 5, options)
    own = proposed.proposal_QK == Proposal.EXACT
    changed = False
    for q, slots in enumerate(proposed.slots_QK):
        best = sorted(slots[own[q]].tolist(), key=lambda slot: -scores_QN[q, slot])[:2]
        assert found[q, :2].tolist() == best
        added = slots[~own[q] & (slots != NO_SLOT)].tolist()
        assert found[q, 2:].tolist() == added + [NO_SLOT] * (found.shape[1] - 2 - len(added))
        changed |= best != slots[own[q]][:2].tolist()
    assert changed


@pytest.mark.parametrize("objects", [OBJECTS, [[]] * 8], ids=["lists", "empty lists"])
def test_a_query_without_candidates_reads_zeros(store: Store, objects: list) -> None:
    facts, entities, relations = encoded(store, objects, "list<int64>")
    reader = SparseReader(facts, k=2, parts=[entities, relations])
    slots = np.array([[NO_SLOT, NO_SLOT], [3, NO_SLOT], [NO_SLOT, 1]])
    candidates = reader.gather(slots)
    assert candidates.mask_QK.tolist() == (slots != NO_SLOT).tolist()
    reading = attend(torch.ones(3, D, dtype=torch.float64).requires_grad_(), candidates)
    assert reading.output_QV[0].tolist() == [0.0] * D
    assert reading.weights_QK.tolist() == [[0, 0], [1, 0], [0, 1]]
    reading.output_QV.sum().backward()
    key_grads, _ = dense_gradients(entities)
    assert np.isfinite(key_grads).all()


@pytest.mark.parametrize("erased", [0, N])
@pytest.mark.parametrize("value_dim", [None, V])
def test_a_plain_memory_without_candidates_reads_zeros(
    store: Store, value_dim: int | None, erased: int
) -> None:
    memory = plain(store, value_dim)
    reader = SparseReader(memory, k=4)
    memory.erase(np.arange(erased))
    query = torch.from_numpy(normal(3, 2, D)).requires_grad_()
    slots = reader.search(query) if erased else np.full((2, 4), NO_SLOT)
    reading = attend(query, reader.gather(slots))
    assert (slots == NO_SLOT).all()
    assert reading.output_QV.tolist() == [[0.0] * (value_dim or D)] * 2
    reading.output_QV.sum().backward()
    assert query.grad is not None
    assert query.grad.tolist() == [[0.0] * D] * 2


def test_no_query_reads_nothing(store: Store) -> None:
    reader = SparseReader(plain(store, V), k=4)
    assert reader(torch.zeros(0, D, dtype=torch.float64)).output_QV.shape == (0, V)


def test_fewer_rows_than_k_read_as_all(store: Store) -> None:
    memory = plain(store, V)
    keys_ND, values_NV = tables(memory)
    query = torch.from_numpy(normal(3, 4, D))
    reading = SparseReader(memory, k=N + 5)(query)
    assert reading.candidates.slots_QK.shape == (4, N + 5)
    close(reading.output_QV.detach(), dense_read(query, keys_ND, values_NV, N).detach())


@pytest.mark.parametrize("shape", [(0,), (4,), (2, 3), (2, 2, 2)])
def test_a_row_table_keeps_the_shape_of_its_slots(store: Store, shape: tuple[int, ...]) -> None:
    table = RowTable(plain(store, None))
    slots = np.random.default_rng(0).integers(0, N, shape)
    slots.ravel()[1::3] = NO_SLOT
    dense = np.concatenate([tables(table.memory)[0].detach().numpy(), np.zeros((1, D))])
    found = table(torch.from_numpy(slots))
    assert found.shape == (*shape, D)
    assert found.tolist() == dense[slots].tolist()


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float64", 1e-13)])
@pytest.mark.parametrize("kind", ["sgd", "adagrad"])
@pytest.mark.parametrize("value_dim", [None, V])
@pytest.mark.parametrize("shards", [1, 3])
def test_steps_are_those_of_torch_on_dense_tables(
    store: Store, kind: Any, value_dim: int | None, shards: int, dtype: str, rtol: float
) -> None:
    optimizer = OptimizerConfig(kind=kind)
    memory = plain(store, value_dim, shards, dtype=dtype, optimizer=optimizer)
    reader = SparseReader(memory, k=N)
    keys_ND, values_NV = tables(memory)
    leaves = [keys_ND] if value_dim is None else [keys_ND, values_NV]
    dense = (
        torch.optim.SGD(leaves, lr=0.2)
        if kind == "sgd"
        else torch.optim.Adagrad(leaves, lr=0.2, eps=1e-10)
    )
    assert reader.rows is not None
    sparse = RowOptimizer([reader.rows], lr=0.2)
    start = keys_ND.detach().clone()
    for i in range(4):
        query = torch.from_numpy(normal(10 + i, 3, D)).to(keys_ND.dtype)
        # Each row is read by three queries, and once more by itself: four leaves' worth of sums.
        again = np.random.default_rng(i).integers(0, N, 8)
        (reader(query).output_QV.square().sum() + reader.rows(again).square().sum()).backward()
        dense.zero_grad()
        read = torch.softmax(query @ keys_ND.T, 1) @ values_NV
        (read.square().sum() + keys_ND[again].square().sum()).backward()
        assert sparse.step() == N
        dense.step()
    assert (keys_ND - start).abs().max() > 0.1
    rows = memory.gather(np.arange(N))
    close(rows.keys_BD, keys_ND.detach(), rtol)
    if value_dim is not None:
        close(rows.values_BV, values_NV.detach(), rtol)


def test_steps_of_parts_are_those_of_torch_on_dense_tables(store: Store) -> None:
    kind = OptimizerConfig(kind="adagrad")
    facts, entities, relations = encoded(store, OBJECTS, "list<int64>", optimizer=kind)
    reader = SparseReader(facts, k=8, parts=[entities, relations])
    dense = [tables(table.memory)[0] for table in (entities, relations)]
    dense_optimizer = torch.optim.Adagrad(dense, lr=0.2, eps=1e-10)
    optimizer = RowOptimizer([entities, relations], lr=0.2)
    for i in range(4):
        query = torch.from_numpy(normal(10 + i, 3, D))
        reader(query).output_QV.square().sum().backward()
        dense_optimizer.zero_grad()
        dense_read(query, *dense_facts(dense[0], dense[1], OBJECTS), 8).square().sum().backward()
        assert optimizer.step() == 9
        dense_optimizer.step()
    for table, tensor in zip((entities, relations), dense, strict=True):
        close(tables(table.memory)[0].detach(), tensor.detach())


def test_equal_slots_of_one_step_are_summed(store: Store) -> None:
    memory = plain(store, None, optimizer=OptimizerConfig(kind="adagrad", lr=1.0))
    table = RowTable(memory)
    before = row(memory, 3)
    (table(np.array([3, 3])).sum() + 2 * table(np.array([[3, NO_SLOT]])).sum()).backward()
    assert RowOptimizer([table]).step() == 1
    after = row(memory, 3)
    # One step with g = 4: lr · 4 / √16. Three steps would have gone 1 + 1/√2 + 2/√6 = 2.5.
    close(before - after, np.ones((1, D)), 1e-9)


def test_a_step_takes_the_learning_rate_of_the_memory_unless_told(store: Store) -> None:
    memory = plain(store, None, optimizer=OptimizerConfig(kind="sgd", lr=0.25))
    table = RowTable(memory)
    for lr, gone in ((None, 0.25), (0.5, 0.75)):
        table(np.array([0])).sum().backward()
        RowOptimizer([table], lr=lr).step()
        close(normal(1, N, D)[:1] - row(memory, 0), np.full((1, D), gone))


def test_rows_read_without_gradients_leave_nothing(store: Store) -> None:
    reader = SparseReader(plain(store, V), k=3)
    assert reader.rows is not None
    with torch.no_grad():
        reader(torch.ones(2, D, dtype=torch.float64))
        reader.rows(np.array([1, 2]))
    assert reader.rows.pending == []


def test_rows_read_but_not_trained_leave_the_memory_as_it_was(store: Store) -> None:
    memory = plain(store, V)
    reader = SparseReader(memory, k=3)
    assert reader.rows is not None
    optimizer = RowOptimizer([reader.rows])
    version = memory.describe().shards[0].row_version
    reader(torch.ones(2, D, dtype=torch.float64))
    assert optimizer.step() == 0  # no backward
    reader(torch.ones(2, D, dtype=torch.float64)).output_QV.sum().backward()
    optimizer.zero_grad()
    assert optimizer.step() == 0
    assert memory.describe().shards[0].row_version == version
    assert reader.rows.pending == []


def test_the_same_table_twice_is_stepped_once(store: Store) -> None:
    memory = plain(store, None, optimizer=OptimizerConfig(kind="sgd", lr=1.0))
    table = RowTable(memory)
    table(np.array([0])).sum().backward()
    assert RowOptimizer([table, table]).step() == 1
    close(normal(1, N, D)[:1] - row(memory, 0), np.ones((1, D)))


@pytest.mark.parametrize("given", [[], ["entities"], ["entities", "relations", "m"]])
def test_the_parts_must_be_those_of_the_memory(store: Store, given: list[str]) -> None:
    facts, *_ = encoded(store, OBJECTS, "list<int64>")
    plain(store, None)
    with pytest.raises(InvalidArgument, match="do not fit"):
        SparseReader(facts, k=2, parts=[RowTable(store.memory(name)) for name in given])


def test_a_plain_memory_has_no_parts(store: Store) -> None:
    memory = plain(store, None)
    with pytest.raises(InvalidArgument, match="do not fit"):
        SparseReader(memory, k=2, parts=[RowTable(memory)])
