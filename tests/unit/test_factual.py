"""The factual memory network: its equations against a plain reference, question by question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import memstore
from memstore import MemoryConfig, OptimizerConfig, Store
from memstore.torch import RowOptimizer, RowTable
from models.asked import Asked
from models.factual import FactualMN, Traced, answers, layers_loss, nearness
from tests.congruence.served import ServedStore
from tests.unit.few_facts import FACTS, D, Few, few, waiting

BAGS = [[0, 1, 2], [4], [2, 3, 3, 1], [1]]
ENTITIES = [0, 1, 3, -1]
RIGHT = [[6, 2], [1, 4], [4], [0]]
ASKED = Asked(np.array([b + [-1] * (4 - len(b)) for b in BAGS]), np.array(ENTITIES))
RIGHT_QA = np.array([r + [-1] * (2 - len(r)) for r in RIGHT])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memstore.open(tmp_path / "store") as opened:
        yield opened


def network(facts: Few, layers: int = 3, prune: float = 1e-9, kept: int = 64) -> FactualMN:
    parts = facts.words, facts.entities, facts.relations, facts.facts
    made = FactualMN(*parts, layers=layers, prune=prune, kept=kept).double()
    noise = np.random.default_rng(7).standard_normal((layers - 1, D, D))
    with torch.no_grad():
        for update, noise_DD in zip(made.updates, noise, strict=True):
            update.add_(torch.from_numpy(0.2 * noise_DD))
    return made


class Reference:
    """One question by the equations of the module, with lists of facts in the place of arrays."""

    def __init__(self, made: FactualMN, dense: dict[str, Tensor], updates: list[Tensor], at: int):
        self.entity, self.right = ENTITIES[at], set(RIGHT[at])
        fact = [dense["entities"][s] + dense["relations"][r] for s, r, _ in FACTS]
        words, width = len(BAGS[at]), torch.arange(1, D + 1).double() / D
        query = torch.zeros(D).double()
        for j, word in enumerate(BAGS[at], 1):
            place = (1 - j / words) - width * (1 - 2 * j / words)
            query = query + place * dense["words"][word]
        self.layers: list[tuple[list[int], Tensor, list[int]]] = []
        facts = [i for i, (s, _, _) in enumerate(FACTS) if s == self.entity]
        for k, update in enumerate([*updates, None]):
            scores = {i: fact[i] @ query for i in facts}
            if k and not made.training:
                kept, led = self.layers[-1][2], self.led
                facts = [
                    i for i in facts if i in kept or any(scores[i] > scores[j] for j in led[i])
                ]
            a = torch.softmax(torch.stack([scores[i] for i in facts]), 0) if facts else query[:0]
            known = a.tolist()
            best = sorted(range(len(facts)), key=lambda n: -known[n])[: made.kept]
            kept = [facts[n] for n in best if known[n] >= made.prune * max(known)]
            self.layers.append((facts, a, kept))
            if update is not None:
                read = [a[facts.index(i)] * fact[i] for i in kept]
                query = update @ (query + sum(read, torch.zeros(D).double()))
            self.led: dict[int, list[int]] = {}
            for i in kept:
                for j in self.behind(i):
                    self.led.setdefault(j, []).append(i)
            facts = sorted({*kept, *self.led})
        self.query = query

    def behind(self, fact: int) -> list[int]:
        """The facts of the objects of a fact, one for each object that leads to it."""
        return [
            j
            for o in FACTS[fact][2]
            if o != self.entity
            for j, (s, _, _) in enumerate(FACTS)
            if s == o
        ]

    def near(self, fact: int, k: int) -> float:
        objects = FACTS[fact][2]
        best = sum(o in self.right for o in objects) / len(objects)
        if k + 1 < len(self.layers) and fact in self.layers[k][2]:
            there = self.layers[k + 1][0]
            for relation in range(3):
                reached = [j for j in self.behind(fact) if FACTS[j][1] == relation and j in there]
                if reached:
                    best = max(best, sum(self.near(j, k + 1) for j in reached) / len(reached))
        return best

    def loss(self) -> Tensor:
        total = torch.zeros(()).double()
        for k, (facts, a, _) in enumerate(self.layers):
            near = torch.tensor([self.near(i, k) for i in facts], dtype=torch.float64)
            if near.any():
                total = total - (a * near).sum().log()
        return total

    def answers(self) -> dict[int, float]:
        found: dict[int, float] = {}
        facts, a, _ = self.layers[-1]
        for i, weight in zip(facts, a.tolist(), strict=True):
            for o in set(FACTS[i][2]) - {self.entity}:
                found[o] = found.get(o, 0.0) + weight
        return found


def by_fact(traced: Traced, question: int, layer: int, values: np.ndarray) -> dict[int, float]:
    slots = traced.layers[layer].slots_QF[question]
    return {int(s): float(v) for s, v in zip(slots, values[question], strict=True) if s >= 0}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("prune", "kept", "served"),
    [(1e-9, 64, False), (0.3, 64, False), (1e-9, 2, False), (0.3, 64, True)],
)
def test_equals_the_equations_and_has_their_gradients(
    tmp_path: Path, prune: float, kept: int, trained: bool, served: bool
) -> None:
    store = ServedStore(tmp_path) if served else memstore.open(tmp_path)
    facts = few(store)
    made = network(facts, prune=prune, kept=kept).train(not trained)
    traced = made(ASKED)
    loss, _ = layers_loss(traced, RIGHT_QA)
    loss.backward()
    dense = facts.dense()
    updates = [update.detach().clone().requires_grad_() for update in made.updates]
    plain = [Reference(made, dense, updates, at) for at in range(len(BAGS))]
    expected = torch.stack([one.loss() for one in plain]).mean()
    expected.backward()

    found_QC, scores_QC = answers(traced, ASKED.entity_Q)
    near = nearness(traced, RIGHT_QA)
    for q, one in enumerate(plain):
        np.testing.assert_allclose(traced.query_QD[q].detach(), one.query.detach(), rtol=1e-9)
        for k, (there, a, kept_there) in enumerate(one.layers):
            weights = by_fact(traced, q, k, traced.layers[k].weights_QF.detach().numpy())
            assert {i for i, w in weights.items() if w > 0} == set(there)
            for i, weight in zip(there, a.tolist(), strict=True):
                assert weights[i] == pytest.approx(weight, rel=1e-9)
            assert {i for i, v in by_fact(traced, q, k, traced.layers[k].kept_QF).items() if v} == (
                set(kept_there)
            )
            nears = by_fact(traced, q, k, near[k])
            assert {i: nears[i] for i in there} == pytest.approx({i: one.near(i, k) for i in there})
        scored = {
            int(o): np.exp(s)
            for o, s in zip(found_QC[q], scores_QC[q], strict=True)
            if o >= 0 and s > -np.inf
        }
        assert scored == pytest.approx(one.answers())
    np.testing.assert_allclose(loss.detach(), expected.detach(), rtol=1e-10)
    for update, dense_update in zip(made.updates, updates, strict=True):
        wanted = torch.zeros(D, D) if dense_update.grad is None else dense_update.grad
        got = torch.zeros(D, D) if update.grad is None else update.grad
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-12)
    for table in facts.tables:
        grad = dense[table.memory.name].grad
        assert grad is not None
        np.testing.assert_allclose(waiting(table), grad, rtol=1e-8, atol=1e-12)
    store.close()


def test_gradients_of_the_own_weights(store: Store) -> None:
    made = network(few(store))

    def loss(*updates: Tensor) -> Tensor:
        named = {f"updates.{i}": update for i, update in enumerate(updates)}
        traced = torch.func.functional_call(made, named, (ASKED,))
        return layers_loss(traced, RIGHT_QA)[0] + traced.query_QD.square().sum()

    own = tuple(update.detach().clone().requires_grad_() for update in made.updates)
    assert torch.autograd.gradcheck(loss, own, fast_mode=True)


def test_what_links_to_nothing_has_no_answer(store: Store) -> None:
    made = network(few(store))
    traced = made(Asked(np.array([[1, 2]]), np.array([-1])))
    found_QC, scores_QC = answers(traced, np.array([-1]))
    assert found_QC.shape == scores_QC.shape == (1, 0)
    loss, hits = layers_loss(traced, np.array([[3]]))
    assert loss.item() == hits == 0.0


def test_learns_two_facts_away_what_it_is_told_of_answers_alone(tmp_path: Path) -> None:
    """Four wordings, each of two relations after one another; the middle is never told."""
    rows = []
    for i in range(2):
        store = memstore.open(tmp_path / str(i))
        made, bags, subjects, right = _chains(store)
        optimizer = RowOptimizer([made.words, made.entities, made.relations], lr=0.1)
        hits = 0.0
        for _ in range(40):
            loss, hits = layers_loss(made(Asked(bags, subjects)), right)
            loss.backward()
            optimizer.step()
        assert hits == 1.0
        with torch.no_grad():
            found_QC, scores_QC = answers(made.eval()(Asked(bags, subjects)), subjects)
        best_Q = found_QC[np.arange(len(found_QC)), scores_QC.argmax(axis=1)]
        assert (best_Q[:, None] == right).any(axis=1).all()
        rows.append(made.relations(np.arange(4)).detach().numpy())
        store.close()
    np.testing.assert_array_equal(rows[0], rows[1])


def _chains(store: Store) -> tuple[FactualMN, np.ndarray, np.ndarray, np.ndarray]:
    """Twelve subjects; relations 0 and 1 lead to the middle, 2 and 3 from there to the end."""
    rng = np.random.default_rng(2)
    tables = []
    for name, rows in (("words", 4), ("entities", 60), ("relations", 4)):
        config = MemoryConfig(dim=16, index="none", optimizer=OptimizerConfig(kind="adagrad"))
        tables.append(RowTable(store.create(name, config)))
        tables[-1].memory.append((0.3 * rng.standard_normal((rows, 16))).astype(np.float32))
    middle = 12 + rng.permutation(24).reshape(12, 2)
    end = {int(m): 36 + rng.integers(0, 24, 2) for m in middle.flat}
    facts = [(s, r, [int(middle[s, r])]) for s in range(12) for r in (0, 1)]
    facts += [(m, 2 + r, [int(end[m][r])]) for m in end for r in (0, 1)]
    schema = {"subject": "int64", "relation": "int64", "objects": "list<int64>"}
    memory = store.create(
        "facts", MemoryConfig(dim=1, index="none", records=schema, lookup=("subject",))
    )
    columns = [list(column) for column in zip(*facts, strict=True)]
    memory.append(
        np.zeros((len(facts), 1), np.float32), None, dict(zip(schema, columns, strict=True))
    )
    asked = [(s, a, b) for s in range(12) for a in (0, 1) for b in (0, 1)]
    bags = np.array([[a, 2 + b] for _, a, b in asked])
    right = np.array([[end[int(middle[s, a])][b]] for s, a, b in asked])
    words, entities, relations = tables
    made = FactualMN(words, entities, relations, memory, layers=2)
    return made, bags, np.array([s for s, _, _ in asked]), right
