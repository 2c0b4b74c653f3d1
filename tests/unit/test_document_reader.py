"""Reading documents: keys, values and the whole network against the dense equations, float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import memstore
from memstore import NO_SLOT, MemoryConfig, Store
from memstore.errors import Unsupported
from memstore.torch import RowOptimizer, RowTable
from models.asked import Asked
from models.document_reader import DocumentReader
from models.kv_memnn import KVMemNN, answer_loss
from models.tasks.documents import SCHEMA
from models.tasks.memories import kind_of
from tests.unit.few_facts import dense_rows, waiting

D, WORDS, ENTITIES, KINDS = 6, 5, 7, 3
# Relation, objects, words, entities: a window has its centre first, and it may be there twice.
SLOTS: list[tuple[int, list[int], list[int], list[int]]] = [
    (1, [3], [0, 2, 2], [3, 5]),
    (1, [4], [], [4]),
    (2, [5], [0, 4], [3, 5, 3]),
    (2, [0], [1], [6, 0]),
    (1, [6], [3, 1, 0], [6, 4, 0, 2]),
]
READ = np.array([[0, 2, NO_SLOT], [2, 4, 1], [NO_SLOT] * 3, [3, 3, 0]])
ASKED = Asked(np.array([[0, 1], [4, NO_SLOT], [2, 2], [3, 0]]), np.array([5, 4, 1, NO_SLOT]), READ)
ANSWERS = np.array([[3, 5, 0], [6, 4, NO_SLOT], [1, 2, 3], [0, 6, 2]])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as opened:
        yield opened


def reader(store: Store, *, whole: bool = False, apart: bool = False) -> DocumentReader:
    rng = np.random.default_rng(2)

    def table(name: str, rows: int) -> RowTable:
        config = MemoryConfig(dim=D, dtype="float64", index="none", optimizer="sgd")
        store.create(name, config).append(rng.standard_normal((rows, D)))
        return RowTable(store.memory(name))

    tables = table("words", WORDS), table("entities", ENTITIES), table("kinds", KINDS)
    columns = {field.name: kind_of(field) for field in SCHEMA}
    slots = store.create(
        "slots", MemoryConfig(dim=1, index="none", records=columns, lookup=("entities",))
    )
    kinds, objects, words, entities = (list(column) for column in zip(*SLOTS, strict=True))
    slots.append(
        np.zeros((len(SLOTS), 1), np.float32),
        records={
            "subject": [0] * len(SLOTS),
            "relation": kinds,
            "objects": objects,
            "words": words,
            "entities": entities,
        },
    )
    own = table("answers", ENTITIES) if apart else None
    return DocumentReader(slots, *tables, answers=own, whole=whole)


def tables_of(read: DocumentReader) -> list[RowTable]:
    found = [read.words, read.entities, read.kinds]
    return found if read.answers is None else [*found, read.answers]


def dense_slots(read: DocumentReader, dense: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The keys and values of all slots, by the equations of the module."""
    keys, values = [], []
    for kind, objects, words, entities in SLOTS:
        bag = torch.zeros(D).double()
        for word in words:
            bag = bag + dense["words"][word]
        if read.answers is None:
            for entity in entities:
                bag = bag + dense["entities"][entity]
        else:
            centre, *others = entities
            for entity in others:
                bag = bag + dense["entities"][entity]
            bag = bag + dense["answers"][centre]
        keys.append(bag + dense["kinds"][kind])
        named = dense["entities"] if read.answers is None else dense["answers"]
        values.append(bag if read.whole else named[objects].sum(0))
    return torch.stack(keys), torch.stack(values)


@pytest.mark.parametrize("how", [{}, {"whole": True}, {"apart": True}])
def test_the_network_and_its_gradients_are_those_of_the_dense_equations(
    store: Store, how: dict[str, bool]
) -> None:
    read = reader(store, **how)
    network = KVMemNN(read.words, read.entities, read, hops=2, answers=read.answers).double()
    with torch.no_grad():
        noise = np.random.default_rng(5).standard_normal((2, D, D))
        for hop, noise_DD in zip(network.hops, noise, strict=True):
            hop.add_(torch.from_numpy(0.2 * noise_DD))
    loss, _ = answer_loss(network, answered := network(ASKED), ANSWERS)
    loss.backward()

    dense = {table.memory.name: dense_rows(table.memory) for table in tables_of(read)}
    hops = [hop.detach().clone().requires_grad_() for hop in network.hops]
    keys_ND, values_ND = dense_slots(read, dense)
    total = torch.zeros(()).double()
    for q, (bag, entity) in enumerate(zip(ASKED.words_QW, ASKED.entity_Q, strict=True)):
        query = dense["words"][bag[bag != NO_SLOT]].sum(0)
        query = query if entity == NO_SLOT else query + dense["entities"][entity]
        slots = READ[q][READ[q] != NO_SLOT]
        for hop in hops:
            p = torch.softmax(keys_ND[slots] @ query, 0)
            query = hop @ (query + p @ values_ND[slots])
        torch.testing.assert_close(answered.query_QD[q], query)
        rows = dense["entities"] if read.answers is None else dense["answers"]
        scores = rows[ANSWERS[q][ANSWERS[q] != NO_SLOT]] @ query
        total = total + torch.logsumexp(scores, 0) - scores[0]
    torch.testing.assert_close(loss, total / len(READ))
    (total / len(READ)).backward()
    for hop, expected in zip(network.hops, hops, strict=True):
        torch.testing.assert_close(hop.grad, expected.grad)
    for table in tables_of(read):
        grad = dense[table.memory.name].grad
        expected_rows = np.zeros_like(waiting(table)) if grad is None else grad.numpy()
        np.testing.assert_allclose(waiting(table), expected_rows, atol=1e-12)
    RowOptimizer(tables_of(read), lr=0.1).step()
    after = {table.memory.name: dense_rows(table.memory) for table in tables_of(read)}
    for name, rows in dense.items():
        moved = rows if rows.grad is None else rows - 0.1 * rows.grad
        torch.testing.assert_close(after[name], moved, check_dtype=True)


def test_what_names_an_entity_is_found_by_it(store: Store) -> None:
    found = reader(store).memory.lookup("entities", np.array([3, 1, 0]), 8)
    assert found.padded().tolist() == [[0, 2], [NO_SLOT] * 2, [3, 4]]


def test_slots_are_not_searched_for(store: Store) -> None:
    with pytest.raises(Unsupported, match="look up the slots"):
        reader(store).search(torch.zeros(1, D))
