"""The hierarchical memory network: its equations against a dense reference, and cells that learn
while they are indexed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import memstore
from memstore import IndexConfig, MemoryConfig, SearchOptions, Store
from memstore.memory import Slots
from memstore.recall import measure_recall
from memstore.torch import RowOptimizer, RowTable, SparseReader, attend
from models import hmn
from models.asked import Asked
from models.hierarchies import Hashed, Tree
from models.hmn import HMN, NamedHMN, Propose, cell_loss, everything, with_right
from models.kv_memnn import Answered
from models.simple_qa import Bag
from models.tasks.memories import Holder
from tests.congruence.served import ServedStore
from tests.unit.few_facts import FACTS, D, Few, dense_facts, dense_rows, few, waiting

ASKED = Asked(np.array([[0, 1], [4, -1], [2, 3]]), np.array([0, 1, -1]))
RIGHT = np.array([[1, -1], [2, 3], [7, -1]])
EXACT = SearchOptions(exact=True)
ALL = np.arange(len(FACTS))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as opened:
        yield opened


def network(
    facts: Few, k: int, options: SearchOptions = EXACT, propose: Propose | None = None
) -> HMN:
    reader = SparseReader(facts.facts, k=k, options=options, parts=facts.tables[1:])
    made = HMN(facts.words, facts.entities, reader, propose=propose).double()
    noise_DD = np.random.default_rng(7).standard_normal((D, D))
    with torch.no_grad():
        made.project.add_(torch.from_numpy(0.2 * noise_DD))
    return made


def dense_hmn(
    dense: dict[str, Tensor], project_DD: Tensor, k: int, read: list[list[int]] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Equations 92-93 question by question: h(q), p over all cells, and R_out.

    read: the cells of each question; None is its K best.
    """
    keys_ND, values_NV = dense_facts(dense)
    queries, weights, outputs = [], [], []
    for i, (bag, entity) in enumerate(zip(ASKED.words_QW, ASKED.entity_Q, strict=True)):
        named = dense["entities"][entity] if entity >= 0 else torch.zeros(D).double()
        query_D = project_DD @ (dense["words"][bag[bag >= 0]].sum(0) + named)
        scores_N = keys_ND @ query_D
        chosen = scores_N.topk(k).indices.tolist() if read is None else read[i]
        p_N = torch.zeros(len(FACTS)).double()
        p_N = p_N.index_put((torch.tensor(chosen),), torch.softmax(scores_N[chosen], 0))
        queries.append(query_D)
        weights.append(p_N)
        outputs.append(p_N @ values_NV)
    return torch.stack(queries), torch.stack(weights), torch.stack(outputs)


def spread(answered: Answered) -> Tensor:
    """The weights of a reading, laid out over all cells."""
    reading = answered.hops[0]
    slots = torch.from_numpy(reading.candidates.slots_QK).expand_as(reading.weights_QK)
    p_QN = torch.zeros(len(slots), len(FACTS) + 1, dtype=torch.float64)
    return p_QN.scatter_add(1, slots % (len(FACTS) + 1), reading.weights_QK)[:, : len(FACTS)]


