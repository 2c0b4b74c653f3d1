"""Simple question answering against its equations in plain numpy: scores, loss, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import memstore
from memstore import NO_SLOT, MemoryConfig
from memstore.torch import RowOptimizer, RowTable
from models.simple_qa import Bag, Facts, SimpleQA, ranking_loss
from tests.unit.few_facts import dense_rows, waiting

D, SIZES = 6, {"words": 7, "names": 5, "entities": 6, "relations": 4}

ASKED = Bag(np.array([[0, 3, 3], [2, NO_SLOT, NO_SLOT]]), np.array([[1], [NO_SLOT]]))
FACTS = Facts(
    np.array([[0, 0, 2, NO_SLOT], [5, 1, 1, 0]]),
    np.array([[1, 3, 1, NO_SLOT], [0, 0, 2, 3]]),
    np.array(
        [
            [[1, 2], [3, NO_SLOT], [NO_SLOT, NO_SLOT], [NO_SLOT, NO_SLOT]],
            [[4, NO_SLOT], [0, 1], [2, 2], [5, NO_SLOT]],
        ]
    ),
)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[SimpleQA]:
    rng = np.random.default_rng(0)
    with memstore.open(tmp_path / "store") as store:
        tables = []
        for name, rows in SIZES.items():
            memory = store.create(
                name, MemoryConfig(dim=D, dtype="float64", index="none", optimizer="sgd")
            )
            memory.append(rng.standard_normal((rows, D)))
            tables.append(RowTable(memory))
        yield SimpleQA(*tables)


def tables(network: SimpleQA) -> list[RowTable]:
    return [network.words, network.names, network.entities, network.relations]


def dense(network: SimpleQA) -> dict[str, Tensor]:
    return {table.memory.name: dense_rows(table.memory) for table in tables(network)}


def query(rows: dict[str, Tensor], asked: Bag, q: int) -> Tensor:
    """W_V g(q)."""
    bags = ("words", asked.words_QW[q]), ("names", asked.names_QN[q])
    return torch.stack([rows[name][s] for name, bag in bags for s in bag if s != NO_SLOT]).sum(0)


def fact(rows: dict[str, Tensor], facts: Facts, q: int, k: int) -> Tensor:
    """W_S f(y)."""
    found = rows["entities"][facts.subject_QK[q, k]] + rows["relations"][facts.relation_QK[q, k]]
    if facts.objects_QKO is not None:
        own = [o for o in facts.objects_QKO[q, k] if o != NO_SLOT]
        for o in own:
            found = found + rows["entities"][o] / len(own)
    return found


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def reference(rows: dict[str, Tensor], facts: Facts) -> list[list[Tensor]]:
    """Equation 99, one pair after the other; −inf where there is no fact."""
    return [
        [
            cosine(query(rows, ASKED, q), fact(rows, facts, q, k))
            if facts.subject_QK[q, k] != NO_SLOT
            else torch.tensor(-torch.inf, dtype=torch.float64)
            for k in range(facts.subject_QK.shape[1])
        ]
        for q in range(len(ASKED))
    ]


def naive_loss(scores: list[list[Tensor]], margin: float) -> Tensor:
    """Counts who violates the margin, and adds up by loops."""
    total = torch.zeros((), dtype=torch.float64)
    for right, *wrong in scores:
        short = [margin - right + other for other in wrong if margin - right + other > 0]
        if short:
            total = total + sum(1 / i for i in range(1, len(short) + 1)) / len(short) * sum(short)
    return total / len(scores)


@pytest.mark.parametrize("objects", [True, False])
def test_scores_and_gradients_equal_the_dense_equations(network: SimpleQA, objects: bool) -> None:
    facts = FACTS if objects else Facts(FACTS.subject_QK, FACTS.relation_QK)
    margin, rows = 1.0, dense(network)
    expected = reference(rows, facts)
    scores_QK = network(ASKED, facts)
    told = np.array([[s.item() for s in row] for row in expected])
    np.testing.assert_allclose(scores_QK.detach().numpy(), told, rtol=1e-12)
    loss, hits = ranking_loss(scores_QK, margin)
    naive = naive_loss(expected, margin)
    assert loss.item() == pytest.approx(naive.item(), rel=1e-12)
    assert hits == np.mean(told.argmax(axis=1) == 0)
    loss.backward()
    naive.backward()
    for table in tables(network):
        gradient = rows[table.memory.name].grad
        assert gradient is not None
        assert gradient.abs().sum() > 0
        np.testing.assert_allclose(waiting(table), gradient.numpy(), atol=1e-12)
    before = dense_rows(network.entities.memory).detach().numpy()
    RowOptimizer(tables(network), lr=0.5).step()
    after = dense_rows(network.entities.memory).detach().numpy()
    gradient = rows["entities"].grad
    assert gradient is not None
    np.testing.assert_allclose(after, before - 0.5 * gradient.numpy(), atol=1e-12)


def test_pairs_score_as_facts_without_objects_do(network: SimpleQA) -> None:
    entities_QE, relation_R = np.array([[0, 4], [3, NO_SLOT]]), np.array([2, 0, 3])
    with torch.no_grad():
        found_QER = network.score_pairs(ASKED, entities_QE, relation_R)
        for e in range(2):
            subject_QK = np.repeat(entities_QE[:, e : e + 1], 3, axis=1)
            relation_QK = np.where(subject_QK == NO_SLOT, NO_SLOT, relation_R)
            expected = network(ASKED, Facts(subject_QK, relation_QK))
            torch.testing.assert_close(found_QER[:, e], expected)


def test_facts_of_another_base_are_symbols_and_words(network: SimpleQA) -> None:
    """Equation 100: what bears the name of an entity is that entity, all else its words."""
    rows = dense(network)
    subject_B, object_B = np.array([2, NO_SLOT, 1]), np.array([NO_SLOT, NO_SLOT, 4])
    words_BW = np.array([[0, 1, 5], [6, 2, NO_SLOT], [3, NO_SLOT, NO_SLOT]])
    with torch.no_grad():
        found_BD = network.encode_linked(subject_B, object_B, words_BW)
        scores_QB = network.encode(ASKED) @ found_BD.T
    for b in range(3):
        parts = [rows["entities"][s] for s in (subject_B[b], object_B[b]) if s != NO_SLOT]
        parts += [rows["words"][w] for w in words_BW[b] if w != NO_SLOT]
        for q in range(len(ASKED)):
            expected = cosine(query(rows, ASKED, q), torch.stack(parts).sum(0))
            assert float(scores_QB[q, b]) == pytest.approx(float(expected.detach()), rel=1e-12)


def test_the_loss_counts_who_violates_the_margin() -> None:
    scores = torch.tensor(
        [[0.9, 0.85, 0.3, -torch.inf], [0.2, 0.3, 0.25, 0.05], [0.9, 0.1, 0.2, 0.3]],
        dtype=torch.float64,
    )
    loss, hits = ranking_loss(scores, 0.1)
    first, second = 0.05, (1 + 1 / 2) / 2 * (0.2 + 0.15)
    assert loss.item() == pytest.approx((first + second) / 3)
    assert hits == pytest.approx(2 / 3)
    rng = np.random.default_rng(1)
    drawn = torch.tensor(rng.uniform(-1, 1, (4, 6)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: ranking_loss(s, 0.3)[0], (drawn,))