@pytest.mark.parametrize("k", [1, 3, len(FACTS)])
def test_the_k_best_cells_are_read_as_by_the_dense_equations(store: Store, k: int) -> None:
    facts = few(store)
    made = network(facts, k)
    with torch.no_grad():
        answered = made(ASKED)
        query, weights, output = dense_hmn(facts.dense(), made.project, k)
    np.testing.assert_allclose(answered.query_QD, query, rtol=1e-12)
    np.testing.assert_allclose(spread(answered), weights, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(answered.hops[0].output_QV, output, rtol=1e-10)


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("union", [False, True])
@pytest.mark.parametrize("k", [2, 0])
def test_the_loss_has_the_gradients_of_the_dense_network(
    tmp_path: Path, k: int, union: bool, served: bool
) -> None:
    """With the right cells put in; k = 0 is the full softmax."""
    store = ServedStore(tmp_path) if served else memstore.open(tmp_path)
    facts = few(store)
    propose = None if k else everything(ALL)
    options = SearchOptions(exact=True, union=union)
    made = network(facts, max(k, 1), options, propose)
    answered = made(ASKED, RIGHT)
    loss, hits = cell_loss(answered.hops[0], RIGHT)
    loss.backward()

    dense = facts.dense()
    project = made.project.detach().clone().requires_grad_()
    keys_ND, _ = dense_facts(dense)
    best = (dense_hmn(dense, project, k)[0] @ keys_ND.T).topk(k).indices.tolist() if k else []
    right = [[slot for slot in row if slot >= 0] for row in RIGHT.tolist()]
    together = sorted({slot for row in (*best, *right) for slot in row})
    read = {
        0: [ALL.tolist()] * 3,
        2: [together] * 3
        if union
        else [sorted({*b, *r}) for b, r in zip(best, right, strict=True)]
        if k
        else [],
    }[k]
    _, p_QN, _ = dense_hmn(dense, project, k, read)
    found = torch.stack([p_N[slots].sum() for p_N, slots in zip(p_QN, right, strict=True)])
    expected = -found.log().mean()
    expected.backward()
    np.testing.assert_allclose(loss.detach(), expected.detach(), rtol=1e-11)
    firsts = [int(p_N.argmax()) in slots for p_N, slots in zip(p_QN, right, strict=True)]
    assert hits == pytest.approx(np.mean(firsts))
    assert made.project.grad is not None
    assert project.grad is not None
    np.testing.assert_allclose(made.project.grad, project.grad, rtol=1e-9, atol=1e-12)
    for table in facts.tables:
        grad = dense[table.memory.name].grad
        assert grad is not None
        np.testing.assert_allclose(waiting(table), grad, rtol=1e-9, atol=1e-12)
    store.close()


def test_gradients_of_the_own_weight(store: Store) -> None:
    made = network(few(store), 3)
    slots_QK = np.tile(ALL[:4], (3, 1))
    asked = Asked(ASKED.words_QW, ASKED.entity_Q, slots_QK)

    def loss(project: Tensor) -> Tensor:
        answered = torch.func.functional_call(made, {"project": project}, (asked, RIGHT))
        return cell_loss(answered.hops[0], RIGHT)[0] + answered.hops[0].output_QV.square().sum()

    own = made.project.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (own,), fast_mode=True)


@pytest.mark.parametrize(
    ("slots", "right", "joined"),
    [
        ([[4, 2]], [[3, -1], [2, 9]], [[2, 3, 4, 9]]),
        ([[4, 2], [1, -1]], [[3, -1], [1, 5]], [[4, 2, 3, -1], [1, -1, -1, 5]]),
        ([[-1, -1], [1, 2]], [[3], [2]], [[-1, -1, 3], [1, 2, -1]]),
    ],
)
def test_right_cells_are_read_once(
    slots: list[list[int]], right: list[list[int]], joined: list[list[int]]
) -> None:
    assert with_right(np.array(slots), np.array(right)).tolist() == joined


def test_all_the_names_of_a_question_stand_for_its_entity(store: Store) -> None:
    facts = few(store)
    linked = network(facts, 3)
    named = NamedHMN(linked.words, linked.entities, linked.reader).double()
    named.load_state_dict(linked.state_dict())
    with torch.no_grad():
        one = named(Bag(ASKED.words_QW, ASKED.entity_Q[:, None]))
        answered = linked(ASKED).hops[0]
        names_QN = np.array([[0, 3], [2, -1], [-1, -1]])
        several_QD = named.encode(Bag(ASKED.words_QW, names_QN))
        words_QD = named.encode(Bag(ASKED.words_QW, np.full_like(names_QN, -1)))
        rows_QD = torch.stack([linked.entities(np.array(own)).sum(0) for own in ([0, 3], [2], [])])
    np.testing.assert_array_equal(one.candidates.slots_QK, answered.candidates.slots_QK)
    np.testing.assert_allclose(one.weights_QK, answered.weights_QK, rtol=1e-12)
    expected_QD = words_QD + rows_QD @ linked.project.detach().T
    np.testing.assert_allclose(several_QD, expected_QD, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("at_once", [1, 2, 32])
def test_of_all_cells_those_of_most_weight_are_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(hmn, "AT_ONCE", at_once)
    made = network(few(store), 3)
    with torch.no_grad():
        query_QD = made.encode(ASKED)
        whole = attend(query_QD, made.reader.gather(ALL[None])).weights_QK.topk(3, dim=1)
        slots_QK, weights_QK = hmn.heaviest(made.reader, query_QD, ALL[None])
        found_QK = made.reader.search(query_QD)
        own_QK, shares_QK = hmn.heaviest(made.reader, query_QD, found_QK)
    np.testing.assert_array_equal(slots_QK, whole.indices)
    np.testing.assert_allclose(weights_QK, whole.values, rtol=1e-12)
    np.testing.assert_array_equal(own_QK, found_QK)
    np.testing.assert_allclose(shares_QK.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("kind", ["hash", "tree"])
def test_hash_and_tree_find_the_best_cells_among_few(store: Store, kind: str) -> None:
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((60, 24))
    memory = store.create("cells", MemoryConfig(dim=24))
    keys = (centres[rng.integers(0, 60, 6_000)] + rng.standard_normal((6_000, 24))).astype("f4")
    # Cells of two lengths: what is near by angle alone is not what is sought.
    keys[::2] *= 0.5
    memory.append(keys)
    memory.erase(np.arange(50))
    live = np.arange(50, 6_000)
    query = torch.from_numpy((centres[:40] + rng.standard_normal((40, 24))).astype("f4"))
    exact = memory.search(query.numpy(), 10, EXACT).slots_QK
    cells: Hashed | Tree
    if kind == "hash":
        cells = Hashed(memory, live, k=10, scored=600)
    else:
        cells = Tree(memory, live, k=10, leaves=64, branches=5, visited=12)
    found = cells(query)
    shared = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, exact, strict=True)])
    assert shared > 0.9
    # Codes are all compared; the tree has 8 branches and 64 leaves.
    assert cells.cells_scored == len(live) if kind == "hash" else 72 < cells.cells_scored < 2_000
    assert np.isin(found, live).all()


def test_what_the_tree_does_not_reach_is_left_empty(store: Store) -> None:
    facts = few(store)
    tree = Tree(facts.facts, ALL, k=6, leaves=4, branches=1, visited=1)
    found = tree(torch.randn(3, D, dtype=torch.float64))
    assert (found == -1).any()
    assert (found != -1).any(axis=1).all()


class Learning:
    """A question for each of some cells of many: all begin at random, so that all must learn."""

    def __init__(self, holder: Holder, cells: int = 2_000, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        dim, asked = 16, 200

        def memory(name: str, rows: int, index: IndexConfig) -> RowTable:
            config = MemoryConfig(dim=dim, index=index, optimizer="adagrad")
            made = holder.create(name, config)
            made.append(rng.standard_normal((rows, dim)).astype(np.float32) / 2)
            return RowTable(made)

        none = IndexConfig(kind="none")
        self.words, entities = memory("words", 300, none), memory("entities", 1, none)
        lists = IndexConfig(probe=8, clusters=32, fresh_limit=1_024, maintenance="inline")
        options = SearchOptions(union=True, sample_clusters=1, sample_random=20, seed=seed)
        self.cells = memory("cells", cells, lists).memory
        reader = SparseReader(self.cells, k=10, options=options)
        self.network = HMN(self.words, entities, reader)
        self.bags_QW = rng.integers(0, 300, (asked, 3))
        self.right_QR = rng.choice(cells, (asked, 1), replace=False)
        assert reader.rows is not None
        self.rows = RowOptimizer([reader.rows, self.words], lr=0.3)
        self.rng = rng

    def asked(self, at: Slots) -> Asked:
        return Asked(self.bags_QW[at], np.full(len(at), -1))

    def train(self, steps: int) -> list[float]:
        """Takes steps; returns for each how many of its questions found their cell."""
        hits = []
        for _ in range(steps):
            at = self.rng.integers(0, len(self.bags_QW), 64)
            answered = self.network(self.asked(at), self.right_QR[at])
            loss, hit = cell_loss(answered.hops[0], self.right_QR[at])
            loss.backward()
            self.rows.step()
            hits.append(hit)
        return hits


def test_cells_learn_while_they_are_indexed(store: Store) -> None:
    learning = Learning(store)
    hits = learning.train(40)
    assert hits[0] < 0.2
    assert np.mean(hits[-5:]) > 0.9
    state = learning.cells.describe().shards[0]
    assert state.drift > 0
    assert {job.kind for job in state.jobs if job.runs} >= {"cluster", "seal"}
    with torch.no_grad():
        queries_QD = learning.network.encode(learning.asked(np.arange(200))).numpy()
    old = measure_recall(learning.cells, queries_QD).recall
    learning.cells.reindex()
    assert old > measure_recall(learning.cells, queries_QD).recall - 0.1


def test_a_seed_gives_the_same_embedded_and_served(tmp_path: Path) -> None:
    rows, hits = [], []
    for i, served in enumerate((False, False, True)):
        store = ServedStore(tmp_path / str(i)) if served else memstore.open(tmp_path / str(i))
        learning = Learning(store, cells=1_500)
        hits.append(learning.train(4))
        rows.append(dense_rows(learning.cells).detach().numpy())
        store.close()
    assert hits[0] == hits[1] == hits[2]
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])
